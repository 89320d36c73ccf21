"""Whatever comes, leaves and starts: the queue loses nobody and starts nobody twice."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from segue.router.queueing.queue import AdmissionQueue
from segue.router.queueing.slo import BATCH, CHAT, DOCUMENTS, SloClass
from segue.router.queueing.waiting import QueueBounds, Room, Rooms, Waiting
from tests.router.core.queued import OPEN, drain, waiting

classes = st.sampled_from([CHAT, DOCUMENTS, BATCH])
rooms = st.builds(
    Room,
    short=st.booleans(),
    long=st.booleans(),
    places=st.integers(0, 4),
    blocks=st.sampled_from([0.0, 2.0, math.inf]),
)


class Queueing(RuleBasedStateMachine):
    """Any order of offers, cancels, time and room, against plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = QueueBounds(requests=12, tokens=2000)
        self.queue = AdmissionQueue(self.bounds)
        self.now_s = 0.0
        self.waiting: dict[str, Waiting] = {}
        self.offered: set[str] = set()
        self.gone: set[str] = set()
        self.aged_in_a_row = 0

    @rule(
        slo_class=classes,
        tenant=st.sampled_from(["", "a", "b"]),
        priority=st.integers(-2, 2),
        tokens=st.integers(1, 900),
        long=st.booleans(),
        n=st.integers(1, 3),
    )
    def offer(self, slo_class: SloClass, tenant: str, priority: int, tokens: int, long: bool, n: int) -> None:
        if self.queue.full(slo_class.name, tenant, tokens) is not None:
            return
        one = waiting(
            str(len(self.offered)),
            slo_class,
            at_s=self.now_s,
            tenant=tenant,
            priority=priority,
            tokens=tokens,
            long=long,
            n=n,
        )
        self.queue.offer(one)
        self.offered.add(one.request_id)
        self.waiting[one.request_id] = one

    @rule(seconds=st.sampled_from([0.01, 0.4, 3.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.cancel(request_id)
        assert not self.queue.cancel(request_id)
        del self.waiting[request_id]
        self.gone.add(request_id)

    @rule(interactive=rooms, batch=rooms)
    def room(self, interactive: Room, batch: Room) -> None:
        one = self.queue.next(self.now_s, Rooms(interactive, batch))
        if one is None:
            self.assert_nobody_could(interactive)
            return
        assert one.request_id not in self.gone
        assert self.waiting.pop(one.request_id) is one
        self.gone.add(one.request_id)
        assert (interactive if one.slo_class.interactive else batch).takes(one)
        if not one.slo_class.interactive:
            self.assert_batch_yields(one, interactive)

    def assert_batch_yields(self, one: Waiting, room: Room) -> None:
        """Unless it has waited its time, no interactive request that fits is passed over for it."""
        if one.due_s > self.now_s:
            assert not [other for other in self.waiting.values() if other.slo_class.interactive and room.takes(other)]

    def assert_nobody_could(self, room: Room) -> None:
        """With places and blocks for all, whoever is left has a length that there is no room for."""
        if room.places >= 3 and room.blocks == math.inf:
            left = [other for other in self.waiting.values() if other.slo_class.interactive]
            assert not [other for other in left if room.takes(other)]

    @rule()
    def everybody_starts(self) -> None:
        started = drain(self.queue, self.now_s)
        assert sorted(started) == sorted(self.waiting)
        self.gone |= set(started)
        self.waiting.clear()

    @invariant()
    def holds_what_was_offered_and_has_not_left(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert all(request_id in self.queue for request_id in self.waiting)
        assert self.queue.queued_tokens == sum(one.prompt_tokens for one in self.waiting.values())

    @invariant()
    def is_bounded(self) -> None:
        for slo_class in (CHAT, DOCUMENTS, BATCH):
            of_class = [one for one in self.waiting.values() if one.slo_class is slo_class]
            assert self.queue.queued(slo_class.name) == len(of_class) <= self.bounds.requests
            assert sum(one.prompt_tokens for one in of_class) <= self.bounds.tokens
            for tenant in ("a", "b"):
                own = [one for one in of_class if one.tenant == tenant]
                assert len(own) <= self.bounds.requests / 2
                assert len(own) <= 1 or sum(one.prompt_tokens for one in own) <= self.bounds.tokens / 2


Queueing.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueing = Queueing.TestCase


SLACK_TOKENS, MOST_TOKENS = 8192, 3000
asked = st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 0.2), st.integers(500, MOST_TOKENS))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(asked, min_size=60, max_size=120),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.lists(st.sampled_from([0.0, 0.01, 0.1]), min_size=120, max_size=120),
)
def test_tenants_that_wait_for_the_same_get_alike_before_their_deadlines_and_behind(
    offers: list[tuple[str, float, int]], b_later_s: float, now_s: float, pauses: list[float]
) -> None:
    """What one got while the other had only late requests is the law of deadlines, and is owed within the slack."""
    queue = AdmissionQueue()
    offered = [
        waiting(str(number), CHAT, at_s=at_s + b_later_s * (tenant == "b"), tenant=tenant, tokens=tokens)
        for number, (tenant, at_s, tokens) in enumerate(offers)
    ]
    for offer in offered:
        queue.offer(offer)
    left, lead = {one.request_id: one for one in offered}, Counter({"a": 0, "b": 0})
    for pause_s in pauses:
        now_s += pause_s
        if (one := queue.next(now_s, OPEN)) is None:
            break
        late = one.start_by_s < now_s
        others = [each for each in left.values() if each.tenant != one.tenant]
        if not others:
            break
        other = others[0].tenant
        rival = any((each.start_by_s < now_s) == late for each in others)
        behind = lead[one.tenant] - lead[other]
        if rival:
            assert behind <= SLACK_TOKENS, "it was not its turn"
        lead[one.tenant] += one.tokens
        if not rival:
            lead[other] += max(0, behind + one.tokens - SLACK_TOKENS)
        del left[one.request_id]
