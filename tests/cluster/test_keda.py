"""A real cluster with simulated engines, and a gRPC client in KEDA's place that scales its pools by what one router
process says, while all the load is another process's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from segue.client import Connection, SegueClient
from segue.cluster.local import LocalCluster, this_machine
from segue.cluster.local_pools import run_local
from segue.cluster.manager import serve_pools
from segue.cluster.pools_service import view_of
from segue.cluster.ports import choose_ports, free_port
from segue.cluster.readiness import wait_until_ready
from segue.cluster.restarts import RestartPolicy
from segue.engine.embedded_model import ensure_embedded_model
from segue.engine.simulated.tokens import expected_tokens
from segue.proto.fleet_pb2 import FleetState, ListFleetRequest
from segue.proto.fleet_pb2_grpc import FleetStub
from segue.proto.pools_pb2 import ListPoolsRequest, ScaleRequest
from segue.proto.pools_pb2_grpc import PoolsStub
from segue.proto.worker_pb2 import Role
from tests.cluster.load import PATIENT
from tests.router.scaling.keda import Autoscaler, Keda
from tests.simulated import VOCAB_SIZE

if TYPE_CHECKING:  # A name of the stubs for the type checker only.
    from segue.proto.pools_pb2_grpc import PoolsAsyncStub

MOST, CLIENTS = 2, 8
PROMPT_TOKENS, ANSWER_TOKENS = 1500, 32
# More than one client has in hand, less than eight have.
TARGETS = {"prefill": "0.5", "decode": "0.006"}
ROLES = (("prefill", Role.ROLE_PREFILL), ("decode", Role.ROLE_DECODE))
WORKER_ARGS = ("--engine", "simulated", "--engine-arg", "gpu=CPU")
# Nobody is refused: what doesn't fit waits in the router, which is what prefill is scaled by.
ROUTER_ARGS = ("--disaggregation", "always", *PATIENT)


@dataclass
class Load:
    """Clients that ask again as soon as they have their answer, never the same twice."""

    client: SegueClient
    answered: int = 0

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """What is under way at the end of the block is waited for; an answer that fails or is wrong ends the test."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(self._ask_until(over, number))
            yield
            over.set()

    async def ask(self, first: int, number: int, answer_tokens: int = ANSWER_TOKENS) -> None:
        prompt = [3 + (first * 131 + number * 17 + at) % 2000 for at in range(PROMPT_TOKENS)]
        answer = await self.client.generate(prompt, max_tokens=answer_tokens, ignore_eos=True, timeout_s=120.0)
        assert list(answer.token_ids) == expected_tokens(prompt, answer_tokens, VOCAB_SIZE)
        self.answered += 1

    async def _ask_until(self, over: asyncio.Event, first: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            await self.ask(first, number)


@dataclass
class Scaling:
    """What KEDA and two autoscalers do of their own: look, and set the pools' sizes."""

    keda: dict[str, Keda]
    pools: PoolsAsyncStub

    async def until_there_are(self, *wanted: int) -> None:
        """Go on until the pools have so many workers, all of them running."""
        while True:
            view = view_of(await self.pools.List(ListPoolsRequest()))
            workers = [worker for pool in view.pools for worker in pool.workers]
            if [len(pool.workers) for pool in view.pools] == [*wanted] and all(w.phase == "running" for w in workers):
                return
            now_s = asyncio.get_running_loop().time()
            for pool, (name, role) in zip(view.pools, ROLES, strict=True):
                desired = await self.keda[name].desired(pool.desired, now_s)
                if desired != pool.desired:
                    target = ScaleRequest.Target(role=role, workers=desired)
                    await self.pools.Scale(ScaleRequest(targets=[target]))
            await asyncio.sleep(0.2)


class Processes:
    """What each process of the router knows of itself."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._stubs = [FleetStub(channel) for channel in channels]

    async def state(self, number: int) -> FleetState:
        return await self._stubs[number].List(ListFleetRequest(), wait_for_ready=True, timeout=240.0)

    async def until_ready(self, workers: int) -> None:
        """Until each has so many workers in each pool: the cluster is ready when one is."""
        for number in range(len(self._stubs)):
            while not all(pool.ready >= workers for pool in (await self.state(number)).pools):
                await asyncio.sleep(0.1)

    async def serves(self, number: int, asking: asyncio.Task[None]) -> bool:
        """Whether the process has the one request that runs."""
        while not asking.done():
            running = [(await self.state(each)).running_requests for each in range(len(self._stubs))]
            if any(running):
                return bool(running[number])
        return False


@asynccontextmanager
async def client_of(number: int, address: str, processes: Processes) -> AsyncIterator[SegueClient]:
    """A client whose connection the kernel has dealt to that process; all its requests are that one's."""
    for _ in range(64):
        async with SegueClient(Connection(address)) as client:
            asking = asyncio.create_task(Load(client).ask(99, 0, answer_tokens=4))
            found = await processes.serves(number, asking)
            await asking
            if found:
                yield client
                return
    raise AssertionError(f"process {number} got none of 64 connections")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_keda_grows_and_shrinks_both_pools_by_the_load_of_another_router_process(tmp_path: Path) -> None:
    scaler_port = free_port("127.0.0.1")
    cluster = LocalCluster(
        model=str(ensure_embedded_model()),
        run_dir=tmp_path,
        ports=choose_ports("127.0.0.1", router_processes=2),
        device="cpu",
        worker_args=WORKER_ARGS,
        router_args=(*ROUTER_ARGS, "--scaler-port", str(scaler_port)),
        router_processes=2,
        drain_timeout_s=30.0,
    )
    first, second = (grpc.aio.insecure_channel(address) for address in cluster.router_addresses)
    processes = Processes((first, second))
    async with (
        run_local(cluster, this_machine(), RestartPolicy("exit"), lambda _: None) as pools,
        serve_pools(pools) as pools_address,
        grpc.aio.insecure_channel(pools_address) as pools_channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{scaler_port}") as scaler_channel,
        first,
        second,
    ):
        await wait_until_ready(cluster.http, 1, 1, 240.0, lambda _: None)
        await processes.until_ready(1)
        keda = {
            name: Keda(scaler_channel, Autoscaler(MOST, down_window_s=4.0), pool=name, target=target)
            for name, target in TARGETS.items()
        }
        scaling = Scaling(keda, PoolsStub(pools_channel))
        async with client_of(1, f"127.0.0.1:{cluster.ports.grpc}", processes) as client:
            load = Load(client)
            async with load.running(CLIENTS):
                await scaling.until_there_are(MOST, MOST)
                await processes.until_ready(MOST)
                asked = await processes.state(0)
                assert (asked.running_requests, asked.queued_requests) == (0, 0), (
                    "the process that KEDA asks has nothing"
                )
                assert not any(worker.assigned_prefill_tokens for worker in asked.workers)
            grown = load.answered
            # One goes on, and notices nothing of those that leave.
            async with load.running(1):
                await scaling.until_there_are(1, 1)
                while load.answered < grown + 2:
                    await asyncio.sleep(0.05)
    assert load.answered > CLIENTS
