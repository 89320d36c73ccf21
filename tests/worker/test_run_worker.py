"""A worker process from start to end, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest

from segue.base.errors import SettingsError
from segue.engine.protocol import EngineListener
from segue.prefill_worker.role import PrefillRole
from segue.proto.kv_transfer_pb2 import ReleaseRequest
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import Load, RouterFrame, WorkerState
from segue.worker import main
from segue.worker.life import Worker
from segue.worker.settings import WorkerSettings
from tests.worker.fakes import FakeEngine, FakeHub, FakeProducer, Session, eventually, prompt, tokens

NOBODY = "127.0.0.1:1"


def settings(router: str = NOBODY, **fields: object) -> WorkerSettings:
    return WorkerSettings(model="m", routers=(router,), worker_id="w-0", log_format="json", **fields)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine()
    monkeypatch.setattr(main, "make_engine", lambda engine_settings: made)
    return made


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The test runner's own, back in place after each run."""
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in kept.items():
        signal.signal(signum, handler)


def soon(call: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(0.05, call)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def fail(error: Exception) -> None:
    raise error


@contextmanager
def router_refusing(code: grpc.StatusCode, words: str) -> Iterator[str]:
    """A router on an event loop of its own: ``run_worker`` has the main thread's."""
    address = list[str]()
    serving, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with FakeHub() as hub:
            hub.refusal = (code, words)
            address.append(hub.address)
            serving.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert serving.wait(30)
    try:
        yield address[0]
    finally:
        done.set()
        thread.join()


def test_drained_by_a_signal_is_status_0(engine: FakeEngine) -> None:
    engine.on_start = lambda listener: soon(terminate)
    assert main.run_worker(settings(), PrefillRole()) == 0
    assert engine.stopped


def test_an_engine_that_is_lost_is_status_1(engine: FakeEngine) -> None:
    engine.on_start = lambda listener: soon(lambda: listener.on_failure(RuntimeError("device lost")))
    assert main.run_worker(settings(), PrefillRole()) == 1
    assert engine.stopped


def test_an_engine_lost_in_the_middle_of_a_drain_is_status_1(engine: FakeEngine) -> None:
    engine.load_now = Load(held_offers=1)

    def plan(listener: EngineListener) -> None:
        soon(terminate)
        asyncio.get_running_loop().call_later(0.2, listener.on_failure, RuntimeError("device lost"))

    engine.on_start = plan
    assert main.run_worker(settings(drain_timeout_s=600), PrefillRole()) == 1


def test_a_drain_that_takes_too_long_is_status_1(engine: FakeEngine) -> None:
    engine.load_now = Load(held_offers=1)
    engine.on_start = lambda listener: soon(terminate)
    assert main.run_worker(settings(drain_timeout_s=0.05), PrefillRole()) == 1


def test_arguments_that_the_engine_refuses_are_status_2(engine: FakeEngine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.on_start = lambda listener: fail(SettingsError("vLLM has no engine argument 'x'"))
    assert main.run_worker(settings(), PrefillRole()) == 2
    assert engine.stopped


def test_a_router_that_refuses_is_status_2_while_serving_too(engine: FakeEngine) -> None:
    with router_refusing(grpc.StatusCode.FAILED_PRECONDITION, "another layout") as router:
        assert main.run_worker(settings(router), PrefillRole()) == 2
    assert engine.stopped


def test_a_port_that_is_taken_is_status_2(engine: FakeEngine) -> None:
    with router_refusing(grpc.StatusCode.UNAVAILABLE, "") as taken:
        port = int(taken.rpartition(":")[2])
        assert main.run_worker(settings(port=port), PrefillRole()) == 2


COMMAND = """
import sys, time
from segue.cli.main import app
from segue.worker import main
from tests.worker.fakes import FakeEngine
from segue.engine.vllm_inproc import InprocEngine

class Loading(InprocEngine):
    def _build(self):
        print("loading", flush=True)
        time.sleep(600)

class Ready(FakeEngine):
    async def start(self, listener):
        print("ready", flush=True)
        return await super().start(listener)

class Heap:
    def __del__(self):
        time.sleep(600)

heap = Heap()
main.make_engine = lambda settings: ENGINE
app(["prefill-worker", "--model", "m", "--router", "127.0.0.1:1"])
"""


@contextmanager
def command(engine: str) -> Iterator[subprocess.Popen[str]]:
    """``segue prefill-worker`` with an engine of the test's, in an interpreter that takes minutes to tear down."""
    script = COMMAND.replace("ENGINE", engine)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while f"{line}\n" not in process.stdout.readline():
        assert process.poll() is None


def test_a_signal_while_the_engine_loads_ends_the_process_at_once() -> None:
    """Nothing interrupts vLLM while it loads a model, which may take minutes."""
    with command("Loading(settings)") as process:
        wait_line(process, "loading")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_drained_worker_leaves_without_tearing_its_interpreter_down() -> None:
    """With vLLM's modules that takes seconds, in which it is of no use to anybody."""
    with command("Ready()") as process:
        wait_line(process, "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@asynccontextmanager
async def attached(engine: FakeEngine, **fields: object) -> AsyncIterator[tuple[Session, asyncio.Task[int]]]:
    """A worker and its stream at a router, from ready on; the worker as a task of this event loop."""
    async with FakeHub() as hub:
        one = Worker(settings(hub.address, **fields), PrefillRole(), lambda engine_settings: engine)
        worker = asyncio.create_task(main.run_until_stopped(one))
        session = await hub.session()
        await eventually(lambda: any(frame.status.state == WorkerState.WORKER_STATE_READY for frame in session.frames))
        try:
            yield session, worker
        finally:
            worker.cancel()
            await asyncio.wait([worker])


async def test_routers_see_the_end_when_the_engine_fails_under_their_requests(engine: FakeEngine) -> None:
    async with attached(engine) as (session, worker):
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: engine.submits)
        engine.listener.on_failure(RuntimeError("device lost"))
        async with asyncio.timeout(30):
            await session.over.wait()
            assert await worker == 1


async def test_a_drain_sends_the_last_tokens_before_it_leaves(engine: FakeEngine) -> None:
    async with attached(engine) as (session, worker):
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: engine.submits)
        terminate()
        await eventually(
            lambda: any(frame.status.state == WorkerState.WORKER_STATE_DRAINING for frame in session.frames)
        )
        assert not worker.done()
        engine.listener.on_step([tokens("one", 5, finish=FinishReason.FINISH_REASON_LENGTH)], Load())
        async with asyncio.timeout(30):
            assert await worker == 0
        assert [list(output.token_ids) for output in session.outputs] == [[5]]


async def test_last_tokens_reach_a_router_that_is_slow_to_read(engine: FakeEngine) -> None:
    async with attached(engine) as (session, worker):
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: engine.submits)
        session.reads.clear()
        terminate()
        engine.listener.on_step([tokens("one", 5, finish=FinishReason.FINISH_REASON_LENGTH)], Load())
        await asyncio.sleep(0.3)
        assert not worker.done()
        session.reads.set()
        async with asyncio.timeout(30):
            assert await worker == 0
        assert [list(output.token_ids) for output in session.outputs] == [[5]]


async def test_a_router_that_restarts_finds_the_worker_again(engine: FakeEngine) -> None:
    async with attached(engine) as (session, worker):
        session.end.set_result((grpc.StatusCode.UNAVAILABLE, "restarting"))
        await session.over.wait()
        await asyncio.sleep(0.05)
        assert not worker.done()


async def test_a_worker_that_leaves_gives_tickets_back_first(engine: FakeEngine) -> None:
    async with FakeProducer(delay_s=0.2) as producer:
        engine.facts.kv_address = producer.address
        async with attached(engine) as (session, worker):
            release = ReleaseRequest(ticket_id="kv-x", producer_epoch="epoch-1", reason="finished")
            await session.send(RouterFrame(release=[release]))
            await eventually(lambda: producer.asked)
            terminate()
            async with asyncio.timeout(30):
                assert await worker == 0
        assert producer.released == [release]
