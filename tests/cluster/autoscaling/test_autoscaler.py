"""The loop over a policy, with scripted routers and pools without processes."""

from __future__ import annotations

import pytest

from segue.base.errors import Conflict, SettingsError
from segue.cluster.autoscaling.autoscaler import Autoscaler, autoscaling
from segue.cluster.autoscaling.fleet_readings import Look, work_by_worker
from segue.cluster.autoscaling.fleet_watch import FleetWatch
from segue.cluster.autoscaling.scaled_pools import ScaledPools
from segue.cluster.autoscaling.settings import AutoscalerSettings, autoscaler_settings, scaling_figures
from segue.cluster.autoscaling.with_pools import Mode
from segue.proto.fleet_pb2 import FleetState
from tests.cluster.autoscaling.fake_pools import FakePools
from tests.cluster.autoscaling.test_fleet_readings import decode, prefill, state

QUIET = {"down_window_s": 10, "down_period_s": 1}


def settings(mode: Mode, **figures: float) -> AutoscalerSettings:
    return autoscaler_settings(mode, scaling_figures({**QUIET, **figures}))


class Running:
    """An autoscaler; ``look`` is one tick."""

    def __init__(self, settings: AutoscalerSettings, pools: FakePools) -> None:
        self.pools = pools
        self.scaled = ScaledPools(pools, settings.mode)
        self.said: list[str] = []
        self.autoscaler = Autoscaler(settings, pools, self.scaled, self.said.append)

    async def look(self, now_s: float, *states: FleetState) -> tuple[int, ...]:
        await self.autoscaler.look([Look(one, now_s) for one in states], now_s)
        return self.pools.counts()


def busy(assigned: int = 4500) -> FleetState:
    return state(prefill("prefill-0", assigned=assigned), decode("decode-0"))


async def test_a_backlog_grows_its_pool_and_those_that_start_are_not_asked_for_again() -> None:
    running = Running(settings("act"), FakePools(1, 1))
    assert await running.look(0.0, busy()) == (3, 1)
    assert await running.look(5.0, busy()) == (3, 1)
    assert len(running.said) == 1
    assert running.said[0].startswith("scaling prefill from 1 to 3: backlog 4.50 s")


async def test_its_end_shrinks_the_pool_one_by_one() -> None:
    running = Running(settings("act"), FakePools(1, 1))
    await running.look(0.0, busy())
    counts = [await running.look(float(now_s), busy(0)) for now_s in range(1, 16)]
    assert counts[0] == (3, 1)
    assert counts[-1] == (1, 1)
    assert (2, 1) in counts


async def test_what_there_is_at_the_start_is_kept_for_as_long_as_what_was_asked_for() -> None:
    running = Running(settings("act"), FakePools(1, 3))
    counts = [await running.look(float(now_s), busy(0)) for now_s in range(13)]
    assert counts[:10] == [(1, 3)] * 10
    assert counts[-1] == (1, 1)


async def test_advice_changes_nothing_and_is_shown_with_its_reason() -> None:
    running = Running(settings("advise"), FakePools(1, 1))
    assert await running.look(0.0, busy()) == (1, 1)
    for now_s in range(1, 5):  # Nothing was done, so no rate limit is used up.
        await running.look(float(now_s), busy())
    view = running.scaled.view()
    assert view.scaling_mode == "advise"
    assert view.of("prefill").recommended == 3
    assert "backlog 4.50 s" in view.of("prefill").reason
    await running.scaled.scale({"prefill": 2})
    assert running.pools.counts() == (2, 1)


async def test_while_the_policy_acts_numbers_by_hand_are_refused_and_one_worker_may_be_let_go() -> None:
    running = Running(settings("act"), FakePools(2, 1))
    with pytest.raises(Conflict, match="somebody else scales this pool"):
        await running.scaled.scale({"prefill": 1})
    await running.scaled.drain("prefill-1")
    assert running.pools.counts() == (1, 1)


async def test_where_no_router_is_heard_everything_stays() -> None:
    running = Running(settings("act"), FakePools(3, 2))
    assert await running.look(0.0) == (3, 2)
    await running.autoscaler.look([Look(busy(), 0.0)], 100.0)
    assert running.pools.counts() == (3, 2)
    assert running.scaled.view().of("prefill").recommended is None


