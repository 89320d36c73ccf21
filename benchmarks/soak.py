"""Mixed load on two prefill and two decode workers with a random fault every few seconds.

python benchmarks/soak.py --minutes 30 --json soak.json --plot soak.png

Counts what must be zero: requests that hang past their deadline, answers that differ from the undisturbed ones,
requests that end in anything but an answer or one clear error, and blocks that stay occupied when nothing runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
from comparison.machine import describe_machine
from reliability.observe import Sample, sample, trends
from reliability.plots import plot_soak
from reliability.send import Doors
from reliability.soak_cluster import LEASE_S, SoakCluster, soak_cluster
from reliability.soak_faults import Faults
from reliability.soak_load import Clients, Finished, Known, undisturbed

from segue.cluster.supervisor import ProcessDied
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2_grpc import InferenceStub

_SAMPLE_S = 2.0
_QUIET_EVERY_S = 60.0
_BACK_S = 90.0  # For all workers to be back after the last fault.
_KEPT = 50  # Of each kind of problem, with its whole story.


@dataclass
class Tally:
    """What came of the requests."""

    start_s: float = field(default_factory=time.monotonic)
    kinds: Counter[str] = field(default_factory=Counter)
    asks: Counter[str] = field(default_factory=Counter)
    doors: Counter[str] = field(default_factory=Counter)
    continued: int = 0
    answers: list[float] = field(default_factory=list)
    problems: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"hung": [], "wrong": [], "unclear": []})
    faults: Faults | None = None

    def add(self, finished: Finished) -> None:
        ending = finished.ending
        kind = ending.kind
        ended_s = ending.sent_s + ending.took_s
        if kind == "connection" and self.faults and self.faults.router_was_down(ending.sent_s, ended_s):
            kind = "router down"
        self.kinds[kind] += 1
        self.asks[finished.ask.name] += 1
        self.doors[finished.door] += 1
        if kind == "ok":
            self.answers.append(round(ended_s - self.start_s, 2))
            self.continued += bool(ending.continuations)
        if kind == "hung":
            self._problem("hung", finished)
        elif kind in {"connection", "other"}:
            self._problem("unclear", finished)
        if finished.wrong is not None:
            self._problem("wrong", finished)

    def _problem(self, kind: str, finished: Finished) -> None:
        ending = finished.ending
        story = {
            "at_s": round(ending.sent_s - self.start_s, 2),
            "took_s": round(ending.took_s, 2),
            "timeout_s": round(finished.patience.timeout_s, 2),
            "ask": finished.ask.name,
            "sampling": dict(finished.ask.sampling),
            "n": finished.ask.n,
            "prompt_chars": len(finished.ask.prompt),
            "door": finished.door,
            "ended": ending.kind,
            "detail": ending.detail[:500],
            "continuations": ending.continuations,
            "wrong": finished.wrong,
        }
        print(f"{kind}: {json.dumps(story)}", file=sys.stderr, flush=True)
        if len(self.problems[kind]) < _KEPT:
            self.problems[kind].append(story)


@dataclass
class Quiet:
    """One pause in which everything was to be back at its baseline."""

    at_s: float
    after_s: float
    leftovers: list[str]


def main() -> int:
    """Exit status: 0 when all that must be zero was, 1 otherwise."""
    options = _options()
    print(f"seed {options.seed}", flush=True)
    run_dir = options.log_dir or Path(tempfile.mkdtemp(prefix="segue-soak-"))
    print(f"logs in {run_dir}", flush=True)
    model = options.model or ensure_embedded_model()
    report = asyncio.run(_stoppable(soak(model, run_dir, options)))
    figures = {name: value for name, value in report.items() if name not in {"samples", "answers_s", "faults"}}
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report) + "\n")
    if options.plot:
        plot_soak(report, options.plot)
    return 1 if any(report["must_be_zero"].values()) else 0


@dataclass
class Record:
    """All that a soak has seen; of use even if it was cut short."""

    tally: Tally = field(default_factory=Tally)
    samples: list[Sample] = field(default_factory=list)
    quiets: list[Quiet] = field(default_factory=list)
    deaths: list[tuple[float, str, str]] = field(default_factory=list)
    dropped: int = 0
    unsteady: int = 0
    broken: list[str] = field(default_factory=list)


async def soak(model: Path, run_dir: Path, options: argparse.Namespace) -> dict[str, Any]:
    record = Record()
    try:
        async with soak_cluster(model, run_dir) as cluster:
            record.deaths = cluster.lives.deaths
            if not await cluster.wait_ready(180.0):
                raise TimeoutError(f"the workers did not get ready; logs are in {run_dir}")
            async with _doors(cluster, model.name) as doors:
                known, record.unsteady = await undisturbed(doors, options.seed, options.asks)
                print(f"{len(known)} requests with undisturbed answers, {record.unsteady} left out", flush=True)
                record.tally = Tally()
                await _run(cluster, doors, known, options, record)
    except (
        ProcessDied,
        TimeoutError,
        RuntimeError,
        ExceptionGroup,
    ) as error:  # What was seen until then is still told.
        record.broken.append(f"{type(error).__name__}: {error}")
        print(record.broken[-1], file=sys.stderr)
    return _report(record, options)


async def _run(
    cluster: SoakCluster, doors: Doors, known: list[Known], options: argparse.Namespace, record: Record
) -> None:
    tally = record.tally
    clients = Clients(doors, known, options.clients, options.seed, tally.add)
    faults = tally.faults = Faults(cluster, random.Random(f"faults {options.seed}"), clients.cancel_all)
    end_s = tally.start_s + 60 * options.minutes
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(cluster, record.samples, tally.start_s), name="watch")
        loading = group.create_task(clients.run(), name="clients")
        while time.monotonic() < end_s:
            clients.going.set()
            # Router kills in the first half only: in the second its memory is to be seen over a long life.
            faults.kill_router = time.monotonic() < (tally.start_s + end_s) / 2
            await _disturb(faults, min(end_s, time.monotonic() + _QUIET_EVERY_S), options.every_s)
            await clients.quiet()
            record.quiets.append(quiet := await _settle(cluster, tally.start_s))
            record.dropped = clients.dropped
            print(f"{quiet.at_s:6.0f} s  {dict(tally.kinds)}  left over: {quiet.leftovers}", flush=True)
        await clients.stop()
        await loading
        watching.cancel()


def _report(record: Record, options: argparse.Namespace) -> dict[str, Any]:
    tally = record.tally
    return {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": {name: getattr(options, name) for name in ("seed", "minutes", "clients", "every_s", "asks")},
        "must_be_zero": {
            **{kind: len(stories) for kind, stories in tally.problems.items()},
            "leaks": sum(len(quiet.leftovers) for quiet in record.quiets),
            "broken": len(record.broken),
        },
        "broken": record.broken,
        "requests": sum(tally.kinds.values()) + record.dropped,
        "endings": dict(tally.kinds) | {"dropped all at once": record.dropped},
        "asks": dict(tally.asks),
        "doors": dict(tally.doors),
        "answers_continued": tally.continued,
        "fault_counts": tally.faults.counts() if tally.faults else {},
        "deaths": dict(Counter(name for _, name, _ in record.deaths)),
        "quiet_moments": [asdict(quiet) for quiet in record.quiets],
        "trends": [asdict(trend) for trend in trends(record.samples, warm_up_s=60.0, at_least_s=60.0)],
        "unsteady_asks": record.unsteady,
        "problems": tally.problems,
        "faults": tally.faults.log if tally.faults else [],
        "answers_s": tally.answers,
        "samples": [asdict(one) for one in record.samples],
    }


async def _disturb(faults: Faults, until_s: float, every_s: float) -> None:
    while (left_s := until_s - time.monotonic()) > 0:
        await asyncio.sleep(min(left_s, faults.draw.uniform(0.5, 1.5) * every_s))
        if time.monotonic() < until_s:
            await faults.inject()


async def _settle(cluster: SoakCluster, start_s: float) -> Quiet:
    """Nothing runs: wait for everybody to be back, then for what leases may still hold."""
    began_s = time.monotonic()
    left = [] if await cluster.wait_ready(_BACK_S) else ["a worker did not come back"]
    deadline_s = time.monotonic() + LEASE_S + 3.0
    while (held := await cluster.leftovers()) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(0.3)
    now_s = time.monotonic()
    return Quiet(round(now_s - start_s, 1), round(now_s - began_s, 1), left + held)


async def _watch(cluster: SoakCluster, samples: list[Sample], start_s: float) -> None:
    while True:
        samples += sample(cluster.pids(), time.monotonic() - start_s)
        await asyncio.sleep(_SAMPLE_S)


@asynccontextmanager
async def _doors(cluster: SoakCluster, model: str) -> AsyncIterator[Doors]:
    timeout = aiohttp.ClientTimeout(total=None)
    # A channel that lost its router is to look for the next one soon.
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    async with (
        aiohttp.ClientSession(cluster.http_url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(cluster.grpc_address, options=options) as channel,
    ):
        yield Doors(session, InferenceStub(channel), model)


async def _stoppable(work: Any) -> Any:
    """Run ``work``; SIGTERM cancels it, so that every block on the way out ends its processes."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await task
    raise SystemExit("stopped by a signal")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="of faults (30); starting and the undisturbed answers come first")
    add("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="printed; decides all but timing")
    add("--clients", type=int, default=6, help="requests at once (6)")
    add("--every-s", type=float, default=5.0, help="seconds from fault to fault, in the mean (5)")
    add("--asks", type=int, default=40, help="different requests (40)")
    add("--model", type=Path, help="folder of the model (default: the embedded one)")
    add("--log-dir", type=Path, help="the processes' logs (default: a new folder)")
    add("--json", type=Path, metavar="FILE", help="write everything to FILE")
    add("--plot", type=Path, metavar="FILE", help="draw memory, descriptors and answers into FILE (needs matplotlib)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
