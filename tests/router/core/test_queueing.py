"""The queue in front of the workers: who starts when."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.router.queueing.arrivals import ArrivalMeter
from segue.router.queueing.fair_share import FairShare
from segue.router.queueing.queue import OTHERS_TURN, AdmissionQueue
from segue.router.queueing.slo import BATCH, CHAT, DOCUMENTS, SloClass
from segue.router.queueing.waiting import QueueBounds, Room, Rooms
from tests.router.core.queued import OPEN, drain, waiting

SHORT = Room(short=True, long=False)
NONE = Room(short=False, long=False, places=0, blocks=0)
SLACK_TOKENS = 8192


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 100)), max_size=20))
def test_in_a_class_priority_decides_and_then_the_nearest_deadline(asked: list[tuple[int, int]]) -> None:
    queue = AdmissionQueue()
    for number, (priority, at_s) in enumerate(asked):
        queue.offer(waiting(str(number), at_s=at_s, priority=priority))
    expected = sorted(range(len(asked)), key=lambda number: (*asked[number], number))
    assert drain(queue) == [str(number) for number in expected]


def test_between_classes_who_is_promised_a_first_token_sooner_starts() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("document", DOCUMENTS, at_s=0.0))
    queue.offer(waiting("chat", CHAT, at_s=1.0))
    queue.offer(waiting("later chat", CHAT, at_s=1.8))
    assert drain(queue, 0.0) == ["chat", "later chat", "document"]


def test_batch_takes_what_is_left() -> None:
    queue = AdmissionQueue()
    for number in range(3):
        queue.offer(waiting(f"batch {number}", BATCH))
        queue.offer(waiting(f"chat {number}", CHAT))
    assert drain(queue) == ["chat 0", "chat 1", "chat 2", "batch 0", "batch 1", "batch 2"]


def test_a_batch_request_that_has_yielded_long_enough_gets_one_start_in_eight() -> None:
    queue = AdmissionQueue()
    for number in range(2):
        queue.offer(waiting(f"batch {number}", BATCH))
    for number in range(30):
        queue.offer(waiting(f"chat {number}"))
    started = drain(queue, now_s=BATCH.yield_s + 1)
    assert [started.index("batch 0"), started.index("batch 1")] == [OTHERS_TURN - 1, 2 * OTHERS_TURN - 1]


def test_who_is_too_late_lets_those_pass_who_can_be_in_time() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("late", CHAT, at_s=0.0))
    queue.offer(waiting("in time", CHAT, at_s=0.9))
    queue.offer(waiting("batch", BATCH, at_s=0.0))
    assert drain(queue, now_s=1.0) == ["in time", "late", "batch"]


def test_who_is_too_late_is_not_starved() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("late", CHAT, at_s=-1.0, priority=5))
    for number in range(30):
        queue.offer(waiting(f"chat {number}", priority=-5))
    assert drain(queue, now_s=0.0).index("late") == OTHERS_TURN - 1


def test_a_long_prompt_without_room_is_passed_by_short_ones() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("long", at_s=0.0, long=True))
    queue.offer(waiting("short", at_s=1.0))
    assert drain(queue, rooms=Rooms(SHORT, SHORT)) == ["short"]
    assert drain(queue) == ["long"]


def test_what_decode_computes_passes_what_waits_for_a_prefill_worker() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("document", at_s=0.0, tokens=2000))
    queue.offer(waiting("second", at_s=1.0, tokens=60))
    queue.offer(waiting("first", at_s=0.5, tokens=40))
    queue.offer(waiting("batch", BATCH, tokens=40))
    prefill_is_full = Room(short=False, long=False, on_decode=lambda tokens: tokens < 100)
    assert drain(queue, rooms=Rooms(prefill_is_full, NONE)) == ["first", "second"]
    no_places = dataclasses.replace(prefill_is_full, places=0)
    queue.offer(waiting("third", tokens=40))
    assert drain(queue, rooms=Rooms(no_places, NONE)) == []
    assert drain(queue) == ["document", "third", "batch"]


def test_who_wants_many_places_is_not_passed_by_those_who_want_few() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("eight", at_s=0.0, n=8))
    queue.offer(waiting("one", at_s=1.0))
    tight = Room(short=True, long=True, places=2)
    assert drain(queue, rooms=Rooms(tight, tight)) == []
    assert drain(queue) == ["eight", "one"]


costs = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 3000)), min_size=30, max_size=120)


@settings(max_examples=40, deadline=None)
@given(costs, st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([0.5, 3.0])), st.data())
def test_tenants_that_keep_waiting_get_tokens_by_their_weights(
    asked: list[tuple[str, int]], weights: dict[str, float], data: st.DataObject
) -> None:
    queue = AdmissionQueue(QueueBounds(weights=weights))
    left: Counter[str] = Counter()
    for number, (tenant, tokens) in enumerate(asked):
        at_s = data.draw(st.floats(0, 10))  # Deadlines are anybody's; shares hold all the same.
        queue.offer(waiting(str(number), at_s=at_s, tenant=tenant, tokens=tokens))
        left[tenant] += 1
    got: Counter[str] = Counter()
    while (one := queue.next(0.0, OPEN)) is not None:
        left[one.tenant] -= 1
        got[one.tenant] += one.tokens
        behind = [tenant for tenant, count in left.items() if count]
        by_weight = [got[tenant] / weights.get(tenant, 1.0) for tenant in behind]
        if len(behind) == len({tenant for tenant, _ in asked}):
            assert max(by_weight) - min(by_weight) <= SLACK_TOKENS + 3000 / min(weights.get(one, 1.0) for one in behind)


def test_among_those_who_are_too_late_tenants_take_turns_as_among_others() -> None:
    queue = AdmissionQueue(QueueBounds(requests=512))
    while queue.full("chat", "a", 400) is None:
        queue.offer(waiting(f"a{len(queue)}", CHAT, tenant="a", tokens=400))
    for number in range(20):
        queue.offer(waiting(f"b{number}", CHAT, at_s=0.001, tenant="b", tokens=400))
    started = drain(queue, now_s=2.0)
    assert started.index("b0") <= SLACK_TOKENS / 400 + 1
    assert started.index("b19") <= SLACK_TOKENS / 400 + 40


def test_in_one_tenants_turn_the_late_request_that_was_due_first_starts() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("chat", CHAT, at_s=2.0, priority=-1))
    queue.offer(waiting("document", DOCUMENTS, at_s=0.0, priority=1))
    assert drain(queue, now_s=3.0) == ["document", "chat"]


def test_who_was_passed_while_late_does_not_hold_up_others_for_as_long() -> None:
    queue = AdmissionQueue(QueueBounds(requests=10_000))
    for number in range(100):
        queue.offer(waiting(f"late {number}", CHAT, at_s=-1.0, tenant="burst", tokens=400))
    for number in range(200):
        queue.offer(waiting(f"steady {number}", tenant="steady", tokens=400))
    assert sum(queue.next(0.0, OPEN).tenant == "steady" for _ in range(100)) >= 85  # type: ignore[union-attr]
    for number in range(100):
        queue.offer(waiting(f"again {number}", at_s=-0.1, tenant="burst", tokens=400))
    started = drain(queue)
    before = [one for one in started[: started.index("steady 120")] if one.startswith("again")]
    assert len(before) * 400 <= 2 * SLACK_TOKENS + 40 * 400


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    share = FairShare({}, slack_tokens=100)
    for _ in range(50):
        share.enter("busy")
    share.enter("guest")
    share.charge("guest", 10, ["guest", "busy"])
    share.leave("guest")
    for _ in range(20):
        share.charge("busy", 1000, ["busy"])
        share.leave("busy")
    share.enter("guest")
    assert share.lead("guest") == share.lead("busy") == 0


def test_who_is_refused_is_told_the_bound() -> None:
    queue = AdmissionQueue(QueueBounds(requests=4, tokens=1000))
    queue.offer(waiting("0", CHAT, tenant="alice"))
    queue.offer(waiting("1", CHAT, tenant="alice"))
    assert queue.full("chat", "alice", 10) == "2 requests of alice in class chat wait, and no more than 2 may"
    assert queue.full("chat", "bob", 700) is None
    assert queue.full("chat", "", 900) == "200 prompt tokens of class chat wait, and no more than 1000 may"
    assert queue.full("documents", "alice", 10_000) is None


def test_what_is_ahead_is_what_would_start_before() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("document", DOCUMENTS, at_s=0.0, tokens=1000))
    queue.offer(waiting("chat", CHAT, at_s=0.0, tokens=10))
    queue.offer(waiting("batch", BATCH, at_s=0.0, tokens=100_000))
    assert queue.ahead(CHAT, 0.4).prompt_tokens == 0
    assert queue.ahead(CHAT, 0.6).prompt_tokens == 10
    assert queue.ahead(DOCUMENTS, 0.6).prompt_tokens == 10
    assert queue.ahead(DOCUMENTS, 2.1).prompt_tokens == 1010
    assert queue.ahead(BATCH, 0.0).prompt_tokens == 101_010


def test_who_will_be_passed_is_told_by_how_many() -> None:
    meter = ArrivalMeter()
    for number in range(300):
        meter.asked(CHAT.name, number / 10)
        meter.tokenised(CHAT.name, 200)
        meter.asked(BATCH.name, number / 10)
    rate, tokens = meter.passing(DOCUMENTS, (CHAT, DOCUMENTS, BATCH), 30.0)
    assert 9 < rate < 11
    assert tokens == pytest.approx(200)
    assert meter.passing(CHAT, (CHAT, DOCUMENTS, BATCH), 30.0) == (0.0, 0.0)
    assert meter.passing(DOCUMENTS, (CHAT, DOCUMENTS, BATCH), 90.0)[0] < 1e-3


def test_cancelled_requests_leave_nothing_behind() -> None:
    queue = AdmissionQueue(QueueBounds(requests=10_000))
    stays = dataclasses.replace(waiting("stays"), priority=-1)
    queue.offer(stays)
    for number in range(2_000):
        queue.offer(waiting(str(number)))
        queue.cancel(str(number))
    kept = sum(len(heap) for heap in queue._in_time._lines.values()) + len(queue._in_time_ends)
    assert kept < 300
    assert drain(queue) == ["stays"]


@pytest.mark.parametrize("slo_class", [CHAT, BATCH])
@pytest.mark.parametrize("now_s", [0.0, 100.0])
@pytest.mark.parametrize("rooms", [OPEN, Rooms(SHORT, NONE), Rooms(NONE, NONE)])
def test_who_comes_to_an_empty_queue_passes_it_just_where_it_would_be_next(
    slo_class: SloClass, now_s: float, rooms: Rooms
) -> None:
    passed, offered, newcomer = AdmissionQueue(), AdmissionQueue(), waiting("new", slo_class)
    offered.offer(newcomer)
    room = rooms.interactive if slo_class.interactive else rooms.batch
    assert passed.passes(newcomer, now_s, room) == (offered.next(now_s, rooms) is not None)


def test_who_comes_behind_others_does_not_pass_them() -> None:
    queue = AdmissionQueue()
    queue.offer(waiting("first", long=True))
    assert not queue.passes(waiting("second"), 0.0, OPEN.interactive)
