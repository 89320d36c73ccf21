"""``segue demo`` and ``segue up`` as a newcomer runs them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.running import launched

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_demo_shows_tokens_and_where_the_time_went() -> None:
    command = [sys.executable, "-m", "segue.cli", "demo", "--prompt", "Once upon a time", "--max-tokens", "20"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stderr == ""
    for name in ("router", "prefill-0", "decode-0"):
        assert re.search(rf"\d s +{name} +ready", shown.stdout)
    answer, _, after = shown.stdout.partition("Once upon a time")[2].partition("\n\n")
    timings = after.splitlines()[0]
    assert len(answer) > 20
    assert re.search(r"\d+ \+ 20 tokens \| TTFT \d+ ms \| prefill \d+ ms", timings)
    assert re.search(r"KV transfer [\d.]+ ms, [\d,]+ bytes by grpc \| ITL [\d.]+ ms \| path seeded", timings)
    run_dir = re.search(r"logs in (\S+)", shown.stdout)
    assert run_dir is not None
    assert not Path(run_dir[1]).exists(), "its logs go with it"


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with launched(tmp_path, "up", "--log-dir", str(tmp_path), "--port", str(port)) as process:
            assert process.wait(60) == 2
    said = (tmp_path / "up.log").read_text()
    assert "--port" in said
    assert str(port) in said
    assert not (tmp_path / "router.log").exists()


def test_an_engine_argument_that_vllm_refuses_ends_the_worker_and_is_said(tmp_path: Path) -> None:
    arguments = ("--router", "127.0.0.1:9", "--engine-arg", "max_num_seqs=-1")
    with launched(tmp_path, "decode-worker", *arguments) as process:
        assert process.wait(180) == 2
    assert "vLLM refuses its engine arguments" in (tmp_path / "up.log").read_text()


# The router's refusal, the worker's status and the supervisor's have tests without engines too.
@pytest.mark.variant
def test_pools_that_do_not_fit_each_other_are_refused_with_both_values(tmp_path: Path) -> None:
    with launched(tmp_path, "up", "--log-dir", str(tmp_path), "--decode-engine-arg", "max_model_len=2048") as process:
        assert process.wait(180) == 1
    output = (tmp_path / "up.log").read_text()
    assert re.search(r"(prefill|decode)-0 exited with status 2", output)
    assert "max_model_len_tokens" in output
    assert "2048" in output
    assert "4096" in output
