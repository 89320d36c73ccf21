"""Pools that a policy scales, as people see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from segue.base.errors import Conflict
from segue.cluster.autoscaling.fleet_readings import Look
from segue.cluster.autoscaling.registered import Registration, registered, registrations
from segue.cluster.autoscaling.with_pools import Mode, told
from segue.cluster.pools import PoolName, PoolsView
from segue.cluster.resizing import ResizablePools
from segue.cluster.scaling.policy import Decision


class ScaledPools:
    """A :class:`~segue.cluster.pools.Pools` over others, with what routers know of the workers and the policy's last
    decision.

    While the policy acts nobody else sets numbers: it would turn them back within minutes. To let one worker go is
    allowed: which one is the operator's business, and whether another takes its place the policy's.
    """

    def __init__(self, pools: ResizablePools, mode: Mode) -> None:
        self._pools = pools
        self._mode: Mode = mode
        self._decision: Decision | None = None
        self._held = ""
        self._known: Mapping[str, Registration] = {}

    def heard(self, looks: Iterable[Look]) -> None:
        """What routers have said last, of all of them."""
        if (known := registrations(looks)) != self._known:
            self._known = known
            self._pools.tell()

    def decided(self, decision: Decision, held: str = "") -> None:
        """Show this from now on; ``held`` is why it is not all done."""
        if (decision, held) != (self._decision, self._held):
            self._decision, self._held = decision, held
            self._pools.tell()

    def view(self) -> PoolsView:
        return told(registered(self._pools.view(), self._known), self._mode, self._decision, self._held)

    async def scale(self, desired: Mapping[PoolName, int]) -> None:
        self._refuse_if_acting("its number of workers")
        await self._pools.scale(desired)

    async def drain(self, worker_id: str) -> None:
        await self._pools.drain(worker_id)

    async def turn(self, worker_id: str, pool: PoolName) -> None:
        self._refuse_if_acting("which workers turn")
        await self._pools.turn(worker_id, pool)

    async def watch(self) -> AsyncIterator[PoolsView]:
        async for _ in self._pools.watch():
            yield self.view()

    def _refuse_if_acting(self, what: str) -> None:
        if self._mode == "act":
            raise Conflict(
                f"somebody else scales this pool: the scaling policy decides {what} (segue up --scaling act). Let one "
                "worker go with segue drain, or run the cluster with --scaling advise to decide yourself"
            )
