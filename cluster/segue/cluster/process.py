"""One child process: its own process group, its output in a log file, its end told with the last lines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segue.cluster.restarts import Death

TAIL_LINES = 20
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True)
class ProcessSpec:
    """What to start. ``name`` is unique in its pool and names the log file; ``environment`` is the whole of
    it."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log_path: Path


class ChildProcess:
    """A running child. Made by :meth:`start`; whoever starts it ends it by :meth:`stop` or :meth:`kill`."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process, log_start_bytes: int) -> None:
        self.spec = spec
        self._process = process
        self._log_start_bytes = log_start_bytes
        self._started_s = asyncio.get_running_loop().time()

    @classmethod
    async def start(cls, spec: ProcessSpec) -> ChildProcess:
        """Start it with stdout and stderr appended to the log file. Raises OSError if that can't be done."""
        with spec.log_path.open("ab") as log:
            log_start_bytes = log.seek(0, os.SEEK_END)
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                env=dict(spec.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own group: Ctrl-C reaches the supervisor alone, and what the child started ends with it.
                process_group=0,
            )
        return cls(spec, process, log_start_bytes)

    @property
    def pid(self) -> int:
        """The child's process id, which is also its group's."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether it has ended, even if :meth:`wait` hasn't heard of it yet."""
        if self._process.returncode is not None:
            return True
        try:
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True  # waited for in this very moment
        return ended is not None

    async def wait(self) -> Death:
        """Wait for the child's end, then kill what it left in its group."""
        returncode = await self._process.wait()
        self._signal_group(signal.SIGKILL)
        return Death(returncode, asyncio.get_running_loop().time() - self._started_s)

    async def stop(self, grace_s: float) -> Death:
        """SIGTERM, then SIGKILL to the whole group after ``grace_s``. If cancelled while waiting, SIGKILL at
        once."""
        if self._process.returncode is None:
            self._process.terminate()
        # Not asyncio.timeout: in Python 3.11.2 it takes its own cancellation for the one that brought us here.
        ending = asyncio.ensure_future(self.wait())
        try:
            ended, _ = await asyncio.wait({ending}, timeout=grace_s)
            if not ended:
                self.kill()
            return await ending
        except asyncio.CancelledError:
            self.kill()
            ending.cancel()
            raise

    def kill(self) -> None:
        """SIGKILL to the whole group, without waiting."""
        self._signal_group(signal.SIGKILL)

    def last_lines(self) -> list[str]:
        """The last lines that this life of the process wrote, at most ``TAIL_LINES``."""
        return last_lines(self.spec.log_path, self._log_start_bytes)

    def _signal_group(self, signum: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody may be left in the group
            os.killpg(self._process.pid, signum)


def last_lines(path: Path, start_bytes: int = 0) -> list[str]:
    """At most ``TAIL_LINES`` lines from the end of the file, none from before ``start_bytes``."""
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(start_bytes, size_bytes - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return text.splitlines()[-TAIL_LINES:]
