"""When a waiting request may start: workers are kept busy, with little ahead."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from segue.proto.worker_pb2 import Role
from segue.router.queueing.room import AHEAD_MIN_TOKENS, LongWork, rooms
from segue.router.rates.lines import Line
from segue.router.rates.worker_rates import Rates
from segue.router.workers.fleet import FleetSnapshot, WorkerView
from tests.router.core.queued import waiting
from tests.router.core.test_admission import DECODE, PREFILL, fleet, worker

FAST = Rates(prefill=Line(0.0, 1 / 50_000, samples=9))
MANY_SHORT = {"short_per_s": 20.0, "short_tokens": 500.0}


def prefill(number: int = 0, tokens: int = 0) -> WorkerView:
    return worker(PREFILL, number, requests=int(tokens > 0), tokens=tokens, rates=FAST)


def test_an_idle_fleet_takes_anything() -> None:
    open_rooms = rooms(fleet(prefill(), worker(DECODE)), LongWork())
    for room in (open_rooms.interactive, open_rooms.batch):
        assert (room.short, room.long, room.places, room.blocks) == (True, True, math.inf, math.inf)


def test_prefill_gets_little_ahead_and_batch_half_of_it() -> None:
    def short(tokens: int) -> tuple[bool, bool]:
        made = rooms(fleet(prefill(tokens=tokens), worker(DECODE)), LongWork())
        return made.interactive.short, made.batch.short

    assert short(3_000) == (True, True)
    assert short(5_000) == (True, False)
    assert short(8_000) == (False, False)


def test_prompts_that_decode_computes_need_no_room_with_prefill_and_those_of_batch_do() -> None:
    made = rooms(fleet(prefill(tokens=8_000), worker(DECODE)), LongWork(), lambda tokens: tokens < 100)
    few, many = (waiting(str(tokens), tokens=tokens) for tokens in (50, 500))
    assert (made.interactive.takes(few), made.interactive.takes(many), made.batch.takes(few)) == (True, False, False)


def test_a_slow_worker_still_gets_a_steps_worth() -> None:
    slow = Rates(prefill=Line(0.0, 1 / 1_000, samples=9))
    busy = worker(PREFILL, requests=1, tokens=AHEAD_MIN_TOKENS - 1, rates=slow)
    assert rooms(fleet(busy, worker(DECODE)), LongWork()).interactive.short


def test_long_prompts_leave_workers_to_short_ones_while_there_are_such() -> None:
    four = fleet(*(prefill(number) for number in range(4)), worker(DECODE))
    assert rooms(four, LongWork(3, 300_000)).interactive.long
    assert rooms(four, LongWork(2, 200_000, **MANY_SHORT)).interactive.long
    assert not rooms(four, LongWork(3, 300_000, **MANY_SHORT)).interactive.long
    assert rooms(four, LongWork(3, 300_000, **MANY_SHORT)).interactive.short


def test_an_only_worker_with_a_long_prompt_gets_short_ones_for_its_chunks() -> None:
    one = fleet(worker(PREFILL, requests=1, tokens=100_000, rates=FAST), worker(DECODE))
    assert rooms(one, LongWork(1, 100_000)).interactive.short
    assert not rooms(one, LongWork(1, 100_000)).interactive.long


def test_places_in_decode_are_given_out_a_little_before_they_are_free() -> None:
    full = worker(DECODE, requests=16, rates=Rates(decode_s=2.0))
    made = rooms(fleet(prefill(), full), LongWork())
    assert (made.interactive.places, made.batch.places) == (2.0, 0.0)


def test_without_a_decode_worker_nobody_starts() -> None:
    assert rooms(fleet(prefill()), LongWork()).interactive.places == 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 40)), min_size=1, max_size=4), st.integers(0, 20_000))
def test_more_work_never_makes_room(loads: list[tuple[int, int]], more: int) -> None:
    def made(extra: int) -> FleetSnapshot:
        workers = [prefill(number, tokens + extra) for number, (tokens, _) in enumerate(loads)]
        decodes = [
            worker(Role.ROLE_DECODE, number, requests=1 + requests + extra // 100, tokens=requests)
            for number, (_, requests) in enumerate(loads)
        ]
        return FleetSnapshot((*workers, *decodes))

    before, after = rooms(made(0), LongWork()).interactive, rooms(made(more), LongWork()).interactive
    assert before.short >= after.short
    assert before.places >= after.places
    assert before.blocks >= after.blocks
