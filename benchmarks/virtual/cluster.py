"""A router's core before simulated engines, in one process on a virtual clock: its frames go through memory.

All decisions are the real ones: the hub, the dispatcher, admission, queue and planner. What is missing is gRPC, HTTP
and the noise of a machine; a frame takes ``FRAME_S``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual.shared_devices import SharedDevices, SharingEngine

from segue.base.errors import Overloaded, SegueError
from segue.base.versions import PROTOCOL
from segue.engine.settings import EngineRole, EngineSettings
from segue.engine.simulated.engine import SimulatedEngine
from segue.engine.simulated.kv_peers import KvPeers
from segue.proto.inference_pb2 import GenerateResponse, Timings
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import (
    KvEvent,
    Load,
    Register,
    RequestOutput,
    Role,
    RouterFrame,
    Status,
    WorkerFrame,
    WorkerState,
)
from segue.router.lifecycle.dispatcher import Dispatcher
from segue.router.lifecycle.placement import Placement
from segue.router.models import Models
from segue.router.planning.planner import DEFAULT, Policy
from segue.router.queueing.admission import Admission, Demand
from segue.router.service import Generation
from segue.router.text.tokenizer import TextCodec
from segue.router.workers.hub import WorkerHub
from segue.router.workers.links import WorkerLinks
from segue.worker.kv_cache_view import KvCacheView
from segue.worker.outbox import Outbox

# What a frame takes from one process to another.
FRAME_S = 0.0005
_LOAD_EVERY_S = 1.0
_MODEL = "virtual"


@dataclass(frozen=True)
class Pools:
    """The arguments are those of simulated engines, for each role. ``devices`` are so many that all engines share them;
    0: each has one of its own."""

    prefill: int = 1
    decode: int = 1
    prefill_args: Mapping[str, Any] = field(default_factory=dict)
    decode_args: Mapping[str, Any] = field(default_factory=dict)
    devices: int = 0


@dataclass
class Answer:
    """One request as its client saw it. Times are the loop's; ``refused`` is the reason, where it was."""

    sent_s: float
    token_times_s: list[float] = field(default_factory=list)
    refused: str = ""
    retry_after_s: float = 0.0
    timings: Timings | None = None

    @property
    def ttft_s(self) -> float:
        return self.token_times_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in zip(self.token_times_s, self.token_times_s[1:], strict=False)]

    @property
    def itl_s(self) -> float:
        """The mean."""
        gaps = self.gaps_s
        return sum(gaps) / len(gaps) if gaps else 0.0


class _Sink:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_token(self, index: int, text: str, token_id: int) -> None:
        self.answer.token_times_s.append(time.monotonic())

    def on_delta(self, response: GenerateResponse) -> None:
        now_s = time.monotonic()
        for choice in response.choices:
            self.answer.token_times_s += [now_s] * len(choice.token_ids)
        if response.HasField("usage"):
            self.answer.timings = response.timings
            self.over.set_result(None)

    def on_error(self, error: SegueError) -> None:
        self.over.set_exception(error)


class _Stream:
    """The hub's end of a worker's ``Attach`` call: frames arrive ``FRAME_S`` after they were written."""

    def __init__(self, worker: _Worker, first: WorkerFrame) -> None:
        self._worker = worker
        self._first: WorkerFrame | None = first

    async def read(self) -> WorkerFrame:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        frame = await self._worker.outbox.take()
        await asyncio.sleep(FRAME_S)
        self._worker.outbox.mark_sent()
        return frame

    async def write(self, frame: RouterFrame) -> None:
        await asyncio.sleep(FRAME_S)
        self._worker.on_frame(frame)

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}


