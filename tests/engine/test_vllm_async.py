"""AsyncEngine around an AsyncLLM of the test's own: every request ends, and no task is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from vllm import CompletionOutput
from vllm import RequestOutput as VllmOutput
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from segue.engine.settings import EngineSettings
from segue.engine.vllm_async import AsyncEngine
from segue.engine.vllm_counters import Counters
from segue.engine.vllm_translate import OutputTranslator
from segue.kv_transfer.connector_config import ConnectorConfig
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import EngineCounters, KvEvent, Load, RequestError, RequestOutput, Submit
from tests.worker.fakes import FakeProducer

SETTINGS = EngineSettings(model="m", role="decode", kind="async", transport="grpc", worker_id="w-0", epoch="e-1")
CONFIG = ConnectorConfig("w-0", "e-1", "", 30.0, "m")
ABORTED = RequestOutput(request_id="a", finish_reason=FinishReason.FINISH_REASON_ABORT)


class FakeAsyncLLM:
    """A token a turn of the loop; ``faults`` are raised by id, before the second token.

    An order to move a request ends it with its next token, unless its workers are ``deaf``.
    """

    def __init__(self) -> None:
        self.output_processor = self
        self.external_req_ids: dict[str, list[str]] = {}
        self.ordered: dict[str, str] = {}  # Ticket ids by request.
        self.deaf = False
        self.faults: dict[str, Exception] = {}
        self.reading: set[str] = set()
        self.aborted: list[str] = []
        self.ended = False
        self.errored = False

    async def generate(
        self, prompt: Any, sampling: Any, request_id: str, priority: int = 0
    ) -> AsyncIterator[VllmOutput]:
        self.reading.add(request_id)
        self.external_req_ids[request_id] = [f"own-{request_id}"]
        try:
            for left in range(sampling.max_tokens, 0, -1):
                if left < sampling.max_tokens and request_id in self.faults:
                    raise self.faults[request_id]
                answer = None
                if (ticket_id := self.ordered.get(request_id)) is not None:
                    ours = {"moved": True, "ticket_id": ticket_id, "tokens": 7, "blocks": 1, "address": "h:1"}
                    answer = {"segue": ours}
                done = left == 1 or answer is not None
                completion = CompletionOutput(0, "", [left], None, None, finish_reason="length" if done else None)
                yield VllmOutput(request_id, None, [], None, [completion], done, kv_transfer_params=answer)
                if done:
                    return
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise
        finally:
            self.reading.discard(request_id)
            del self.external_req_ids[request_id]

    async def collective_rpc(self, method: str, args: tuple[str, str, str]) -> None:
        assert method == "segue_order_move"
        own_id, ticket_id, request_id = args
        assert own_id == f"own-{request_id}"
        if self.deaf:
            raise EngineGenerateError("no worker answers")
        self.ordered.setdefault(request_id, ticket_id)

    def shutdown(self) -> None:
        self.ended = True


class Listener:
    def __init__(self) -> None:
        self.steps: list[Sequence[RequestOutput]] = []
        self.failures: list[BaseException] = []

    def on_loaded(self) -> None:
        return

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        self.steps.append(outputs)

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        return

    def on_failure(self, error: BaseException) -> None:
        self.failures.append(error)

    @property
    def outputs(self) -> list[RequestOutput]:
        return [output for step in self.steps for output in step]

    def of(self, request_id: str) -> list[RequestOutput]:
        return [output for output in self.outputs if output.request_id == request_id]


class Running:
    def __init__(self) -> None:
        self.engine = AsyncEngine(SETTINGS)
        self.llm = self.engine._llm = FakeAsyncLLM()
        self.listener = self.engine._listener = Listener()
        self.engine._counters = Counters(lambda: 9)
        self.engine._translator = OutputTranslator(CONFIG, BlockLayout(), "grpc")


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """Fails the test for what no task's owner looked at."""
    unseen = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    made = Running()
    yield made
    async with asyncio.timeout(30):
        await made.engine.stop()
    assert not made.engine._tasks
    assert not made.engine._ending
    assert made.llm.reading == set()
    assert made.llm.ended
    assert unseen == []


def submit(request_id: str, max_tokens: int = 3) -> Submit:
    sampling = SamplingParams(max_tokens=max_tokens)
    return Submit(request_id=request_id, input_token_ids=[1, 2], sampling=sampling)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def test_requests_are_answered_and_what_comes_together_is_one_step(running: Running) -> None:
    for name in "abc":
        running.engine.submit(submit(name))
    await until(lambda: sum(bool(output.finish_reason) for output in running.listener.outputs) == 3)
    for name in "abc":
        assert [list(output.token_ids) for output in running.listener.of(name)] == [[3], [2], [1]]
    assert len(running.listener.steps) < 9
    assert not running.engine._tasks


