"""Running chats while long prompts arrive: Segue's two pools against two aggregated vLLM servers, on the same cores.

Chats run in a closed loop, first alone, then while long prompts arrive at a constant rate. What counts is the time
between a chat's tokens: an engine that computes a long prompt in the same steps makes them wait. The stacks take turns;
each is started anew and only one runs at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from comparison.interference import OtherWork
from comparison.stacks import Setup, aggregated_servers, segue_stack

from segue.engine.embedded_model import ensure_embedded_model
from segue.loadtest.generator.run import Generator, Pace
from segue.loadtest.measure.distribution import Distribution
from segue.loadtest.measure.outcome import Outcome
from segue.loadtest.plan import Door, Plan, open_target
from segue.loadtest.target.base import Ask, Clock, Target
from segue.loadtest.target.discover import served_model
from segue.loadtest.workload.arrivals import at_once, constant
from segue.loadtest.workload.lengths import Lengths
from segue.loadtest.workload.requests import Synthetic, synthetic
from segue.loadtest.workload.shape import RequestShape

SEGUE, AGGREGATED = "segue", "aggregated"
# Requests are made here, not by the plan.
NOTHING = Synthetic(Lengths("fixed", 1), Lengths("fixed", 1))


@dataclass(frozen=True, slots=True)
class Load:
    """Chats at once, and how long and how often the long prompts are."""

    chats: int
    chat_tokens: tuple[int, int]  # Of prompt and answer.
    long_tokens: int
    long_every_s: float
    quiet_s: float
    noisy_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One stack's figures in one round; milliseconds. ``gap``: between two chunks of a chat."""

    stack: str
    round_: int
    quiet_gap_p50: float
    quiet_gap_p99: float
    gap_p50: float
    gap_p99: float
    gap_p999: float
    gap_max: float
    chat_ttft_p50: float
    chat_ttft_p99: float
    long_ttft_p50: float
    chat_tokens_per_s: float
    chats: int
    long_prompts: int
    failures: int
    other_cpu_cores: float