class _Worker:
    """Between the stream and the engine, as :class:`~segue.worker.runtime.WorkerRuntime`, for one router."""

    def __init__(self, settings: EngineSettings, peers: KvPeers, devices: SharedDevices | None) -> None:
        self.outbox = Outbox()
        self.engine = SharingEngine(settings, peers, devices) if devices else SimulatedEngine(settings, peers)
        self._settings = settings
        self._peers = peers
        self._open: set[str] = set()
        self._kv_cache = KvCacheView()

    async def run(self, hub: WorkerHub) -> None:
        """Attached until it is cancelled."""
        facts = await self.engine.start(self)
        settings = self._settings
        register = Register(
            worker_id=settings.worker_id,
            epoch=settings.epoch,
            role=Role.ROLE_PREFILL if settings.role == "prefill" else Role.ROLE_DECODE,
            protocol=PROTOCOL,
        )
        self.outbox.start_kv_events(self._kv_cache.snapshot)
        status = Status(state=WorkerState.WORKER_STATE_READY, facts=facts)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_load_fresh())
            await hub.Attach(None, _Stream(self, WorkerFrame(register=register, status=status)))  # type: ignore[arg-type]

    # From the engine

    def on_loaded(self) -> None:
        pass

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        ours = [output for output in outputs if output.request_id in self._open]
        self._open -= {output.request_id for output in ours if output.finish_reason}
        for output in outputs:
            if output.HasField("offer") and output not in ours:
                self._peers.release(output.offer, "cancelled")
        if ours:
            self.outbox.put_outputs(ours)
            self.outbox.put_load(load)

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        self._kv_cache.apply(events)
        self.outbox.put_kv_events(events)

    def on_failure(self, error: BaseException) -> None:
        raise error

    # From the router

    def on_frame(self, frame: RouterFrame) -> None:
        for submit in frame.submit:
            self._open.add(submit.request_id)
            self.outbox.columns.open(submit.request_id, submit.stream)
            self.engine.submit(submit)
        for request_id in frame.abort_request_ids:
            self._open.discard(request_id)
            self.outbox.columns.close(request_id)
            self.engine.abort(request_id)
        for release in frame.release:
            self._peers.release(
                Ticket(ticket_id=release.ticket_id, producer_epoch=release.producer_epoch), release.reason
            )

    async def _keep_load_fresh(self) -> None:
        while True:
            self.outbox.put_load(self.engine.load())
            await asyncio.sleep(_LOAD_EVERY_S)


class VirtualCluster:
    def __init__(self, dispatcher: Dispatcher, links: WorkerLinks) -> None:
        self.dispatcher = dispatcher
        self.links = links

    async def ask(
        self, prompt: Sequence[int], output_tokens: int, slo_class: str = "", tenant: str = "", timeout_s: float = 600.0
    ) -> Answer:
        """Raises SegueError for any end but an answer or a refusal."""
        answer = Answer(asyncio.get_running_loop().time())
        sink = _Sink(answer)
        sampling = SamplingParams(max_tokens=output_tokens, temperature=0, ignore_eos=True)
        generation = Generation(
            _MODEL, prompt, None, sampling, 1, False, None, timeout_s, slo_class=slo_class, tenant=tenant
        )
        try:
            self.dispatcher.admit(Demand(timeout_s, 0, output_tokens, slo_class=slo_class, tenant=tenant))
            self.dispatcher.start(generation, sink)
        except Overloaded as refused:
            answer.refused, answer.retry_after_s = refused.message, refused.retry_after_s or 0.0
            return answer
        await sink.over
        return answer


@asynccontextmanager
async def virtual_cluster(
    model: Path, pools: Pools, admission: Admission | None = None, policy: Policy = DEFAULT
) -> AsyncIterator[VirtualCluster]:
    """All workers attached and ready."""
    links = WorkerLinks()
    models = Models(_MODEL, TextCodec.load(str(model)), created_unix_s=1)
    dispatcher = Dispatcher(links, models.__getitem__, 4096, admission=admission)
    dispatcher.around.placement = Placement(links, policy)
    hub = WorkerHub("virtual", 1e6, links, dispatcher.news, models)
    peers = _Peers("127.0.0.1")
    devices = SharedDevices(pools.devices) if pools.devices else None
    roles: list[tuple[EngineRole, int, Mapping[str, Any]]] = [
        ("prefill", pools.prefill, pools.prefill_args),
        ("decode", pools.decode, pools.decode_args),
    ]
    async with asyncio.TaskGroup() as tasks:
        workers = []
        for role, count, args in roles:
            for number in range(count):
                settings = EngineSettings(
                    model=str(model),
                    role=role,
                    kind="simulated",
                    engine_args=dict(args),
                    worker_id=f"{role}-{number}",
                    epoch=f"{role}-{number}-epoch",
                )
                workers.append(tasks.create_task(_Worker(settings, peers, devices).run(hub)))
        while len(list(links)) < len(workers) or not all(link.ready for link in links):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(FRAME_S)
        try:
            yield VirtualCluster(dispatcher, links)
        finally:
            for worker in workers:
                worker.cancel()


class _Peers(KvPeers):
    """All are of this process: nobody dials."""

    async def start(self) -> None:
        self.address = "127.0.0.1:1"
