from __future__ import annotations

import socket
from pathlib import Path

import pytest
from aiohttp import web

from segue.base.errors import SettingsError
from segue.cluster.environment import Machine
from segue.cluster.local import LocalCluster, PoolSettings, process_specs
from segue.cluster.ports import Ports, choose_ports, free_port
from segue.cluster.readiness import NotReadyInTime, Readiness, RouterHttp, WorkerStatus, is_complete, wait_until_ready


def cluster(prefill: int = 1, decode: int = 1) -> LocalCluster:
    return LocalCluster(
        model="/models/tiny",
        run_dir=Path("/run/segue"),
        ports=Ports(http=8000, grpc=9000, worker=9100),
        device="cpu",
        prefill=PoolSettings(prefill, ("--engine-arg", "max_num_seqs=4")),
        decode=PoolSettings(decode),
        worker_args=("--transport", "grpc"),
    )


def test_every_process_has_its_name_its_command_and_its_log() -> None:
    specs = process_specs(cluster(prefill=1, decode=2), Machine((0, 1)), {})
    assert [spec.name for spec in specs] == ["router", "prefill-0", "decode-0", "decode-1"]
    assert [spec.argv[3] for spec in specs] == ["router", "prefill-worker", "decode-worker", "decode-worker"]
    assert all("--die-with-parent" in spec.argv for spec in specs)
    assert len({spec.log_path for spec in specs}) == 4


def test_workers_dial_the_router_and_are_spread_over_cores() -> None:
    _, prefill, decode = process_specs(cluster(), Machine((0, 1)), {})
    for worker in (prefill, decode):
        assert worker.argv[worker.argv.index("--router") + 1] == "127.0.0.1:9100"
    assert [worker.environment["VLLM_CPU_OMP_THREADS_BIND"] for worker in (prefill, decode)] == ["0", "1"]


def test_pools_may_be_told_different_things() -> None:
    _, prefill, decode = process_specs(cluster(), Machine((0, 1)), {})
    assert "max_num_seqs=4" in prefill.argv
    assert "max_num_seqs=4" not in decode.argv
    assert "grpc" in prefill.argv
    assert "grpc" in decode.argv


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="0 workers"):
        PoolSettings(workers=0)


def test_chosen_ports_are_free_and_distinct() -> None:
    ports = choose_ports("127.0.0.1")
    assert len({ports.http, ports.grpc, ports.worker}) == 3


def test_chosen_ports_are_none_that_others_are_given_who_ask_for_any() -> None:
    """The router binds them seconds later, and again should it be started again."""
    lowest, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if lowest < 32_768:
        pytest.skip(f"this machine gives ports from {lowest} on")
    ports = choose_ports("127.0.0.1", router_processes=3)
    assert max(ports.http, ports.grpc, ports.worker + 2) < lowest
    assert free_port("127.0.0.1") < lowest


def test_a_taken_port_is_refused_by_its_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match=r"--port 127\.0\.0\.1:\d+ can't be had"):
            choose_ports("127.0.0.1", http=taken.getsockname()[1])


def readiness(*states: tuple[str, str]) -> Readiness:
    workers = tuple(WorkerStatus(worker_id=f"{role}-0", role=role, state=state) for role, state in states)
    return Readiness(ready=all(state == "ready" for _, state in states), workers=workers)


def test_ready_means_as_many_of_each_role_as_asked() -> None:
    both = readiness(("prefill", "ready"), ("decode", "ready"))
    assert is_complete(both, prefill=1, decode=1)
    assert not is_complete(both, prefill=1, decode=2)
    assert not is_complete(readiness(("prefill", "ready"), ("decode", "warming")), prefill=1, decode=1)


async def test_waiting_follows_the_router_until_all_are_ready(unused_tcp_port: int) -> None:
    answers = [
        readiness(("prefill", "loading")),
        readiness(("prefill", "ready"), ("decode", "warming")),
        readiness(("prefill", "ready"), ("decode", "ready")),
    ]
    seen: list[Readiness] = []

    async def readyz(_: web.Request) -> web.Response:
        answer = answers.pop(0)
        return web.json_response(answer.model_dump(exclude={"reachable"}), status=200 if answer.ready else 503)

    app = web.Application()
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
        await wait_until_ready(RouterHttp(f"http://127.0.0.1:{unused_tcp_port}"), 1, 1, 10, seen.append)
    finally:
        await runner.cleanup()
    assert [len(answer.workers) for answer in seen] == [1, 2, 2]


async def test_waiting_in_vain_says_what_was_seen(unused_tcp_port: int) -> None:
    with pytest.raises(NotReadyInTime, match="a router that doesn't answer"):
        await wait_until_ready(RouterHttp(f"http://127.0.0.1:{unused_tcp_port}"), 1, 1, 0.3, lambda _: None)
