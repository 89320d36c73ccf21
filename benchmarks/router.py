"""What a router costs on the path of a token: Segue's beside others', one machine, one run, in turns.

python benchmarks/router.py --peers --json router.json

Each front is started in turn, with what stands behind it giving every stream a token at one cadence. Clients are a
process of their own. See benchmarks/README.md for what is measured and docs/performance.md for results.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparison.machine import describe_machine
from comparison.servers import ServerFailedError
from front.client import ClientFailedError
from front.counted import Ask
from front.fronts import MODEL_NAME, NO_FRONT, SEGUE, FrontKind, Setup, dynamo, smg, vllm_router
from front.measure import Front, Load, Requests, Streaming, measure_requests, measure_streaming, median_of
from front.report import table
from front.venvs import DYNAMO, SMG, VLLM_ROUTER, NotInstalledError

from segue.engine.embedded_model import ensure_embedded_model

_ENDLESS_TOKENS = 100_000
_REQUEST_STREAMS, _REQUEST_TOKENS = 8, 2
_APIS = ("http", "grpc", "session")


def main() -> int:
    """Exit status: 0 if every front that was asked for could be measured, 1 otherwise."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loads = [_load(text) for text in options.loads]
    kinds, failures = _fronts(options)
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # Inherited by all that is started.
    samples: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
    for number in range(options.rounds):
        for load in loads:
            for name, kind in kinds.items():
                print(f"round {number + 1}: {name} at {load}", file=sys.stderr, flush=True)
                try:
                    _measure(kind(load), load, options, samples)
                except (ServerFailedError, ClientFailedError) as error:
                    failures[f"{name} at {load}"] = str(error)[-800:]
    rows = [
        {"front": front, "api": api, "load": load, **{what: median_of(rounds) for what, rounds in found.items()}}
        for (front, api, load), found in samples.items()
    ]
    report = {"machine": describe_machine(), "seconds": options.seconds, "rounds": options.rounds, "rows": rows}
    report["failures"] = failures
    print(table(rows, [str(load) for load in loads]))
    for name, why in failures.items():
        print(f"not measured: {name}: {why}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if failures else 0


def _measure(
    kind: FrontKind, load: Load, options: argparse.Namespace, samples: dict[tuple[str, str, str], dict[str, list[Any]]]
) -> None:
    """One start of one front. Raises ServerFailedError or ClientFailedError."""
    log_dir = Path(tempfile.mkdtemp(prefix="segue-router-"))
    setup = Setup(options.model or ensure_embedded_model(), load.cadence_ms, log_dir, options.processes)
    with kind.up(setup) as running:
        front = Front(running.pid or None)
        for api in _APIS if running.grpc_port else ("http",):
            port = running.http_port if api == "http" else running.grpc_port
            ask = Ask(api, port, MODEL_NAME, load.streams, _ENDLESS_TOKENS)
            few = Ask(api, port, MODEL_NAME, _REQUEST_STREAMS, _REQUEST_TOKENS)
            streaming: Streaming = measure_streaming(front, ask, options.seconds)
            requests: Requests = measure_requests(front, few, options.seconds / 2)
            found = samples.setdefault((kind.name, api, str(load)), {"streaming": [], "requests": []})
            found["streaming"].append(streaming)
            found["requests"].append(requests)
            print(json.dumps({"api": api, **asdict(streaming), **asdict(requests)}), file=sys.stderr, flush=True)


def _fronts(options: argparse.Namespace) -> tuple[dict[str, Callable[[Load], FrontKind]], dict[str, str]]:
    """What is to be measured, and why what was asked for can't be. Dynamo's pace has to be found first."""
    kinds: dict[str, Callable[[Load], FrontKind]] = {"segue": lambda load: SEGUE, "none": lambda load: NO_FRONT}
    failures: dict[str, str] = {}
    for peer in (VLLM_ROUTER, SMG, DYNAMO):
        try:
            bin_dir = peer.ensure(options.venvs, install=options.peers)
        except NotInstalledError as error:
            if options.peers:
                failures[peer.name] = str(error)
            continue
        kinds[peer.name] = _peer(peer.name, bin_dir, options)
    wanted = options.only or list(kinds)
    return {name: kinds[name] for name in wanted if name in kinds}, failures


def _peer(name: str, bin_dir: Path, options: argparse.Namespace) -> Callable[[Load], FrontKind]:
    if name == "vllm-router":
        return lambda load: vllm_router(bin_dir / "vllm-router")
    if name == "smg":
        return lambda load: smg(bin_dir / "smg")
    ratios: dict[Load, float] = {}

    def paced(load: Load) -> FrontKind:
        if load not in ratios:
            samples: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
            _measure(dynamo(bin_dir / "python", 1.0), load, options, samples)
            ((streaming,),) = (found["streaming"] for found in samples.values())
            ratios[load] = 1e3 * load.streams / streaming.tokens_per_s / load.cadence_ms
        return dynamo(bin_dir / "python", ratios[load])

    return paced


def _load(text: str) -> Load:
    streams, _, cadence_ms = text.partition(":")
    return Load(int(streams), float(cadence_ms))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--peers", action="store_true", help="make the peers' environments where they are absent")
    venvs = Path.home() / ".cache" / "segue" / "bench"
    parser.add_argument("--venvs", type=Path, default=venvs, help="where the peers' environments are")
    parser.add_argument("--only", action="append", help="segue, none, vllm-router, smg or dynamo; several times")
    loads = ["64:5", "256:20"]
    parser.add_argument("--loads", nargs="+", default=loads, metavar="STREAMS:MS", help="and ms between their tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="of streaming that are measured, and half for requests"
    )
    parser.add_argument("--processes", type=int, default=1, help="router processes of Segue")
    parser.add_argument("--model", type=Path, help="for Segue's and Dynamo's tokenizer; default: the embedded one")
    realtime = "run everything before what else runs here (needs root): for machines that others use too"
    parser.add_argument("--realtime", action="store_true", help=realtime)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
