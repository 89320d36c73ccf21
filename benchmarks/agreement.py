"""`segue loadtest` against aiperf: the same server, the same workload, in turns; prints ours over theirs.

aiperf is installed by whoever runs this, in a virtual environment of its own: `pip install aiperf`, and its command
named with --aiperf.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from comparison.interference import OtherWork
from comparison.servers import Server, free_ports, stop_all

INPUT_TOKENS, OUTPUT_TOKENS, WARM_UP_REQUESTS = 512, 64, 8


@dataclass(frozen=True, slots=True)
class Loop:
    """``concurrency`` clients, or ``rate`` requests a second evenly spaced."""

    concurrency: int = 0
    rate: float = 0.0
    requests: int = 100

    def __str__(self) -> str:
        return f"{self.concurrency} clients" if self.concurrency else f"{self.rate:g} requests/s"


LOOPS = (Loop(concurrency=4), Loop(concurrency=16, requests=160), Loop(rate=6.0))


@dataclass(frozen=True, slots=True)
class Figures:
    """What both tools report; milliseconds."""

    ttft_mean: float
    ttft_p50: float
    ttft_p90: float
    itl_mean: float
    itl_p50: float
    itl_p90: float
    gap_p50: float
    gap_p99: float
    end_to_end_mean: float
    end_to_end_p50: float
    end_to_end_p90: float
    requests_per_s: float
    output_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Bench:
    """The server, and how the two tools are called."""

    url: str
    model: str
    tokenizer: str
    segue: tuple[str, ...]
    aiperf: tuple[str, ...]
    scratch: Path


def ours(bench: Bench, loop: Loop, seed: int) -> Figures:
    """Raises CalledProcessError with what the tool said."""
    result = bench.scratch / "segue.json"
    pace = (
        ["--concurrency", str(loop.concurrency)]
        if loop.concurrency
        else ["--rate", f"{loop.rate:g}", "--arrivals", "constant"]
    )
    command = [
        *(*bench.segue, "loadtest", bench.url, *pace, "--as-text", "--tokenizer", bench.tokenizer),
        *("--input-tokens", str(INPUT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS), "--seed", str(seed)),
        *("--requests", str(loop.requests + WARM_UP_REQUESTS), "--warm-up-requests", str(WARM_UP_REQUESTS)),
        # A busy machine slows both tools alike; whether it did is in the figures.
        *("--max-lag-ms", "10000", "--json", str(result)),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    total = json.loads(result.read_text())["summary"]["total"]
    ms = {
        f"{name}_{key}": 1000 * total[f"{name}_s"][key]
        for name, keys in (("ttft", "mean p50 p90"), ("itl", "mean p50 p90"), ("gap", "p50 p99"))
        for key in keys.split()
    }
    end_to_end = {f"end_to_end_{key}": 1000 * total["end_to_end_s"][key] for key in ("mean", "p50", "p90")}
    return Figures(
        **ms,
        **end_to_end,
        requests_per_s=total["requests_per_s"],
        output_tokens_per_s=total["output_tokens_per_s"],
    )


def theirs(bench: Bench, loop: Loop, seed: int) -> Figures:
    """Raises CalledProcessError with what the tool said."""
    artifacts = bench.scratch / "aiperf"
    pace = (
        ["--concurrency", str(loop.concurrency)]
        if loop.concurrency
        else ["--request-rate", f"{loop.rate:g}", "--arrival-pattern", "constant"]
    )
    command = [
        *(*bench.aiperf, "profile", "--model", bench.model, "--url", bench.url, *pace),
        *("--endpoint-type", "completions", "--streaming", "--use-legacy-max-tokens", "--use-server-token-count"),
        *("--tokenizer", bench.tokenizer, "--isl", str(INPUT_TOKENS), "--osl", str(OUTPUT_TOKENS)),
        *("--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0", "--random-seed", str(seed)),
        *("--request-count", str(loop.requests), "--warmup-request-count", str(WARM_UP_REQUESTS)),
        *("--no-server-metrics", "--no-gpu-telemetry", "--ui", "none", "--workers-max", "1"),
        *("--output-artifact-dir", str(artifacts), "--log-level", "warning"),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    told = json.loads((artifacts / "profile_export_aiperf.json").read_text())
    ttft, itl, gap, whole = (
        told[name] for name in ("time_to_first_token", "inter_token_latency", "inter_chunk_latency", "request_latency")
    )
    return Figures(
        *(ttft["avg"], ttft["p50"], ttft["p90"]),
        *(itl["avg"], itl["p50"], itl["p90"]),
        *(gap["p50"], gap["p99"]),
        *(whole["avg"], whole["p50"], whole["p90"]),
        told["request_throughput"]["avg"],
        told["output_token_throughput"]["avg"],
    )


@contextmanager
def simulated_cluster(segue: Sequence[str], speed: float, scratch: Path) -> Iterator[str]:
    """Its URL while it is up. Slow motion makes what is measured large against the machine's own noise."""
    [port] = free_ports(1)
    command = [
        *(*segue, "simulate", "--prefill", "1", "--decode", "1", "--port", str(port)),
        *("--simulated-speed", f"{speed:g}", "--log-dir", str(scratch / "segue")),
    ]
    server = Server("segue simulate", command, {}, scratch / "simulate.log")
    try:
        server.wait_ready(f"http://127.0.0.1:{port}/readyz", time.monotonic() + 180)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_all([server], 20.0)


def table(pairs: Sequence[tuple[Figures, Figures]]) -> list[str]:
    """Medians over the rounds, and the ratios' median and extremes."""
    lines = ["| figure | segue | aiperf | ratio | lowest to highest |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in asdict(pairs[0][0]):
        mine = [float(getattr(pair[0], name)) for pair in pairs]
        other = [float(getattr(pair[1], name)) for pair in pairs]
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        lines.append(
            f"| {name.replace('_', ' ')} | {statistics.median(mine):.1f} | {statistics.median(other):.1f} "
            f"| {statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
        )
    return lines


def measure(bench: Bench, rounds: int) -> None:
    for loop in LOOPS:
        pairs = []
        with OtherWork() as other:
            for round_ in range(rounds):
                # Who goes first changes, in case what comes second fares better.
                first, second = (ours, theirs) if round_ % 2 == 0 else (theirs, ours)
                one, two = first(bench, loop, round_), second(bench, loop, round_)
                pairs.append((one, two) if first is ours else (two, one))
        print(f"\n{loop}, {rounds} rounds of {loop.requests} requests; other work {other.cores:.2f} cores\n")
        print("\n".join(table(pairs)), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aiperf", required=True, help="its command")
    parser.add_argument("--segue", default=f"{Path(sys.executable).parent / 'segue'}", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--speed", type=float, default=0.3, help="of the simulated hardware (0.3)")
    options = parser.parse_args()
    from segue.engine.embedded_model import ensure_embedded_model
    from segue.loadtest.target.discover import served_model

    segue = tuple(shlex.split(options.segue))
    with (
        tempfile.TemporaryDirectory() as folder,
        simulated_cluster(segue, options.speed, Path(folder)) as url,
    ):
        model = served_model(url, "completions", "", ())
        tokenizer = str(ensure_embedded_model())
        aiperf = tuple(shlex.split(options.aiperf))
        try:
            measure(Bench(url, model, tokenizer, segue, aiperf, Path(folder)), options.rounds)
        except subprocess.CalledProcessError as error:
            print(f"{shlex.join(error.cmd)} ended with {error.returncode}:\n{error.stdout}\n{error.stderr}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
