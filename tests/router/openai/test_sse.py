"""The fast way of writing events equals the plain one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.proto.inference_pb2 import ChoiceDelta
from segue.proto.sampling_pb2 import FinishReason
from segue.router.openai.sse import ChunkEncoder
from segue.router.openai.wire import Head
from segue.router.text.tokenizer import TextCodec


def decode(events: bytes) -> list[Any]:
    return [json.loads(one.removeprefix("data: ")) for one in events.decode().split("\n\n") if one]


@given(text=st.text(min_size=1), name=st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("include_usage", [True, False])
def test_a_plain_delta_is_one_event_that_says_just_this(
    codec: TextCodec, chat: bool, include_usage: bool, text: str, name: str
) -> None:
    encoder = ChunkEncoder(Head("id-1", name, 7, chat), codec, choices=2, logprobs=False, include_usage=include_usage)
    events = decode(encoder.delta(1, ChoiceDelta(text=text)))
    choice: dict[str, Any] = {"index": 1, "logprobs": None, "finish_reason": None}
    chunk: dict[str, Any] = {"id": "id-1", "created": 7, "model": name}
    chunk |= {"object": "chat.completion.chunk" if chat else "text_completion"}
    chunk |= {"usage": None} if include_usage else {}
    plain = {**chunk, "choices": [choice | ({"delta": {"content": text}} if chat else {"text": text})]}
    role = {**chunk, "choices": [choice | {"delta": {"role": "assistant", "content": ""}}]}
    assert events == ([role, plain] if chat else [plain])
    assert decode(encoder.delta(1, ChoiceDelta(text=text))) == [plain]


def test_text_that_is_held_back_makes_no_event(codec: TextCodec) -> None:
    encoder = ChunkEncoder(Head("id-1", "m", 7, False), codec, choices=1, logprobs=False, include_usage=False)
    assert encoder.delta(0, ChoiceDelta(token_ids=[5])) == b""


def test_the_last_event_says_why_it_ended(codec: TextCodec) -> None:
    stop = FinishReason.FINISH_REASON_STOP
    encoder = ChunkEncoder(Head("id-1", "m", 7, True), codec, choices=1, logprobs=False, include_usage=False)
    encoder.delta(0, ChoiceDelta(text="a"))
    (event,) = decode(encoder.delta(0, ChoiceDelta(finish_reason=stop, stop_token_id=3), extra={"segue": 1}))
    assert event["choices"][0]["delta"] == {}
    assert (event["choices"][0]["finish_reason"], event["choices"][0]["stop_reason"], event["segue"]) == (
        "stop",
        3,
        1,
    )
    (event,) = decode(encoder.delta(0, ChoiceDelta(text="b", finish_reason=stop, stop_string="END")))
    assert (event["choices"][0]["delta"], event["choices"][0]["stop_reason"]) == ({"content": "b"}, "END")
