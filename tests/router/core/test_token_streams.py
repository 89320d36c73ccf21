"""The short way of a token: to whom it goes, when it must take the long way, and what observers are told."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import RequestOutput, StepTokens
from segue.router.lifecycle.choice_run import ChoiceRun, ChoiceSpec
from segue.router.lifecycle.records import RouterObserver
from segue.router.lifecycle.token_streams import TokenStreams
from segue.router.planning.planner import Plan
from segue.router.text.choice import ChoiceText
from segue.router.text.tokenizer import TextCodec

LINK: Any = SimpleNamespace(worker_id="decode-0")


class Sink:
    def __init__(self) -> None:
        self.tokens: list[tuple[int, str, int]] = []

    def on_token(self, index: int, text: str, token_id: int) -> None:
        self.tokens.append((index, text, token_id))


class Watcher(RouterObserver):
    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []

    def on_tokens(self, slo_class: str, pool: str, itl_s: Sequence[float]) -> None:
        self.told.append((slo_class, pool, len(itl_s)))


class Streams:
    """The streams with their runs, and what took the long way."""

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec
        self.streams = TokenStreams()
        self.long_way: list[RequestOutput] = []
        self.watcher = Watcher()

    def decoding(self, name: str, *, slo_class: str = "chat", stop: Sequence[str] = ()) -> tuple[int, ChoiceRun, Sink]:
        """A run whose decode worker has given its first token."""
        sampling = SamplingParams(max_tokens=50, stop=stop)
        spec = ChoiceSpec(run_id=name, index=0, prompt=(5, 6), sampling=sampling, deadline_s=100.0)
        run = ChoiceRun(spec, ChoiceText(self.codec, stops=stop), 0.0)
        run.go_on(Plan("prefill-0", "decode-0"), 0.0)
        run.on_output("prefill-0", RequestOutput(request_id=run.leg_id, token_ids=[200], offer=Ticket()), 0.1)
        sink = Sink()
        number = self.streams.open(LINK, SimpleNamespace(sink=sink, slo_class=slo_class), run)  # type: ignore[arg-type]
        run.on_output("decode-0", RequestOutput(request_id=run.leg_id, token_ids=[201]), 0.2)
        return number, run, sink

    def push(self, *tokens: tuple[int, int], link: Any = LINK, observer: RouterObserver | None = None) -> None:
        columns = StepTokens(streams=[number for number, _ in tokens], token_ids=[token for _, token in tokens])
        self.streams.push(link, columns, 0.3, self.long_way.append, observer)


@pytest.fixture
def streams(codec: TextCodec) -> Streams:
    return Streams(codec)


def test_each_token_goes_to_its_own_answer(streams: Streams, codec: TextCodec) -> None:
    (a, run, to_a), (b, _, to_b) = streams.decoding("a"), streams.decoding("b")
    streams.push((a, 300), (b, 301), (a, 302))
    assert [token for _, _, token in to_a.tokens] == [300, 302]
    assert [token for _, _, token in to_b.tokens] == [301]
    assert run.output_tokens == 4
    assert streams.streams.tokens_of(run) == 2
    assert not streams.long_way


def test_a_number_that_is_nobodys_or_another_workers_says_nothing(streams: Streams) -> None:
    number, run, sink = streams.decoding("a")
    streams.push((number, 300), link=SimpleNamespace(worker_id="decode-1"))
    streams.push((number + 1, 300))
    streams.streams.close(run)
    streams.push((number, 300))
    assert not sink.tokens
    assert not streams.long_way
    assert len(streams.streams) == 0


def test_a_new_leg_has_a_number_of_its_own(streams: Streams) -> None:
    number, run, sink = streams.decoding("a")
    again = streams.streams.open(LINK, SimpleNamespace(sink=sink, slo_class="chat"), run)  # type: ignore[arg-type]
    assert again != number
    streams.push((number, 300))
    assert not sink.tokens
    assert len(streams.streams) == 1


def test_where_stop_strings_are_looked_for_tokens_take_the_long_way(streams: Streams) -> None:
    number, run, sink = streams.decoding("a", stop=["never"])
    streams.push((number, 300))
    assert streams.long_way == [RequestOutput(request_id=run.leg_id, token_ids=[300])]
    assert not sink.tokens


def test_observers_are_told_once_a_frame_and_class(streams: Streams) -> None:
    (a, _, _), (b, _, _) = streams.decoding("a"), streams.decoding("b")
    c, _, _ = streams.decoding("c", slo_class="batch")
    streams.push((a, 300), (b, 301), (c, 302), observer=streams.watcher)
    assert sorted(streams.watcher.told) == [("batch", "prefill", 1), ("chat", "prefill", 2)]
