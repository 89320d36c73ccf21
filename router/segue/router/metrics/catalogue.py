"""Every metric that a router exports. docs/observability.md, the dashboard and the alert rules are checked by it.

``slo_class`` is a request's class; ``worker`` a worker's id. ``pool`` is the worker's; of a request it is the one that
computed its prompt: prefill if it was handed off, decode if decode did that itself. Seconds are measured by the
router, from its first byte of a request to what it sends, unless the sentence says otherwise.
"""

from __future__ import annotations

from segue.base.loop_lag import LOOP_LAG, LOOP_LAG_OWN  # noqa: F401 - exported by this process like the others
from segue.base.metrics import Metric

# From an idle GPU and a short prompt to a queue that nobody would wait in; SLO bounds (0.5 s, 2 s) are bounds here.
_SECONDS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
# 30 and 50 tokens/s are bounds too.
_TOKEN_SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.0333, 0.04),
    *(0.05, 0.06, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_SHORT_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5),
    *(0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)

# Requests, by their times

TTFT = Metric(
    "segue_time_to_first_token_seconds",
    "histogram",
    "Accepted -> first token at the router.",
    ("slo_class", "pool"),
    _SECONDS,
)
ITL = Metric(
    "segue_inter_token_latency_seconds",
    "histogram",
    "From one token of a stream to its next one, at the router.",
    ("slo_class", "pool"),
    _TOKEN_SECONDS,
)
TPOT = Metric(
    "segue_time_per_output_token_seconds",
    "histogram",
    "A finished request's (end to end - TTFT) / (output tokens - 1).",
    ("slo_class", "pool"),
    _TOKEN_SECONDS,
)
END_TO_END = Metric(
    "segue_end_to_end_seconds",
    "histogram",
    "Accepted -> last token, of answered requests.",
    ("slo_class", "pool"),
    _SECONDS,
)
QUEUE = Metric(
    "segue_queue_seconds",
    "histogram",
    "Accepted -> sent to a worker: the router's own queue.",
    ("slo_class", "pool"),
    _SHORT_SECONDS,
)
PREFILL = Metric(
    "segue_prefill_seconds",
    "histogram",
    "Sent to the first worker -> first token: the wait in the engine and the prompt's computation.",
    ("slo_class", "pool"),
    _SECONDS,
)
HANDOFF = Metric(
    "segue_handoff_seconds",
    "histogram",
    "First token -> decode's first token; KV transfer, decode's queue and one step.",
    ("slo_class",),
    _SHORT_SECONDS,
)
DECODE = Metric(
    "segue_decode_seconds",
    "histogram",
    "Decode's first token -> last token, of answered requests.",
    ("slo_class", "pool"),
    _SECONDS,
)
KV_TRANSFER = Metric(
    "segue_kv_transfer_seconds",
    "histogram",
    "KV transfers alone, as the decode worker measured them; pool is whose KV cache it was, decode's in a move.",
    ("slo_class", "pool", "transport"),
    _SHORT_SECONDS,
)

# Requests, by their ends

REQUESTS = Metric(
    "segue_requests_total",
    "counter",
    "Requests that were taken and are over: ok, cancelled, or their error's code.",
    ("slo_class", "outcome"),
)
REFUSED = Metric(
    "segue_requests_refused_total", "counter", "Requests that were not taken, by error code.", ("slo_class", "reason")
)
SLO = Metric(
    "segue_slo_requests_total",
    "counter",
    "Goodput: requests of classes that have an SLO; met is answered within it, missed is everything else but cancels "
    "and invalid requests.",
    ("slo_class", "slo"),
)
PROMISED_TTFT = Metric(
    "segue_slo_first_token_seconds", "gauge", "What a class promises for the first token.", ("slo_class",)
)
PROMISED_PACE = Metric(
    "segue_slo_tokens_per_second", "gauge", "What a class promises for the tokens behind it.", ("slo_class",)
)
BY_PATH = Metric(
    "segue_requests_by_path_total", "counter", "Answered requests by how they were carried out.", ("path",)
)
CONTINUATIONS = Metric(
    "segue_continuations_total",
    "counter",
    "Answers that were left by their worker and looked for another one: moved (a drain), unavailable, failed.",
    ("slo_class", "reason"),
)

# Tokens and money

TENANT_REQUESTS = Metric("segue_tenant_requests_total", "counter", "Requests that are over, by tenant.", ("tenant",))
PROMPT_TOKENS = Metric(
    "segue_prompt_tokens_total",
    "counter",
    "Prompt tokens of requests that are over, cached ones included.",
    ("tenant",),
)
CACHED_TOKENS = Metric(
    "segue_cached_prompt_tokens_total", "counter", "Of them, those that came from a prefix cache.", ("tenant",)
)
PREFILLED_TOKENS = Metric(
    "segue_prefill_computed_tokens_total",
    "counter",
    "Prompt tokens that prefill workers computed for requests that are over; others were cached, or decode's.",
)
OUTPUT_TOKENS = Metric("segue_output_tokens_total", "counter", "Output tokens of requests that are over.", ("tenant",))
TENANT_SECONDS = Metric(
    "segue_tenant_seconds_total",
    "counter",
    "Seconds that requests which are over were in prefill, KV transfer and decode, as their timings say.",
    ("tenant", "part"),
)
COST = Metric(
    "segue_cost_total",
    "counter",
    "What requests that are over cost by the router's price table: input, cached, output.",
    ("tenant", "currency", "part"),
)

