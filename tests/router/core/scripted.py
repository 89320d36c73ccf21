"""A router in this process with workers that have no engine: they attach as real ones do and say what a script says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from segue.base.identity import ROUTER_DNS
from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from segue.base.undecodable import RefuseUndecodable
from segue.base.versions import PROTOCOL
from segue.proto.inference_pb2_grpc import add_InferenceServicer_to_server
from segue.proto.kv_transfer_pb2 import ReleaseRequest, Ticket
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    EngineUsage,
    Load,
    Register,
    RequestOutput,
    Role,
    RouterFrame,
    Status,
    Submit,
    Transfer,
    WorkerFrame,
    WorkerState,
)
from segue.proto.worker_pb2_grpc import WorkerHubStub, add_WorkerHubServicer_to_server
from segue.router.lifecycle.continuation import ContinuationPolicy
from segue.router.lifecycle.dispatcher import Dispatcher
from segue.router.limits import Limits
from segue.router.models import Models
from segue.router.public_grpc.api import InferenceService
from segue.router.queueing.admission import Admission
from segue.router.queueing.slo import BATCH, SloClass, SloClasses
from segue.router.text.tokenizer import TextCodec
from segue.router.workers.hub import WorkerHub
from segue.router.workers.links import WorkerLinks
from segue.worker.outbox import Outbox
from tests.router.core.outputs import LAYOUT, one_token, ticket_for
from tests.router.core.scripted_answers import Answer, counting

MODEL = "tiny"
EOS = 1
FACTS = EngineFacts(
    engine="scripted", model=MODEL, max_model_len_tokens=4096, vocab_size=2048, layout=LAYOUT, transport="grpc"
)

IMPATIENT = ContinuationPolicy(patience_s=0.2)
# On a busy machine measured rates are such that promises of half a second would have requests refused.
PATIENT = Admission(1e6, SloClasses([SloClass("chat", ttft_s=1e6), BATCH]))


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for something that is sure to come."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


class ScriptedWorker:
    """One worker. ``go`` is set: it answers at once; clear it and it waits before its next token."""

    def __init__(
        self,
        hub_address: str,
        worker_id: str,
        role: Role,
        *,
        answer: Answer = counting,
        epoch: str = "epoch-1",
        facts: EngineFacts = FACTS,
        state: WorkerState = WorkerState.WORKER_STATE_READY,
        tls: TlsSource | None = None,
    ) -> None:
        self._tls = tls
        self.register = Register(worker_id=worker_id, epoch=epoch, role=role, address="127.0.0.1:1", protocol=PROTOCOL)
        self.status = Status(state=state, facts=facts)
        self.answer = answer
        self.go = asyncio.Event()
        self.go.set()
        self.keeps_lease = True
        self.submits: dict[str, Submit] = {}
        self.aborted_at_s: dict[str, float] = {}
        self.releases: list[ReleaseRequest] = []
        self.renewed: list[str] = []
        self.resends = 0
        self.asked_to_move: list[str] = []
        self.offered: dict[str, Ticket] = {}
        self.outbox = Outbox()
        self.lease_s = 0.0
        self._address = hub_address
        self._answers: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def attach(self) -> ScriptedWorker:
        """Register. Raises Refused."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = open_aio_channel(self._address, self._tls, ROUTER_DNS, options)
        self.call = WorkerHubStub(self._channel).Attach()  # type: ignore[call-arg]
        await self.call.write(WorkerFrame(register=self.register, status=self.status))
        first = await read(self.call)
        if first is None:
            code, details = await self.call.code(), await self.call.details()
            await self._channel.close(grace=None)
            raise Refused(code, details)
        if first.HasField("refused"):  # A client that went on writing could lose the status that follows.
            return self
        self.lease_s = first.registered.lease_s
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._write, self._keep_lease)]
        return self

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the router ended the stream."""
        async with asyncio.timeout(30):
            return await self.call.code(), await self.call.details()

    def cut(self) -> None:
        """The stream breaks in the middle of whatever runs."""
        for task in [*self._tasks, *self._answers.values()]:
            task.cancel()
        self.call.cancel()

    async def stop(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, *self._answers.values(), return_exceptions=True)
        await self._channel.close(grace=None)

    def say(self, *outputs: RequestOutput) -> None:
        self.outbox.put_outputs(outputs)

    async def _read(self) -> None:
        while (frame := await read(self.call)) is not None:
            for submit in frame.submit:
                self.submits[submit.request_id] = submit
                self.outbox.columns.open(submit.request_id, submit.stream)
                self._answers[submit.request_id] = asyncio.create_task(self._answer(submit))
            for request_id in frame.abort_request_ids:
                self.aborted_at_s[request_id] = time.monotonic()
                self.outbox.columns.close(request_id)
                if (task := self._answers.get(request_id)) is not None:
                    task.cancel()
            self.releases.extend(frame.release)
            self.resends += frame.resend_kv_events
            self.renewed.extend(name for renew in frame.renew for name in renew.ticket_ids)
            self.asked_to_move.extend(frame.move_request_ids)

    async def _write(self) -> None:
        while True:
            await self.call.write(await self.outbox.take())

    async def _keep_lease(self) -> None:
        while True:
            if self.keeps_lease:
                self.outbox.put_load(Load())
            await asyncio.sleep(0.1)

    async def _answer(self, submit: Submit) -> None:
        outputs = self.prefill(submit) if self.register.role == Role.ROLE_PREFILL else self.decode(submit)
        for output in outputs:
            await self.go.wait()
            if output.HasField("offer"):
                self.offered[output.offer.ticket_id] = output.offer
            self.say(output)
            await asyncio.sleep(0)

    def prefill(self, submit: Submit) -> list[RequestOutput]:
        token = self.answer(submit.input_token_ids, submit.sampling)[0]
        tokens = len(submit.input_token_ids)
        output = one_token(submit, token)
        if token == EOS:
            output.finish_reason, output.stop_token_id = FinishReason.FINISH_REASON_STOP, EOS
        else:
            output.finish_reason = FinishReason.FINISH_REASON_LENGTH
            if submit.offer_kv:
                output.offer.CopyFrom(ticket_for(submit, self.register))
        output.usage.CopyFrom(EngineUsage(input_tokens=tokens, cached_tokens=tokens // 2, computed_tokens=tokens // 2))
        return [output]

    def decode(self, submit: Submit) -> list[RequestOutput]:
        """The answer behind the input; what is forced comes first, and what follows is as if it had been sampled."""
        forced = submit.forced_token_ids
        tokens = [*forced, *self.answer([*submit.input_token_ids, *forced], submit.sampling)]
        left = tokens[: submit.sampling.max_tokens]
        outputs = [one_token(submit, token) for token in left]
        last = outputs[-1]
        if left[-1] == EOS:
            last.finish_reason, last.stop_token_id = FinishReason.FINISH_REASON_STOP, EOS
        elif len(left) == submit.sampling.max_tokens:
            last.finish_reason = FinishReason.FINISH_REASON_LENGTH
        last.transfer.CopyFrom(Transfer(transport="grpc", bytes=4096, seconds=0.25))
        last.usage.CopyFrom(EngineUsage(computed_tokens=1))
        return outputs


async def read(call: grpc.aio.StreamStreamCall[WorkerFrame, RouterFrame]) -> RouterFrame | None:
    """The router's next frame; None once the stream is over, however it ended."""
    try:
        frame = await call.read()
    except grpc.aio.AioRpcError:
        return None
    return frame if isinstance(frame, RouterFrame) else None


