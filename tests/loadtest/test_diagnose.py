"""What holds a cluster back, by the evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from segue.loadtest.diagnose.evidence import Evidence, PoolEvidence, Promise, RouterEvidence, TransferEvidence
from segue.loadtest.diagnose.from_metrics import NotARouter, evidence_of_metrics
from segue.loadtest.diagnose.scrape import Scrape, Window
from segue.loadtest.diagnose.verdict import Bound, diagnose
from segue.loadtest.measure.slo import Slo

EASY = Evidence(
    source="a test",
    window_s=10.0,
    requests_per_s=2.0,
    refused_per_s=0.0,
    prefill=PoolEvidence(1, 0.2, 0.0, 0.0, 0.1, 0.2),
    decode=PoolEvidence(1, 3.0, 0.0, 0.0, 0.2, None),
    router=RouterEvidence(0.1, 0.001, Promise(0.001, 0.5), 0.005),
    transfer=TransferEvidence(0.01, 2.0, 2**20, 0.03),
    ttft=Promise(0.1, 0.5),
    prefill_s=0.08,
    decode_itl_s=0.01,
    cached_share=0.5,
    slo_share=1.0,
    prefill_part=Promise(0.08, 0.5),
    decode_pace=Promise(0.01, 0.033),
)

SLOW = replace(EASY, decode_itl_s=0.05, decode_pace=Promise(0.05, 0.033))
LONG_QUEUE = replace(EASY, router=RouterEvidence(queue=Promise(1.0, 0.5)), slo_share=0.6)

CASES = [
    ("nothing is near a limit", EASY, Bound.UNDERUSED),
    ("prefill is asked for much of what it can", replace(EASY, prefill=replace(EASY.prefill, busy=0.7)), Bound.NONE),
    ("prefill is asked for more than it can", replace(EASY, prefill=replace(EASY.prefill, busy=1.2)), Bound.PREFILL),
    ("prompts wait", replace(EASY, prefill=replace(EASY.prefill, waiting_requests=4.0)), Bound.PREFILL),
    ("prompts pile up by Little's law", replace(EASY, requests_per_s=5.0, prefill_s=1.5), Bound.PREFILL),
    ("decode's cache is full", replace(EASY, decode=replace(EASY.decode, kv_usage=0.97)), Bound.DECODE),
    ("streams wait at decode", replace(EASY, decode=replace(EASY.decode, waiting_requests=3.0)), Bound.DECODE),
    (
        "tokens are slower than promised",
        replace(EASY, decode_itl_s=0.05, decode_pace=Promise(0.05, 0.033)),
        Bound.DECODE,
    ),
    (
        "requests wait for decode's first step",
        replace(EASY, transfer=TransferEvidence(0.01, 2.0, 2**20, 0.3)),
        Bound.DECODE,
    ),
    ("the link is never free", replace(EASY, transfer=TransferEvidence(0.6, 2.0, 2**30, 0.62)), Bound.TRANSFER),
    (
        "moving takes longer than computing",
        replace(EASY, transfer=TransferEvidence(0.2, 0.5, 2**28, 0.21)),
        Bound.TRANSFER,
    ),
    ("the router's core is full", replace(EASY, router=replace(EASY.router, cpu_cores=0.98)), Bound.ROUTER),
    ("the router's loop is late", replace(EASY, router=RouterEvidence(0.6, 0.2)), Bound.ROUTER),
    ("the router is idle and its machine busy", replace(EASY, router=RouterEvidence(0.1, 0.2)), Bound.NONE),
    (
        "the router's loop is late by its own work on a machine that grants it little",
        replace(EASY, router=RouterEvidence(0.3, 0.5, own_lag_s=0.1)),
        Bound.ROUTER,
    ),
    (
        "the router works a little and its machine is busy otherwise",
        replace(EASY, router=RouterEvidence(0.6, 0.5, own_lag_s=0.02)),
        Bound.NONE,
    ),
    (
        "the queue is for prefill",
        replace(EASY, router=RouterEvidence(queue=Promise(1.0, 0.5)), slo_share=0.6),
        Bound.PREFILL,
    ),
    ("who waits was promised nothing", replace(EASY, router=RouterEvidence(queue=Promise(3.0, 0.5))), Bound.NONE),
    (
        "the queue is for decode",
        replace(
            EASY,
            router=RouterEvidence(queue=Promise(1.0, 0.5)),
            decode=PoolEvidence(1, 8.0, 0.9, None, 0.6),
            slo_share=0.6,
        ),
        Bound.DECODE,
    ),
    ("requests wait for their KV cache", replace(EASY, decode=PoolEvidence(1, 0.0, 6.0, None, 0.1)), Bound.TRANSFER),
    (
        "those that wait at decode are those whose KV cache is on its way",
        replace(EASY, decode=PoolEvidence(1, 4.0, 6.0), transfer=TransferEvidence(3.0, 2.0, 2**30, 3.02)),
        Bound.TRANSFER,
    ),
    (
        "first tokens pass their time outside the router",
        replace(EASY, router=replace(EASY.router, outside_s=0.4), ttft=Promise(0.45, 0.5)),
        Bound.ROUTER,
    ),
]


@pytest.mark.parametrize(("evidence", "bound"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_bound_is_found(evidence: Evidence, bound: Bound) -> None:
    diagnosis = diagnose(evidence)

    assert diagnosis.bound is bound
    assert diagnosis.summary
    if bound not in (Bound.NONE, Bound.UNDERUSED):
        assert diagnosis.findings[0].bound is bound
        assert diagnosis.findings[0].advice


def test_nothing_known_is_no_verdict() -> None:
    blank = Evidence("x", 1.0, 0.0, 0.0, PoolEvidence(0), PoolEvidence(0), RouterEvidence(), None, None)

    diagnosis = diagnose(blank)

    assert diagnosis.bound is Bound.UNDERUSED
    assert diagnosis.summary == "no request ended in the window"


@given(st.floats(0, 3), st.floats(0, 3))
def test_more_work_for_prefill_never_takes_pressure_from_it(busy: float, more: float) -> None:
    def pressure(value: float) -> float:
        findings = diagnose(replace(EASY, prefill=replace(EASY.prefill, busy=value))).findings
        return next(finding.pressure for finding in findings if finding.bound is Bound.PREFILL)

    assert pressure(busy + more) >= pressure(busy)


def advice_for(evidence: Evidence) -> str:
    return "\n".join(diagnose(evidence).findings[0].advice)


def test_a_full_cache_is_answered_with_a_smaller_one_and_a_queue_with_a_bigger_batch() -> None:
    full = replace(EASY, decode=replace(EASY.decode, kv_usage=0.99))
    waiting = replace(EASY, decode=replace(EASY.decode, waiting_requests=3.0))

    assert "kv_cache_dtype" in advice_for(full)
    assert "max_num_seqs" in advice_for(waiting)
    assert "kv_cache_dtype" not in advice_for(waiting)


def test_few_streams_are_answered_with_speculation_and_many_with_workers() -> None:
    crowded = replace(SLOW, decode=replace(EASY.decode, running_requests=64.0))

    assert "speculative" in advice_for(SLOW)
    assert "seed" in advice_for(SLOW)
    assert "more decode workers" in advice_for(crowded)


def test_prompts_that_hit_no_cache_are_told_to() -> None:
    busy = replace(EASY, prefill=replace(EASY.prefill, busy=1.5))

    assert "system prompt" in advice_for(replace(busy, cached_share=0.05))
    assert "system prompt" not in advice_for(replace(busy, cached_share=0.6))


class Page:
    """A router's metrics, some of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Gauge("segue_router_info", "", ["router_id"], registry=self.registry).labels("r").set(1)
        self.workers = Gauge("segue_workers", "", ["pool", "state"], registry=self.registry)
        self.waiting = Gauge("segue_worker_waiting_requests", "", ["worker", "pool"], registry=self.registry)
        self.usage = Gauge("segue_worker_kv_usage_ratio", "", ["worker", "pool"], registry=self.registry)
        self.speed = Gauge("segue_worker_prefill_tokens_per_second", "", ["worker", "pool"], registry=self.registry)
        self.requests = Counter("segue_requests_total", "", ["slo_class", "outcome"], registry=self.registry)
        self.prompt = Counter("segue_prompt_tokens_total", "", ["tenant"], registry=self.registry)
        self.cached = Counter("segue_cached_prompt_tokens_total", "", ["tenant"], registry=self.registry)
        self.cpu = Counter("process_cpu_seconds_total", "", registry=self.registry)
        buckets = (0.01, 0.1, 1.0)
        self.prefill = Histogram(
            "segue_prefill_seconds", "", ["slo_class", "pool"], buckets=buckets, registry=self.registry
        )
        self.lag = Histogram("segue_event_loop_lag_seconds", "", buckets=buckets, registry=self.registry)
        self.queue = Histogram(
            "segue_queue_seconds", "", ["slo_class", "pool"], buckets=buckets, registry=self.registry
        )
        self.promised = Gauge("segue_slo_first_token_seconds", "", ["slo_class"], registry=self.registry)
        self.pace = Gauge("segue_slo_tokens_per_second", "", ["slo_class"], registry=self.registry)
        self.gaps = Histogram(
            "segue_inter_token_latency_seconds", "", ["slo_class", "pool"], buckets=buckets, registry=self.registry
        )
        self.slo = Counter("segue_slo_requests_total", "", ["slo_class", "slo"], registry=self.registry)
        self.transfer = Histogram("segue_kv_transfer_seconds", "", ["slo_class"], registry=self.registry)

    def look(self, at_s: float) -> Scrape:
        return Scrape.parse(generate_latest(self.registry).decode(), at_s)