async def test_an_aborted_request_ends_in_vllm_too(running: Running) -> None:
    running.engine.submit(submit("a", 10**6))
    await until(lambda: running.listener.of("a"))
    running.engine.abort("a")
    running.engine.abort("a")
    running.engine.abort("unknown")
    await until(lambda: running.llm.aborted == ["a"])


async def test_a_request_aborted_before_it_began_never_begins(running: Running) -> None:
    running.engine.submit(submit("a"))
    running.engine.abort("a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert running.listener.outputs == []


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (VLLMValidationError("too long"), RequestError.KIND_INVALID, "too long"),
        (ValueError("too long"), RequestError.KIND_INVALID, "too long"),
        (EngineGenerateError("odd"), RequestError.KIND_INTERNAL, "odd"),
        (KeyError("odd"), RequestError.KIND_INTERNAL, "odd"),
    ],
)
async def test_a_request_that_fails_alone_is_answered_and_the_others_go_on(
    running: Running, fault: Exception, kind: RequestError.Kind, words: str
) -> None:
    running.llm.faults["a"] = fault
    running.engine.submit(submit("a"))
    running.engine.submit(submit("b"))
    await until(lambda: sum(bool(output.finish_reason) for output in running.listener.outputs) == 2)
    last = running.listener.of("a")[-1]
    assert last.finish_reason == FinishReason.FINISH_REASON_ERROR
    assert last.error.kind == kind
    assert words in last.error.message
    assert running.listener.of("b")[-1].finish_reason == FinishReason.FINISH_REASON_LENGTH
    assert not running.listener.failures


async def test_what_vllm_refuses_to_sample_is_the_requests_fault(running: Running) -> None:
    running.engine.submit(submit("a", max_tokens=0))
    await until(lambda: running.listener.outputs)
    assert running.listener.outputs[0].error.kind == RequestError.KIND_INVALID


async def test_a_dead_engine_ends_every_request_and_is_told(running: Running) -> None:
    for name in "ab":
        running.llm.faults[name] = EngineDeadError()
        running.engine.submit(submit(name))
    await until(lambda: len(running.listener.failures) == 2)
    await asyncio.sleep(0)
    for name in "ab":
        assert running.listener.of(name)[-1].error.kind == RequestError.KIND_UNAVAILABLE


async def test_an_engine_core_that_dies_while_nothing_runs_is_told(running: Running) -> None:
    running.engine._watching = [asyncio.create_task(running.engine._watch(""))]
    await asyncio.sleep(0)
    assert not running.listener.failures
    running.llm.errored = True
    await until(lambda: [type(error) for error in running.listener.failures] == [EngineDeadError])


async def test_offers_are_counted_where_they_are_held(running: Running) -> None:
    """The engine core's process knows them; this one sees them pass and asks."""
    async with FakeProducer() as producer:
        running.engine._watching = [asyncio.create_task(running.engine._watch(producer.address))]
        producer.held_offers = 3
        await until(lambda: running.engine.load().held_offers == 3)
        assert list(producer.renewed[0].ticket_ids) == []
        producer.held_offers = 0
        await until(lambda: running.engine.load().held_offers == 0)


async def test_a_request_that_is_moved_ends_with_its_next_token_and_an_offer(running: Running) -> None:
    running.engine.submit(submit("a", 10**6))
    await until(lambda: running.listener.of("a"))
    running.engine.move("a")
    running.engine.move("a")
    running.engine.move("unknown")
    await until(lambda: running.listener.of("a")[-1].finish_reason)
    last = running.listener.of("a")[-1]
    assert last.finish_reason == FinishReason.FINISH_REASON_ABORT
    assert len(last.token_ids) == 1
    assert (last.offer.ticket_id, last.offer.tokens) == (running.llm.ordered["a"], 7)
    assert running.llm.aborted == []


async def test_a_request_that_is_moved_before_its_first_token_is_aborted(running: Running) -> None:
    """To compute its prompt first would hold up the drain for what somebody else has to compute anyway."""
    running.engine.submit(submit("a", 10**6))
    running.engine.move("a")
    await until(lambda: running.listener.of("a"))
    assert running.listener.of("a") == [ABORTED]
    assert running.llm.ordered == {}


async def test_a_move_that_vllm_does_not_take_ends_the_request_without_an_offer(running: Running) -> None:
    running.llm.deaf = True
    running.engine.submit(submit("a", 10**6))
    await until(lambda: running.listener.of("a"))
    running.engine.move("a")
    await until(lambda: running.llm.aborted == ["a"] and running.listener.of("a")[-1].finish_reason)
    assert running.listener.of("a")[-1] == ABORTED


async def test_stop_ends_what_runs(running: Running) -> None:
    running.engine.submit(submit("a", 10**6))
    await until(lambda: running.listener.of("a"))


async def test_before_it_has_loaded_it_has_counted_nothing() -> None:
    engine = AsyncEngine(SETTINGS)
    assert engine.load() == Load()
    assert engine.counters() == EngineCounters()
    await engine.stop()
