"""How busy the machine was with other people's work while something was measured."""

from __future__ import annotations

import time
from types import TracebackType

import psutil


class OtherWork:
    """Context manager: afterwards ``cores`` says how many cores ran processes that this one did not start.

    Time stolen by a hypervisor counts as others' work too. Processes that start and end in between are taken
    for others': what is measured here runs servers that outlive the measurement.
    """

    cores: float = 0.0

    def __enter__(self) -> OtherWork:
        self._started_s = time.monotonic()
        self._busy_s = _machine_busy_s()
        self._own = _own_cpu_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        busy_s = _machine_busy_s() - self._busy_s
        own_now = _own_cpu_s()
        own_s = sum(cpu_s - self._own.get(pid, 0.0) for pid, cpu_s in own_now.items())
        elapsed_s = time.monotonic() - self._started_s
        self.cores = max(0.0, busy_s - own_s) / elapsed_s if elapsed_s > 0 else 0.0


def _machine_busy_s() -> float:
    times = psutil.cpu_times()
    # Guest time is already part of user time on Linux.
    left_out = {"idle", "iowait", "guest", "guest_nice"}
    return float(sum(value for name, value in times._asdict().items() if name not in left_out))


def _own_cpu_s() -> dict[int, float]:
    me = psutil.Process()
    used_s: dict[int, float] = {}
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used_s[process.pid] = times.user + times.system
    return used_s