def test_evidence_is_what_changed_between_two_looks() -> None:
    page = Page()
    page.workers.labels("prefill", "ready").set(2)
    page.prefill.labels("chat", "prefill").observe(9.0)  # Before the window.
    for worker in ("p0", "p1"):
        page.speed.labels(worker, "prefill").set(500)
        page.waiting.labels(worker, "prefill").set(3)
    page.usage.labels("d0", "decode").set(0.25)
    before = page.look(100.0)
    page.requests.labels("chat", "ok").inc(15)
    page.requests.labels("chat", "timeout").inc(5)
    page.prompt.labels("a").inc(8000)
    page.prompt.labels("b").inc(2000)
    page.cached.labels("a").inc(1000)
    page.cpu.inc(4)
    page.prefill.labels("chat", "prefill").observe(0.2)
    page.prefill.labels("batch", "prefill").observe(0.4)
    page.lag.observe(0.05)
    page.waiting.labels("p0", "prefill").set(5)

    evidence = evidence_of_metrics(Window(before, page.look(110.0)), "x", Slo(0.5, 0.03))

    assert evidence.requests_per_s == pytest.approx(1.5)
    assert evidence.cached_share == pytest.approx(0.1)
    assert evidence.prefill_s == pytest.approx(0.3)
    assert evidence.router.cpu_cores == pytest.approx(0.4)
    assert evidence.router.loop_lag_s == 0.1
    assert evidence.prefill.workers == 2
    assert evidence.prefill.waiting_requests == pytest.approx(3.5)
    assert evidence.prefill.busy == pytest.approx(0.9)
    assert evidence.decode.kv_usage == 0.25
    assert evidence.transfer is None


