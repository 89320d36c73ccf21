"""Pieces, joined, equal the whole; no piece ends inside a character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from segue.router.text.detokenizer import new_detokenizer
from segue.router.text.tokenizer import TextCodec

# Without U+FFFD, which at the end would be held back for a broken one.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=40) | st.text("aé你🙂 ", max_size=40)


def split(ids: Sequence[int], cuts: Sequence[int]) -> list[Sequence[int]]:
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    return [ids[low:high] for low, high in pairwise(edges)]


def pieces(codec: TextCodec, ids: Sequence[int], cuts: Sequence[int]) -> list[str]:
    detokenizer = new_detokenizer(codec)
    return [detokenizer.push_one(part[0]) if len(part) == 1 else detokenizer.push(part) for part in split(ids, cuts)]


def vllms(codec: TextCodec, ids: Sequence[int]) -> str:
    """What vLLM's detokeniser makes of an answer: it drops what its stream holds back at the end."""
    stream = DecodeStream(skip_special_tokens=True)
    return "".join(stream.step(codec.tokenizer, id_) or "" for id_ in ids)


@given(st.lists(st.integers(0, 660), max_size=60), st.lists(st.integers(0, 60), max_size=20))
def test_any_ids_in_any_pieces_give_vllms_text(codec: TextCodec, ids: list[int], cuts: list[int]) -> None:
    text = "".join(pieces(codec, ids, cuts))
    assert text == vllms(codec, ids)
    whole = codec.decode(ids, skip_special_tokens=True)
    assert whole.startswith(text)
    assert text == whole or whole.endswith("\ufffd")


@given(TEXT, st.lists(st.integers(0, 200), max_size=20))
def test_no_piece_of_valid_text_holds_a_broken_character(codec: TextCodec, text: str, cuts: list[int]) -> None:
    found = pieces(codec, codec.encode(text), cuts)
    assert "".join(found) == text
    assert sum(piece.count("\ufffd") for piece in found) == text.count("\ufffd")


@given(TEXT, st.lists(st.integers(0, 200), max_size=20))
def test_byte_fallback_and_word_marks_join_to_the_decoded_whole(
    word_codec: TextCodec, text: str, cuts: list[int]
) -> None:
    ids = word_codec.encode(text)
    assert "".join(pieces(word_codec, ids, cuts)) == word_codec.decode(ids) == text


def test_a_character_that_is_cut_off_is_dropped_as_vllm_does(codec: TextCodec, word_codec: TextCodec) -> None:
    for tested in (codec, word_codec):
        whole = tested.encode("ok \u4f60", add_special_tokens=False)
        for length in range(len(whole) + 1):
            text = "".join(pieces(tested, whole[:length], range(length)))
            assert text == vllms(tested, whole[:length])
            assert "\ufffd" not in text


def test_the_space_before_the_first_word_is_kept_behind_a_prompt(word_codec: TextCodec) -> None:
    the = word_codec.encode("a the", add_special_tokens=False)
    prompt, answer = the[:1], the[1:]
    assert new_detokenizer(word_codec).push(answer) == "the"
    assert new_detokenizer(word_codec, prompt).push(answer) == " the"
    assert new_detokenizer(word_codec, [*prompt, *([1] * 100)]).push(answer) == "the"
    assert new_detokenizer(word_codec, [*prompt, *([1] * 10)]).push(answer) == " the"


def test_endless_broken_bytes_do_not_pile_up(word_codec: TextCodec) -> None:
    lone = word_codec.tokenizer.token_to_id("<0xE4>")
    detokenizer = new_detokenizer(word_codec)
    assert lone is not None
    text = "".join(detokenizer.push([lone]) for _ in range(100))
    assert set(text) == {"\ufffd"}
    assert 80 < len(text) <= 100


def test_a_replacement_character_that_the_model_wrote_is_shown_with_what_follows(codec: TextCodec) -> None:
    ids = codec.encode("\ufffd!", add_special_tokens=False)
    for cuts in ((), tuple(range(len(ids)))):
        assert "".join(pieces(codec, ids, cuts)) == vllms(codec, ids) == "\ufffd!"


@pytest.mark.parametrize("ids", [[10_000], [2**32 - 1, 5]])
def test_ids_outside_the_vocabulary_are_nothing(codec: TextCodec, ids: list[int]) -> None:
    assert new_detokenizer(codec).push(ids) == codec.decode(ids)
