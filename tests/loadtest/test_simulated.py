"""The command against a real router with simulated workers, and the diagnosis of clusters driven into each bound."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segue.cli.main import app
from segue.engine.embedded_model import ensure_embedded_model
from segue.loadtest.diagnose.read_metrics import read_metrics
from segue.loadtest.diagnose.scrape import Scrape
from tests.simulated import SimulatedCluster, running_simulation


def segue(*arguments: str, status: int = 0) -> str:
    """The command's output."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, result.output
    return result.stdout


def load(url: str, result: Path, *arguments: str) -> dict[str, Any]:
    """The result's summary. A machine that is busy with other tests is late; that is not judged."""
    segue("loadtest", url, "--json", str(result), "--max-lag-ms", "60000", *arguments)
    summary: dict[str, Any] = json.loads(result.read_text())["summary"]
    return summary


SMALL = ("--requests", "12", "--input-tokens", "40", "--output-tokens", "6")


@pytest.mark.parametrize("api", ["completions", "chat", "grpc", "session"])
def test_every_way_in_is_measured(simulated_cluster: SimulatedCluster, tmp_path: Path, api: str) -> None:
    url = simulated_cluster.grpc_address if api in ("grpc", "session") else simulated_cluster.http_url
    text = ("--tokenizer", str(ensure_embedded_model())) if api == "chat" else ()

    summary = load(url, tmp_path / "r.json", "--api", api, "-c", "3", *SMALL, *text)

    total = summary["total"]
    assert (total["answered"], total["output_tokens"], total["failures"]) == (12, 72, {})
    assert total["prompt_tokens"] == 12 * 40 or api == "chat"
    assert summary["legs"]["paths"]
    assert total["ttft_s"]["p50"] > 0


def test_two_processes_make_one_load(simulated_cluster: SimulatedCluster, tmp_path: Path) -> None:
    report = tmp_path / "r.html"

    summary = load(
        simulated_cluster.http_url, tmp_path / "r.json", "--rate", "20", "--processes", "2", *SMALL,
        "--warm-up-requests", "2", "--slo-classes", "chat=1,batch=1", "--report", str(report),
    )  # fmt: skip

    assert (summary["total"]["requests"], summary["warm_up_requests"]) == (10, 2)
    assert set(summary["by_class"]) <= {"chat", "batch"}
    page = report.read_text()
    assert page.count("<svg") == 6
    assert "Simulated engines" in page
    assert not re.search(r"https?://(?!127\.0\.0\.1)|src=", page), "the report must need nothing else"


def test_goodput_below_the_bound_is_exit_status_1(simulated_cluster: SimulatedCluster) -> None:
    url = simulated_cluster.http_url
    bound = ("--fail-under-goodput", "0.5", "--max-lag-ms", "60000")

    segue("loadtest", url, "-c", "2", *SMALL, *bound, "--slo", "ttft_s:0.000001", status=1)


def test_an_impossible_load_is_refused_in_words(simulated_cluster: SimulatedCluster) -> None:
    segue("loadtest", simulated_cluster.http_url, status=2)
    segue("loadtest", simulated_cluster.http_url, "-c", "1", "--input-tokens", "many", status=2)


MODEL = str(ensure_embedded_model())
# Slow motion keeps the machine's own noise small beside what is simulated.
SLOW = ("--prefill", "1", "--decode", "1", "--simulated-speed", "0.2")
BOUNDS = {
    "prefill-bound": ((), ("--rate", "3", "--input-tokens", "6000", "--output-tokens", "2")),
    "decode-bound": (
        ("--decode-engine-arg", "max_num_seqs=2"),
        ("-c", "8", "--input-tokens", "32", "--output-tokens", "24"),
    ),
    "transfer-bound": (
        ("--engine-arg", "link_gbit_per_s=4"),
        ("--rate", "1.5", "--input-tokens", "1000", "--output-tokens", "4"),
    ),
    # Long prompts as text, which the router tokenises, for engines that take next to no time.
    "router-bound": (
        ("--prefill", "16", "--decode", "4", "--simulated-speed", "50"),
        ("-c", "48", "--api", "chat", "--input-tokens", "3000", "--output-tokens", "2", "--tokenizer", MODEL),
    ),
    "underused": ((), ("--rate", "1", "--input-tokens", "16", "--output-tokens", "4")),
}


@pytest.fixture
def driven(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, SimulatedCluster, tuple[str, ...]]]:
    settings, arguments = BOUNDS[request.param]
    with running_simulation(tmp_path, *SLOW, *settings) as cluster:  # Of an option given twice the last one holds.
        yield request.param, cluster, arguments


def look(cluster: SimulatedCluster) -> Scrape:
    return read_metrics(cluster.http_url, "")


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("driven", BOUNDS, indirect=True)
def test_a_cluster_driven_into_a_bound_is_diagnosed(
    driven: tuple[str, SimulatedCluster, tuple[str, ...]], tmp_path: Path
) -> None:
    """By its load test and, while that runs, by its router's metrics."""
    bound, cluster, arguments = driven
    result = tmp_path / "r.json"
    slo = ("--slo", "ttft_s:1,itl_s:1")
    running = subprocess.Popen(
        [sys.executable, "-m", "segue.cli", "loadtest", cluster.http_url, "--json", str(result), *slo,
         "--duration", "10", "--max-lag-ms", "60000", *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not look(cluster).total("segue_requests_total", outcome="ok"):
            assert running.poll() is None
            time.sleep(0.2)
        live = segue("diagnose", cluster.http_url, "--window", "6", *slo, "--json")
        running.communicate(timeout=200)
    finally:
        running.kill()
        running.wait()

    afterwards = segue("diagnose", str(result), "--json")

    # A machine that is busy with other tests keeps the router waiting, which is said and is no bound of the cluster.
    expected = {"underused", "not bound"} if bound == "underused" else {bound}
    assert json.loads(live)["diagnosis"]["bound"] in expected, live
    assert json.loads(afterwards)["diagnosis"]["bound"] in expected, afterwards
