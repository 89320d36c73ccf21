"""KEDA's side of the contract, played by a gRPC client, and the autoscaler's formula behind it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from segue.proto.externalscaler_pb2 import GetMetricsRequest, ScaledObjectRef
from segue.proto.externalscaler_pb2_grpc import ExternalScalerStub, add_ExternalScalerServicer_to_server
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.rates.worker_rates import Rates
from segue.router.scaling.external_scaler import ExternalScaler
from segue.router.scaling.pool_load import decode_use, prefill_backlog_s
from segue.router.workers.fleet import FleetSnapshot, WorkerView

READY, DRAINING = WorkerState.WORKER_STATE_READY, WorkerState.WORKER_STATE_DRAINING


def prefill(number: int, *, waiting: int = 0, assigned: int = 0, rate: float = 1000.0) -> WorkerView:
    load, rates = Load(waiting_tokens=waiting), Rates(prefill_tokens_per_s=rate)
    role = Role.ROLE_PREFILL
    return WorkerView(f"p{number}", "e", role, READY, "", "", EngineFacts(), load, 0, assigned, rates=rates)


def decode(number: int, *, running: int = 0, free: int = 100, state: WorkerState = READY) -> WorkerView:
    facts = EngineFacts(kv_blocks=100, max_running_requests=10)
    load = Load(running_requests=running, free_blocks=free)
    return WorkerView(f"d{number}", "e", Role.ROLE_DECODE, state, "", "", facts, load, 0, 0)


class Keda:
    """Polls one pool's scaler, and does what the HorizontalPodAutoscaler makes of the answers."""

    def __init__(self, channel: grpc.aio.Channel, **metadata: str) -> None:
        self.stub = ExternalScalerStub(channel)
        self.trigger = ScaledObjectRef(name="segue", namespace="segue", scalerMetadata=metadata)

    async def desired(self, least: int = 1, most: int = 100) -> int:
        (spec,) = (await self.stub.GetMetricSpec(self.trigger)).metricSpecs
        asked = GetMetricsRequest(scaledObjectRef=self.trigger, metricName=spec.metricName)
        (metric,) = (await self.stub.GetMetrics(asked)).metricValues
        value = metric.metricValueFloat if metric.metricValueFloat > 0 else metric.metricValue
        return min(most, max(least, math.ceil(value / spec.targetSizeFloat)))


class Scaled:
    def __init__(self) -> None:
        self.fleet = FleetSnapshot(())
        self.queued_tokens = 0.0


@pytest_asyncio.fixture
async def scaled() -> AsyncIterator[tuple[Scaled, grpc.aio.Channel]]:
    cluster = Scaled()
    server = grpc.aio.server()
    scaler = ExternalScaler(lambda: cluster.fleet, lambda: cluster.queued_tokens)
    add_ExternalScalerServicer_to_server(scaler, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield cluster, channel
    await server.stop(None)


async def test_each_pool_is_scaled_by_its_own_sum(scaled: tuple[Scaled, grpc.aio.Channel]) -> None:
    cluster, channel = scaled
    cluster.fleet = FleetSnapshot((prefill(0, waiting=2000), prefill(1, assigned=1500), decode(0, running=9)))
    cluster.queued_tokens = 1000.0
    assert await Keda(channel, pool="prefill").desired() == 3  # 4.5 s of work, 1.5 s a worker.
    assert await Keda(channel, pool="prefill", target="0.5").desired() == 9
    assert await Keda(channel, pool="decode").desired() == 2  # 0.9 of a worker, 0.8 a worker.


async def test_an_idle_cluster_keeps_one_worker_and_is_active(scaled: tuple[Scaled, grpc.aio.Channel]) -> None:
    _, channel = scaled
    keda = Keda(channel, pool="decode")
    assert await keda.desired() == 1
    assert (await keda.stub.IsActive(keda.trigger)).result


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
        await Keda(scaled[1], **metadata).desired()
    assert told in (raised.value.details() or "")


workers = st.lists(st.builds(prefill, st.integers(0, 99), waiting=st.integers(0, 9999), assigned=st.integers(0, 9999)))


@given(workers, st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_that_waits_is_never_less_backlog(present: list[WorkerView], queued: float, more: float) -> None:
    fleet = FleetSnapshot(tuple(present))
    assert prefill_backlog_s(fleet, queued + more) >= prefill_backlog_s(fleet, queued) >= 0


@given(st.lists(st.builds(decode, st.integers(0, 99), running=st.integers(0, 30), free=st.integers(0, 100))))
def test_a_sum_does_not_change_when_an_idle_worker_joins(present: list[WorkerView]) -> None:
    assert decode_use(FleetSnapshot((*present, decode(100)))) == decode_use(FleetSnapshot(tuple(present)))


def test_a_worker_that_drains_is_no_capacity_and_no_load() -> None:
    assert decode_use(FleetSnapshot((decode(0, running=10, state=DRAINING),))) == 0
