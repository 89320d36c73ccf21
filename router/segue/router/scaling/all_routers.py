"""What all routers have in hand, at each of them. Routers don't know each other; the workers know them all.

Each router tells two of its workers what it has in hand, and they tell the other routers. Two, so that the loss of one
of them leaves no gap. A worker tells of a router only while its stream to it is open: what a router had that is lost
is forgotten with it, at once if its process died, by the stream's pings if its machine did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain, islice

from segue.proto.worker_pb2 import RouterBacklog
from segue.router.scaling.pool_load import Backlog, Queue, own_backlog, with_others
from segue.router.workers.fleet import FleetSnapshot
from segue.router.workers.links import WorkerLinks

_TELL_EVERY_S = 0.5
_MESSENGERS = 2


class AllRouters:
    """``queue`` is what waits in this router."""

    def __init__(self, router_id: str, links: WorkerLinks, queue: Callable[[], Queue]) -> None:
        self._router_id = router_id
        self._links = links
        self._queue = queue
        self._told = RouterBacklog(router_id=router_id)

    def backlog(self, fleet: FleetSnapshot) -> Backlog:
        """Ours now, and the others' of up to some two seconds ago."""
        told = chain.from_iterable(link.other_routers for link in self._links)
        return with_others(own_backlog(fleet, self._queue()), self._router_id, told)

    async def run(self) -> None:
        """Tell ours. Never returns."""
        while True:
            self.tell()
            await asyncio.sleep(_TELL_EVERY_S)

    def tell(self) -> None:
        """To those of our messengers that don't know it yet: to any that is new, and to both when it has changed."""
        own = own_backlog(self._links.snapshot(), self._queue())
        now = round(own.prefill_tokens), own.decode_requests
        if now != (self._told.prefill_tokens, self._told.decode_requests):
            self._told = RouterBacklog(
                router_id=self._router_id,
                number=self._told.number + 1,
                prefill_tokens=now[0],
                decode_requests=now[1],
            )
        for link in islice(self._links, _MESSENGERS):
            link.tell_backlog(self._told)
