"""KV events on their way to a router: a snapshot first, then changes, numbered without a gap, in pieces."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from segue.proto.worker_pb2 import KvEvent, KvEvents, WorkerFrame
from segue.worker.kv_cache_view import MOST_BLOCKS, KvCacheView
from segue.worker.kv_feed import MOST_BLOCKS_A_FRAME, KvFeed
from segue.worker.outbox import Outbox
from tests.worker.fakes import tokens


def stored(*blocks: int, parent: int = 0) -> KvEvent:
    return KvEvent(stored=KvEvent.Stored(parent=parent, blocks=blocks))


def removed(*blocks: int) -> KvEvent:
    return KvEvent(removed=KvEvent.Removed(blocks=blocks))


CLEARED = KvEvent(cleared=True)

EVENTS = st.one_of(
    st.builds(lambda blocks, parent: stored(*blocks, parent=parent), st.lists(st.integers(1, 12)), st.integers(0, 12)),
    st.builds(lambda blocks: removed(*blocks), st.lists(st.integers(1, 12))),
    st.just(CLEARED),
)


class Router:
    """What a router makes of the pieces, and that their numbers have no gap."""

    def __init__(self) -> None:
        self.blocks: set[int] = set()
        self.expected = 0

    def take(self, piece: KvEvents) -> None:
        assert piece.first_sequence == self.expected
        self.expected += len(piece.events)
        if piece.snapshot:
            self.blocks.clear()
        for event in piece.events:
            self.blocks |= set(event.stored.blocks)
            self.blocks -= set(event.removed.blocks)
            if event.cleared:
                self.blocks.clear()


def test_a_view_has_what_is_stored_and_says_it_in_chains() -> None:
    view = KvCacheView()
    view.apply([stored(1, 2, 3), stored(4, 5, parent=3), stored(6, parent=2), stored(7)])
    assert view.snapshot() == [stored(1, 2, 3, 4, 5), stored(6, parent=2), stored(7)]
    view.apply([removed(5, 6, 99)])
    assert view.snapshot() == [stored(1, 2, 3, 4), stored(7)]
    view.apply([CLEARED])
    assert view.snapshot() == []


def test_a_long_chain_is_cut_where_its_pieces_still_fit_together() -> None:
    view = KvCacheView()
    view.apply([stored(*range(1, MOST_BLOCKS + 3))])
    assert view.snapshot() == [
        stored(*range(1, MOST_BLOCKS + 1)),
        stored(MOST_BLOCKS + 1, MOST_BLOCKS + 2, parent=MOST_BLOCKS),
    ]


@given(st.lists(st.tuples(EVENTS, st.booleans()), max_size=30), st.integers(0, 30))
def test_who_attaches_at_any_time_ends_up_with_the_cache_as_it_is(
    steps: list[tuple[KvEvent, bool]], attach: int
) -> None:
    view, router = KvCacheView(), Router()
    feed = KvFeed(view.snapshot)
    attached = False
    for number, (event, read) in enumerate([*steps, (stored(), True)]):
        if number == min(attach, len(steps)):
            feed.restart()
            attached = True
        view.apply([event])
        if attached:
            feed.put([event])
        if attached and read:
            while not feed.empty:
                router.take(feed.take())
    assert sorted(router.blocks) == sorted(block for chain in view.snapshot() for block in chain.stored.blocks)


def test_an_empty_cache_is_told_of_too() -> None:
    feed = KvFeed(list)
    feed.restart()
    assert feed.take() == KvEvents(snapshot=True)
    assert feed.empty


def test_a_big_snapshot_goes_out_in_pieces_between_which_tokens_go_on() -> None:
    view = KvCacheView()
    blocks = 3 * MOST_BLOCKS_A_FRAME
    view.apply([stored(*range(1, blocks + 1))])
    outbox, router = Outbox(), Router()
    outbox.start_kv_events(view.snapshot)

    async def read() -> list[WorkerFrame]:
        frames = []
        while len(router.blocks) < blocks:
            frames.append(await outbox.take())
            router.take(frames[-1].kv_events)
            outbox.put_outputs([tokens("a", len(frames))])
        return frames

    frames = asyncio.run(read())
    assert len(frames) == 4
    assert max(frame.ByteSize() for frame in frames) < 9 * MOST_BLOCKS_A_FRAME
    assert [list(output.token_ids) for frame in frames for output in frame.outputs] == [[1], [2], [3]]


def test_a_router_that_does_not_read_is_owed_a_bounded_amount() -> None:
    view = KvCacheView()
    feed = KvFeed(view.snapshot)
    feed.restart()
    router = Router()
    router.take(feed.take())
    for turn in range(200):
        events = [
            stored(*range(turn * 1000 + 1, turn * 1000 + 101)),
            removed(*range(turn * 1000 + 1, turn * 1000 + 100)),
        ]
        view.apply(events)
        feed.put(events)
    waiting = 0
    pieces = 0
    while not feed.empty:
        piece = feed.take()
        pieces += 1
        waiting += sum(len(event.stored.blocks) + len(event.removed.blocks) for event in piece.events)
        router.take(piece)
    assert waiting < 2 * MOST_BLOCKS_A_FRAME
    assert len(router.blocks) == 200


async def test_changes_alone_go_out_after_a_moment() -> None:
    outbox = Outbox()
    outbox.put_kv_events([stored(1)])  # Nobody has been sent a snapshot yet, which will have it.
    outbox.start_kv_events(list)
    assert (await outbox.take()).kv_events == KvEvents(snapshot=True)
    outbox.put_kv_events([stored(2)])
    outbox.put_kv_events([stored(3)])
    async with asyncio.timeout(30):
        frame = await outbox.take()
    assert frame == WorkerFrame(kv_events=KvEvents(events=[stored(2), stored(3)]))


async def test_changes_go_out_with_the_outputs_of_their_step() -> None:
    outbox = Outbox()
    outbox.start_kv_events(list)
    await outbox.take()
    outbox.put_kv_events([stored(2)])
    outbox.put_outputs([tokens("a", 1)])
    frame = await outbox.take()
    assert frame == WorkerFrame(outputs=[tokens("a", 1)], kv_events=KvEvents(events=[stored(2)]))
