"""The index against a naive model: what it says a worker has is what the worker said, and only room makes it forget."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from segue.base.block_hash import block_hashes
from segue.router.prefix_index import PrefixIndex

WORKERS = st.sampled_from(["a", "b", "c", "d"])
# Prompts of a few tokens over a small alphabet share prefixes often.
PROMPTS = st.lists(st.integers(0, 2), max_size=8).map(lambda tokens: block_hashes(tokens, 1))
ROOM = 1 << 20


class Against(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(ROOM, pieces=4)
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


Against.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstANaiveModel = Against.TestCase


@given(
    st.lists(st.tuples(WORKERS, PROMPTS), max_size=60),
    st.integers(1, 40),
    st.lists(PROMPTS, max_size=20),
)
def test_with_little_room_it_forgets_and_never_invents(
    stores: list[tuple[str, list[int]]], room: int, asked: list[list[int]]
) -> None:
    index = PrefixIndex(room, pieces=2)
    caches: dict[str, set[int]] = {}
    for worker, names in stores:
        index.store(worker, names)
        caches.setdefault(worker, set()).update(names)
        assert len(index) <= max(room, 4)
    for names in asked:
        for worker, blocks in index.overlaps(names).items():
            assert set(names[:blocks]) <= caches[worker]


def test_what_is_looked_up_outlives_what_is_not() -> None:
    index = PrefixIndex(64, pieces=1)
    system_prompt = list(range(1000, 1010))
    index.store("a", system_prompt)
    for number in range(100):
        index.store("a", range(number * 10, number * 10 + 10))
        assert index.overlaps(system_prompt) == {"a": 10}
    assert index.overlaps(range(10)) == {}
    assert index.dropped_blocks > 800


def test_a_worker_that_comes_back_has_none_of_its_earlier_blocks() -> None:
    index = PrefixIndex(ROOM, pieces=4)
    index.store("a", [1, 2, 3])
    index.store("b", [1, 2])
    index.forget("a")
    assert index.overlaps([1, 2, 3]) == {"b": 2}
    index.store("a", [1])
    assert index.overlaps([1, 2, 3]) == {"a": 1, "b": 2}


def test_bits_of_lost_workers_are_given_out_again_once_nothing_has_them() -> None:
    index = PrefixIndex(ROOM, pieces=4)
    for number in range(1000):
        index.store(f"w-{number}", [1, 2, 3, number + 10])
        index.forget(f"w-{number}")
    assert index._live | index._retired | index._sweeping < 1 << 20
    index.store("a", [1, 2])
    assert index.overlaps([1, 2, 3]) == {"a": 2}
    for number in range(20):
        index.store("a", [5000 + number])
    assert len(index) == 22
