"""An engine that does as it is told, and a router's end of the stream on a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import grpc
import grpc.aio

from segue.base.versions import PROTOCOL
from segue.engine.protocol import EngineListener
from segue.engine.settings import EngineRole
from segue.proto.kv_transfer_pb2 import (
    DigestRequest,
    DigestResponse,
    PullRequest,
    ReleaseRequest,
    ReleaseResponse,
    RenewRequest,
    RenewResponse,
    Ticket,
)
from segue.proto.kv_transfer_pb2_grpc import KvTransferServicer, add_KvTransferServicer_to_server
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import (
    EngineCounters,
    EngineFacts,
    Load,
    Register,
    Registered,
    RequestOutput,
    Role,
    RouterFrame,
    Submit,
    WorkerFrame,
)
from segue.proto.worker_pb2_grpc import WorkerHubServicer, add_WorkerHubServicer_to_server

TIMEOUT_S = 30.0
REGISTER = Register(worker_id="w-0", epoch="epoch-1", role=Role.ROLE_PREFILL, address="127.0.0.1:1", protocol=PROTOCOL)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.005)


def prompt(request_id: str, **fields: object) -> Submit:
    sampling = SamplingParams(max_tokens=1)
    return Submit(request_id=request_id, input_token_ids=[1, 2, 3], sampling=sampling, **fields)  # type: ignore[arg-type]


def tokens(request_id: str, *ids: int, finish: FinishReason = FinishReason.FINISH_REASON_UNSPECIFIED) -> RequestOutput:
    return RequestOutput(request_id=request_id, token_ids=ids, finish_reason=finish)


@dataclass
class FakeEngine:
    """``on_start`` may raise, wait, or plan what happens later."""

    on_start: Callable[[EngineListener], None] = lambda listener: None
    facts: EngineFacts = field(default_factory=lambda: EngineFacts(model="m", transport="grpc"))
    submits: list[Submit] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    load_now: Load = field(default_factory=Load)
    stopped: bool = False
    roles: list[EngineRole] = field(default_factory=list)

    async def start(self, listener: EngineListener) -> EngineFacts:
        self.listener = listener
        self.on_start(listener)
        return self.facts

    def submit(self, submit: Submit) -> None:
        self.submits.append(submit)

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def move(self, request_id: str) -> None:
        self.moved.append(request_id)

    async def take_role(self, role: EngineRole) -> EngineFacts:
        self.roles.append(role)
        return self.facts

    def load(self) -> Load:
        return self.load_now

    def counters(self) -> EngineCounters:
        return EngineCounters(requests=len(self.submits))

    async def stop(self) -> None:
        self.stopped = True


class Session:
    """One stream from a worker, as the router has it. It reads while ``reads`` is set."""

    def __init__(self, context: grpc.aio.ServicerContext[WorkerFrame, RouterFrame]) -> None:
        self._context = context
        self.frames: list[WorkerFrame] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.over = asyncio.Event()
        self.end: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()

    async def send(self, frame: RouterFrame) -> None:
        await self._context.write(frame)

    async def read(self) -> None:
        try:
            while isinstance(frame := await self._context.read(), WorkerFrame):
                self.frames.append(frame)
                await self.reads.wait()
        except grpc.aio.UsageError:  # The stream was ended from this side.
            return

    @property
    def outputs(self) -> list[RequestOutput]:
        return [output for frame in self.frames for output in frame.outputs]


class FakeHub(WorkerHubServicer):
    """A router: takes every worker unless ``refusal`` is set; never answers while ``silent``."""

    def __init__(self, port: int = 0) -> None:
        self.sessions: list[Session] = []
        self.silent = False
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_WorkerHubServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeHub:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)

    async def session(self, number: int = 0) -> Session:
        """The ``number``-th stream, once it has registered."""
        await eventually(lambda: len(self.sessions) > number)
        return self.sessions[number]

    async def Attach(  # type: ignore[override]
        self, request_iterator: AsyncIterator[WorkerFrame], context: grpc.aio.ServicerContext[WorkerFrame, RouterFrame]
    ) -> None:
        session = Session(context)
        first = await context.read()
        assert isinstance(first, WorkerFrame)
        session.frames.append(first)
        if self.refusal is not None:
            await context.abort(*self.refusal)
        if self.silent:
            await asyncio.Event().wait()
        await context.write(RouterFrame(registered=Registered(router_id="r-0", lease_s=10)))
        self.sessions.append(session)
        reader = asyncio.create_task(session.read())
        try:
            await asyncio.wait((reader, session.end), return_when=asyncio.FIRST_COMPLETED)
            if session.end.done():
                await context.abort(*session.end.result())
        finally:
            reader.cancel()
            session.over.set()


class FakeProducer(KvTransferServicer):
    """A KvTransfer that writes down what is given back, ``delay_s`` after it was asked to take it."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self.asked = 0
        self.released: list[ReleaseRequest] = []
        self.renewed: list[RenewRequest] = []
        self.gone: set[str] = set()
        self.held_offers = 0
        self._server = grpc.aio.server()
        add_KvTransferServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> FakeProducer:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)

    async def Pull(self, request: PullRequest, context: object) -> None:  # type: ignore[override]
        raise NotImplementedError("releases only")

    async def Renew(self, request: RenewRequest, context: object) -> RenewResponse:
        self.renewed.append(request)
        gone = [name for name in request.ticket_ids if name in self.gone]
        return RenewResponse(gone_ticket_ids=gone, held_offers=self.held_offers)

    async def Digest(self, request: DigestRequest, context: object) -> DigestResponse:
        raise NotImplementedError("releases and renewals only")

    async def Release(
        self, request: ReleaseRequest, context: grpc.aio.ServicerContext[ReleaseRequest, ReleaseResponse]
    ) -> ReleaseResponse:
        self.asked += 1
        await asyncio.sleep(self._delay_s)
        self.released.append(request)
        return ReleaseResponse(freed=True)

    def ticket(self, name: str) -> Ticket:
        return Ticket(
            ticket_id=f"kv-{name}", producer_epoch="epoch-1", request_id=name, address=self.address, lease_s=30
        )


def ids_of(outputs: Iterable[RequestOutput]) -> list[str]:
    return [output.request_id for output in outputs]