def test_another_processs_metrics_are_refused() -> None:
    with pytest.raises(NotARouter):
        evidence_of_metrics(Window(Scrape.parse("a 1\n", 0.0), Scrape.parse("a 2\n", 1.0)), "x", Slo())


def test_two_processes_behind_one_port_are_not_taken_for_one() -> None:
    looks = [Scrape.parse(f'segue_router_info{{router_id="r-{one}"}} 1\n', float(one)) for one in (0, 1)]
    with pytest.raises(NotARouter, match=r"router r-0 first and by r-1 then.*--metrics-port"):
        evidence_of_metrics(Window(looks[0], looks[1]), "x", Slo())


def test_prompts_that_decode_computes_are_no_work_of_prefill_workers() -> None:
    page = Page()
    page.workers.labels("prefill", "ready").set(1)
    page.speed.labels("p0", "prefill").set(500)
    page.prefill.labels("chat", "prefill").observe(0.1)
    prefilled = Counter("segue_prefill_computed_tokens_total", "", registry=page.registry)
    before = page.look(100.0)
    for pool, requests in (("decode", 90), ("prefill", 10)):
        for _ in range(requests):
            page.prefill.labels("chat", pool).observe(0.4)
    page.requests.labels("chat", "ok").inc(100)
    page.prompt.labels("a").inc(10_000)
    prefilled.inc(1000)

    evidence = evidence_of_metrics(Window(before, page.look(110.0)), "x", Slo(5.0, 1.0))

    assert evidence.prefill.busy == pytest.approx(0.2)
    assert evidence.prefilled_share == pytest.approx(0.1)
    assert diagnose(evidence).bound is Bound.UNDERUSED


def test_a_process_that_was_restarted_in_between_has_no_negative_rates() -> None:
    window = Window(Scrape.parse("c_total 10\n", 0.0), Scrape.parse("c_total 2\n", 1.0))

    assert window.rate("c_total") == 0
