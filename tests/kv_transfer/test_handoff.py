"""The hand-off's table against any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.kv_transfer.handoff import CAUSES, HEARD_ONLY, OVER, TABLE, Event, Handoff, NotYours, Role, State, View

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


# Views


def test_every_event_is_somebodys_to_cause() -> None:
    assert frozenset().union(*CAUSES.values()) == frozenset(Event)


@given(st.sampled_from(Role), st.sampled_from(State), st.sampled_from(Event))
def test_a_role_causes_its_own_events_and_hears_of_all(role: Role, start: State, event: Event) -> None:
    view = View(role, start)
    if event in CAUSES[role]:
        assert view.cause(event) == ((start, event) in TABLE and (start, event) not in HEARD_ONLY)
    else:
        with pytest.raises(NotYours, match=event.value):
            view.cause(event)
        assert view.state is start
        assert view.hear(event) == ((start, event) in TABLE)


@given(st.sampled_from(Role), events)
def test_only_a_consumer_that_has_verified_may_read_and_it_never_writes_again(
    role: Role, sequence: list[Event]
) -> None:
    view, verified = View(role, State.OFFERED), False
    for event in sequence:
        verified |= view.hear(event) and event is Event.VERIFY
        assert not (view.may_read and view.may_write)
        assert not view.may_read or (role is Role.CONSUMER and verified)
        assert not view.may_write or not verified


@pytest.mark.parametrize("state", [State.CLAIMED, State.TRANSFERRING])
def test_a_consumer_acknowledges_nothing_it_has_not_verified(state: State) -> None:
    view = View(Role.CONSUMER, state)
    assert not view.cause(Event.ACKNOWLEDGE)
    assert view.state is state
    assert View(Role.PRODUCER, state).hear(Event.ACKNOWLEDGE)
