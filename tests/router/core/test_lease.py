from __future__ import annotations

import asyncio
import time

from segue.router.workers.lease import Lease


async def test_it_is_over_after_silence_and_only_once() -> None:
    ends = list[float]()
    began_s = time.monotonic()
    lease = Lease(0.1, lambda: ends.append(time.monotonic()))
    await asyncio.sleep(0.3)
    assert len(ends) == 1
    assert ends[0] - began_s >= 0.099
    lease.close()


async def test_who_is_heard_again_and_again_keeps_it() -> None:
    ends = list[float]()
    lease = Lease(0.1, lambda: ends.append(0))
    for _ in range(15):
        await asyncio.sleep(0.02)
        lease.renew()
    lease.close()
    await asyncio.sleep(0.2)
    assert ends == []


async def test_time_in_which_the_router_stands_still_does_not_count() -> None:
    ends = list[float]()
    lease = Lease(0.2, lambda: ends.append(0))
    await asyncio.sleep(0)
    time.sleep(0.5)  # noqa: ASYNC251 - the router stands still
    await asyncio.sleep(0.03)
    assert ends == []  # What waits is read before the lease is judged.
    lease.close()
