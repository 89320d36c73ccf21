"""Scaling policies on a simulated fleet over a day of production traffic: GPU-hours, SLO attainment, goodput.

python benchmarks/scaling.py --traces DIR --json scaling.json --plot docs/figures/scaling.png --table table.md

DIR has mooncake_conversation.jsonl and azure_code_2023.csv (README.md says where from). No engine runs: the engines are
the simulated engine's timing model, llama-3.1-8b on H100.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pool as Processes
from pathlib import Path
from typing import Any

from scaling_study.fleet import Fleet
from scaling_study.rates import TICK_S
from scaling_study.report import markdown, plot
from scaling_study.scalers import Candidate, candidates
from scaling_study.traffic import Day, completions, conversations

from segue.engine.simulated.gpus import GPUS
from segue.engine.simulated.models import SHAPES
from segue.engine.simulated.timing import Timing

_SAMPLE_S = 60.0


@dataclass(frozen=True)
class Setup:
    traces: Path
    day: Day
    gpus: int


def run(setup: Setup, candidate: Candidate) -> dict[str, Any]:
    """One candidate through the day, and until its last request has ended."""
    traces = {
        "conversation": conversations(setup.traces / "mooncake_conversation.jsonl"),
        "code": completions(setup.traces / "azure_code_2023.csv"),
    }
    fleet = Fleet(Timing(GPUS["H100"], SHAPES["llama-3.1-8b"]), setup.gpus, candidate.prefill, candidate.decode)
    scaler = candidate.scaler()
    coming = deque(setup.day.arrivals(traces))
    requests = len(coming)
    look_s = sample_s = 0.0
    while fleet.now_s < setup.day.seconds:
        due = []
        while coming and coming[0].at_s <= fleet.now_s + TICK_S:
            due.append(coming.popleft())
        fleet.run_tick(due)
        if fleet.now_s >= look_s:
            look_s += scaler.interval_s
            scaler.look(fleet)
        if fleet.now_s >= sample_s:
            sample_s += _SAMPLE_S
            counts = {"prefill": len(fleet.present("prefill")), "decode": len(fleet.present("decode"))}
            fleet.outcome.samples.append({"at_s": fleet.now_s, **counts, "good": fleet.outcome.good})
    outcome = fleet.outcome
    gpu_hours = outcome.gpu_s / 3600
    return {
        "name": candidate.name,
        "requests": requests,
        "gpu_hours": gpu_hours,
        "attainment": outcome.good / requests,
        "late_first": outcome.late_first / requests,
        "slow": outcome.slow / requests,
        "unended": 1 - outcome.ended / requests,
        "good_per_gpu_hour": outcome.good / gpu_hours,
        "moves": outcome.moves,
        "samples": outcome.samples,
    }


def _by_number(job: tuple[Setup, int]) -> dict[str, Any]:
    setup, number = job
    return run(setup, candidates(setup.gpus)[number])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder with the traces")
    parser.add_argument("--from-json", type=Path, help="table and plot of an earlier run, without running it again")
    parser.add_argument("--gpus", type=int, default=16, help="how many there are")
    parser.add_argument("--hours", type=float, default=4.0, help="what a day is compressed to")
    parser.add_argument("--conversations", type=float, default=14.0, help="a second, at the peak in the evening")
    parser.add_argument("--code", type=float, default=70.0, help="completions a second, at the peak at noon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="candidates whose names have one of these in them: 7+5,Segue")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args(argv)
    setup = Setup(given.traces, Day(given.hours * 3600, given.conversations, given.code, seed=given.seed), given.gpus)
    if given.from_json:
        return _report(json.loads(given.from_json.read_text()), given)
    if given.traces is None:
        parser.error("--traces is missing: the folder with the traces")
    jobs = [
        (setup, number)
        for number, one in enumerate(candidates(setup.gpus))
        if any(part in one.name for part in given.only.split(","))
    ]
    results = []
    with Processes(given.processes) as processes:
        for result in processes.imap(_by_number, jobs):
            results.append(result)
            print(
                f"{result['name']:24} {result['gpu_hours']:6.1f} GPU-hours  attainment {result['attainment']:6.1%}  "
                f"late {result['late_first']:5.1%} slow {result['slow']:5.1%} unended {result['unended']:5.1%}  "
                f"{result['good_per_gpu_hour']:7.0f} good/GPU-hour",
                flush=True,
            )
    return _report({"settings": {"gpus": given.gpus, "day": asdict(setup.day)}, "results": results}, given)


def _report(report: dict[str, Any], given: argparse.Namespace) -> int:
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))
    if given.table:
        given.table.write_text(markdown(report["results"]))
    if given.plot:
        plot(report["results"], Day(**report["settings"]["day"]), given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
