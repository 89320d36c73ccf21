"""Every metric that a worker exports. docs/observability.md, the dashboard and the alert rules are checked by it.

A *leg* is what one router asked of this worker for one answer: a prefill, or a decode. The names that begin with
``vllm:`` are vLLM's own, for autoscalers and gateways that look for them.
"""

from __future__ import annotations

from segue.base.loop_lag import LOOP_LAG, LOOP_LAG_OWN  # noqa: F401 - exported by this process like the others
from segue.base.metrics import Metric

_OF_WORKER = ("worker", "pool")

_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5),
    *(0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_STEP_SECONDS = (0.001, 0.002, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

ENGINE_INFO = Metric(
    "segue_engine_info",
    "gauge",
    "1, with what the engine is.",
    (*_OF_WORKER, "engine", "engine_version", "model", "accelerator", "transport", "simulated"),
)
STATE = Metric("segue_engine_state", "gauge", "1 for the state the worker is in.", (*_OF_WORKER, "state"))
RUNNING = Metric("segue_engine_running_requests", "gauge", "Requests in the engine's steps.", _OF_WORKER)
WAITING = Metric("segue_engine_waiting_requests", "gauge", "Requests waiting in the engine.", _OF_WORKER)
WAITING_TOKENS = Metric(
    "segue_engine_waiting_prompt_tokens", "gauge", "Their prompt tokens that are not computed yet.", _OF_WORKER
)
OPEN_LEGS = Metric(
    "segue_engine_open_legs", "gauge", "Legs that routers have given it and that are not over.", _OF_WORKER
)
KV_BLOCKS = Metric("segue_engine_kv_blocks", "gauge", "Blocks of the KV cache.", _OF_WORKER)
FREE_BLOCKS = Metric(
    "segue_engine_free_kv_blocks",
    "gauge",
    "Blocks that a request could have; cached prefixes count as free.",
    _OF_WORKER,
)
KV_USAGE = Metric("segue_engine_kv_usage_ratio", "gauge", "Used blocks by all blocks: 0 to 1.", _OF_WORKER)
HELD_OFFERS = Metric(
    "segue_engine_held_offers", "gauge", "KV caches that wait to be claimed: outstanding leases.", _OF_WORKER
)
ROUTERS = Metric("segue_engine_attached_routers", "gauge", "Routers that the worker is attached to.", _OF_WORKER)
TURNS = Metric(
    "segue_engine_turns_total", "counter", "How often a flex worker has changed its pool since its start.", _OF_WORKER
)
REQUESTS = Metric("segue_engine_requests_total", "counter", "Requests that the engine has finished.", _OF_WORKER)
INPUT_TOKENS = Metric(
    "segue_engine_input_tokens_total",
    "counter",
    "Input tokens by where their KV came from: computed, cached (own prefix cache), transferred (another worker).",
    (*_OF_WORKER, "source"),
)
GENERATED_TOKENS = Metric("segue_engine_generated_tokens_total", "counter", "Tokens that were sampled.", _OF_WORKER)
STEPS = Metric("segue_engine_steps_total", "counter", "Engine steps.", _OF_WORKER)
STEP = Metric(
    "segue_engine_step_seconds", "histogram", "Engine steps that this process was told of.", _OF_WORKER, _STEP_SECONDS
)
LEGS = Metric(
    "segue_engine_legs_total",
    "counter",
    "Legs that are over: stop, length, abort, or their error's kind.",
    (*_OF_WORKER, "outcome"),
)
LEG = Metric("segue_engine_leg_seconds", "histogram", "Taken -> last output, by the worker.", _OF_WORKER, _SECONDS)
QUEUE = Metric(
    "segue_engine_queue_seconds",
    "histogram",
    "Taken -> first scheduled, by the engine; on decode the KV transfer is in it.",
    _OF_WORKER,
    _SECONDS,
)
COMPUTE = Metric(
    "segue_engine_compute_seconds", "histogram", "First scheduled -> first token, by the engine.", _OF_WORKER, _SECONDS
)
TRANSFER = Metric(
    "segue_engine_kv_transfer_seconds", "histogram", "KV transfers to this worker that worked.", _OF_WORKER, _SECONDS
)
TRANSFER_BYTES = Metric(
    "segue_engine_kv_transfer_bytes_total", "counter", "Bytes of KV cache that came to this worker.", _OF_WORKER
)
TRANSFERS = Metric(
    "segue_engine_kv_transfers_total",
    "counter",
    "KV transfers to this worker: ok, failed, or corrupt (digests differ).",
    (*_OF_WORKER, "outcome"),
)

# As vLLM names and labels them; KEDA, HPA adapters and inference gateways know these.
_VLLM = ("model_name", "engine")
VLLM_RUNNING = Metric("vllm:num_requests_running", "gauge", "As vLLM's: requests in the engine's steps.", _VLLM)
VLLM_WAITING = Metric("vllm:num_requests_waiting", "gauge", "As vLLM's: requests waiting in the engine.", _VLLM)
VLLM_KV_USAGE = Metric("vllm:kv_cache_usage_perc", "gauge", "As vLLM's: used blocks by all blocks, 0 to 1.", _VLLM)
VLLM_PROMPT_TOKENS = Metric("vllm:prompt_tokens_total", "counter", "As vLLM's: input tokens.", _VLLM)
VLLM_GENERATED = Metric("vllm:generation_tokens_total", "counter", "As vLLM's: sampled tokens.", _VLLM)
VLLM_QUERIES = Metric(
    "vllm:prefix_cache_queries_total", "counter", "As vLLM's: input tokens looked up in the prefix cache.", _VLLM
)
VLLM_HITS = Metric("vllm:prefix_cache_hits_total", "counter", "As vLLM's: those that were found there.", _VLLM)

METRICS = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
