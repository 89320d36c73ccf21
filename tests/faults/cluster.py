"""The cluster under test: two prefill and two decode workers, and a bad link before each producer.

Each process is started here by itself and not by ``segue up``, because the tests kill, stop and replace them one by
one. All of it dies with the test process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from segue.cluster.environment import share_of, worker_environment
from segue.cluster.local import this_machine
from segue.cluster.ports import Ports
from tests.faults.member import LOADING, START_S, Member, wait_until
from tests.faults.proxy import LinkProxy

LEASE_S = {"grpc": 3.0, "nixl": 6.0}  # vLLM's NIXL connector takes no shorter one.
DRAIN_S = 20.0
# How long a decode worker may take to dial a producer again that has come back.
_REDIAL_S = 1.5


class Cluster:
    """Running while the ``with`` block runs. ``router-1`` is started by whoever needs it; all workers know of it."""

    def __init__(self, model: str, transport: str, run_dir: Path) -> None:
        self.transport = transport
        self.lease_s = LEASE_S[transport]
        self.links: dict[str, LinkProxy] = {}
        self.members: dict[str, Member] = {}
        self._model = model
        self._run_dir = run_dir
        self._stack = ExitStack()
        self._ports = {
            name: Ports(self._hold_port(), self._hold_port(), self._hold_port()) for name in ("router-0", "router-1")
        }
        self._kv_ports = {name: self._hold_port() for name in ("prefill-0", "prefill-1")}
        self._restarted = False  # A producer, since the last wait for all.

    def __enter__(self) -> Self:
        for name, port in self._kv_ports.items():
            self.links[name] = self._stack.enter_context(LinkProxy(f"127.0.0.1:{port}"))
        for name, ports in self._ports.items():
            self._add(name, self._router_argv(ports), dict(os.environ))
        machine = this_machine()
        for index, name in enumerate(("prefill-0", "decode-0", "prefill-1", "decode-1")):
            environment = worker_environment(os.environ, share_of(machine, index, "cpu"), kv_cache_gib=1.0)
            self._add(name, self._worker_argv(name), environment)
        try:
            self.restart_ended()
            self.wait_whole()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members.values():
            member.kill()
        self._stack.close()

    # What there is

    @property
    def workers(self) -> list[str]:
        return [name for name in self.members if not name.startswith("router")]

    def of_role(self, role: str) -> list[Member]:
        return [member for name, member in self.members.items() if name.startswith(role)]

    def grpc_address(self, router: str = "router-0") -> str:
        return f"127.0.0.1:{self._ports[router].grpc}"

    def worker_address(self, router: str = "router-0") -> str:
        """Where its workers dial a router."""
        return f"127.0.0.1:{self._ports[router].worker}"

    def kv_address(self, name: str) -> str:
        """Where a producer's KvTransfer listens, its link left aside."""
        return f"127.0.0.1:{self._kv_ports[name]}"

    def router_knows(self, workers: int, router: str = "router-0") -> bool:
        """Whether so many workers or more are ready in this router's eyes."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._ports[router].http}/readyz", timeout=2)
        except httpx.HTTPError:
            return False
        ready = [worker for worker in answer.json()["workers"] if worker["state"] == "ready"]
        return len(ready) >= workers

    # What is done to it

    def restart_ended(self, prefix: str = "") -> None:
        """Start what has ended, without waiting; the second router aside."""
        for name, member in self.members.items():
            if name.startswith(prefix) and not member.alive and name != "router-1":
                member.start()
                self._restarted = self._restarted or name in self.links

    def wait_serving(self) -> None:
        """Until there is one worker of each pool; others may still load."""

        def serving() -> bool:
            return all(any(member.ready for member in self.of_role(role)) for role in ("prefill", "decode"))

        wait_until(serving, START_S, "a pool has no worker")
        wait_until(partial(self.router_knows, 2), START_S, "the router has not found its workers")

    def wait_whole(self, routers: Sequence[str] = ("router-0",)) -> None:
        """Until everything serves."""
        for name in self.workers:
            self.members[name].wait_ready()
        for router in routers:
            known = partial(self.router_knows, len(self.workers), router)
            wait_until(known, START_S, f"{router} has not found its workers")
        if self._restarted:
            time.sleep(_REDIAL_S)
        self._restarted = False

    def heal(self) -> None:
        """Whatever was held or stopped goes on."""
        for link in self.links.values():
            link.heal()
        for name, link in self.links.items():
            link.divert(self.kv_address(name))
            link.pulls.clear()
        for member in self.members.values():
            if member.stopped:
                member.signal(signal.SIGCONT)

    def busy(self) -> list[str]:
        """What keeps living workers from their baseline, by their engines' own count."""
        problems = []
        for name in self.workers:
            member = self.members[name]
            if not member.alive:
                continue
            seen = member.describe()
            if seen is None:
                if member.alive and member.loaded and not member.leaves:
                    problems.append(f"{name} doesn't describe itself")
                continue
            if seen.status.state in LOADING:
                continue
            load, blocks = seen.load, seen.status.facts.kv_blocks
            held = {what: getattr(load, what) for what in ("running_requests", "waiting_requests", "held_offers")}
            problems += [f"{name}: {what} is {count}" for what, count in held.items() if count]
            if load.free_blocks != blocks:
                problems.append(f"{name}: {load.free_blocks} of {blocks} blocks are free")
        return problems

    def wait_baseline(self, within_s: float) -> float:
        """Until nobody holds anything; the seconds that took."""
        started_s = time.monotonic()
        told: list[str] = []
        while problems := self.busy():
            took_s = time.monotonic() - started_s
            if problems != told:
                told = problems
                print(f"{took_s:.2f} s: {'; '.join(problems)}")
            assert took_s < within_s, f"after {within_s:g} s: {'; '.join(problems)}"
            time.sleep(0.03)
        return time.monotonic() - started_s

    def wait_left(self, name: str) -> None:
        """Until a drained process has ended, as one should that had nothing left."""
        member = self.members[name]
        wait_until(lambda: not member.alive, DRAIN_S, f"{name} was told to drain and has not left")
        assert member.process is not None
        assert member.process.returncode == 0, f"{name} left with status {member.process.returncode}"

    def holder(self, role: str) -> str:
        """The worker of this role that has something to do; the first one if no load shows it."""
        for member in self.of_role(role):
            seen = None if member.stopped else member.describe()
            if seen and (seen.load.running_requests or seen.load.waiting_requests or seen.load.held_offers):
                return member.name
        return f"{role}-0"

    def busiest(self, role: str) -> Member:
        """The worker of this role that runs most."""
        return max(
            self.of_role(role), key=lambda member: seen.load.running_requests if (seen := member.describe()) else 0
        )

    # How it is started

    def _hold_port(self) -> int:
        """One that nobody else gets while its owner is loading or dead: it binds beside us, who don't listen."""
        held = self._stack.enter_context(socket.socket())
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port

    def _add(self, name: str, argv: Iterable[str], environment: dict[str, str]) -> None:
        self.members[name] = Member(name, tuple(argv), environment, self._run_dir / f"{name}.log")

    def _router_argv(self, ports: Ports) -> list[str]:
        return [
            *_segue("router", self._model),
            *("--port", str(ports.http), "--grpc-port", str(ports.grpc), "--worker-port", str(ports.worker)),
            # Some tests stop it for a lease; it is not to drop its workers then.
            *("--worker-lease", "15", "--drain-timeout", "5"),
            # A queue is what some cells need.
            *("--max-queue-s", "60"),
            # And a promise that such a queue doesn't break: what would break it is refused.
            *("--slo-class", "chat=ttft_s:60", "--slo-class", "documents=ttft_s:60"),
            *("--disaggregation", "always"),
        ]

    def _worker_argv(self, name: str) -> list[str]:
        role = name.partition("-")[0]
        argv = [
            *_segue(f"{role}-worker", self._model),
            *("--worker-id", name, "--transport", self.transport, "--engine-arg", "dtype=float32"),
            *("--lease", str(self.lease_s), "--drain-timeout", str(DRAIN_S)),
        ]
        for ports in self._ports.values():
            argv += ["--router", f"127.0.0.1:{ports.worker}"]
        if name in self.links:
            argv += ["--kv-port", str(self._kv_ports[name]), "--advertise-kv", self.links[name].address]
        return argv


def _segue(command: str, model: str) -> list[str]:
    own = ["--model", model, "--log-format", "json", "--die-with-parent", str(os.getpid())]
    return [sys.executable, "-m", "segue.cli", command, *own]