# KV transfers

KV_TRANSFERS = Metric(
    "segue_kv_transfers_total",
    "counter",
    "KV transfers: ok, failed, or corrupt (digests differ; decode computed the prompt again).",
    ("transport", "outcome"),
)
KV_BYTES = Metric("segue_kv_transfer_bytes_total", "counter", "Bytes of transferred KV cache.", ("transport",))
_OF_LINK = ("prefill_worker", "decode_worker")
LINKS_RATE = Metric(
    "segue_kv_transfer_bytes_per_second",
    "gauge",
    "How fast KV caches travel over all pairs of workers, the fixed part aside; none before the first transfer.",
)
LINK_RATE = Metric(
    "segue_kv_link_bytes_per_second",
    "gauge",
    "The same of one pair; of at most 256 pairs, those that differ first, then those used most.",
    _OF_LINK,
)
LINK_FIXED = Metric("segue_kv_link_fixed_seconds", "gauge", "What a transfer takes whatever its size.", _OF_LINK)
LINK_DIFFERS = Metric(
    "segue_kv_link_differs",
    "gauge",
    "1 if the pair is so much slower or faster than the others that requests are routed by its own rate.",
    _OF_LINK,
)

# The router itself

ROUTER_INFO = Metric("segue_router_info", "gauge", "1, with what the router is.", ("router_id", "version", "model"))
RUNNING = Metric("segue_running_requests", "gauge", "Requests that this router has taken and that are not over.")
QUEUED = Metric("segue_queued_requests", "gauge", "Of them, those that wait for a worker.", ("slo_class",))
QUEUED_TOKENS = Metric("segue_queued_prompt_tokens", "gauge", "Their prompt tokens, which no worker has yet.")
INDEX_BLOCKS = Metric(
    "segue_prefix_index_blocks", "gauge", "Blocks of workers' prefix caches that the router remembers."
)
INDEX_DROPPED = Metric(
    "segue_prefix_index_dropped_blocks_total",
    "counter",
    "Blocks that it forgot for lack of room, not because they went.",
)
HELD_TICKETS = Metric(
    "segue_held_tickets", "gauge", "KV caches on offer whose leases this router renews until decode has them."
)
DRAINING = Metric("segue_router_draining", "gauge", "1 while the router refuses new requests and finishes its own.")

# The fleet, as this router sees it

WORKERS = Metric("segue_workers", "gauge", "Attached workers; a pool without any has zeros.", ("pool", "state"))
WORKER_INFO = Metric(
    "segue_worker_info",
    "gauge",
    "1, with what the worker is.",
    ("worker", "pool", "engine", "engine_version", "accelerator", "transport", "simulated"),
)
_OF_WORKER = ("worker", "pool")
WORKER_RUNNING = Metric("segue_worker_running_requests", "gauge", "Requests in the engine's steps.", _OF_WORKER)
WORKER_WAITING = Metric("segue_worker_waiting_requests", "gauge", "Requests waiting in the engine.", _OF_WORKER)
WORKER_WAITING_TOKENS = Metric(
    "segue_worker_waiting_prompt_tokens", "gauge", "Their prompt tokens that are not computed yet.", _OF_WORKER
)
WORKER_ASSIGNED = Metric(
    "segue_worker_assigned_requests", "gauge", "What this router has given it and not yet seen end.", _OF_WORKER
)
WORKER_ASSIGNED_TOKENS = Metric(
    "segue_worker_assigned_prompt_tokens", "gauge", "The prompt tokens of those requests.", _OF_WORKER
)
WORKER_KV_BLOCKS = Metric("segue_worker_kv_blocks", "gauge", "Blocks of its KV cache.", _OF_WORKER)
WORKER_FREE_BLOCKS = Metric(
    "segue_worker_free_kv_blocks",
    "gauge",
    "Blocks that a request could have; cached prefixes count as free.",
    _OF_WORKER,
)
WORKER_KV_USAGE = Metric("segue_worker_kv_usage_ratio", "gauge", "Used blocks by all blocks: 0 to 1.", _OF_WORKER)
WORKER_HELD_OFFERS = Metric(
    "segue_worker_held_offers", "gauge", "KV caches that wait to be claimed: outstanding leases.", _OF_WORKER
)
WORKER_CIRCUIT = Metric(
    "segue_worker_circuit_open", "gauge", "1 while the worker is spared because it failed several in a row.", _OF_WORKER
)
WORKER_PREFILL_RATE = Metric(
    "segue_worker_prefill_tokens_per_second", "gauge", "Prompt tokens it gets through when busy; measured.", _OF_WORKER
)
WORKER_STEP = Metric("segue_worker_step_seconds", "gauge", "The engine's last step.", _OF_WORKER)
WORKER_CROWDING = Metric(
    "segue_worker_crowding_ratio",
    "gauge",
    "By how much of itself a decode step takes longer for each prefill worker that computes; 0 with cores or a GPU of "
    "its own.",
    _OF_WORKER,
)
WORKER_SILENCE = Metric(
    "segue_worker_silence_seconds", "gauge", "Since its last frame; at the lease it is dropped.", _OF_WORKER
)

METRICS = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
