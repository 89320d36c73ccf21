"""What a cluster does when it is offered ten times what it can do: goodput kept, refusals' latency, recovery.

python benchmarks/overload.py --json overload.json --plot overload.png
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparison.machine import describe_machine
from comparison.servers import ServerFailedError
from reliability.client import Outcome, Rate, Target, closed_loop, open_loop
from reliability.cluster import Cluster, cpu_seconds, prefer, segue_up
from reliability.goodput import Slo, by_second, goodput_per_s, last_refusal_s, seconds_json, summary
from reliability.plots import plot_overload

from segue.engine.embedded_model import ensure_embedded_model

_WARM_S = 2.0  # Of each load, before which nothing counts.
_MAX_REQUESTS = 20_000
_RECOVERY_S = 8.0
_RECOVERED_S = 2.0  # Of which what was taken before the drop holds up newcomers for --max-queue-s.


def main() -> int:
    """Exit status: 0 when everything that must hold held, 1 otherwise."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log_dir = options.log_dir or Path(tempfile.mkdtemp(prefix="segue-overload-"))
    args = [
        *("--max-queue-s", f"{options.max_queue_s:g}"),
        *("--decode-engine-arg", f"max_num_seqs={options.places}"),
        *("--kv-cache-gib", "1"),
    ]
    if options.simulated:
        args += ["--engine", "simulated", "--simulated-gpu", options.simulated]
    try:
        with segue_up(options.model or ensure_embedded_model(), log_dir, args) as cluster:
            report = measure(cluster, options)
    except (ServerFailedError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({name: value for name, value in report.items() if "second" not in name}, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.plot:
        plot_overload(report, options.plot)
    problems = failures(report)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def measure(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    target = Target(
        cluster.http_url, cluster.model, options.prompt_words, options.output_tokens, 60.0, options.output_spread
    )
    slo = Slo(options.slo_ttft_s, options.slo_itl_s, options.output_tokens)
    router = cluster.pids()["router"]
    # Routers and clients have cores of their own where it matters; here they share two with the engines.
    raised = prefer(router) and prefer(os.getpid())
    closed_loop(target, 4, 3.0, "warm")
    levels = [_level(target, slo, clients, options, router) for clients in options.clients]
    best = max(levels, key=lambda level: level["goodput_per_s"])

    peak_per_s = best["goodput_per_s"]
    overload_s = min(options.overload_s, _MAX_REQUESTS / (options.factor * peak_per_s))
    rates = (Rate(options.factor * peak_per_s, overload_s), Rate(0.5 * peak_per_s, _RECOVERY_S))
    used_s = cpu_seconds(router)
    outcomes = open_loop(target, rates, f"overload {options.seed}")
    used_s = cpu_seconds(router) - used_s

    left = cluster.settle(within_s=5.0)
    again = _level(target, slo, best["clients"], options, router)
    end_s = overload_s + _RECOVERY_S
    return {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": {
            name: getattr(options, name)
            for name in ("factor", "seed", "prompt_words", "output_tokens", "output_spread", "max_queue_s", "places")
        }
        | {"router_and_client_preferred": raised},
        "slo": asdict(slo),
        "levels": levels,
        # The mean of before and after: the machine's cores may be shared with other work that comes and goes.
        "peak": best | {"again_per_s": again["goodput_per_s"]},
        "overload": summary(outcomes, slo, _WARM_S, overload_s),
        "goodput_ratio": goodput_per_s(outcomes, slo, _WARM_S, overload_s)
        / ((peak_per_s + again["goodput_per_s"]) / 2),
        "recovery": summary(outcomes, slo, overload_s, end_s),
        "recovery_first_second": seconds_json(by_second(outcomes, slo, overload_s, overload_s + 1)),
        "recovery_last_refusal_s": last_refusal_s(outcomes, overload_s),
        "router_cpu": _router_cpu(used_s, outcomes, best),
        "leftovers": left,
        "lease_expiries": _lease_expiries(cluster),
        "by_second": seconds_json(by_second(outcomes, slo, 0.0, end_s)),
        "goodput_by_second": [goodput_per_s(outcomes, slo, n, n + 1) for n in range(int(end_s))],
    }


def failures(report: dict[str, Any]) -> list[str]:
    """Which of the things that must hold did not."""
    overload, recovery = report["overload"], report["recovery"]
    checks = [
        (report["goodput_ratio"] >= 0.9, f"goodput fell to {report['goodput_ratio']:.2f} of its peak"),
        (overload["refused_within_50_ms"] >= 0.99, f"refusals took up to {overload['refusal_ms']} ms"),
        (not overload["refused_without_retry_after"], "refusals came without Retry-After"),
        (not (overload["other_errors"] or recovery["other_errors"]), "requests failed otherwise than by a refusal"),
        (
            report["recovery_last_refusal_s"] <= _RECOVERED_S,
            f"requests were refused until {report['recovery_last_refusal_s']:.1f} s after the overload",
        ),
        (not report["leftovers"], f"left over: {report['leftovers']}"),
        (not (overload["recomputed"] or report["lease_expiries"]), "KV caches were lost in the queue for decode"),
    ]
    return [problem for holds, problem in checks if not holds]


def _level(target: Target, slo: Slo, clients: int, options: argparse.Namespace, router: int) -> dict[str, Any]:
    used_s = cpu_seconds(router)
    # The clock in the seed: a level that is measured again must not find its prompts in a cache.
    outcomes = closed_loop(target, clients, options.level_s, f"level {clients} {options.seed} {time.monotonic()}")
    used_s = cpu_seconds(router) - used_s
    answered = sum(outcome.answered for outcome in outcomes)
    return {
        "clients": clients,
        **summary(outcomes, slo, _WARM_S, options.level_s),
        "router_ms_per_answer": 1000 * used_s / max(1, answered),
    }


def _router_cpu(used_s: float, outcomes: Sequence[Outcome], best: dict[str, Any]) -> dict[str, float]:
    """The router's processor time under overload; what answers don't account for at the peak's price is refusals'."""
    refused = sum(outcome.refused for outcome in outcomes)
    answered = sum(outcome.answered for outcome in outcomes)
    refusals_s = max(0.0, used_s - answered * best["router_ms_per_answer"] / 1000)
    return {
        "seconds": used_s,
        "ms_per_answer_at_the_peak": best["router_ms_per_answer"],
        "ms_per_refusal": 1000 * refusals_s / max(1, refused),
    }


def _lease_expiries(cluster: Cluster) -> int:
    """Offers of prefill workers that nobody claimed or renewed in time."""
    logs = [(cluster.log_dir / f"{worker}.log").read_text(errors="replace") for worker in cluster.workers]
    return sum(log.count("offer_expired") for log in logs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, help="folder of the model (default: the embedded one)")
    add("--simulated", metavar="GPU", help="simulated engines of this preset instead of real ones")
    add("--factor", type=float, default=10.0, help="times the peak that is offered (10)")
    add("--clients", type=int, nargs="+", default=[16, 32, 48], help="closed loops to find the peak (16 32 48)")
    add("--level-s", type=float, default=12.0, help="seconds of each closed loop (12)")
    add("--overload-s", type=float, default=25.0, help="seconds of overload (25)")
    add("--prompt-words", type=int, default=200, help="(200)")
    add("--output-tokens", type=int, default=128, help="(128)")
    add("--output-spread", type=float, default=0.5, help="part of it by which answers are shorter or longer (0.5)")
    add("--max-queue-s", type=float, default=1.0, help="the router's bound on a predicted wait (1)")
    add("--places", type=int, default=32, help="requests in one step of the decode engine, max_num_seqs (32)")
    add("--slo-ttft-s", type=float, default=2.0, help="(2)")
    add("--slo-itl-s", type=float, default=0.1, help="mean of a request (0.1)")
    add("--seed", type=int, default=1, help="decides prompts and arrivals (1)")
    add("--log-dir", type=Path, help="the processes' logs (default: a new folder)")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    add("--plot", type=Path, metavar="FILE", help="draw them into FILE (needs matplotlib)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