async def test_what_there_is_no_room_for_is_told_and_tried_again() -> None:
    running = Running(settings("act"), FakePools(1, 1, room=2))
    assert await running.look(0.0, busy()) == (1, 1)
    assert "there is room for 2" in running.scaled.view().of("prefill").reason
    running.pools.room = 3
    assert await running.look(1.0, busy()) == (2, 1), "one of the two that are wanted"
    assert "there is room for 3" in running.scaled.view().of("prefill").reason
    running.pools.room = 9
    assert await running.look(62.0, busy()) == (3, 1)


async def test_what_shrinks_does_so_although_there_is_no_room_for_what_grows() -> None:
    running = Running(settings("act", down_window_s=0), FakePools(1, 2, room=2))
    assert await running.look(0.0, busy()) == (1, 1)


async def test_a_budget_is_not_exceeded_before_anything_is_measured_either() -> None:
    running = Running(settings("act", gpu_budget=3), FakePools(1, 1))
    assert await running.look(0.0, busy(90_000)) == (2, 1)
    assert "waits for GPUs: 0 of 3 are free" in running.scaled.view().of("prefill").reason


async def test_a_flex_worker_turns_rather_than_that_one_leaves_and_another_loads() -> None:
    running = Running(settings("act", down_window_s=0), FakePools(1, 3, flex=True))
    names = [decode(f"decode-{number}") for number in range(3)]
    assert await running.look(0.0, state(prefill("prefill-0", assigned=4500), *names)) == (2, 2)
    turned = running.pools.members["prefill"][-1]
    assert turned.worker_id == "decode-2"
    with pytest.raises(Conflict, match="somebody else"):
        await running.scaled.turn("decode-2", "decode")


async def test_of_several_flex_workers_the_least_busy_turns() -> None:
    running = Running(settings("act", down_window_s=0), FakePools(1, 3, flex=True))
    busy_ones = [decode("decode-0", running=1), decode("decode-1"), decode("decode-2", running=2)]
    await running.look(0.0, state(prefill("prefill-0", assigned=4500), *busy_ones))
    assert running.pools.members["prefill"][-1].worker_id == "decode-1"


async def test_whoever_watches_sees_each_decision() -> None:
    running = Running(settings("advise"), FakePools(1, 1))
    views = running.scaled.watch()
    assert (await anext(views)).of("prefill").recommended is None
    await running.look(0.0, busy())
    assert (await anext(views)).of("prefill").recommended == 3


def test_of_several_routers_work_is_what_all_sent_or_the_worker_says() -> None:
    one, other = state(prefill(assigned_requests=2), decode(running=9)), state(prefill(assigned_requests=3))
    assert work_by_worker([one, other]) == {"p0": 5, "d0": 9}


def test_on_prefill_a_long_prompt_is_more_work_than_some_short_ones() -> None:
    long, short = prefill("long", assigned=9000), prefill("short", assigned=300, assigned_requests=3)
    work = work_by_worker([state(long, short)])
    assert work["long"] > work["short"]


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({"prefil_max": 3}, "did you mean 'prefill_max'"),
        ({"prefill_max": 1.5}, "a whole number"),
        ({"interval_s": "soon"}, "must be a number"),
        ({"interval_s": 100}, "0.2 to 60"),
        ({"window_s": 90}, "1 to 60"),
        ({"prefill_min": 3, "prefill_max": 2}, "least 3"),
        ({"gpu_budget": 1}, "a budget of 1 GPUs"),
        ({"decode_use": 0}, "above 0"),
        ({"up_step": 0}, "step 0"),
    ],
)
def test_figures_that_make_no_sense_are_refused(figures: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        autoscaler_settings("act", scaling_figures(figures))


def test_an_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'advise'"):
        AutoscalerSettings("advice")  # type: ignore[arg-type]


async def test_what_goes_wrong_beside_it_comes_out_as_it_is() -> None:
    """As a port that is taken: not in a group, which nobody would tell in one line."""
    with pytest.raises(SettingsError, match="taken"):
        async with autoscaling(settings("advise"), FakePools(1, 1), FleetWatch([])):
            raise SettingsError("taken")
