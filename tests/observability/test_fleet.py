"""The Fleet service, and what segue status and segue top make of it."""

from __future__ import annotations

import asyncio
import json

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from segue.base.errors import Forbidden, InvalidRequest, Unauthenticated
from segue.cli.fleet_screen import problems, status_screen, top_screen
from segue.cli.main import app
from segue.client import Connection, FleetClient, SegueClient
from segue.proto.fleet_pb2 import FleetLink, FleetPool, FleetState, FleetWorker
from segue.proto.pools_pb2 import Pool, PoolsState, PoolWorkerPhase
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.access.keys import KeyLimits, mint
from tests.router.core.scripted import until
from tests.router.core.test_main import PROMPT, router_process, workers_of


def drawn(screen: RenderableType, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(screen)
    return capture.get()


def fleet(workers: int, ready: int = 1) -> FleetState:
    return FleetState(
        model="tiny",
        router_id="router-1",
        pools=[
            FleetPool(role=Role.ROLE_PREFILL, workers=1, ready=1),
            FleetPool(role=Role.ROLE_DECODE, workers=workers, ready=ready),
        ],
        workers=[
            FleetWorker(
                worker_id=f"decode-{index}",
                role=Role.ROLE_DECODE,
                state=WorkerState.WORKER_STATE_READY,
                load=Load(running_requests=index, free_blocks=25),
                facts=EngineFacts(kv_blocks=100, engine="simulated", accelerator="H100", simulated=True),
                version="0.1.0",
            )
            for index in range(workers)
        ],
    )


def test_a_pool_without_a_ready_worker_is_a_problem() -> None:
    assert problems(fleet(2)) == []
    assert problems(fleet(2, ready=0)) == ["the decode pool has no ready worker"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_screens_fit_their_terminal(width: int) -> None:
    for screen in (status_screen(fleet(3), width), top_screen(fleet(3), width, 40)):
        text = drawn(screen, width)
        assert "…" not in text
        assert "decode-2" in text
        assert "simulated" in text


def scaled(mode: str) -> PoolsState:
    leaving, running = PoolWorkerPhase.POOL_WORKER_PHASE_LEAVING, PoolWorkerPhase.POOL_WORKER_PHASE_RUNNING
    reason = "use 3.10 over 2 workers (KV cache or batch, whichever is fuller), target 0.8 a worker; ITL attainment 91%"
    prefill = Pool(role=Role.ROLE_PREFILL, desired=1, recommended=1, reason="backlog 0.40 s of one worker's work")
    prefill.workers.add(worker_id="prefill-0", phase=running)
    prefill.workers.add(worker_id="prefill-1", phase=leaving)
    decode = Pool(role=Role.ROLE_DECODE, desired=2, recommended=4, reason=reason)
    decode.workers.add(worker_id="decode-0", phase=running)
    return PoolsState(backend="local", scaling_mode=mode, pools=[prefill, decode])


@pytest.mark.parametrize("width", [80, 160])
def test_top_shows_what_scaling_does_and_keeps_to_its_terminal(width: int) -> None:
    text = drawn(top_screen(fleet(200), width, 40, scaled("advise")), width)
    assert len(text.splitlines()) <= 40
    assert "scaling: advise" in text
    prefill, decode = (
        next(line.split() for line in text.partition("recommended")[2].splitlines() if line.split()[:1] == [pool])
        for pool in ("prefill", "decode")
    )
    assert prefill[:5] == ["prefill", "1", "1", "1", "leaving"]
    assert decode[:6] == ["decode", "2", "4", "(+2)", "1", "starting"]
    assert "more workers" in text
    assert "scaling" not in drawn(top_screen(fleet(200), width, 40, scaled("off")), width)


def test_top_shows_the_busiest_and_counts_the_rest() -> None:
    text = drawn(top_screen(fleet(200), 160, 40), 160)
    assert len(text.splitlines()) <= 40
    assert "decode-199" in text
    assert "decode-0 " not in text
    assert "more workers" in text


def test_status_shows_how_kv_caches_travel_and_which_pairs_differ() -> None:
    state = fleet(2)
    common = FleetLink(bytes_per_s=2e9, fixed_s=0.002, transfers=40)
    usual = FleetLink(prefill_worker="p-0", decode_worker="decode-0", bytes_per_s=2e9, transfers=30)
    slow = FleetLink(prefill_worker="p-0", decode_worker="decode-1", bytes_per_s=1e8, transfers=10, differs=True)
    state.links.extend((common, usual, slow))
    table = drawn(status_screen(state, 160), 160).partition("KV transfer between workers")[2]
    rows = [line.split() for line in table.splitlines() if "B/s" in line]
    assert [row[:2] for row in rows] == [["any", "any"], ["p-0", "decode-1"]]
    assert "2.0 GB/s" in table
    assert "2.0 ms" in table


async def test_the_fleet_service_tells_workers_and_requests_to_operators_alone() -> None:
    client_key, client = mint("alice", KeyLimits())
    operator_key, operator = mint("ops", KeyLimits(), operations=True)
    keys = {"SEGUE_API_KEYS": f"{client.line()};{operator.line()}"}
    async with router_process(environment=keys) as process, workers_of(process):
        address = f"127.0.0.1:{process.ports['grpc']}"
        async with SegueClient(address, api_key=client_key) as asking:
            for _ in range(2):
                await asking.generate(PROMPT, max_tokens=5)
        for key, refusal in ((None, Unauthenticated), (client_key, Forbidden)):
            async with FleetClient(Connection(address, key)) as watching:
                with pytest.raises(refusal):
                    await watching.state()
        async with FleetClient(Connection(address, operator_key)) as watching:
            states = watching.watch(0.2)
            state = await anext(states)
            assert {worker.worker_id for worker in state.workers} == {"prefill-0", "decode-0"}
            assert [(pool.role, pool.ready) for pool in state.pools] == [(Role.ROLE_PREFILL, 1), (Role.ROLE_DECODE, 1)]
            assert state.rates.requests_per_s * state.window_s == pytest.approx(2, rel=0.2)
            later = await anext(states)
            assert later.time_unix_s > state.time_unix_s
            await states.aclose()  # type: ignore[attr-defined]
            with pytest.raises(InvalidRequest, match=r"0\.2 to 60"):
                await anext(watching.watch(1000))
        environment = {"SEGUE_API_KEY": operator_key}
        run = CliRunner()
        arguments = ["status", "--address", address]
        table = await asyncio.to_thread(run.invoke, app, arguments, env=environment)
        assert table.exit_code == 0, table.output
        assert "prefill-0" in table.output
        as_json = await asyncio.to_thread(run.invoke, app, [*arguments, "--json"], env=environment)
        told = json.loads(as_json.stdout)
        assert [(pool["role"], pool["ready"]) for pool in told["pools"]] == [("prefill", 1), ("decode", 1)]
        assert {worker["state"] for worker in told["workers"]} == {"ready"}
        refused = await asyncio.to_thread(run.invoke, app, arguments, env={"SEGUE_API_KEY": client_key})
        assert refused.exit_code == 2
        assert "is a client's" in refused.output


async def test_status_fails_while_a_pool_is_empty() -> None:
    async with router_process() as process:
        address = f"127.0.0.1:{process.ports['grpc']}"
        await until(lambda: process.ports)
        result = await asyncio.to_thread(CliRunner().invoke, app, ["status", "--address", address])
    assert result.exit_code == 1
    assert "the prefill pool has no ready worker" in result.output
    gone = await asyncio.to_thread(CliRunner().invoke, app, ["status", "--address", address, "--timeout", "1"])
    assert gone.exit_code == 2


def test_top_wants_a_terminal() -> None:
    result = CliRunner().invoke(app, ["top"])
    assert result.exit_code == 2
    assert "terminal" in result.output