class Refused(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


@dataclass
class Router:
    """The router's parts on loopback, and the workers that a test has attached."""

    links: WorkerLinks
    dispatcher: Dispatcher
    models: Models
    hub_address: str
    address: str
    workers: dict[str, ScriptedWorker] = field(default_factory=dict)

    async def attach(
        self, worker_id: str, role: Role, *, answer: Answer = counting, epoch: str = "epoch-1"
    ) -> ScriptedWorker:
        worker = ScriptedWorker(self.hub_address, worker_id, role, answer=answer, epoch=epoch)
        await worker.attach()
        self.workers[worker_id] = worker
        await until(lambda: (link := self.links.get(worker_id)) is not None and link.view().ready)
        return worker

    async def attach_pair(self, answer: Answer = counting) -> tuple[ScriptedWorker, ScriptedWorker]:
        prefill = await self.attach("prefill-0", Role.ROLE_PREFILL, answer=answer)
        decode = await self.attach("decode-0", Role.ROLE_DECODE, answer=answer)
        return prefill, decode

    def assert_idle(self) -> None:
        """Nothing is left of any request: not in the dispatcher, not in the load figures."""
        assert self.dispatcher.running_requests == 0
        assert not len(self.dispatcher.conductor)
        assert [(link.worker_id, link.assigned_requests, link.assigned_tokens) for link in self.links] == [
            (link.worker_id, 0, 0) for link in self.links
        ]


@asynccontextmanager
async def running_router(
    codec: TextCodec,
    *,
    lease_s: float = 5.0,
    max_concurrent_requests: int = 64,
    limits: Limits | None = None,
    continuation: ContinuationPolicy | None = None,
    admission: Admission | None = None,
) -> AsyncIterator[Router]:
    links = WorkerLinks()
    models = Models(MODEL, codec, created_unix_s=7)
    dispatcher = Dispatcher(
        links, models.__getitem__, max_concurrent_requests, continuation or IMPATIENT, admission or PATIENT
    )
    hub_server, public_server = grpc.aio.server(), grpc.aio.server(interceptors=[RefuseUndecodable()])
    add_WorkerHubServicer_to_server(WorkerHub("router-1", lease_s, links, dispatcher.news, models), hub_server)
    add_InferenceServicer_to_server(InferenceService(dispatcher, models, limits or Limits()), public_server)
    hub_port = hub_server.add_insecure_port("127.0.0.1:0")
    port = public_server.add_insecure_port("127.0.0.1:0")
    await hub_server.start()
    await public_server.start()
    router = Router(links, dispatcher, models, f"127.0.0.1:{hub_port}", f"127.0.0.1:{port}")
    try:
        yield router
    finally:
        await stop_all(router.workers.values())
        await public_server.stop(grace=0)
        await hub_server.stop(grace=0)


async def stop_all(workers: Iterable[ScriptedWorker]) -> None:
    for worker in workers:
        await worker.stop()
