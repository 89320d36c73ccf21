"""What a worker's engine says of itself, read when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping

from segue.base.metrics import Labels, Metric, Reading
from segue.engine.protocol import Engine
from segue.proto.worker_pb2 import EngineCounters, EngineFacts, Load, WorkerState
from segue.worker.metrics import catalogue
from segue.worker.metrics.by_role import CountersByRole, labels_of
from segue.worker.runtime import WorkerRuntime

_STATES = ("loading", "warming", "ready", "draining")


def read_worker(runtime: WorkerRuntime, engine: Engine, counted: CountersByRole) -> Mapping[Metric, Reading]:
    """Load, counters and facts under this worker's labels, and some of them once more as vLLM names them."""
    labels = labels_of(runtime.register)
    state = WorkerState.Name(runtime.status.state).removeprefix("WORKER_STATE_").lower()
    facts, load, counters = runtime.status.facts, engine.load(), engine.counters()
    return {
        catalogue.STATE: {(*labels, known): float(known == state) for known in _STATES},
        catalogue.OPEN_LEGS: {labels: runtime.open_requests},
        catalogue.ROUTERS: {labels: runtime.attached_routers},
        catalogue.TURNS: {labels: runtime.register.turns} if runtime.register.flex else {},
        **_engine(labels, facts, load),
        **_counters(counted.read()),
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


def _counters(counted: Mapping[Labels, EngineCounters]) -> dict[Metric, Reading]:
    return {
        catalogue.REQUESTS: {labels: counters.requests for labels, counters in counted.items()},
        catalogue.INPUT_TOKENS: {
            (*labels, source): getattr(counters, f"{source}_tokens")
            for labels, counters in counted.items()
            for source in ("computed", "cached", "transferred")
        },
        catalogue.GENERATED_TOKENS: {labels: counters.generated_tokens for labels, counters in counted.items()},
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
