"""The hand-off's table against any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.kv_transfer.handoff import OVER, TABLE, Event, Handoff, State

events = st.lists(st.sampled_from(Event), max_size=20)
AS_PLANNED = (Event.START, Event.OFFER, Event.CLAIM, Event.SEND, Event.VERIFY, Event.ACKNOWLEDGE)


def test_a_handoff_that_goes_as_planned_ends_released() -> None:
    handoff = Handoff()
    seen = []
    for event in AS_PLANNED:
        assert handoff.on(event)
        seen.append(handoff.state)
    assert seen == [
        State.COMPUTING,
        State.OFFERED,
        State.CLAIMED,
        State.TRANSFERRING,
        State.VERIFIED,
        State.RELEASED,
    ]


@given(st.sampled_from(State), events)
def test_an_event_moves_by_the_table_or_changes_nothing(start: State, sequence: list[Event]) -> None:
    handoff = Handoff(start)
    for event in sequence:
        before = handoff.state
        took = handoff.on(event)
        assert took == ((before, event) in TABLE)
        assert handoff.state == TABLE.get((before, event), before)


@given(st.sampled_from(State), events)
def test_once_over_it_stays_over_and_so_blocks_are_freed_once(start: State, sequence: list[Event]) -> None:
    handoff = Handoff(start)
    freed = 0
    for event in sequence:
        was_over, state = handoff.over, handoff.state
        took = handoff.on(event)
        if was_over:
            assert not took
            assert handoff.state is state
        freed += handoff.over and not was_over
    assert freed <= 1
    assert handoff.over == (start in OVER or freed == 1)


@given(events)
def test_a_ticket_is_claimed_at_most_once(sequence: list[Event]) -> None:
    handoff, claims = Handoff(), 0
    for event in sequence:
        claims += handoff.on(event) and event is Event.CLAIM
    assert claims <= 1


@pytest.mark.parametrize("state", [state for state in State if state not in OVER])
@pytest.mark.parametrize("event", [Event.REVOKE, Event.EXPIRE, Event.FAIL])
def test_wherever_it_stands_it_can_be_taken_back(state: State, event: Event) -> None:
    handoff = Handoff(state)
    assert handoff.on(event)
    assert handoff.over


@given(events)
def test_it_is_released_only_by_an_acknowledgement_of_an_offer(sequence: list[Event]) -> None:
    handoff = Handoff()
    taken = [event for event in sequence if handoff.on(event)]
    if handoff.state is State.RELEASED:
        assert taken[-1] is Event.ACKNOWLEDGE
        assert Event.OFFER in taken
