"""What router and workers count, held against what the answers themselves say. On real engines."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from segue.client import Answer, SegueClient
from tests.e2e.running import WORKERS, Cluster, assert_baseline

pytestmark = pytest.mark.engine

PROMPTS = ["The quick brown fox " * times for times in (1, 20, 80)]
MAX_TOKENS = 12


class Look:
    """The sums of one endpoint's samples, by name and some of their labels."""

    def __init__(self, url: str) -> None:
        with urlopen(f"{url}/metrics", timeout=10) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        self._samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        return sum(sample.value for sample in self._samples if sample.name == name and _has(sample.labels, labels))


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= labels.items()


def metrics_url(cluster: Cluster, worker_id: str) -> str:
    log = (cluster.log_dir / f"{worker_id}.log").read_text()
    ports = [re.search(r'"port": (\d+)', line) for line in log.splitlines() if '"event": "metrics"' in line]
    assert ports, f"{worker_id}'s log names no metrics port"
    found = ports[-1]
    assert found is not None
    return f"http://127.0.0.1:{found[1]}"


def look(cluster: Cluster) -> dict[str, Look]:
    return {"router": Look(cluster.http_url)} | {one: Look(metrics_url(cluster, one)) for one in WORKERS}


async def test_metrics_count_what_the_answers_say(cluster: Cluster, client: SegueClient) -> None:
    assert_baseline(cluster)
    before = look(cluster)
    answers = [await client.generate(prompt, max_tokens=MAX_TOKENS, temperature=0.0) for prompt in PROMPTS * 2]
    assert_baseline(cluster)
    after = look(cluster)

    def grew(where: str, name: str, **labels: str) -> float:
        return after[where](name, **labels) - before[where](name, **labels)

    def total(values: Iterable[float]) -> float:
        return sum(values)

    def timing(name: str) -> float:
        return total(getattr(answer.timings, name) for answer in answers)

    count = len(answers)
    outputs = total(answer.usage.output_tokens for answer in answers)
    assert grew("router", "segue_requests_total", outcome="ok") == count
    assert grew("router", "segue_prompt_tokens_total") == total(answer.usage.prompt_tokens for answer in answers)
    cached = total(answer.usage.cached_prompt_tokens for answer in answers)
    assert cached > 0, "a prompt asked twice has its prefix cached"
    assert grew("router", "segue_cached_prompt_tokens_total") == cached
    assert grew("router", "segue_output_tokens_total") == outputs
    assert grew("router", "segue_time_to_first_token_seconds_count", pool="prefill") == count
    assert grew("router", "segue_inter_token_latency_seconds_count") == outputs - count
    assert grew("router", "segue_time_to_first_token_seconds_sum") == pytest.approx(timing("ttft_s"), rel=1e-3)
    gaps = timing("handoff_s") + timing("decode_s")
    assert grew("router", "segue_inter_token_latency_seconds_sum") == pytest.approx(gaps, rel=1e-3)
    assert grew("router", "segue_kv_transfer_bytes_total") == timing("transfer_bytes")
    assert grew("router", "segue_kv_transfers_total", outcome="ok") == count
    assert grew("router", "segue_kv_transfers_total", outcome="corrupt") == 0
    assert after["router"]("segue_workers", state="ready") == 2
    deadline_s = time.monotonic() + 30
    while Look(cluster.http_url)("segue_worker_kv_usage_ratio"):  # As of a worker's last frame.
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)

    prefill, decode = "prefill-0", "decode-0"
    for worker in WORKERS:
        assert grew(worker, "segue_engine_requests_total") == count
        assert grew(worker, "segue_engine_legs_total") == count
        assert grew(worker, "segue_engine_compute_seconds_count") == count
        assert after[worker]("segue_engine_state", state="ready") == 1
        assert after[worker]("vllm:num_requests_waiting") == 0
        steps = grew(worker, "segue_engine_step_seconds_count")
        assert 0 < steps <= grew(worker, "segue_engine_steps_total")
    assert grew(decode, "segue_engine_generated_tokens_total") == outputs - count
    assert grew(decode, "segue_engine_kv_transfer_bytes_total") == timing("transfer_bytes")
    assert grew(decode, "segue_engine_input_tokens_total", source="transferred") > 0
    assert grew(prefill, "segue_engine_input_tokens_total", source="cached") == cached
    assert _computed_in_time(answers) >= grew(prefill, "segue_engine_compute_seconds_sum") > 0


def _computed_in_time(answers: Iterable[Answer]) -> float:
    """Prefill's engine computes within what the router sees of it."""
    return sum(answer.timings.prefill_s for answer in answers)
