"""What a worker's engine says of itself, read when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping

from segue.base.metrics import Labels, Metric, Reading
from segue.engine.protocol import Engine
from segue.proto.worker_pb2 import EngineCounters, EngineFacts, Load, Role, WorkerState
from segue.worker.metrics import catalogue
from segue.worker.runtime import WorkerRuntime

_STATES = ("loading", "warming", "ready", "draining")


def read_worker(runtime: WorkerRuntime, engine: Engine) -> Mapping[Metric, Reading]:
    """Load, counters and facts under this worker's labels, and some of them once more as vLLM names them."""
    labels = (runtime.register.worker_id, Role.Name(runtime.register.role).removeprefix("ROLE_").lower())
    state = WorkerState.Name(runtime.status.state).removeprefix("WORKER_STATE_").lower()
    facts, load, counters = runtime.status.facts, engine.load(), engine.counters()
    return {
        catalogue.STATE: {(*labels, known): float(known == state) for known in _STATES},
        catalogue.OPEN_LEGS: {labels: runtime.open_requests},
        catalogue.ROUTERS: {labels: runtime.attached_routers},
        catalogue.TURNS: {labels: runtime.register.turns} if runtime.register.flex else {},
        **_engine(labels, facts, load),
        **_counters(labels, counters),
        **(_as_vllm(facts, load, counters) if facts.engine else {}),
    }


def _engine(labels: Labels, facts: EngineFacts, load: Load) -> dict[Metric, Reading]:
    info = (facts.engine, facts.engine_version, facts.model, facts.accelerator, facts.transport)
    simulated = "true" if facts.simulated else "false"
    return {
        catalogue.ENGINE_INFO: {(*labels, *info, simulated): 1.0} if facts.engine else {},
        catalogue.RUNNING: {labels: load.running_requests},
        catalogue.WAITING: {labels: load.waiting_requests},
        catalogue.WAITING_TOKENS: {labels: load.waiting_tokens},
        catalogue.KV_BLOCKS: {labels: facts.kv_blocks},
        catalogue.FREE_BLOCKS: {labels: load.free_blocks},
        catalogue.KV_USAGE: {labels: _kv_usage(facts, load)},
        catalogue.HELD_OFFERS: {labels: load.held_offers},
    }


def _counters(labels: Labels, counters: EngineCounters) -> dict[Metric, Reading]:
    return {
        catalogue.REQUESTS: {labels: counters.requests},
        catalogue.INPUT_TOKENS: {
            (*labels, "computed"): counters.computed_tokens,
            (*labels, "cached"): counters.cached_tokens,
            (*labels, "transferred"): counters.transferred_tokens,
        },
        catalogue.GENERATED_TOKENS: {labels: counters.generated_tokens},
    }


def _as_vllm(facts: EngineFacts, load: Load, counters: EngineCounters) -> dict[Metric, Reading]:
    labels = (facts.model, "0")
    return {
        catalogue.VLLM_RUNNING: {labels: load.running_requests},
        catalogue.VLLM_WAITING: {labels: load.waiting_requests},
        catalogue.VLLM_KV_USAGE: {labels: _kv_usage(facts, load)},
        catalogue.VLLM_PROMPT_TOKENS: {labels: counters.input_tokens},
        catalogue.VLLM_GENERATED: {labels: counters.generated_tokens},
        catalogue.VLLM_QUERIES: {labels: counters.input_tokens},
        catalogue.VLLM_HITS: {labels: counters.cached_tokens},
    }


def _kv_usage(facts: EngineFacts, load: Load) -> float:
    return max(0.0, 1.0 - load.free_blocks / facts.kv_blocks) if facts.kv_blocks else 0.0
