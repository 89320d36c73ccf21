"""The supervisor with real, cheap child processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.cluster.process import ProcessSpec
from segue.cluster.restarts import RestartPolicy
from segue.cluster.supervisor import Event, ProcessDied, Restarting, Started, Stopped, supervise

SLEEP = "import time; time.sleep(600)"
EXIT = RestartPolicy(on_death="exit")
RESTART = RestartPolicy(on_death="restart", first_pause_s=0.05, longest_pause_s=0.2)


def python(name: str, code: str, folder: Path) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-u", "-c", code), dict(os.environ), folder / f"{name}.log")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # A grandchild that was killed and that nobody has waited for yet is over all the same.


async def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def written(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class Log(list[Event]):
    """The events, with the pids of everything that was started."""

    @property
    def pids(self) -> list[int]:
        return [event.pid for event in self if isinstance(event, Started)]


def ended(events: Log) -> list[int]:
    """The exit statuses of those that were asked to end while they ran."""
    return [event.death.returncode for event in events if isinstance(event, Stopped) and event.death is not None]


async def test_leaving_the_block_stops_everything(tmp_path: Path) -> None:
    events = Log()
    async with supervise([python(name, SLEEP, tmp_path) for name in "abc"], EXIT, events.append):
        await eventually(lambda: len(events.pids) == 3)
    assert not any(is_running(pid) for pid in events.pids)
    assert {event.name for event in events if isinstance(event, Stopped)} == {"a", "b", "c"}


async def test_a_death_ends_the_pool_and_tells_who_how_and_its_last_lines(tmp_path: Path) -> None:
    events = Log()
    specs = [
        python("steady", SLEEP, tmp_path),
        python("broken", "print('out of luck'); raise SystemExit(7)", tmp_path),
    ]
    with pytest.raises(ProcessDied) as raised:
        async with supervise(specs, EXIT, events.append):
            await asyncio.sleep(60)
    assert raised.value.spec.name == "broken"
    assert raised.value.death.returncode == 7
    assert raised.value.last_lines == ("out of luck",)
    assert "broken exited with status 7" in str(raised.value)
    assert not any(is_running(pid) for pid in events.pids)


async def test_a_killed_process_is_told_by_its_signal(tmp_path: Path) -> None:
    events = Log()
    with pytest.raises(ProcessDied, match="SIGKILL"):
        async with supervise([python("a", SLEEP, tmp_path)], EXIT, events.append):
            await eventually(lambda: events.pids)
            os.kill(events.pids[0], 9)
            await asyncio.sleep(60)


async def test_restart_brings_a_dead_process_back(tmp_path: Path) -> None:
    events = Log()
    async with supervise([python("a", SLEEP, tmp_path), python("b", SLEEP, tmp_path)], RESTART, events.append):
        await eventually(lambda: len(events.pids) == 2)
        first, other = events.pids
        os.kill(first, 9)
        await eventually(lambda: len(events.pids) == 3)
        assert is_running(events.pids[2])
        assert is_running(other)
    assert [event.death.returncode for event in events if isinstance(event, Restarting)] == [-9]
    assert not any(is_running(pid) for pid in events.pids)


async def test_the_last_lines_are_those_of_this_life(tmp_path: Path) -> None:
    events = Log()
    code = "import os; print('life of', os.getpid()); raise SystemExit(1)"
    async with supervise([python("a", code, tmp_path)], RESTART, events.append):
        await eventually(lambda: sum(isinstance(event, Restarting) for event in events) == 2)
    told = [event.last_lines for event in events if isinstance(event, Restarting)]
    assert told == [(f"life of {pid}",) for pid in events.pids[:2]]


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    events = Log()
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); {SLEEP}"
    async with supervise([python("a", code, tmp_path)], EXIT, events.append, stop_grace_s=0.3):
        await eventually(lambda: "deaf" in written(tmp_path / "a.log"))
    assert ended(events) == [-9]
    assert not is_running(events.pids[0])


async def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    events = Log()
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid); {SLEEP}"
    with pytest.raises(ProcessDied):
        async with supervise([python("a", code, tmp_path)], EXIT, events.append):
            await eventually(lambda: written(tmp_path / "a.log").strip())
            os.kill(events.pids[0], 9)
            await asyncio.sleep(60)
    grandchild = int(written(tmp_path / "a.log"))
    await eventually(lambda: not is_running(grandchild))


async def test_an_error_in_the_block_stops_everything_and_comes_out_as_it_is(tmp_path: Path) -> None:
    events = Log()
    with pytest.raises(ValueError, match="mine"):
        async with supervise([python("a", SLEEP, tmp_path)], EXIT, events.append):
            await eventually(lambda: events.pids)
            raise ValueError("mine")
    assert not is_running(events.pids[0])


async def test_a_death_behind_an_error_in_the_block_is_what_is_told(tmp_path: Path) -> None:
    events = Log()
    with pytest.raises(ProcessDied) as raised:
        async with supervise([python("a", SLEEP, tmp_path)], EXIT, events.append):
            await eventually(lambda: events.pids)
            os.kill(events.pids[0], 9)
            while is_running(events.pids[0]):  # Without giving way: the supervisor is not to see it first.
                time.sleep(0.001)  # noqa: ASYNC251
            raise ConnectionResetError("the other end is gone")
    assert isinstance(raised.value.__cause__, ConnectionResetError)


async def test_cancelling_the_owner_stops_everything(tmp_path: Path) -> None:
    events = Log()

    async def own() -> None:
        async with supervise([python("a", SLEEP, tmp_path)], EXIT, events.append):
            await asyncio.sleep(60)

    owner = asyncio.create_task(own())
    await eventually(lambda: events.pids)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert not is_running(events.pids[0])


@pytest.mark.timeout(120)
async def test_kill_all_cuts_the_grace_short(tmp_path: Path) -> None:
    events = Log()
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); {SLEEP}"
    async with supervise([python("a", code, tmp_path)], EXIT, events.append, stop_grace_s=600) as supervised:
        await eventually(lambda: "deaf" in written(tmp_path / "a.log"))
        asyncio.get_running_loop().call_later(0.1, supervised.kill_all)
    assert ended(events) == [-9]


async def test_processes_come_and_go_while_the_others_run(tmp_path: Path) -> None:
    events = Log()
    async with supervise([python("a", SLEEP, tmp_path)], EXIT, events.append) as supervised:
        supervised.add(python("b", SLEEP, tmp_path))
        await eventually(lambda: len(events.pids) == 2)
        supervised.let_go("a")
        supervised.let_go("a")
        await eventually(lambda: any(isinstance(event, Stopped) for event in events))
        assert [is_running(pid) for pid in events.pids] == [False, True]
        supervised.add(python("a", SLEEP, tmp_path))
        await eventually(lambda: len(events.pids) == 3)
    assert not any(is_running(pid) for pid in events.pids)
    assert ended(events) == [-15, -15, -15]


async def test_a_process_let_go_in_the_moment_it_starts_is_not_forgotten(tmp_path: Path) -> None:
    events = Log()
    async with supervise([], EXIT, events.append) as supervised:
        supervised.add(python("a", SLEEP, tmp_path))
        await asyncio.sleep(0)
        supervised.let_go("a")
        await eventually(lambda: len(events) == 2)
    assert [type(event) for event in events] == [Started, Stopped]
    assert not is_running(events.pids[0])


@pytest.mark.timeout(120)
async def test_the_end_of_all_leaves_one_that_is_leaving_its_time(tmp_path: Path) -> None:
    events = Log()
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), exit(0))); print('on'); "
    async with supervise([python("a", code + SLEEP, tmp_path)], EXIT, events.append, stop_grace_s=60) as supervised:
        await eventually(lambda: "on" in written(tmp_path / "a.log"))
        supervised.let_go("a")
        await asyncio.sleep(0.1)
    assert ended(events) == [0]


async def test_one_that_is_let_go_while_it_waits_for_its_next_life_has_stopped(tmp_path: Path) -> None:
    events = Log()
    policy = RestartPolicy(on_death="restart", first_pause_s=600.0, longest_pause_s=600.0)
    async with supervise([python("a", "raise SystemExit(1)", tmp_path)], policy, events.append) as supervised:
        await eventually(lambda: any(isinstance(event, Restarting) for event in events))
        supervised.let_go("a")
        await eventually(lambda: events[-1] == Stopped("a", None))
        supervised.add(python("a", SLEEP, tmp_path))
        await eventually(lambda: len(events.pids) == 2)


async def test_one_that_joins_later_and_is_not_let_in_leaves_the_others_running(tmp_path: Path) -> None:
    events = Log()
    async with supervise([python("a", SLEEP, tmp_path)], RESTART, events.append) as supervised:
        supervised.add(python("b", "raise SystemExit(2)", tmp_path))
        await eventually(lambda: sum(isinstance(event, Restarting) for event in events) == 2)
        assert is_running(events.pids[0])
