"""The engine's thread around a vLLM engine of the test's own: what it answers, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import CompletionOutput
from vllm import RequestOutput as VllmOutput
from vllm.exceptions import VLLMValidationError

from segue.base.errors import SettingsError
from segue.engine.settings import EngineSettings
from segue.engine.vllm_inproc import InprocEngine
from segue.engine.vllm_translate import OutputTranslator
from segue.kv_transfer.connector_config import ConnectorConfig
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import EngineCounters, EngineFacts, KvEvent, Load, RequestError, RequestOutput, Submit

SETTINGS = EngineSettings(model="m", role="decode", kind="inproc", transport="grpc", worker_id="w-0", epoch="e-1")
CONFIG = ConnectorConfig("w-0", "e-1", "", 30.0, "m")


class FakeScheduler:
    def __init__(self, engine: FakeLLM) -> None:
        self._engine = engine
        self.finished_req_ids: set[str] = set()
        self.finished_recving_kv_req_ids: set[str] = set()
        self.waiting: list[Any] = []

    @property
    def running(self) -> list[str]:
        return list(self._engine.open)

    @property
    def requests(self) -> dict[str, int]:
        return self._engine.open

    def has_requests(self) -> bool:
        return bool(self._engine.open)

    def shutdown(self) -> None:
        self._engine.ended.set()

    def get_request_counts(self) -> tuple[int, int]:
        return len(self._engine.open), 0


class FakeLLM:
    """One token a step for each request, until its ``max_tokens``."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        self.aborted: list[str] = []
        self.ended = threading.Event()
        self.on_step: Callable[[], None] = lambda: None
        core = SimpleNamespace(scheduler=FakeScheduler(self))
        self.engine_core = SimpleNamespace(engine_core=core)
        self.output_processor = SimpleNamespace(external_req_ids={})

    def add_request(self, request_id: str, prompt: Any, sampling: Any, priority: int = 0) -> None:
        if not prompt["prompt_token_ids"]:
            raise VLLMValidationError("the prompt is empty", parameter="prompt")
        self.open[request_id] = sampling.max_tokens

    def abort_request(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self.aborted.append(request_id)
            self.open.pop(request_id, None)

    def step(self) -> list[VllmOutput]:
        self.on_step()
        outputs = []
        for request_id, left in list(self.open.items()):
            self.open[request_id] = left - 1
            done = left == 1
            if done:
                del self.open[request_id]
            completion = CompletionOutput(0, "", [left], None, None, finish_reason="length" if done else None)
            outputs.append(VllmOutput(request_id, None, [], None, [completion], done))
        return outputs

    def reset_prefix_cache(self) -> None:
        return


class Engine(InprocEngine):
    """Builds a FakeLLM instead of loading a model; ``on_build`` may wait or raise."""

    def __init__(self, on_build: Callable[[], None] = lambda: None) -> None:
        super().__init__(SETTINGS)
        self.on_build = on_build
        self.llm = FakeLLM()

    def _build(self) -> EngineFacts:
        self.on_build()
        self._engine: Any = self.llm
        self._scheduler = FakeScheduler(self.llm)
        self._pool = SimpleNamespace(get_num_free_blocks=lambda: 9)
        self._counters = SimpleNamespace(  # type: ignore[assignment]
            reset=lambda: None, snapshot=lambda: EngineCounters(requests=1), load=Load
        )
        self._translator = OutputTranslator(CONFIG, BlockLayout(), "grpc")
        return EngineFacts(model="m")


class Listener:
    def __init__(self) -> None:
        self.loaded = 0
        self.outputs: list[RequestOutput] = []
        self.loads: list[Load] = []
        self.failures: list[BaseException] = []
        self.told = asyncio.Event()

    def on_loaded(self) -> None:
        self.loaded += 1

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        self.outputs += outputs
        self.loads.append(load)
        self.told.set()

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        return

    def on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self.told.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.told.clear()
                await self.told.wait()

    def of(self, request_id: str) -> list[RequestOutput]:
        return [output for output in self.outputs if output.request_id == request_id]


@pytest.fixture
async def listener() -> Listener:
    return Listener()


def submit(request_id: str, max_tokens: int = 3, prompt: Sequence[int] = (1, 2)) -> Submit:
    sampling = SamplingParams(max_tokens=max_tokens)
    return Submit(request_id=request_id, input_token_ids=prompt, sampling=sampling)


async def test_requests_are_answered_to_their_end(listener: Listener) -> None:
    engine = Engine()
    assert (await engine.start(listener)).model == "m"
    assert listener.loaded == 1
    engine.submit(submit("a", 3))
    engine.submit(submit("b", 2))
    await listener.until(lambda: sum(bool(output.finish_reason) for output in listener.outputs) == 2)
    assert [list(output.token_ids) for output in listener.of("a")] == [[3], [2], [1]]
    assert [list(output.token_ids) for output in listener.of("b")] == [[2], [1]]
    assert engine.load().free_blocks == 9
    await engine.stop()
    assert engine.llm.ended.is_set()


async def test_a_request_that_vllm_refuses_is_answered_and_the_others_go_on(listener: Listener) -> None:
    engine = Engine()
    await engine.start(listener)
    engine.submit(submit("empty", prompt=[]))
    engine.submit(submit("absurd", max_tokens=0))
    engine.submit(submit("good", 1))
    await listener.until(lambda: len(listener.outputs) == 3)
    for name, words in (("empty", "the prompt is empty"), ("absurd", "max_tokens must be at least 1")):
        (output,) = listener.of(name)
        assert output.finish_reason == FinishReason.FINISH_REASON_ERROR
        assert output.error.kind == RequestError.KIND_INVALID
        assert words in output.error.message
    assert listener.of("good")[0].finish_reason == FinishReason.FINISH_REASON_LENGTH
    assert not listener.failures
    await engine.stop()


async def test_an_aborted_request_is_dropped_and_unknown_ids_are_ignored(listener: Listener) -> None:
    engine = Engine()
    await engine.start(listener)
    engine.submit(submit("a", 10**9))
    await listener.until(lambda: listener.of("a"))
    engine.abort("unknown")
    engine.abort("a")
    engine.abort("a")
    engine.submit(submit("b", 1))
    await listener.until(lambda: listener.of("b"))
    assert engine.llm.aborted == ["a"]
    await engine.stop()


async def test_a_request_that_is_moved_ends_behind_its_tokens_and_unknown_ids_are_ignored(listener: Listener) -> None:
    engine = Engine()
    await engine.start(listener)
    engine.submit(submit("a", 10**9))
    engine.submit(submit("b", 10**9))
    await listener.until(lambda: listener.of("a"))
    engine.move("unknown")
    engine.move("a")
    engine.move("a")
    await listener.until(lambda: listener.of("a")[-1].finish_reason)
    last = listener.of("a")[-1]
    assert (last.finish_reason, len(last.token_ids)) == (FinishReason.FINISH_REASON_ABORT, 0)
    assert not last.HasField("error")
    assert not last.HasField("offer"), "vLLM did not know it: there is nothing to hold"
    assert engine.llm.aborted == ["a"]
    before = len(listener.of("b"))
    await listener.until(lambda: len(listener.of("b")) > before)
    assert listener.of("a")[-1] is last
    await engine.stop()


async def test_a_step_that_raises_is_told_and_ends_the_engine(listener: Listener) -> None:
    engine = Engine()
    await engine.start(listener)

    def fail() -> None:
        raise RuntimeError("device lost")

    engine.llm.on_step = fail
    engine.submit(submit("a"))
    await listener.until(lambda: listener.failures)
    assert [str(error) for error in listener.failures] == ["device lost"]
    await engine.stop()
    assert engine.llm.ended.is_set()


async def test_a_model_that_does_not_load_is_the_starts_error(listener: Listener) -> None:
    def fail() -> None:
        raise SettingsError("vLLM refuses its engine arguments")

    engine = Engine(fail)
    with pytest.raises(SettingsError, match="refuses"):
        await engine.start(listener)
    await engine.stop()


async def test_stop_while_loading_waits_for_nothing(listener: Listener) -> None:
    loading, gate = threading.Event(), threading.Event()

    def load() -> None:
        loading.set()
        gate.wait(30)

    engine = Engine(load)
    starting = asyncio.ensure_future(engine.start(listener))
    await asyncio.to_thread(loading.wait, 30)
    assert engine.counters() == EngineCounters()
    assert engine.load() == Load()
    starting.cancel()
    async with asyncio.timeout(15):
        await engine.stop()
    gate.set()
    assert await asyncio.to_thread(engine.llm.ended.wait, 30), "once loaded it ends by itself"


async def test_stop_before_start_has_nothing_to_end() -> None:
    await Engine().stop()


async def test_stop_ends_an_engine_that_is_busy(listener: Listener) -> None:
    engine = Engine()
    await engine.start(listener)
    engine.submit(submit("a", 10**9))
    await listener.until(lambda: listener.of("a"))
    await engine.stop()
    assert engine.llm.ended.is_set()
