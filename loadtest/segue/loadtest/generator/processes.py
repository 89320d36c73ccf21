"""Several generator processes under one clock."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import uvloop

from segue.loadtest.generator.progress import OnProgress, Progress
from segue.loadtest.generator.run import Generator
from segue.loadtest.measure.lag import GeneratorLoad
from segue.loadtest.measure.outcome import Outcome
from segue.loadtest.plan import Plan, Share, open_target

# Between the last process being ready and the first request: messages take their time.
_START_IN_S = 0.1


class GeneratorDied(RuntimeError):
    """A generator process ended without a result."""


@dataclass(frozen=True, slots=True)
class Load:
    """What all processes brought back."""

    outcomes: list[Outcome]
    generators: list[GeneratorLoad]
    started_unix_s: float


def run_load(plan: Plan, on_progress: OnProgress) -> Load:
    """Put the load on and return when the last answer is in.

    Raises ValueError, SettingsError or OSError for a plan that can't be carried out, GeneratorDied when a process of
    the generator is lost.
    """
    if plan.processes > 1:
        return _in_processes(plan, on_progress)
    started: list[float] = []

    def start() -> float:
        started.append(time.time())
        return time.monotonic()

    outcomes, load = uvloop.run(_share(plan, Share(0, 1), start, on_progress))
    return Load(outcomes, [load], started[0])


async def _share(
    plan: Plan, share: Share, start: Callable[[], float], on_progress: OnProgress
) -> tuple[list[Outcome], GeneratorLoad]:
    target = open_target(plan)
    try:
        return await Generator(target, share.pace(plan)).run(share.shapes(plan), start, on_progress)
    finally:
        await target.close()


def _in_processes(plan: Plan, on_progress: OnProgress) -> Load:
    """Children say that they are ready, are told the common start, send progress, then their result.

    ``time.monotonic`` counts from the machine's start in all processes on Linux, so one number means one moment.
    """
    # Faults of the plan show here, in words, not in a child.
    next(plan.shapes(), None)
    uvloop.run(_try_target(plan))
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    children: list[SpawnProcess] = []
    try:
        for part in range(plan.processes):
            ours, theirs = context.Pipe()
            child = context.Process(target=_child, args=(plan, Share(part, plan.processes), theirs), daemon=True)
            child.start()
            theirs.close()
            pipes.append(ours)
            children.append(child)
        for pipe in pipes:
            _receive(pipe)
        start_at_s, started_unix_s = time.monotonic() + _START_IN_S, time.time() + _START_IN_S
        for pipe in pipes:
            pipe.send(start_at_s)
        outcomes, loads = _collect(pipes, on_progress)
        return Load(outcomes, loads, started_unix_s)
    finally:
        for child in children:
            child.terminate()
            child.join()


async def _try_target(plan: Plan) -> None:
    await open_target(plan).close()


def _collect(pipes: list[Connection], on_progress: OnProgress) -> tuple[list[Outcome], list[GeneratorLoad]]:
    outcomes: list[Outcome] = []
    loads: list[GeneratorLoad] = []
    parts = [Progress()] * len(pipes)
    open_pipes = list(pipes)
    while open_pipes:
        for pipe in wait(open_pipes):
            assert isinstance(pipe, Connection)
            message = _receive(pipe)
            if isinstance(message, Progress):
                parts[pipes.index(pipe)] = message
                on_progress(Progress.together(parts))
            else:
                part, load = message
                outcomes += part
                loads.append(load)
                open_pipes.remove(pipe)
    return sorted(outcomes, key=lambda outcome: outcome.index), loads


def _receive(pipe: Connection) -> Progress | tuple[list[Outcome], GeneratorLoad]:
    try:
        message: Progress | tuple[list[Outcome], GeneratorLoad] = pipe.recv()
    except EOFError:
        raise GeneratorDied("a process of the load generator ended without a result; its error is above") from None
    return message


def _child(plan: Plan, share: Share, pipe: Connection) -> None:
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def start() -> float:
        pipe.send(Progress())
        start_at_s: float = pipe.recv()
        return start_at_s

    result = uvloop.run(_share(plan, share, start, pipe.send))
    pipe.send(result)
    pipe.close()
