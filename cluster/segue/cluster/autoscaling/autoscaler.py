"""The loop: look at the routers and the pools, ask the policy, act or only say so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

from segue.base.errors import Conflict, NotFound
from segue.base.logging import get_logger
from segue.cluster.autoscaling.adviser import Adviser
from segue.cluster.autoscaling.fleet_readings import STALE_AFTER_S, Look, pace_out_of_reach
from segue.cluster.autoscaling.fleet_watch import FleetWatch
from segue.cluster.autoscaling.scaled_pools import ScaledPools
from segue.cluster.autoscaling.settings import AutoscalerSettings
from segue.cluster.autoscaling.with_pools import Orders
from segue.cluster.pools import PoolName, PoolsView
from segue.cluster.resizing import ResizablePools
from segue.cluster.scaling.policy import Decision

log = get_logger("autoscaler")

# A decision that changes nothing is logged anew after this.
_REPEAT_S = 60.0
_SLOWEST_WATCH_S = 2.0
_LEAST_WINDOW_S = 1.0

Say = Callable[[str], None]


def say_nothing(line: str) -> None:
    """For whoever has a log."""


class Autoscaler:
    """``scaled`` shows what was decided; ``say`` is given a line for people about each change."""

    def __init__(
        self, settings: AutoscalerSettings, pools: ResizablePools, scaled: ScaledPools, say: Say = say_nothing
    ) -> None:
        self._settings = settings
        self._pools = pools
        self._scaled = scaled
        self._say = say
        self._adviser = Adviser()
        self._warned = False
        self._logged: tuple[tuple[object, ...], float] = ((), float("-inf"))

    async def run(self, looks: Callable[[], Iterable[Look]]) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._settings.interval_s)
            await self.look(looks(), time.monotonic())

    async def look(self, looks: Iterable[Look], now_s: float) -> None:
        """Once. Where no router is heard nothing is decided, and everything stays as it is."""
        settings, looks = self._settings, list(looks)
        stale_after_s = max(STALE_AFTER_S, 3 * settings.interval_s)
        advice = self._adviser.look(settings.policy, looks, self._pools.view(), now_s, stale_after_s)
        if advice is None:
            self._log_once((), now_s, "no_router_heard")
            return
        self._warn(looks)
        held = ""
        if settings.mode == "act":
            held, done = await self._act(advice.orders)
            if done:
                self._adviser.done()
        self._scaled.decided(advice.decision, held)
        self._log(advice.decision, held, now_s)

    def _warn(self, looks: Iterable[Look]) -> None:
        if not self._warned and pace_out_of_reach([look.state for look in looks]):
            self._warned = True
            log.warning("pace_out_of_reach", why="an engine step takes longer than the promised time between tokens")

    async def _act(self, given: Orders) -> tuple[str, bool]:
        """What could not be done, and why; and whether anything was."""
        try:
            if given.scale:
                return await self._scale(given)
            if (turn := given.turn) is not None:
                log.info("worker_turns", worker_id=turn.worker_id, pool=turn.pool)
                await self._pools.turn(turn.worker_id, turn.pool)
        except (Conflict, NotFound) as error:  # No room, or it has just gone: the next look will see.
            return error.message, False
        return given.held, given.turn is not None

    async def _scale(self, given: Orders) -> tuple[str, bool]:
        """As many workers as there is room for: that not all of them have any is no reason to start none. Raises
        Conflict: there is room for none."""
        scale, held = dict(given.scale), given.held
        while True:
            try:
                await self._pools.scale(scale)
            except Conflict as error:
                held, scale = error.message, _one_less(scale, self._pools.view())
                if not scale:
                    raise
            else:
                return held, True

    def _log(self, decision: Decision, held: str, now_s: float) -> None:
        pools = decision.prefill, decision.decode
        for one in pools:
            if one.change:
                verb = "scaling" if self._settings.mode == "act" else "scaling would take"
                self._say(f"{verb} {one.pool} from {one.present} to {one.workers}: {one.reason}")
        counts = [figure for one in pools for figure in (one.present, one.workers)]
        told = {one.pool: f"{one.present} -> {one.workers}: {one.reason}" for one in pools}
        self._log_once((*counts, held), now_s, "scaling_decision", mode=self._settings.mode, held=held, **told)

    def _log_once(self, what: tuple[object, ...], now_s: float, event: str, **figures: str) -> None:
        """Each decision that is another than the last one, and every one that changes something."""
        known, at_s = self._logged
        if what != known or now_s - at_s >= _REPEAT_S:
            self._logged = what, now_s
            log.info(event, **figures)


def _one_less(scale: Mapping[PoolName, int], view: PoolsView) -> dict[PoolName, int]:
    """With a worker less in the pool that grows most; without pools that don't change. Empty if none grows."""
    growth = {pool: count - view.of(pool).desired for pool, count in scale.items()}
    most = max(growth, key=lambda pool: growth[pool])
    if growth[most] <= 0:
        return {}
    return {pool: count - (pool == most) for pool, count in scale.items() if growth[pool] - (pool == most)}


@asynccontextmanager
async def autoscaling(
    settings: AutoscalerSettings, pools: ResizablePools, watch: FleetWatch, say: Say = say_nothing
) -> AsyncIterator[ScaledPools]:
    """Scale the pools while the block runs; yields them as people should see them. What the block raises comes out as
    it is."""
    scaled = ScaledPools(pools, settings.mode)
    off = settings.mode == "off"  # Then routers are still asked where their workers are, and nothing that costs them.
    interval_s = _SLOWEST_WATCH_S if off else min(settings.interval_s, _SLOWEST_WATCH_S)
    window_s = _LEAST_WINDOW_S if off else settings.window_s
    body_error: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        endless = [tasks.create_task(watch.run(interval_s, window_s, scaled.heard), name="fleet watch")]
        if not off:
            autoscaler = Autoscaler(settings, pools, scaled, say)
            endless.append(tasks.create_task(autoscaler.run(watch.looks), name="autoscaler"))
        try:
            yield scaled
        except Exception as error:  # noqa: BLE001 - raised again below, where no group wraps it
            body_error = error
        finally:
            for task in endless:
                task.cancel()
    if body_error is not None:
        raise body_error
