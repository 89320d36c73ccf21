from __future__ import annotations

import pytest

from segue.base.versions import OLDEST_PROTOCOL, PROTOCOL, VERSION, protocol_problem


@pytest.mark.parametrize("worker", [3, 4, 5])
def test_a_router_takes_workers_of_its_own_protocol_and_of_older_ones_that_it_still_speaks(worker: int) -> None:
    assert protocol_problem(worker, "0.9.0", newest=5, oldest=3) is None


@pytest.mark.parametrize(
    ("worker", "advice"), [(6, "upgrade all routers before workers"), (2, "upgrade the worker"), (0, "the worker")]
)
def test_any_other_is_refused_with_both_versions_and_told_what_to_upgrade(worker: int, advice: str) -> None:
    problem = protocol_problem(worker, "0.9.0", newest=5, oldest=3)
    assert problem is not None
    for word in (f"protocol {worker}", "Segue 0.9.0", "this router 3 to 5", f"Segue {VERSION}", advice):
        assert word in problem


def test_this_version_speaks_with_itself() -> None:
    assert OLDEST_PROTOCOL <= PROTOCOL
    assert protocol_problem(PROTOCOL, VERSION) is None
