"""A whole cluster without an engine: the ``segue simulate`` command in a process of its own, up in a few seconds.

For what doesn't depend on a model: the router's APIs, routing, admission, load. Answers are those of
:func:`segue.engine.simulated.tokens.expected_tokens`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segue.engine.simulated.tokens import expected_tokens

_READY = re.compile(r"ready: (http://\S+)/v1 \(model (\S+)\), gRPC (\S+:\d+)\.")
_STARTUP_S = 100.0

VOCAB_SIZE = 2048
EOS = frozenset({1})


@dataclass(frozen=True)
class SimulatedCluster:
    """Where it is, and the logs of its processes: ``router.log``, ``workers-0.log``, ... in ``log_dir``."""

    process: subprocess.Popen[str]
    http_url: str
    model: str
    grpc_address: str
    log_dir: Path

    def expected(self, prompt: Sequence[int], max_tokens: int, *, ignore_eos: bool = True) -> list[int]:
        """The answer to these token ids."""
        return expected_tokens(prompt, max_tokens, VOCAB_SIZE, () if ignore_eos else EOS)


@contextmanager
def running_simulation(log_dir: Path, *arguments: str) -> Iterator[SimulatedCluster]:
    """``segue simulate`` with these arguments, ready; stopped with SIGTERM afterwards."""
    output = log_dir / "simulate.log"
    command = [sys.executable, "-m", "segue.cli", "simulate", "--log-dir", str(log_dir), *arguments]
    with output.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, text=True)
    try:
        deadline_s = time.monotonic() + _STARTUP_S
        while not (ready := _READY.search(output.read_text())):
            assert process.poll() is None, f"segue simulate ended with {process.returncode}:\n{output.read_text()}"
            assert time.monotonic() < deadline_s, f"not ready in {_STARTUP_S:g} s:\n{output.read_text()}"
            time.sleep(0.05)
        yield SimulatedCluster(process, ready[1], ready[2], ready[3], log_dir)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
