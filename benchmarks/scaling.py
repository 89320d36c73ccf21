"""Scaling policies on a simulated fleet over a day of production traffic: GPU-hours, SLO attainment, goodput.

python benchmarks/scaling.py --conversation mooncake_conversation.jsonl --code azure_code_2023.csv \\
    --json study.json --docs

The traces are not in the repository; docs/scaling.md says where from and what is taken from them. No engine runs: the
engines are the simulated engine's timing model, llama-3.1-8b on H100. What the JSON files, one a shape, have is not run
again, so that a study that was cut off goes on; --docs puts tables and plots of them into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reliability.tables import between
from scaling_study.day import SHAPE_NAMES, Day, Shape, Traces
from scaling_study.report import markdown, plot
from scaling_study.study import Report, Settings, Study, read, write
from scaling_study.traffic import completions, conversations

_DOCS = Path(__file__).parents[1] / "docs"
# So that 16 GPUs are enough for the peaks of either.
_COMPLETIONS_PER_S: dict[Shape, float] = {"curve": 30.0, "recorded": 20.0}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversation", type=Path, required=True, help="Mooncake's trace")
    parser.add_argument("--code", type=Path, required=True, help="Azure's trace")
    parser.add_argument("--json", type=Path, required=True, help="what was run, NAME-SHAPE.json; gone on with")
    parser.add_argument("--docs", action="store_true", help="put table and plot into docs/scaling.md")
    parser.add_argument("--shape", choices=("both", *SHAPE_NAMES), default="both", help="when requests come")
    parser.add_argument("--gpus", type=int, default=16, help="how many there are")
    parser.add_argument("--hours", type=float, default=1.0, help="what a day is compressed to")
    parser.add_argument("--conversations-per-s", type=float, default=7.0, help="mean over the day")
    parser.add_argument("--completions-per-s", type=float, help="mean over the day; else 30, recorded ones 20")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reach", type=float, default=0.05, help="splits so near the best are run for every seed")
    given = parser.parse_args(argv)
    traces: Traces = {"conversation": conversations(given.conversation), "code": completions(given.code)}
    for shape in SHAPE_NAMES:
        if given.shape in ("both", shape):
            _study(given, shape, traces)
    return 0


def _study(given: argparse.Namespace, shape: Shape, traces: Traces) -> None:
    day = Day(
        given.hours * 3600, shape, given.conversations_per_s, given.completions_per_s or _COMPLETIONS_PER_S[shape]
    )
    settings = Settings(given.gpus, day, given.seeds, given.reach)
    file = given.json.with_stem(f"{given.json.stem}-{shape}")
    report = _begun(file, settings)
    Study(report, traces, lambda known: write(known, file), lambda line: print(line, flush=True)).run()
    if given.docs:
        figure = f"scaling-{shape}.png"
        plot(report, traces, _DOCS / "figures" / figure)
        page = _DOCS / "scaling.md"
        text = f"{markdown(report)}\n![workers over the day](figures/{figure})"
        page.write_text(between(page.read_text(), f"study {shape}", text))


def _begun(file: Path, settings: Settings) -> Report:
    if not file.exists():
        return Report(settings)
    known = read(file)
    known.settings = replace(known.settings, seeds=settings.seeds)  # More can be run, or fewer shown.
    if known.settings != settings:
        sys.exit(f"{file} has a study of {known.settings}, and {settings} was asked for: name another file")
    return known


if __name__ == "__main__":
    sys.exit(main())