class Alternating:
    """Several servers as one target, request by request in turn."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets

    def prepare(self, shape: RequestShape) -> Any:
        target = self._targets[shape.index % len(self._targets)]
        return target, target.prepare(shape)

    async def send(self, prepared: Any, outcome: Outcome, clock: Clock) -> None:
        target, request = prepared
        await target.send(request, outcome, clock)

    async def close(self) -> None:
        for target in self._targets:
            await target.close()


def requests(tokens: tuple[int, int], arrivals: Iterator[float], seed: int) -> Iterator[RequestShape]:
    prompt, answer = tokens
    return synthetic(Synthetic(Lengths("fixed", prompt), Lengths("fixed", answer)), arrivals, seed)


async def one_turn(urls: Sequence[str], load: Load, seed: int) -> tuple[list[Outcome], list[Outcome], list[Outcome]]:
    """Quiet chats, chats among long prompts, long prompts."""
    model = served_model(urls[0], "completions", "", ())
    ask = Ask(model, timeout_s=120.0)
    # Prompts differ by their seed: a prefix cache must not spare the work that is to be seen.
    plans = [
        [
            Plan(Door(url), ask, Synthetic(Lengths("fixed", 1), Lengths("fixed", 1)), None, Pace(1), seed=s)
            for url in urls
        ]
        for s in (seed, seed + 1, seed + 2, seed + 3)
    ]
    warm, quiet, noisy, long_ = (Alternating([open_target(plan) for plan in group]) for group in plans)
    chat = Pace(concurrency=load.chats, max_duration_s=load.quiet_s, drain_s=60)
    try:
        warming = islice(requests((load.long_tokens, 4), at_once(), seed), 2 * len(urls))
        await Generator(warm, Pace(concurrency=1)).run(warming, time.monotonic, _ignore)
        chats = requests(load.chat_tokens, at_once(), seed)
        quiet_outcomes, _ = await Generator(quiet, chat).run(chats, time.monotonic, _ignore)
        # Requests are made before a loop starts: no more than can be sent, and both loops start when all are made.
        enough = islice(requests(load.chat_tokens, at_once(), seed), math.ceil(20 * load.chats * load.noisy_s))
        arrivals = (2 + at_s for at_s in constant(1 / load.long_every_s))
        long_prompts = islice(
            requests((load.long_tokens, 1), arrivals, seed), math.ceil(load.noisy_s / load.long_every_s)
        )
        loud = Pace(concurrency=load.chats, max_duration_s=load.noisy_s, drain_s=60)
        start_s = time.monotonic() + 3.0
        (noisy_outcomes, _), (long_outcomes, _) = await asyncio.gather(
            Generator(noisy, loud).run(enough, lambda: start_s, _ignore),
            Generator(long_, Pace(max_duration_s=load.noisy_s, drain_s=60)).run(long_prompts, lambda: start_s, _ignore),
        )
    finally:
        for target in (warm, quiet, noisy, long_):
            await target.close()
    return quiet_outcomes, noisy_outcomes, long_outcomes


def _ignore(_: object) -> None:
    """Nobody watches."""


def figures(stack: str, round_: int, turn: tuple[list[Outcome], list[Outcome], list[Outcome]], other: float) -> Turn:
    quiet, noisy, long_ = turn
    gaps_ms, quiet_gaps_ms = (
        [1000 * gap_s for one in outcomes if one.ok for gap_s in one.gaps_s] for outcomes in (noisy, quiet)
    )
    gaps, quiet_gaps = Distribution.of(gaps_ms), Distribution.of(quiet_gaps_ms)
    ttft = Distribution.of([1000 * one.ttft_s for one in noisy if one.ok])
    span_s = max(one.end_s for one in noisy)
    return Turn(
        stack=stack,
        round_=round_,
        quiet_gap_p50=quiet_gaps.p50,
        quiet_gap_p99=quiet_gaps.p99,
        gap_p50=gaps.p50,
        gap_p99=gaps.p99,
        gap_p999=float(np.percentile(gaps_ms, 99.9)),
        gap_max=gaps.max,
        chat_ttft_p50=ttft.p50,
        chat_ttft_p99=ttft.p99,
        long_ttft_p50=Distribution.of([1000 * one.ttft_s for one in long_ if one.ok]).p50,
        chat_tokens_per_s=sum(one.output_tokens for one in noisy if one.ok) / span_s,
        chats=len(noisy),
        long_prompts=len(long_),
        failures=sum(not one.ok for outcomes in turn for one in outcomes),
        other_cpu_cores=other,
    )


@contextmanager
def up(stack: str, setup: Setup, segue_command: Sequence[str], disaggregation: str) -> Iterator[list[str]]:
    if stack == SEGUE:
        with segue_stack(segue_command, ("--disaggregation", disaggregation)).up(setup) as url:
            yield [url]
    else:
        # Not compiled, as Segue's engines on CPU are not: what differs is who computes prompts.
        with aggregated_servers(setup, ["--enforce-eager"]) as urls:
            yield urls


def table(turns: Sequence[Turn]) -> list[str]:
    """Medians over the rounds; the ratio is Segue's over the other's within a round, its median and extremes."""
    lines = [
        "| figure | aggregated | segue | segue / aggregated | lowest to highest |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    by_stack = {name: {turn.round_: turn for turn in turns if turn.stack == name} for name in (SEGUE, AGGREGATED)}
    rounds = sorted(by_stack[SEGUE].keys() & by_stack[AGGREGATED].keys())
    for name in list(asdict(turns[0]))[2:-4]:
        mine = [float(getattr(by_stack[SEGUE][round_], name)) for round_ in rounds]
        other = [float(getattr(by_stack[AGGREGATED][round_], name)) for round_ in rounds]
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        lines.append(
            f"| {name.replace('_', ' ')} | {statistics.median(other):.1f} | {statistics.median(mine):.1f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    return lines


def main() -> int:
    options = _options()
    # A plain SIGTERM would leave vLLM's servers behind: they ignore one while they start.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = Load(options.chats, (64, 96), options.long_tokens, options.long_every_s, options.quiet_s, options.noisy_s)
    options.log_dir.mkdir(parents=True, exist_ok=True)
    command = shlex.split(options.segue_command)
    setup = Setup(ensure_embedded_model(), options.log_dir, 300.0, 1, "float32")
    turns = [Turn(**one) for one in json.loads(options.json.read_text())] if options.json.exists() else []
    first = max((turn.round_ for turn in turns), default=0) + 1
    for round_ in range(first, first + options.rounds):
        order = (SEGUE, AGGREGATED) if round_ % 2 else (AGGREGATED, SEGUE)
        for stack in order:
            with up(stack, setup, command, options.disaggregation) as urls, OtherWork() as other:
                outcomes = asyncio.run(one_turn(urls, load, 1000 * round_))
            turns.append(figures(stack, round_, outcomes, other.cores))
            print(turns[-1], flush=True)
            options.json.write_text(json.dumps([asdict(turn) for turn in turns], indent=1) + "\n")
    print("\n".join(table(turns)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="more of them, added to those in --json (1)")
    parser.add_argument("--chats", type=int, default=4, help="at once (4)")
    parser.add_argument("--long-tokens", type=int, default=3800, help="of a long prompt (3800)")
    parser.add_argument("--long-every-s", type=float, default=3.0, help="(3)")
    parser.add_argument("--disaggregation", default="auto", help="as the router takes it (auto)")
    parser.add_argument("--quiet-s", type=float, default=10.0, help="chats alone (10)")
    parser.add_argument("--noisy-s", type=float, default=30.0, help="chats among long prompts (30)")
    parser.add_argument(
        "--json", type=Path, default=Path("interference.json"), help="where turns are kept (%(default)s)"
    )
    parser.add_argument("--log-dir", type=Path, default=Path.home() / ".cache/segue/bench/logs", help="(%(default)s)")
    parser.add_argument("--segue-command", default=f"{Path(sys.executable).parent / 'segue'}", help="(%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
