"""A slow reader gets fewer, larger messages, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.base.errors import Overloaded, Unavailable
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse, Timings, Usage
from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs, TokenLogprob
from segue.router.public_grpc.merging_sink import MergingSink, merge

LENGTH = FinishReason.FINISH_REASON_LENGTH
STOP = FinishReason.FINISH_REASON_STOP


class CountingHandle:
    request_id = "req-1"

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def part(index: int, number: int, text: str) -> ChoiceDelta:
    logprob = PositionLogprobs(sampled=TokenLogprob(token_id=number, logprob=-number, rank=1))
    return ChoiceDelta(index=index, text=text, token_ids=[number], logprobs=[logprob])


def response(*choices: ChoiceDelta, last: bool = False) -> GenerateResponse:
    made = GenerateResponse(request_id="req-1", request_label="mine", model="tiny", choices=choices)
    if last:
        made.usage.CopyFrom(Usage(prompt_tokens=3, output_tokens=9))
        made.timings.CopyFrom(Timings(ttft_s=0.5))
    return made


@st.composite
def answers(draw: st.DrawFn) -> list[GenerateResponse]:
    """One generation's responses as the core gives them: one delta each, the choices in any order."""
    order = draw(st.lists(st.integers(0, 2), min_size=1, max_size=20))
    last_of = {index: position for position, index in enumerate(order)}
    responses = []
    for position, index in enumerate(order):
        delta = part(index, position, draw(st.text(max_size=3)))
        if last_of[index] == position:
            delta.finish_reason = draw(st.sampled_from([LENGTH, STOP]))
            if delta.finish_reason == STOP:
                delta.stop_string = "end"
        responses.append(response(delta, last=position == len(order) - 1))
    return responses


def by_choice(responses: list[GenerateResponse]) -> dict[int, ChoiceDelta]:
    joined: dict[int, ChoiceDelta] = {}
    for made in responses:
        for delta in made.choices:
            known = joined.setdefault(delta.index, ChoiceDelta(index=delta.index))
            known.text += delta.text
            known.token_ids.extend(delta.token_ids)
            known.logprobs.extend(delta.logprobs)
            if delta.finish_reason:
                known.finish_reason = delta.finish_reason
                if delta.stop_string:
                    known.stop_string = delta.stop_string
    return joined


@given(answers(), st.data())
def test_merging_any_split_gives_the_whole(responses: list[GenerateResponse], data: st.DataObject) -> None:
    async def read() -> list[GenerateResponse]:
        sink, taken = MergingSink(), []
        for made in responses:
            sink.on_delta(copy(made))
            if data.draw(st.booleans()):
                taken.append(await sink.take())
        if not (taken and taken[-1].HasField("usage")):
            taken.append(await sink.take())
        return taken

    taken = asyncio.run(read())
    assert by_choice(taken) == by_choice(responses)
    assert [made.HasField("usage") for made in taken] == [False] * (len(taken) - 1) + [True]
    assert (taken[-1].usage, taken[-1].timings) == (responses[-1].usage, responses[-1].timings)
    assert all((made.request_id, made.request_label, made.model) == ("req-1", "mine", "tiny") for made in taken)
    assert all(len({delta.index for delta in made.choices}) == len(made.choices) for made in taken)


@given(answers())
def test_the_whole_is_one_message(responses: list[GenerateResponse]) -> None:
    async def read() -> GenerateResponse:
        sink = MergingSink()
        reading = asyncio.create_task(sink.take_whole())
        for made in responses:
            sink.on_delta(copy(made))
            await asyncio.sleep(0)
        return await reading

    whole = asyncio.run(read())
    assert by_choice([whole]) == by_choice(responses)
    assert whole.usage == responses[-1].usage


@given(answers(), st.data())
def test_tokens_are_parts_of_the_answer_like_others(responses: list[GenerateResponse], data: st.DataObject) -> None:
    """What is no more than a token comes by on_token, from a choice's second part on."""

    async def read() -> list[GenerateResponse]:
        sink, taken, begun = MergingSink(), [], set()
        for made in responses:
            (delta,) = made.choices
            plain = delta.index in begun and not delta.finish_reason
            begun.add(delta.index)
            if plain:
                del delta.logprobs[:]
                sink.on_token(delta.index, delta.text, delta.token_ids[0])
            else:
                sink.on_delta(copy(made))
            if data.draw(st.booleans()):
                taken.append(await sink.take())
        if not (taken and taken[-1].HasField("usage")):
            taken.append(await sink.take())
        return taken

    taken = asyncio.run(read())
    assert by_choice(taken) == by_choice(responses)
    assert all((made.request_id, made.request_label, made.model) == ("req-1", "mine", "tiny") for made in taken)
    assert all(len({delta.index for delta in made.choices}) == len(made.choices) for made in taken)


async def test_a_reader_that_does_not_read_is_ended_at_the_bound() -> None:
    sink = MergingSink(limit_bytes=10_000)
    sink.handle = handle = CountingHandle()
    sink.on_delta(response(part(0, 1, "x")))
    for number in range(1000):
        sink.on_token(0, "x", number)
    assert handle.cancelled == 1
    with pytest.raises(Overloaded, match="more than 10000 bytes"):
        await sink.take()


async def test_what_is_taken_no_longer_counts_against_the_bound() -> None:
    sink = MergingSink(limit_bytes=10_000)
    sink.on_delta(response(part(0, 1, "x")))
    for number in range(1000):
        sink.on_token(0, "x", number)
        await sink.take()


async def test_a_slow_reader_gets_few_messages() -> None:
    sink = MergingSink()
    for number in range(1000):
        sink.on_delta(response(part(0, number, "x")))
    taken = await sink.take()
    assert len(taken.choices) == 1
    assert list(taken.choices[0].token_ids) == list(range(1000))
    assert taken.choices[0].text == "x" * 1000


async def test_what_came_before_an_error_is_given_before_it() -> None:
    sink = MergingSink()
    sink.on_delta(response(part(0, 1, "x")))
    sink.on_error(Unavailable("gone"))
    assert (await sink.take()).choices[0].text == "x"
    with pytest.raises(Unavailable, match="gone"):
        await sink.take()


async def test_a_reader_that_waits_is_woken_by_the_error() -> None:
    sink = MergingSink()
    reading, whole = asyncio.create_task(sink.take()), asyncio.create_task(sink.take_whole())
    await asyncio.sleep(0)
    sink.on_error(Unavailable("gone"))
    for task in (reading, whole):
        with pytest.raises(Unavailable):
            await task


def test_merging_leaves_the_later_part_alone() -> None:
    earlier, later = response(part(0, 1, "x")), response(part(0, 2, "y"), part(1, 3, "z"))
    before = copy(later)
    merge(earlier, later)
    assert later == before


def copy(made: GenerateResponse) -> GenerateResponse:
    return GenerateResponse.FromString(made.SerializeToString())
