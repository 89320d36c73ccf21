"""The block cache, driven at random beside a naive account of who holds what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segue.base.block_hash import NO_PARENT, block_hashes
from segue.engine.simulated.cache import BlockCache
from segue.proto.worker_pb2 import KvEvent

BLOCK_TOKENS = 2


class NaiveView:
    """What somebody knows who has seen nothing but events: as a router does."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}

    def take(self, events: Sequence[KvEvent]) -> None:
        for event in events:
            if event.WhichOneof("event") == "stored":
                parent = event.stored.parent
                for name in event.stored.blocks:
                    assert name not in self.parents, "stored twice"
                    self.parents[name] = parent
                    parent = name
            else:
                for name in event.removed.blocks:
                    del self.parents[name]


@dataclass
class Held:
    block_ids: list[int]
    names: list[int]


class CacheMachine(RuleBasedStateMachine):
    """Requests come with prompts that share prefixes, fill their blocks, and go in any order."""

    @initialize(capacity=st.integers(1, 12))
    def begin(self, capacity: int) -> None:
        self.cache = BlockCache(capacity)
        self.held: list[Held] = []
        self.view = NaiveView()

    @rule(tokens=st.lists(st.integers(0, 1), min_size=2, max_size=12))
    def request(self, tokens: list[int]) -> None:
        names = block_hashes(tokens, BLOCK_TOKENS)
        cached = self.cache.cached_blocks(names)
        free = self.cache.free_blocks
        taken = self.cache.take(names, len(names))
        if taken is None:
            assert self.cache.free_blocks == free, "a refusal changes nothing"
            return
        assert taken.cached == cached
        assert [self.cache.content(block_id) for block_id in taken.block_ids[:cached]] == names[:cached]
        for place in range(cached, len(names)):
            parent = names[place - 1] if place else NO_PARENT
            self.cache.fill_whole(taken.block_ids[place], names[place], parent)
        self.held.append(Held(taken.block_ids, names))

    @rule(blocks=st.integers(1, 4))
    def grow(self, blocks: int) -> None:
        free = self.cache.free_blocks
        more = self.cache.extend(blocks)
        assert (more is None) == (blocks > free)
        if more is not None:
            self.held.append(Held(more, []))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.cache.release(one.block_ids)

    @invariant()
    def holders_are_those_who_hold(self) -> None:
        counts: dict[int, int] = {}
        for one in self.held:
            assert len(set(one.block_ids)) == len(one.block_ids)
            for block_id in one.block_ids:
                counts[block_id] = counts.get(block_id, 0) + 1
        for block_id, count in counts.items():
            assert 0 <= block_id < self.cache.capacity
            assert self.cache.holders(block_id) == count
        assert self.cache.free_blocks == self.cache.capacity - len(counts)
        assert self.cache.free_blocks >= 0

    @invariant()
    def nobody_shares_a_block_but_by_its_name(self) -> None:
        owner: dict[int, Held] = {}
        for one in self.held:
            for place, block_id in enumerate(one.block_ids):
                if block_id in owner:
                    assert one.names[place] == self.cache.content(block_id)
                owner[block_id] = one

    @invariant()
    def held_content_is_what_was_computed(self) -> None:
        for one in self.held:
            for block_id, name in zip(one.block_ids, one.names, strict=False):
                assert self.cache.content(block_id) == name

    @invariant()
    def events_replayed_are_the_cache(self) -> None:
        self.view.take(self.cache.take_events())
        assert self.view.parents.keys() == self.cache.names.keys()

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for one in self.held:
                self.cache.release(one.block_ids)
            assert self.cache.free_blocks == self.cache.capacity


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=40, stateful_step_count=30)


def test_what_was_let_go_first_is_forgotten_first_and_ends_of_prompts_before_beginnings() -> None:
    cache = BlockCache(4)
    first, second = block_hashes([1, 1, 1, 1], 2), block_hashes([2, 2, 2, 2], 2)
    for names in (first, second):
        taken = cache.take(names, 2)
        assert taken is not None
        cache.fill_whole(taken.block_ids[0], names[0], NO_PARENT)
        cache.fill_whole(taken.block_ids[1], names[1], names[0])
        cache.release(taken.block_ids)
    cache.take_events()
    for gone in (first[1], first[0], second[1]):
        assert cache.extend(1)
        assert list(cache.take_events()) == [KvEvent(removed=KvEvent.Removed(blocks=[gone]))]


@given(st.lists(st.integers(0, 3), min_size=4, max_size=40))
def test_a_prompt_is_told_as_one_chain(tokens: list[int]) -> None:
    cache = BlockCache(64)
    names = block_hashes(tokens, BLOCK_TOKENS)
    taken = cache.take(names, len(names))
    assert taken is not None
    for place, name in enumerate(names):
        cache.fill_whole(taken.block_ids[place], name, names[place - 1] if place else NO_PARENT)
    assert cache.take_events() == [KvEvent(stored=KvEvent.Stored(parent=NO_PARENT, blocks=names))]
    assert cache.take_events() == []


def test_without_prefix_caching_nothing_is_shared_or_told() -> None:
    cache = BlockCache(8, share_prefixes=False)
    names = block_hashes([1, 2, 3, 4], 2)
    taken = cache.take(names, 2)
    assert taken is not None
    cache.fill_whole(taken.block_ids[0], names[0], NO_PARENT)
    assert cache.cached_blocks(names) == 0
    assert cache.take_events() == []
