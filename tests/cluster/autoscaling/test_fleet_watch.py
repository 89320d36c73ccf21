"""Listening to routers that are there and to one that isn't."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from segue.client import SegueClient
from segue.cluster.autoscaling.fleet_readings import fleet_readings
from segue.cluster.autoscaling.fleet_watch import FleetWatch
from segue.router.access.keys import KeyLimits, mint
from tests.router.core.scripted import until
from tests.router.core.test_main import PROMPT, router_process, workers_of


async def test_a_router_is_heard_without_a_key_and_one_that_is_not_there_holds_nothing_up() -> None:
    secret, key = mint("alice", KeyLimits())
    with capture_logs() as log:
        async with router_process(environment={"SEGUE_API_KEYS": key.line()}) as process, workers_of(process):
            watch = FleetWatch([f"127.0.0.1:{process.ports['workers']}", "127.0.0.1:1"])
            listening = asyncio.create_task(watch.run(0.2, window_s=60.0))
            async with SegueClient(f"127.0.0.1:{process.ports['grpc']}", api_key=secret) as client:
                await client.generate(PROMPT, max_tokens=5)

            def arrived() -> bool:
                looks = watch.looks()
                seen = fleet_readings(looks, looks[0].heard_s) if looks else None
                return seen is not None and seen.arriving_tokens_per_s > 0

            await until(arrived)
            (look,) = watch.looks()
            seen = fleet_readings([look], look.heard_s)
            assert seen is not None
            assert [worker.worker_id for worker in seen.workers] == ["decode-0", "prefill-0"]
            assert {worker.phase for worker in seen.workers} == {"ready"}
            assert set(await watch.work()) == {"prefill-0", "decode-0"}
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    silent = [entry for entry in log if entry["event"] == "router_not_heard"]
    assert {entry["router"] for entry in silent} == {"127.0.0.1:1"}
