"""The index against a naive model: what it says a worker has is what the worker said, and only room makes it forget."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from segue.base.block_hash import block_hashes
from segue.router.prefixes import prefix_index
from segue.router.prefixes.prefix_index import PrefixIndex

WORKERS = st.sampled_from(["a", "b", "c", "d"])
# Prompts of a few tokens over a small alphabet share prefixes often.
PROMPTS = st.lists(st.integers(0, 2), max_size=8).map(lambda tokens: block_hashes(tokens, 1))
ROOM = 1 << 20


class OneByOne(RuleBasedStateMachine):
    few = ROOM

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(ROOM, first_size=16, few=self.few)
        self.caches: dict[str, set[int]] = {}

    @rule(worker=WORKERS, names=PROMPTS)
    def store(self, worker: str, names: Sequence[int]) -> None:
        self.index.store(worker, names)
        self.caches.setdefault(worker, set()).update(names)

    @rule(worker=WORKERS, names=PROMPTS, kept=st.integers(0, 8))
    def remove(self, worker: str, names: Sequence[int], kept: int) -> None:
        self.index.remove(worker, names[kept:])
        self.caches.get(worker, set()).difference_update(names[kept:])

    @rule(worker=WORKERS)
    def forget(self, worker: str) -> None:
        self.index.forget(worker)
        self.caches.pop(worker, None)

    @rule(names=PROMPTS)
    def look_up(self, names: Sequence[int]) -> None:
        naive = {}
        for worker, cache in self.caches.items():
            blocks = next((number for number, name in enumerate(names) if name not in cache), len(names))
            if blocks:
                naive[worker] = blocks
        assert self.index.overlaps(names) == naive

    @invariant()
    def it_is_no_larger_than_what_it_knows(self) -> None:
        for worker in ("a", "b", "c", "d"):
            assert self.index.knows(worker) == (worker in self.caches)
        assert self.index.empty == (not self.caches)


class Together(OneByOne):
    few = 0


OneByOne.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
Together.TestCase.settings = OneByOne.TestCase.settings
TestNamesOneByOneAgainstANaiveModel = OneByOne.TestCase
TestNamesTogetherAgainstANaiveModel = Together.TestCase


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_while_tables_grow_and_names_come_and_go(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_index, "_LEAST_MOVED", 0)
    draw = random.Random(seed)
    index = PrefixIndex(1 << 16, first_size=16)
    caches: dict[str, dict[int, list[int]]] = {"a": {}, "b": {}, "c": {}}
    for number in range(600):
        worker = draw.choice("abc")
        cache = caches[worker]
        if len(cache) > 20:  # The oldest goes.
            first = next(iter(cache))
            index.remove(worker, cache.pop(first))
        tokens = np.full(draw.choice((1, 3, 40, 400)), draw.choice((number, number // 10)) + 1000)
        if int(tokens[0]) in cache:
            continue
        cache[int(tokens[0])] = names = block_hashes(tokens, 1)
        index.store(worker, names)
        asked = draw.choice(list(cache))
        for one, theirs in caches.items():
            had = index.overlaps(cache[asked]).get(one, 0)
            assert had == min(len(theirs.get(asked, ())), len(cache[asked]))
    held = set[int]().union(*(names for cache in caches.values() for names in cache.values()))
    assert len(index) == len(held)
    assert index.dropped_blocks == 0


@given(
    st.lists(st.tuples(WORKERS, PROMPTS), max_size=60),
    st.integers(1, 40),
    st.lists(PROMPTS, max_size=20),
    st.sampled_from([0, 16]),
)
def test_with_little_room_it_forgets_and_never_invents(
    stores: list[tuple[str, list[int]]], room: int, asked: list[list[int]], few: int
) -> None:
    index = PrefixIndex(room, first_size=4, few=few)
    caches: dict[str, set[int]] = {}
    for worker, names in stores:
        index.store(worker, names)
        caches.setdefault(worker, set()).update(names)
        assert len(index) <= max(room, 4)
    for names in asked:
        for worker, blocks in index.overlaps(names).items():
            assert set(names[:blocks]) <= caches[worker]


def test_what_is_looked_up_outlives_what_is_not() -> None:
    index = PrefixIndex(64, first_size=16)
    system_prompt = list(range(1000, 1010))
    index.store("a", system_prompt)
    for number in range(100):
        index.store("a", range(number * 10, number * 10 + 10))
        assert index.overlaps(system_prompt) == {"a": 10}
    assert index.overlaps(range(10)) == {}
    assert index.dropped_blocks > 800


def test_a_worker_that_comes_back_has_none_of_its_earlier_blocks() -> None:
    index = PrefixIndex(ROOM, first_size=16)
    index.store("a", [1, 2, 3])
    index.store("b", [1, 2])
    index.forget("a")
    assert index.overlaps([1, 2, 3]) == {"b": 2}
    index.store("a", [1])
    assert index.overlaps([1, 2, 3]) == {"a": 1, "b": 2}


def test_bits_of_lost_workers_are_given_out_again_once_nothing_has_them() -> None:
    index = PrefixIndex(ROOM, first_size=16)
    for number in range(1000):
        index.store(f"w-{number}", [1, 2, 3, number + 10])
        index.forget(f"w-{number}")
    assert index._sets.live | index._sets._retired < 1 << 80
    index.store("a", [1, 2])
    assert index.overlaps([1, 2, 3]) == {"a": 2}
    for number in range(20):
        index.store("a", [5000 + number])
    index._compact()
    assert len(index) == 22
