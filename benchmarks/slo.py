"""Classes under load: chat, documents and batch together at half to five times what a simulated fleet can do.

python benchmarks/slo.py --json slo.json

First the mix is sent by as many clients as keep the fleet full: what comes back in a second is its capacity. Then each
load is offered by a Poisson process, whatever is answered. Times to first token and pauses are those that the router
measures, in seconds of the simulated hardware; requests a second, and the time that refusals take, which the client
measures, are in ours. The hardware runs in slow motion (``--speed``), and the classes' promises with it, so that one
small machine can carry it all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from comparison.machine import describe_machine

from segue.cluster.ports import choose_ports
from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.queueing.slo import BATCH, CHAT, DOCUMENTS, SloClass

if TYPE_CHECKING:
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub

_WARM_S = 10.0  # Of each load, before which nothing counts.
_STARTUP_S = 120.0
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Kind:
    """One kind of request, and how many of a hundred are of it."""

    slo_class: SloClass
    share: int
    prompt_tokens: int
    output_tokens: int


KINDS = (Kind(CHAT, 60, 400, 60), Kind(DOCUMENTS, 15, 4000, 60), Kind(BATCH, 25, 1000, 100))


@dataclass(frozen=True)
class Outcome:
    slo_class: str
    sent_s: float  # From the load's start.
    took_s: float
    code: str
    reason: str = ""
    ttft_s: float = 0.0
    itl_s: float = 0.0
    in_time: bool = False


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="segue-slo-") as scratch:
        ports = choose_ports("127.0.0.1")
        with _fleet(options, Path(scratch), ports.http, ports.grpc):
            report = asyncio.run(measure(f"127.0.0.1:{ports.grpc}", options))
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


async def measure(address: str, options: argparse.Namespace) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(address) as channel:
        load = _Load(InferenceStub(channel), options)
        await load.closed(options.clients, 10.0)  # The router learns how fast its workers are.
        done = await load.closed(options.clients, options.level_s)
        ends_s = [one.sent_s + one.took_s for one in done if one.code == "OK"]
        capacity_per_s = sum(_WARM_S <= end_s < options.level_s for end_s in ends_s) / (options.level_s - _WARM_S)
        levels = []
        for factor in options.factors:
            outcomes = await load.open(factor * capacity_per_s, options.level_s)
            classes = [summary(kind, outcomes, options.level_s) for kind in KINDS]
            levels.append({"factor": factor, "classes": classes, "refusals_ms": refusals(outcomes)})
            levels[-1]["reasons"] = reasons(outcomes)
    return {
        "machine": describe_machine(),
        "gpu": options.gpu,
        "speed": options.speed,
        "model": options.model,
        "workers": [options.prefill, options.decode],
        "kinds": [asdict(kind) for kind in KINDS],
        "capacity_per_s": capacity_per_s,
        "level_s": options.level_s,
        "levels": levels,
    }


class _Load:
    """Sends requests; every prompt is another one, so that no prefix cache helps."""

    def __init__(self, stub: InferenceAsyncStub, options: argparse.Namespace) -> None:
        self._stub = stub
        self._random = random.Random(options.seed)
        self._speed: float = options.speed

    async def closed(self, clients: int, seconds: float) -> list[Outcome]:
        """All as batch: nothing is refused, the fleet is full."""
        outcomes: list[Outcome] = []
        begun_s = time.monotonic()

        async def client() -> None:
            while time.monotonic() - begun_s < seconds:
                outcomes.append(await self._send(self._kind(), begun_s, BATCH.name))

        await asyncio.gather(*(client() for _ in range(clients)))
        return outcomes

    async def open(self, per_s: float, seconds: float) -> list[Outcome]:
        begun_s, at_s = time.monotonic(), 0.0
        tasks = []
        while (at_s := at_s + self._random.expovariate(per_s)) < seconds:
            await asyncio.sleep(max(0.0, begun_s + at_s - time.monotonic()))
            kind = self._kind()
            tasks.append(asyncio.create_task(self._send(kind, begun_s, kind.slo_class.name)))
        return list(await asyncio.gather(*tasks))

    def _kind(self) -> Kind:
        return self._random.choices(KINDS, [kind.share for kind in KINDS])[0]

    async def _send(self, kind: Kind, begun_s: float, slo_class: str) -> Outcome:
        prompt = [self._random.randrange(5, 2000) for _ in range(kind.prompt_tokens)]
        sampling = SamplingParams(max_tokens=kind.output_tokens, ignore_eos=True)
        request = GenerateRequest(token_ids=TokenIds(ids=prompt), sampling=sampling, slo_class=slo_class)
        sent_s = time.monotonic()
        try:
            answer = await self._stub.GenerateUnary(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            took_s, code = time.monotonic() - sent_s, error.code().name
            return Outcome(kind.slo_class.name, sent_s - begun_s, took_s, code, error.details() or "")
        timings, promised = answer.timings, kind.slo_class
        slow = promised.tokens_per_s and timings.itl_mean_s * self._speed > 1 / promised.tokens_per_s
        late = promised.ttft_s and timings.ttft_s * self._speed > promised.ttft_s
        return Outcome(
            promised.name,
            sent_s - begun_s,
            time.monotonic() - sent_s,
            "OK",
            "",
            timings.ttft_s * self._speed,
            timings.itl_mean_s * self._speed,
            not (slow or late),
        )


def summary(kind: Kind, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    own = [one for one in outcomes if one.slo_class == kind.slo_class.name and one.sent_s >= _WARM_S]
    answered = [one for one in own if one.code == "OK"]
    refused = sum(one.code == "RESOURCE_EXHAUSTED" for one in own)
    ttfts_s = [one.ttft_s for one in answered]
    return {
        "name": kind.slo_class.name,
        "offered_per_s": len(own) / (seconds - _WARM_S),
        "answered": len(answered),
        "refused": refused,
        "deadline": sum(one.code == "DEADLINE_EXCEEDED" for one in own),
        "other_errors": len(own) - len(answered) - refused - sum(one.code == "DEADLINE_EXCEEDED" for one in own),
        "slo_attainment": sum(one.in_time for one in answered) / len(answered) if answered else None,
        "goodput_per_s": sum(one.in_time for one in answered) / (seconds - _WARM_S),
        "ttft_s": percentiles(ttfts_s),
        "itl_ms": percentiles([1000 * one.itl_s for one in answered]),
    }


def reasons(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """What was refused for what, figures left out."""
    return Counter(re.sub(r"[0-9.]+", "N", one.reason) for one in outcomes if one.reason)


def refusals(outcomes: Sequence[Outcome]) -> dict[str, float]:
    return percentiles([1000 * one.took_s for one in outcomes if one.code == "RESOURCE_EXHAUSTED"])


def percentiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98]}


def table(report: dict[str, Any]) -> str:
    lines = [
        f"capacity: {report['capacity_per_s']:.1f} requests/s of the mix",
        "",
        "| load | class | offered/s | refused | within its SLO | goodput/s | TTFT p50, p99 (s) | refusal p99 (ms) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for level in report["levels"]:
        for one in level["classes"]:
            total = one["answered"] + one["refused"] + one["deadline"] + one["other_errors"]
            ttft, attained = one["ttft_s"], one["slo_attainment"]
            lines.append(
                f"| {level['factor']:g}x | {one['name']} | {one['offered_per_s']:.1f} | "
                f"{one['refused'] / total if total else 0:.0%} | {'' if attained is None else f'{attained:.1%}'} | "
                f"{one['goodput_per_s']:.1f} | {ttft.get('p50', 0):.2f}, {ttft.get('p99', 0):.2f} | "
                f"{level['refusals_ms'].get('p99', 0):.0f} |"
            )
    return "\n".join(lines)


@contextmanager
def _fleet(options: argparse.Namespace, scratch: Path, http_port: int, grpc_port: int) -> Iterator[None]:
    argv = [
        *(sys.executable, "-m", "segue.cli", "simulate", "--processes", "1"),
        *("--prefill", str(options.prefill), "--decode", str(options.decode)),
        *("--simulated-gpu", options.gpu, "--simulated-model", options.model),
        *("--port", str(http_port), "--grpc-port", str(grpc_port), "--log-dir", str(scratch)),
        *("--max-queue-s", f"{5 / options.speed:g}", "--decode-engine-arg", f"max_num_seqs={options.places}"),
        *("--simulated-speed", f"{options.speed:g}"),
    ]
    for kind in KINDS:
        one = kind.slo_class
        figures = f"ttft_s:{one.ttft_s / options.speed:g},tokens_per_s:{one.tokens_per_s * options.speed:g}"
        argv += ["--slo-class", f"{one.name}={figures}"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        end_s = time.monotonic() + _STARTUP_S
        while "ready" not in (line := child.stdout.readline()):
            if not line or time.monotonic() > end_s:
                raise SystemExit(f"the simulation did not start; its logs are in {scratch}")
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(30)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gpu", default="A100", help="preset of every worker (A100)")
    add("--model", default="llama-3.1-8b", help="shape of the model (llama-3.1-8b)")
    add("--speed", type=float, default=0.2, help="the hardware's seconds in one of ours (0.2)")
    add("--prefill", type=int, default=2, help="prefill workers (2)")
    add("--decode", type=int, default=2, help="decode workers (2)")
    add("--places", type=int, default=64, help="max_num_seqs of decode (64)")
    add("--clients", type=int, default=100, help="that fill the fleet when its capacity is measured (100)")
    add("--factors", type=float, nargs="+", default=[0.5, 1, 2, 5], help="times the capacity (0.5 1 2 5)")
    add("--level-s", type=float, default=60.0, help="our seconds of each load (60)")
    add("--seed", type=int, default=1)
    add("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
