"""``text_offset`` says where in the answer's text a token begins, also where tokens are parts of characters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.proto.sampling_pb2 import PositionLogprobs, TokenLogprob
from segue.router.openai.wire import completion_logprobs
from segue.router.text.offsets import TextOffsets
from segue.router.text.tokenizer import TextCodec


def positions(ids: list[int]) -> list[PositionLogprobs]:
    return [PositionLogprobs(sampled=TokenLogprob(token_id=one, logprob=-1.0, rank=1)) for one in ids]


def test_a_part_of_a_character_begins_where_the_character_does(codec: TextCodec) -> None:
    bird = codec.encode("\U0001f54a", add_special_tokens=False)
    assert len(bird) > 1
    ids = [*codec.encode("a", add_special_tokens=False), *bird, *codec.encode("b", add_special_tokens=False)]
    found = completion_logprobs(codec, positions(ids), TextOffsets(codec))
    assert codec.decode(ids) == "a\U0001f54ab"
    assert found["text_offset"] == [0, *[1] * len(bird), 2]


def test_it_goes_on_over_the_parts_of_a_stream(codec: TextCodec) -> None:
    ids = codec.encode("a \U0001f54a b \U0001f54a c", add_special_tokens=False)
    offsets = TextOffsets(codec)
    in_parts = [completion_logprobs(codec, positions([one]), offsets)["text_offset"][0] for one in ids]
    assert in_parts == completion_logprobs(codec, positions(ids), TextOffsets(codec))["text_offset"]


def test_special_tokens_are_no_text(codec: TextCodec) -> None:
    ids = [*codec.encode("a", add_special_tokens=False), codec.encode("")[0]]
    ids += codec.encode("b", add_special_tokens=False)
    assert codec.decode(ids) == "ab"
    assert completion_logprobs(codec, positions(ids), TextOffsets(codec))["text_offset"] == [0, 1, 1]


@given(ids=st.lists(st.integers(0, 2100), max_size=30))
def test_whole_characters_before_a_token_are_counted(codec: TextCodec, ids: list[int]) -> None:
    found = completion_logprobs(codec, positions(ids), TextOffsets(codec))["text_offset"]
    for index, offset in enumerate(found):
        before = codec.decode(ids[:index])
        # A character begun before it is decoded as U+FFFD until it is whole.
        assert before[:offset] == codec.decode(ids)[:offset]
        assert set(before[offset:]) <= {"\ufffd"}
