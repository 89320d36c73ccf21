from __future__ import annotations

import pytest
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, SchedulerIterationDetails, SchedulerStats

from segue.engine.vllm_counters import Counters, stat_logger_into
from segue.proto.worker_pb2 import EngineCounters, Load


def iteration(computed: int, cached: int, transferred: int, generated: int) -> IterationStats:
    stats = IterationStats()
    prompt = stats.prompt_token_stats
    prompt.computed, prompt.local_cache_hit, prompt.external_kv_transfer = computed, cached, transferred
    prompt.total = computed + cached + transferred
    stats.num_generation_tokens = generated
    return stats


def finished(prompt: int, cached: int, generated: int) -> FinishedRequestStats:
    return FinishedRequestStats(
        finish_reason=None, num_prompt_tokens=prompt, num_cached_tokens=cached, num_generation_tokens=generated
    )


def test_steps_add_up_and_the_largest_request_is_remembered() -> None:
    counters = Counters(lambda: 10)
    first, second = iteration(30, 10, 60, 2), iteration(5, 0, 0, 1)
    first.finished_requests = [finished(100, 70, 8), finished(50, 45, 1)]
    second.finished_requests = [finished(20, 0, 3)]
    for step in (first, second):
        counters.record(None, step)
    assert counters.snapshot() == EngineCounters(
        requests=3,
        input_tokens=105,
        cached_tokens=10,
        transferred_tokens=60,
        computed_tokens=35,
        generated_tokens=3,
        max_generated_tokens_per_request=8,
        max_computed_tokens_per_request=30,
    )


def test_reset_forgets_the_warm_up_but_not_the_load() -> None:
    counters = Counters(lambda: 10)
    counters.record(SchedulerStats(num_running_reqs=2, num_waiting_reqs=1, kv_cache_usage=0.25), iteration(5, 0, 0, 1))
    counters.reset()
    assert counters.snapshot() == EngineCounters()
    assert counters.load() == Load(running_requests=2, waiting_requests=1, free_blocks=8)


def test_a_snapshot_is_a_copy() -> None:
    counters = Counters(lambda: 10)
    counters.snapshot().requests = 5
    counters.load().free_blocks = 5
    assert counters.snapshot() == EngineCounters()
    assert counters.load() == Load()


def test_vllms_logger_feeds_them() -> None:
    counters = Counters(lambda: 10)
    logger = stat_logger_into(counters)(None, 0)
    logger.record(SchedulerStats(kv_cache_usage=0.5), iteration(5, 0, 0, 1), None, 0)
    logger.log_engine_initialized()
    assert counters.snapshot().generated_tokens == 1
    assert counters.load().free_blocks == 5


def test_a_step_is_told_of_by_its_tokens_and_requests() -> None:
    counters = Counters(lambda: 10)
    stats = SchedulerStats(num_running_reqs=0)
    stats.iteration_details = SchedulerIterationDetails(1, 2, 300, 5, 5, 12.0)
    counters.record(stats, None)
    load = counters.load()
    assert (load.step_prompt_tokens, load.step_requests, load.steps) == (300, 7, 1)
    assert load.step_s == pytest.approx(0.012)
    counters.record(SchedulerStats(num_running_reqs=0), None)  # Nothing was computed.
    assert counters.load().steps == 1
