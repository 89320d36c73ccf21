"""Keeps a set of child processes alive, or ends them all: nothing outlives the block that started it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from segue.cluster.process import ChildProcess, ProcessSpec
from segue.cluster.restarts import Death, EndPool, History, Restart, RestartPolicy, decide

# A peer sees its connection reset a moment before the kernel is done with the process, and on a busy machine
# asyncio hears of it later still.
_DYING_S = 0.2
_NOTICING_S = 10.0


class ProcessDied(Exception):
    """A process of the pool ended by itself and the policy says that the pool ends with it."""

    def __init__(self, spec: ProcessSpec, death: Death, reason: str, last_lines: Sequence[str]) -> None:
        super().__init__(f"{spec.name} {death}; {reason}")
        self.spec = spec
        self.death = death
        self.reason = reason
        self.last_lines = tuple(last_lines)


@dataclass(frozen=True)
class Started:
    """A life of a process began."""

    name: str
    pid: int


@dataclass(frozen=True)
class Restarting:
    """A process died and starts again after ``pause_s``."""

    name: str
    death: Death
    pause_s: float
    last_lines: tuple[str, ...]


@dataclass(frozen=True)
class Stopped:
    """A process was asked to end and has. Killed if it outlived the grace period. ``death`` None: it had died before
    that, and waited for its next life."""

    name: str
    death: Death | None


Event = Started | Restarting | Stopped
Report = Callable[[Event], None]


class Supervised:
    """The processes that run now; more may be added and single ones let go."""

    def __init__(self, group: asyncio.TaskGroup, policy: RestartPolicy, report: Report, stop_grace_s: float) -> None:
        self.children: dict[str, ChildProcess] = {}
        self._group = group
        self._policy = policy
        self._report = report
        self._stop_grace_s = stop_grace_s
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        self._specs: dict[str, ProcessSpec] = {}

    def add(self, spec: ProcessSpec) -> None:
        """Start one more process and keep it alive. Its name must be free."""
        self._add(spec, History(joined_later=True))

    def begin(self, specs: Sequence[ProcessSpec]) -> None:
        """Start those that the pool begins with."""
        for spec in specs:
            self._add(spec, History())

    def _add(self, spec: ProcessSpec, history: History) -> None:
        if spec.name in self._keepers:
            raise ValueError(f"a process named {spec.name!r} is kept already")
        self._specs[spec.name] = spec
        keeper = self._group.create_task(self._keep(spec.name, history), name=f"keep {spec.name}")
        self._keepers[spec.name] = keeper
        keeper.add_done_callback(lambda _: self._forget(spec.name))

    def change(self, spec: ProcessSpec) -> None:
        """What the process of this name is from its next life on."""
        self._specs[spec.name] = spec

    def let_go(self, name: str) -> None:
        """SIGTERM one process and keep it no longer; ``Stopped`` is reported once it has ended."""
        if name not in self._leaving:
            self._leaving.add(name)
            self._keepers[name].cancel()

    def let_all_go(self) -> None:
        for name in list(self._keepers):
            self.let_go(name)  # Not a second time: a process that drains would be killed for it.

    def kill_all(self) -> None:
        """SIGKILL every child's group now, for the second signal."""
        for child in list(self.children.values()):
            child.kill()

    def _forget(self, name: str) -> None:
        self._keepers.pop(name, None)
        self._leaving.discard(name)
        self._specs.pop(name, None)

    async def _keep(self, name: str, history: History) -> None:
        while True:
            spec = self._specs[name]
            # Shielded: cut off in the middle, a start would leave a child that nobody knows of.
            starting = asyncio.ensure_future(self._start(spec))
            try:
                death = await (await asyncio.shield(starting)).wait()
            except asyncio.CancelledError:
                child = await starting
                self._report(Stopped(spec.name, await child.stop(self._stop_grace_s)))
                raise
            finally:
                self.children.pop(spec.name, None)
            last_lines = starting.result().last_lines()
            match decide(self._policy, history, death):
                case EndPool(reason):
                    raise ProcessDied(spec, death, reason, last_lines)
                case Restart(pause_s, history):
                    self._report(Restarting(spec.name, death, pause_s, tuple(last_lines)))
                    try:
                        await asyncio.sleep(pause_s)
                    except asyncio.CancelledError:  # Let go between two lives: there is nothing to end.
                        self._report(Stopped(spec.name, None))
                        raise

    async def _start(self, spec: ProcessSpec) -> ChildProcess:
        child = await ChildProcess.start(spec)
        self.children[spec.name] = child
        self._report(Started(spec.name, child.pid))
        return child


@asynccontextmanager
async def supervise(
    specs: Sequence[ProcessSpec], policy: RestartPolicy, report: Report, stop_grace_s: float = 15.0
) -> AsyncIterator[Supervised]:
    """Run all of ``specs`` while the block runs; on leaving it, however that comes, stop them all and wait.

    A death is met as ``policy`` says. If it ends the pool the block is cancelled, the others are stopped, and
    ``ProcessDied`` is raised. SIGTERM goes to all at once; after ``stop_grace_s`` what remains is killed.
    """
    body_error: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            supervised = Supervised(group, policy, report, stop_grace_s)
            supervised.begin(specs)
            try:
                yield supervised
            except Exception as error:  # noqa: BLE001 - raised again below, once everything is stopped
                body_error = error
                # A lost connection is often a death seen from outside: give the death time to be told
                # instead.
                await _let_deaths_be_noticed(supervised)
            supervised.let_all_go()
    except BaseExceptionGroup as error:  # What the task group makes of deaths; all else in it is raised on.
        # Several may die in the same instant; the first is the one to tell. Other errors keep their group.
        died, others = error.split(ProcessDied)
        if others is not None:
            raise
        assert died is not None
        raise _first(died) from body_error
    if body_error is not None:
        raise body_error


async def _let_deaths_be_noticed(supervised: Supervised) -> None:
    await asyncio.sleep(_DYING_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_NOTICING_S):
            while any(child.has_ended() for child in supervised.children.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def _first(group: BaseExceptionGroup[ProcessDied]) -> ProcessDied:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ProcessDied)
    return error
