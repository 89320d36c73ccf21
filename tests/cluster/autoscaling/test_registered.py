"""Where workers are and which life of theirs it is, as routers know them."""

from __future__ import annotations

from segue.cluster.autoscaling.fleet_readings import Look
from segue.cluster.autoscaling.registered import registered, registrations
from segue.cluster.autoscaling.scaled_pools import ScaledPools
from segue.cluster.pools import Phase, PoolsView, PoolView, PoolWorker
from segue.proto.fleet_pb2 import FleetState, FleetWorker
from tests.cluster.autoscaling.fake_pools import FakePools


def look(heard_s: float, **epochs: str) -> Look:
    workers = [FleetWorker(worker_id=name, address=f"{name}:1", epoch=epoch) for name, epoch in epochs.items()]
    return Look(FleetState(workers=workers), heard_s)


def told(phase: Phase, *looks: Look) -> tuple[str, str]:
    view = PoolsView("local", (PoolView("decode", 1, (PoolWorker("d", phase, "core 0"),)),))
    (worker,) = registered(view, registrations(looks)).pools[0].workers
    return worker.address, worker.epoch


def test_a_worker_has_the_address_and_the_epoch_that_it_has_registered_with() -> None:
    assert told("running", look(0.0, d="e1")) == ("d:1", "e1")
    assert told("running", look(0.0, other="e1")) == ("", "")


def test_of_two_lives_the_one_that_was_heard_of_last_counts() -> None:
    assert told("running", look(2.0, d="e2"), look(1.0, d="e1")) == ("d:1", "e2")


def test_one_that_has_died_has_neither() -> None:
    assert told("restarting", look(0.0, d="e1")) == ("", "")


async def test_whoever_watches_is_told_once_it_has_registered_and_of_nothing_new_not_again() -> None:
    pools = FakePools(1, 1)
    scaled = ScaledPools(pools, "off")
    views = scaled.watch()
    assert (await anext(views)).of("decode").workers[0].epoch == ""
    scaled.heard([look(0.0, **{"decode-0": "e1"})])
    assert (await anext(views)).of("decode").workers[0].epoch == "e1"
    told: list[None] = []
    pools.tell = lambda: told.append(None)  # type: ignore[method-assign]
    scaled.heard([look(1.0, **{"decode-0": "e1"})])
    assert told == []
