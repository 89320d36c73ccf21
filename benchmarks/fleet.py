"""A fleet of simulated workers, thousands of concurrent streams, minutes: nothing lost, memory flat.

python benchmarks/fleet.py --prefill 100 --decode 100 --streams 10000 --minutes 5 --json fleet.json --plot fleet.png

Router, workers and client are processes of their own. The workers' hardware runs in slow motion (``--speed``), so that
one small machine can carry all the tokens; every token of every stream is compared with the one that it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from comparison.machine import describe_machine
from simulated.plot import plot_fleet
from simulated.streams import Load

from segue.cluster.ports import choose_ports

_SAMPLE_S = 2.0
_STARTUP_S = 300.0
_HERE = Path(__file__).parent


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # Through all that ends what was started.
    with tempfile.TemporaryDirectory(prefix="segue-fleet-") as scratch:
        result = _run(options, Path(scratch))
    print(json.dumps({name: value for name, value in result.items() if name not in {"samples", "counts"}}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result))
    if options.plot:
        plot_fleet(result["samples"], result["counts"], options.plot)
    sys.exit(0 if result["lost"] == 0 else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefill", type=int, default=100)
    parser.add_argument("--decode", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2, help="that the workers share")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=5.0, help="with all streams open")
    parser.add_argument("--ramp-s", type=float, default=100.0, help="until all are open")
    parser.add_argument("--speed", type=float, default=0.01, help="the hardware's seconds in one of ours")
    parser.add_argument("--prompt-tokens", type=int, nargs=2, default=(50, 400))
    parser.add_argument("--output-tokens", type=int, nargs=2, default=(60, 300))
    parser.add_argument("--door", choices=("generate", "session"), default="session")
    parser.add_argument("--prefill-speed", type=float, help="if the prefill pool's is another")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def _run(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    ports = choose_ports("127.0.0.1")
    with _fleet(options, scratch, ports.http, ports.grpc) as fleet:
        load = Load(
            address=f"127.0.0.1:{ports.grpc}",
            streams=options.streams,
            ramp_s=options.ramp_s,
            duration_s=options.ramp_s + options.minutes * 60,
            prompt_tokens=tuple(options.prompt_tokens),
            output_tokens=tuple(options.output_tokens),
            door=options.door,
        )
        settings = scratch / "load.json"
        settings.write_text(json.dumps(asdict(load)))
        client = subprocess.Popen(
            [sys.executable, str(_HERE / "simulated" / "streams.py"), str(settings)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{_HERE}:{os.environ.get('PYTHONPATH', '')}"},
        )
        watch = _Watch({**fleet, "client": client.pid})
        try:
            counts = _read(client)
        finally:
            client.kill()
            samples = watch.stop()
    return _result(options, samples, counts)


def _read(client: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The client's lines until it is over."""
    assert client.stdout is not None
    counts: list[dict[str, Any]] = []
    for line in client.stdout:
        counts.append(json.loads(line))
        last = counts[-1]
        if len(counts) % 10 == 0:
            print(
                f"open {last['open']}, complete {last['complete']}, wrong {last['wrong']}, failed {last['failed']}, "
                f"tokens {last['tokens']}",
                file=sys.stderr,
                flush=True,
            )
        if last["over"]:
            break
    return counts


@contextmanager
def _fleet(options: argparse.Namespace, scratch: Path, http: int, grpc: int) -> Iterator[dict[str, int]]:
    """The router's and the workers' process ids by name."""
    output = scratch / "simulate.log"
    command = [
        *(sys.executable, "-m", "segue.cli", "simulate", "--port", str(http), "--grpc-port", str(grpc)),
        *("--prefill", str(options.prefill), "--decode", str(options.decode), "--processes", str(options.processes)),
        *("--prefill-engine-arg", f"speed={options.prefill_speed or options.speed}"),
        *("--decode-engine-arg", f"speed={options.speed}", "--max-queue-s", "600", "--log-dir", str(scratch)),
    ]
    with output.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        deadline_s = time.monotonic() + _STARTUP_S
        while "ready:" not in output.read_text():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"the fleet didn't start:\n{output.read_text()}")
            time.sleep(0.2)
        named: dict[str, int] = {}
        for child in psutil.Process(process.pid).children(recursive=True):
            line = child.cmdline()
            if "--worker-port" in line:
                named["router"] = child.pid
            elif "simulated-workers" in line:
                named[f"workers {line[line.index('--part') + 1]}"] = child.pid
        yield named
    finally:
        process.terminate()
        process.wait(60)


class _Watch:
    """Samples processes on a thread."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._samples: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()

    def stop(self) -> list[dict[str, Any]]:
        self._over.set()
        self._thread.join()
        return self._samples

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            for name, process in self._processes.items():
                try:
                    used, memory = process.cpu_times(), process.memory_info()
                except psutil.Error:  # It has ended.
                    continue
                self._samples.append(
                    {
                        "at_s": time.monotonic(),
                        "name": name,
                        "rss_mib": memory.rss / 2**20,
                        "cpu_s": used.user + used.system,
                    }
                )


def _result(options: argparse.Namespace, samples: list[dict[str, Any]], counts: list[dict[str, Any]]) -> dict[str, Any]:
    """What is told; times count from the client's first line. Steady is from the ramp's end to the load's."""
    start_s = counts[0]["at_s"]
    for line in (*samples, *counts):
        line["at_s"] -= start_s
    begin_s, end_s = options.ramp_s + 10, options.ramp_s + options.minutes * 60
    steady = [one for one in counts if begin_s <= one["at_s"] <= end_s]
    tokens = steady[-1]["tokens"] - steady[0]["tokens"]
    seconds = steady[-1]["at_s"] - steady[0]["at_s"]
    last = counts[-1]
    processes = {}
    for name in dict.fromkeys(sample["name"] for sample in samples):
        own = [sample for sample in samples if sample["name"] == name and begin_s <= sample["at_s"] <= end_s]
        processes[name] = {
            "cpu_us_per_token": round((own[-1]["cpu_s"] - own[0]["cpu_s"]) * 1e6 / tokens, 1),
            "rss_mib_quarters": _quarters(own),
            "rss_mib_peak": round(max(one["rss_mib"] for one in samples if one["name"] == name)),
        }
    return {
        "machine": describe_machine(),
        "options": {name: value for name, value in vars(options).items() if name not in {"json", "plot"}},
        "streams_open": {"fewest": min(one["open"] for one in steady), "most": max(one["open"] for one in steady)},
        "begun": last["begun"],
        "complete": last["complete"],
        "lost": last["begun"] - last["complete"],
        "failures": last["failures"],
        "stories": last["stories"],
        "tokens": last["tokens"],
        "steady_s": round(seconds, 1),
        "steady_tokens_per_s": round(tokens / seconds),
        "tokens_per_message": round(last["tokens"] / max(1, last["messages"]), 2),
        "processes": processes,
        "samples": samples,
        "counts": counts,
    }


def _quarters(samples: Sequence[Mapping[str, Any]]) -> list[int]:
    """Mean resident memory in each quarter of the steady time, MiB."""
    size = max(1, len(samples) // 4)
    quarters = [samples[begin : begin + size] for begin in range(0, 4 * size, size)]
    return [round(sum(one["rss_mib"] for one in part) / len(part)) for part in quarters if part]


if __name__ == "__main__":
    main()
