"""Stacks measured in turn, only one of them running at any time."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comparison.figures import measurement
from comparison.interference import OtherWork
from comparison.load import Target, apply_load
from comparison.prompts import make_prompts
from comparison.results import Run
from comparison.stacks import Setup, Stack


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, how much and how long."""

    rounds: int
    concurrencies: tuple[int, ...]
    requests_per_client: int
    prompt_words: int
    output_tokens: int
    seed: int
    time_limit_s: float

    def prompts(self, concurrency: int) -> tuple[str, ...]:
        """The prompts of one measurement: the same for both stacks and in every round."""
        # At least 16, so that a median at one client is one of something.
        count = max(16, concurrency * self.requests_per_client)
        return make_prompts(count, self.prompt_words, f"{self.seed}/{concurrency}")

    def warm_up_prompts(self, concurrency: int) -> tuple[str, ...]:
        """Other prompts than the measured ones, twice as many as clients."""
        return make_prompts(2 * concurrency, self.prompt_words, f"{self.seed}/{concurrency}/warm-up")


class OutOfTimeError(RuntimeError):
    """The run's time limit passed before everything was measured."""


def measure_in_turn(
    plan: Plan,
    stacks: Sequence[Stack],
    setup: Setup,
    record: Callable[[Run], None],
    say: Callable[[str], None],
) -> None:
    """Measure each stack once a round, one after the other, handing each run to ``record`` at once.

    An idle vLLM worker process spins at 100 %, so a stack that only waited would take cores from the other.
    Each is therefore started anew for its turn and ended after it, which also empties its prefix cache.

    Raises ``ServerFailedError`` when a stack does not come up or dies, ``ValueError`` when no request of a
    measurement was answered, ``OutOfTimeError`` past the plan's time limit. No process is left behind.
    """
    deadline_s = time.monotonic() + plan.time_limit_s
    for round_ in range(1, plan.rounds + 1):
        for stack in stacks:
            started_s = time.monotonic()
            with stack.up(setup) as base_url:
                ready_s = time.monotonic() - started_s
                say(f"round {round_} of {plan.rounds}, {stack.name}: ready in {ready_s:.0f} s")
                target = Target(base_url, _model_name(base_url), plan.output_tokens)
                for concurrency in plan.concurrencies:
                    if time.monotonic() > deadline_s:
                        raise OutOfTimeError(
                            f"not done after {plan.time_limit_s:.0f} s: allow more time or fewer rounds"
                        )
                    run = _measure(plan, stack.name, round_, concurrency, target)
                    record(run)
                    say(_one_line(run))


def _measure(plan: Plan, stack: str, round_: int, concurrency: int, target: Target) -> Run:
    apply_load(target, plan.warm_up_prompts(concurrency), concurrency)
    with OtherWork() as other_work:
        load = apply_load(target, plan.prompts(concurrency), concurrency)
    return Run(measurement(stack, round_, concurrency, load, other_work.cores), load.samples)


def _model_name(base_url: str) -> str:
    """The stack's own name for the one model it serves."""
    with urllib.request.urlopen(f"{base_url}/v1/models", timeout=10) as response:
        return str(json.load(response)["data"][0]["id"])


def _one_line(run: Run) -> str:
    m, f = run.measurement, run.measurement.figures
    return (
        f"  {m.concurrency} concurrent: {f.tokens_per_s:.0f} tokens/s, TTFT p50 {f.ttft_p50_ms:.0f} ms, "
        f"ITL {f.itl_mean_ms:.1f} ms, {m.failures} of {m.requests} failed, "
        f"other work {m.other_cpu_cores:.2f} cores"
    )
