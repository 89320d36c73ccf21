"""The external scaler, asked by a gRPC client in KEDA's place."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio

from segue.proto.externalscaler_pb2 import GetMetricsRequest
from segue.proto.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server
from segue.router.scaling.external_scaler import ExternalScaler
from segue.router.scaling.pool_load import Queue, own_backlog
from segue.router.workers.fleet import FleetSnapshot
from tests.router.scaling.keda import Autoscaler, Keda
from tests.router.scaling.views import decode, prefill


class Scaled:
    def __init__(self) -> None:
        self.fleet = FleetSnapshot(())
        self.queue = Queue()


@pytest_asyncio.fixture
async def scaled() -> AsyncIterator[tuple[Scaled, grpc.aio.Channel]]:
    cluster = Scaled()
    server = grpc.aio.server()
    scaler = ExternalScaler(lambda: cluster.fleet, lambda fleet: own_backlog(fleet, cluster.queue))
    add_ExternalScalerServicer_to_server(scaler, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield cluster, channel
    await server.stop(None)


async def test_each_pool_is_scaled_by_its_own_sum(scaled: tuple[Scaled, grpc.aio.Channel]) -> None:
    cluster, channel = scaled
    cluster.fleet = FleetSnapshot((prefill(0, sent=2000), prefill(1, sent=1500), decode(0, running=9)))
    cluster.queue = Queue(1, 2000, cached_share=0.5)
    assert await Keda(channel, pool="prefill").desired() == 3  # 4.5 s of work, 1.5 s a worker.
    assert await Keda(channel, pool="prefill", target="0.5").desired() == 9
    assert await Keda(channel, pool="decode").desired() == 2  # 0.9 of a worker, 0.8 a worker.


async def test_an_idle_cluster_keeps_one_worker_and_is_active(scaled: tuple[Scaled, grpc.aio.Channel]) -> None:
    _, channel = scaled
    keda = Keda(channel, pool="decode")
    assert await keda.desired() == 1
    assert (await keda.stub.IsActive(keda.trigger)).result


async def test_a_pool_that_lost_all_its_workers_keeps_its_size_while_requests_wait(
    scaled: tuple[Scaled, grpc.aio.Channel],
) -> None:
    cluster, channel = scaled
    cluster.queue = Queue(50, 50_000)
    present = {"prefill": (prefill(0), prefill(1)), "decode": (decode(0), decode(1))}
    for lost in (("decode",), ("prefill",), ("prefill", "decode")):
        cluster.fleet = FleetSnapshot(tuple(one for pool in present if pool not in lost for one in present[pool]))
        for pool in lost:
            keda = Keda(channel, pool=pool)
            with pytest.raises(grpc.aio.AioRpcError, match=f"UNAVAILABLE(.|\n)*no {pool} worker is ready"):
                await keda.value()
            assert await keda.desired(present=4) == 4
    cluster.fleet = FleetSnapshot((*present["prefill"], decode(0)))
    assert await Keda(channel, pool="decode").desired(present=4) == 7  # Five times what one has room for.


async def test_the_streams_answer_at_once_and_stay_open(scaled: tuple[Scaled, grpc.aio.Channel]) -> None:
    _, channel = scaled
    keda = Keda(channel, pool="prefill", target="2")
    active, specs = keda.stub.StreamIsActive(keda.trigger), keda.stub.StreamMetricSpec(keda.trigger)
    assert (await anext(aiter(active))).result
    assert (await anext(aiter(specs))).metricSpecs[0].targetSizeFloat == 2.0
    assert not active.done()
    assert not specs.done()
    active.cancel()
    specs.cancel()


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "pool ''; it must be prefill or decode"),
        ({"pool": "prefil"}, "pool 'prefil'"),
        ({"pool": "decode", "target": "many"}, "target 'many'; it must be a number above 0"),
        ({"pool": "decode", "target": "0"}, "target '0'"),
    ],
)
async def test_a_trigger_with_bad_metadata_is_told_what_is_wrong(
    scaled: tuple[Scaled, grpc.aio.Channel], metadata: dict[str, str], told: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT") as raised:
        await Keda(scaled[1], None, **metadata).desired()
    assert told in (raised.value.details() or "")


async def test_another_pools_metric_is_refused(scaled: tuple[Scaled, grpc.aio.Channel]) -> None:
    keda = Keda(scaled[1], pool="decode")
    asked = GetMetricsRequest(scaledObjectRef=keda.trigger, metricName="segue-prefill-backlog-seconds")
    with pytest.raises(grpc.aio.AioRpcError, match="'segue-decode-use'"):
        await keda.stub.GetMetrics(asked)


def test_the_autoscaler_grows_at_once_and_shrinks_to_what_nobody_wanted_within_the_window() -> None:
    autoscaler = Autoscaler(most=5, down_window_s=10.0)
    assert autoscaler.desired(0.0, 1, 1.6, 1.5) == 1, "within a tenth nothing changes"
    assert autoscaler.desired(1.0, 1, 4.6, 1.5) == 4
    assert autoscaler.desired(2.0, 4, 60.0, 1.5) == 5
    assert autoscaler.desired(8.0, 5, 2.0, 1.5) == 5
    assert autoscaler.desired(11.9, 5, 0.0, 1.5) == 5
    assert autoscaler.desired(12.1, 5, 0.0, 1.5) == 2
    assert autoscaler.desired(18.1, 2, 0.0, 1.5) == 1
