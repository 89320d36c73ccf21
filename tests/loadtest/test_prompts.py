"""Prompts have the lengths that were asked for, and share what was to be shared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.engine.embedded_model import ensure_embedded_model
from segue.loadtest.workload.prompts import PLAIN, PromptMaker, Vocabulary, vocabulary_of
from segue.loadtest.workload.requests import MIN_BLOCK_TOKENS, Replay, replay
from segue.loadtest.workload.shape import Segment
from segue.loadtest.workload.traces import TraceEntry
from segue.router.text.tokenizer import TextCodec


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec.load(str(ensure_embedded_model()))


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


segments = st.lists(st.builds(Segment, st.integers(0, 1 << 31), st.integers(1, 100)), min_size=1, max_size=5)


@given(segments)
def test_ids_are_as_many_as_asked_for_and_the_same_again(wanted: list[Segment]) -> None:
    ids = PromptMaker(PLAIN, seed=3).token_ids(wanted)

    assert len(ids) == sum(segment.tokens for segment in wanted)
    assert ids == PromptMaker(PLAIN, seed=3).token_ids(wanted)
    assert set(ids) <= set(PLAIN.token_ids.tolist())


@pytest.fixture(scope="module")
def words(codec: TextCodec) -> PromptMaker:
    return PromptMaker(vocabulary_of(codec))


@given(segments)
def test_text_has_the_tokens_of_the_ids(codec: TextCodec, words: PromptMaker, wanted: list[Segment]) -> None:
    assert codec.encode(words.text(wanted), add_special_tokens=False) == words.token_ids(wanted)


@given(st.data())
def test_prompts_of_a_trace_share_exactly_what_its_blocks_share(data: st.DataObject) -> None:
    """A tree of blocks, as a prefix cache sees prompts; two walks through it share their common blocks."""
    block_tokens = 16
    walks = [tuple(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))) for _ in range(2)]
    names: dict[tuple[int, ...], int] = {}
    for walk in walks:
        for depth in range(1, len(walk) + 1):
            names.setdefault(walk[:depth], len(names))
    entries = [
        TraceEntry(0.0, 512 * len(walk), 1, tuple(names[walk[:depth]] for depth in range(1, len(walk) + 1)))
        for walk in walks
    ]
    maker = PromptMaker(PLAIN)

    first, second = (maker.token_ids(shape.segments) for shape in replay(entries, Replay(length_scale=32), 0))

    shared = common_length(entries[0].blocks, entries[1].blocks) * block_tokens
    common = common_length(first, second)
    if entries[0].blocks == entries[1].blocks:
        assert common == shared
    else:
        assert shared <= common < shared + MIN_BLOCK_TOKENS


def test_a_shorter_last_block_begins_like_the_whole_one() -> None:
    maker = PromptMaker(PLAIN)

    assert maker.token_ids([Segment(5, 40)])[:9] == maker.token_ids([Segment(5, 9)])


def test_text_without_a_tokenizer_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="--tokenizer"):
        PromptMaker(PLAIN).text([Segment(0, 1)])


def test_names_are_told_apart_by_the_smallest_blocks() -> None:
    maker = PromptMaker(Vocabulary(np.arange(256, dtype=np.uint32)))

    prompts = {tuple(maker.token_ids([Segment(name, MIN_BLOCK_TOKENS)])) for name in range(0, 1 << 31, 999_983)}

    assert len(prompts) == len(range(0, 1 << 31, 999_983))
