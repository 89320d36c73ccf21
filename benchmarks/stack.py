"""The whole Segue stack against the stock one: same model, prompts and cores, in one run (see README.md).

python benchmarks/stack.py --rounds 3 --json result.json
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from comparison.machine import describe_machine
from comparison.peer import VERSION, ensure_vllm_router
from comparison.report import as_json, print_report
from comparison.results import SEGUE, STOCK, Results, Run
from comparison.servers import ServerFailedError
from comparison.stacks import Setup, Stack, segue_stack, stock_stack
from comparison.turns import OutOfTimeError, Plan, measure_in_turn
from rich.console import Console

_CACHE = Path.home() / ".cache" / "segue" / "bench"


def main() -> int:
    """Exit status: 0 when everything was measured, 1 when a part is missing or a request failed."""
    options = _options()
    # One way out, through the blocks that end the servers, whichever signal asks for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    plan = Plan(
        rounds=options.rounds,
        concurrencies=tuple(options.concurrent),
        requests_per_client=options.requests_per_client,
        prompt_words=options.prompt_words,
        output_tokens=options.output_tokens,
        seed=options.seed,
        time_limit_s=options.time_limit_s,
    )
    runs: list[Run] = []
    fault = None
    try:
        setup = Setup(
            model=_model(options),
            log_dir=options.log_dir,
            ready_limit_s=options.ready_limit_s,
            cache_gib=options.kv_cache_gib,
            dtype=options.dtype,
        )
        setup.log_dir.mkdir(parents=True, exist_ok=True)
        measure_in_turn(
            plan,
            _stacks(options),
            setup,
            runs.append,
            lambda line: console.print(line, highlight=False, soft_wrap=True),
        )
    except (ServerFailedError, OutOfTimeError, ValueError, RuntimeError, OSError) as error:
        fault = f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        fault = "stopped by a signal"
    if runs:
        _report(plan, options, runs, console)
    if fault:
        print(fault, file=sys.stderr)
    return 1 if fault or any(run.measurement.failures for run in runs) else 0


def _report(plan: Plan, options: argparse.Namespace, runs: list[Run], console: Console) -> None:
    settings = {
        **dataclasses.asdict(plan),
        "model": options.model.name if options.model else "embedded",
        "vllm_router": VERSION,
        "stock_args": options.stock_arg,
        "segue_args": options.segue_arg,
        "kv_cache_gib": options.kv_cache_gib,
        "dtype": options.dtype,
    }
    measured_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results = Results(tuple(runs), describe_machine(), settings, measured_at)
    print_report(results, console)
    if options.json:
        options.json.write_text(json.dumps(as_json(results), indent=2) + "\n")


def _model(options: argparse.Namespace) -> Path:
    if options.model:
        return Path(options.model).resolve(strict=True)
    from segue.engine.embedded_model import ensure_embedded_model

    return ensure_embedded_model()


def _stacks(options: argparse.Namespace) -> list[Stack]:
    stacks = []
    if options.only in (None, STOCK):
        stacks.append(stock_stack(ensure_vllm_router(options.peer_venv), options.stock_arg))
    if options.only in (None, SEGUE):
        stacks.append(segue_stack(shlex.split(options.segue_command), options.segue_arg))
    return stacks


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value

    return whole_number


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        help="folder of the model both serve (default: the embedded one, made if absent)",
    )
    add("--rounds", type=_whole_number(1, 20), default=3, help="turns of each stack (3)")
    add(
        "--concurrent",
        type=_whole_number(1, 64),
        nargs="+",
        default=[1, 4, 8],
        help="clients at once (1 4 8)",
    )
    add("--requests-per-client", type=_whole_number(1, 1000), default=8, help="at least 16 in all (8)")
    add("--prompt-words", type=_whole_number(1, 10_000), default=120, help="(120)")
    add("--output-tokens", type=_whole_number(2, 10_000), default=32, help="(32)")
    add("--seed", type=int, default=1, help="decides the prompts (1)")
    add("--only", choices=(STOCK, SEGUE), help="measure one stack, without ratios")
    add("--json", type=Path, metavar="FILE", help="also write everything to FILE")
    add(
        "--peer-venv",
        type=Path,
        default=_CACHE / f"vllm-router-{VERSION}",
        help="where vllm-router lives (%(default)s)",
    )
    add("--log-dir", type=Path, default=_CACHE / "logs", help="the servers' logs (%(default)s)")
    add("--dtype", default="float32", help="of both stacks, as vLLM names it (%(default)s)")
    add("--kv-cache-gib", type=_whole_number(1, 1024), default=1, help="KV cache of one engine (1)")
    add("--ready-limit-s", type=float, default=240.0, help="for a stack to come up (240)")
    add("--time-limit-s", type=float, default=1800.0, help="for the whole run (1800)")
    add("--segue-command", default=f"{Path(sys.executable).parent / 'segue'}", help="(%(default)s)")
    add("--segue-arg", action="append", default=[], help="one more argument for `segue up`; may be repeated")
    add(
        "--stock-arg",
        action="append",
        default=[],
        help="one more argument for both vLLM servers; may be repeated",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
