"""Reading a stream and keeping a closed loop, without a socket."""

import asyncio
import json
from typing import Any

import pytest
from comparison.load import Sample, StreamReader, closed_loop, failed


def _data(**event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n"


def _choice(text: str) -> dict[str, Any]:
    return {"index": 0, "text": text}


def test_a_whole_stream_becomes_a_sample() -> None:
    reader = StreamReader("a prompt")
    reader.line(_data(choices=[_choice("one")]), 0.5)
    reader.line(b"\n", 0.5)
    reader.line(_data(choices=[_choice(" two")]), 0.7)
    reader.line(_data(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 2}), 0.8)
    reader.line(b"data: [DONE]\n", 0.8)
    assert reader.sample() == Sample("a prompt", "one two", (0.5, 0.7), prompt_tokens=9, output_tokens=2)


def test_the_way_a_request_was_carried_out_is_kept() -> None:
    reader = StreamReader("a prompt")
    reader.line(_data(choices=[], segue={"timings": {"path": "seeded", "transport": "nixl"}}), 0.5)
    assert reader.sample().path == "seeded, nixl"


def test_a_stream_that_breaks_off_is_a_failure() -> None:
    reader = StreamReader("a prompt")
    reader.line(_data(choices=[_choice("one")]), 0.5)
    assert reader.sample().error == "the stream ended without [DONE]"


def test_a_stream_without_usage_is_a_failure() -> None:
    reader = StreamReader("a prompt")
    reader.line(_data(choices=[_choice("one")]), 0.5)
    reader.line(b"data: [DONE]\n", 0.8)
    assert reader.sample().error == "the stream held no choice or no usage"


def test_an_error_inside_the_stream_is_raised() -> None:
    with pytest.raises(ValueError, match="overloaded"):
        StreamReader("a prompt").line(_data(error={"message": "overloaded"}), 0.5)


async def test_the_loop_keeps_the_asked_number_in_flight_and_the_order_of_the_prompts() -> None:
    in_flight = most = 0

    async def send(prompt: str) -> Sample:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        # Later prompts answer sooner, so that the order of answers isn't that of the prompts.
        for _ in range(20 - int(prompt)):
            await asyncio.sleep(0)
        in_flight -= 1
        return failed(prompt, "none")

    load = await closed_loop(send, [str(n) for n in range(12)], concurrency=3)
    assert most == 3
    assert [sample.prompt for sample in load.samples] == [str(n) for n in range(12)]


async def test_no_more_clients_than_prompts() -> None:
    async def send(prompt: str) -> Sample:
        return failed(prompt, "none")

    load = await closed_loop(send, ["only"], concurrency=8)
    assert [sample.prompt for sample in load.samples] == ["only"]
