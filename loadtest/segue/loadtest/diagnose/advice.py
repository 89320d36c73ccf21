"""What would help each part, by what is known of it. The settings are named as one writes them."""

from __future__ import annotations

from segue.loadtest.diagnose.evidence import Evidence

_FULL_CACHE = 0.85
_SMALL_BATCH = 8.0


def prefill_advice(evidence: Evidence) -> list[str]:
    advice = ["more prefill workers (--prefill), or faster ones: the work divides among them"]
    decode = evidence.decode
    idle_decode = decode.kv_usage is not None and decode.kv_usage < 0.5 and not decode.waiting_requests
    if idle_decode and decode.workers > 1:
        advice.append(f"decode has room: of its {decode.workers} workers one could be a prefill worker")
    if evidence.cached_share is None or evidence.cached_share < 0.3:
        seen = "" if evidence.cached_share is None else f" ({100 * evidence.cached_share:.0f} % of tokens now)"
        advice.append(
            f"more prefix-cache hits{seen}: a shared system prompt first and word for word alike, what changes "
            "(dates, names, documents) after it; or a shorter system prompt"
        )
    advice.append(
        "quantised weights on prefill (--prefill-engine-arg quantization=fp8) where the hardware computes in it"
    )
    return advice


def decode_advice(evidence: Evidence) -> list[str]:
    decode = evidence.decode
    advice = []
    if decode.kv_usage is not None and decode.kv_usage >= _FULL_CACHE:
        advice.append(
            "the KV cache is what is short: a quantised one (--engine-arg kv_cache_dtype=fp8, both pools) holds twice"
        )
    elif decode.waiting_requests:
        advice.append("the KV cache has room and requests wait: a bigger batch (--decode-engine-arg max_num_seqs=...)")
    few = decode.running_requests is not None and 1 <= decode.running_requests < _SMALL_BATCH
    if few and evidence.decode_pace is not None and evidence.decode_pace.strain >= 1:
        advice.append(
            f"with {decode.running_requests:.0f} streams a worker the weights' bandwidth is the limit: speculative "
            "decoding (--decode-engine-arg speculative_config=...; an answer with a seed, penalties or a grammar whose "
            "worker is lost can then not be replayed exactly) or quantised weights"
        )
    else:
        advice.append("more decode workers (--decode), so that each has a smaller batch and shorter steps")
    return advice


def transfer_advice(evidence: Evidence) -> list[str]:
    advice = [
        "--transport nixl where there is RDMA, NVLink or shared memory; check that it is what is in use",
        "a quantised KV cache (--engine-arg kv_cache_dtype=fp8, both pools): half the bytes",
    ]
    if evidence.cached_share is None or evidence.cached_share < 0.3:
        advice.append("longer shared prefixes: what decode has cached already doesn't travel")
    advice.append("prefill on the decode worker for prompts whose KV takes longer to move than to compute")
    return advice


def router_advice(evidence: Evidence) -> list[str]:
    advice = ["more router processes (segue router --processes), or a second router: workers attach to all of them"]
    if evidence.router.outside_s is not None:
        advice.append("look at what stands before the router too: proxies, TLS, and the client's own machine")
    advice.append("clients with many streams: gRPC rather than an SSE event for each token")
    return advice
