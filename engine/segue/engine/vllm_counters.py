"""vLLM's own statistics, summed up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from segue.proto.worker_pb2 import EngineCounters, Load


class Counters:
    """Written by vLLM's stat logger on its thread, read on ours."""

    def __init__(self, kv_blocks: Callable[[], int]) -> None:
        self._kv_blocks = kv_blocks
        self._lock = threading.Lock()
        self._counters = EngineCounters()
        self._load = Load()
        self._last_step_at_s = 0.0  # 0 if nothing ran behind it.

    def reset(self) -> None:
        with self._lock:
            self._counters = EngineCounters()

    def snapshot(self) -> EngineCounters:
        with self._lock:
            copy = EngineCounters()
            copy.CopyFrom(self._counters)
            return copy

    def load(self) -> Load:
        with self._lock:
            copy = Load()
            copy.CopyFrom(self._load)
            return copy

    def record(self, scheduler: SchedulerStats | None, iteration: IterationStats | None) -> None:
        with self._lock:
            if scheduler is not None:
                self._load.running_requests = scheduler.num_running_reqs
                self._load.waiting_requests = scheduler.num_waiting_reqs
                self._load.free_blocks = round((1.0 - scheduler.kv_cache_usage) * self._kv_blocks())
                if (details := scheduler.iteration_details) is not None and not details.is_dummy:
                    # vLLM's own measure leaves out what an executor does before it is waited for.
                    now_s = time.monotonic()
                    since_last_s = now_s - self._last_step_at_s if self._last_step_at_s else 0.0
                    self._load.step_s = since_last_s or details.elapsed_ms / 1000
                    self._last_step_at_s = now_s if scheduler.num_running_reqs else 0.0
                    self._load.step_prompt_tokens = details.num_ctx_tokens
                    self._load.step_requests = details.num_ctx_requests + details.num_generation_requests
                    self._load.steps += 1
            if iteration is not None:
                prompt = iteration.prompt_token_stats
                self._counters.input_tokens += prompt.total
                self._counters.cached_tokens += prompt.local_cache_hit
                self._counters.transferred_tokens += prompt.external_kv_transfer
                self._counters.computed_tokens += prompt.computed
                self._counters.generated_tokens += iteration.num_generation_tokens
                for finished in iteration.finished_requests:
                    self._counters.requests += 1
                    self._counters.max_generated_tokens_per_request = max(
                        self._counters.max_generated_tokens_per_request, finished.num_generation_tokens
                    )
                    self._counters.max_computed_tokens_per_request = max(
                        self._counters.max_computed_tokens_per_request,
                        finished.num_prompt_tokens - finished.num_cached_tokens,
                    )


def stat_logger_into(counters: Counters) -> Callable[..., StatLoggerBase]:
    """A vLLM stat logger factory that feeds ``counters``."""

    class IntoCounters(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            return

        def record(
            self,
            scheduler_stats: SchedulerStats | None,
            iteration_stats: IterationStats | None,
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            counters.record(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            return

    return IntoCounters
