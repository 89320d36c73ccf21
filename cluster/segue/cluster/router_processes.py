"""One router as several processes: each a whole router, all on the same public ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from segue.base.errors import SettingsError
from segue.base.logging import get_logger
from segue.cluster.restarts import CONFIGURATION_STATUS, Death, EndPool, History, RestartPolicy, decide

log = get_logger("router")

_POLICY = RestartPolicy("restart", first_pause_s=0.2, longest_pause_s=10.0)


def run_router_processes(argv: Sequence[str], processes: int, passed_on: Sequence[signal.Signals] = ()) -> int:
    """Run ``segue *argv`` that many times, each told its number, until SIGTERM or SIGINT; the exit status.

    A process that dies is started again, and takes along only its own streams. One that can't run as configured ends
    them all. ``passed_on`` are signals that each of them knows what to do with.
    """
    return asyncio.run(_Processes(argv, processes, passed_on).run())


def check_shared_ports(host: str, ports: Sequence[tuple[str, int]]) -> None:
    """Whether ports that several processes are to share are nobody else's: the kernel would deal clients out to
    strangers too. Raises SettingsError."""
    for option, port in ports:
        if not port:
            raise SettingsError(f"several processes can't share a port chosen anew; give {option} a number")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise SettingsError(
                    f"can't listen on {host}:{port}: {error.strerror}; choose another {option}"
                ) from None


class _Processes:
    def __init__(self, argv: Sequence[str], processes: int, passed_on: Sequence[signal.Signals]) -> None:
        self._argv = argv
        self._processes = processes
        self._passed_on = passed_on
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = False
        self._status = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal)
        for signum in self._passed_on:
            loop.add_signal_handler(signum, self._tell, signum)
        keepers = [asyncio.create_task(self._keep(number)) for number in range(self._processes)]
        await asyncio.gather(*keepers)
        return self._status

    async def _keep(self, number: int) -> None:
        """One process, through all its lives."""
        history = History()
        while not self._stopping:
            began_s = asyncio.get_running_loop().time()
            process = await self._start(number)
            returncode = await process.wait()
            del self._running[number]
            if self._stopping:
                return
            death = Death(returncode, asyncio.get_running_loop().time() - began_s)
            log.error("router_process_died", process=number, death=str(death))
            match decide(_POLICY, history, death):
                case EndPool():
                    self._status = CONFIGURATION_STATUS
                    self.stop(signal.SIGTERM)
                case restart:
                    history = restart.history
                    await asyncio.sleep(restart.pause_s)

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        own = ("--process", str(number), "--die-with-parent", str(os.getpid()))
        # A group of its own: Ctrl-C reaches us alone, and we tell each of them once.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "segue.cli", *self._argv, *own), stdin=asyncio.subprocess.DEVNULL, process_group=0
        )
        self._running[number] = process
        if self._stopping:  # While it was being started.
            process.terminate()
        return process

    def _on_signal(self) -> None:
        """First all drain; the second signal ends them."""
        self.stop(signal.SIGKILL if self._stopping else signal.SIGTERM)

    def stop(self, signum: signal.Signals) -> None:
        """Start none again, and tell those that run."""
        self._stopping = True
        self._tell(signum)

    def _tell(self, signum: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signum)
