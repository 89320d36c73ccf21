from __future__ import annotations

import math

import pytest

from segue.proto.worker_pb2 import Load
from segue.worker.drain import DrainClock, left_over, progress


def test_a_drain_takes_as_long_as_the_worker_was_set_to() -> None:
    clock = DrainClock(60.0)
    assert not clock.begun
    assert clock.left_s(100.0) == math.inf
    assert clock.begin(0.0, now_s=100.0) == 60.0
    assert clock.begun
    assert [clock.left_s(now_s) for now_s in (100.0, 159.0, 160.0, 200.0)] == [60.0, 1.0, 0.0, 0.0]


def test_who_names_a_time_sets_the_end_also_later() -> None:
    clock = DrainClock(60.0)
    assert clock.begin(600.0, now_s=0.0) == 600.0
    assert clock.begin(5.0, now_s=100.0) == 5.0


def test_beginning_again_puts_nothing_off() -> None:
    """An operator's signal after an RPC, and the other way round."""
    clock = DrainClock(60.0)
    clock.begin(0.0, now_s=0.0)
    assert clock.begin(0.0, now_s=40.0) == 20.0


@pytest.mark.parametrize(
    ("requests", "offers", "left_s", "words"),
    [
        (3, 2, 40.2, "draining: 3 requests, 2 offers left, 41 s"),
        (1, 1, 0.0, "draining: 1 request, 1 offer left, 0 s"),
        (0, 0, 60.0, "draining: 0 requests, 0 offers left, 60 s"),
    ],
)
def test_progress_is_told_in_words(requests: int, offers: int, left_s: float, words: str) -> None:
    assert progress("draining", left_over(requests, Load(held_offers=offers)), left_s) == words
