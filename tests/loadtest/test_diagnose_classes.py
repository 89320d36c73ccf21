"""A diagnosis holds each class against what it was promised."""

from __future__ import annotations

import pytest

from segue.loadtest.diagnose.evidence import Promise
from segue.loadtest.diagnose.from_metrics import evidence_of_metrics
from segue.loadtest.diagnose.from_result import evidence_of_result
from segue.loadtest.diagnose.scrape import Window
from segue.loadtest.diagnose.verdict import Bound, diagnose
from segue.loadtest.measure.distribution import Distribution
from segue.loadtest.measure.lag import GeneratorReport
from segue.loadtest.measure.outcome import Legs, Outcome
from segue.loadtest.measure.result import Result, Samples
from segue.loadtest.measure.slo import Slo, SloTable
from segue.loadtest.measure.summary import summarize
from tests.loadtest.test_diagnose import Page


def assert_is(promise: Promise | None, slo_class: str, seen_s: float, bound_s: float) -> None:
    assert promise is not None
    assert promise.slo_class == slo_class
    assert [promise.seen_s, promise.bound_s] == pytest.approx([seen_s, bound_s])


@pytest.mark.parametrize(("documents_s", "bound"), [(1.2, Bound.NONE), (2.5, Bound.PREFILL)])
def test_each_class_waits_against_its_own_promise_and_batch_against_none(documents_s: float, bound: Bound) -> None:
    page = Page()
    page.promised.labels("chat").set(0.5)
    page.promised.labels("documents").set(2.0)
    for name in ("chat", "documents", "batch"):
        page.queue.labels(name, "prefill").observe(0.0)
    before = page.look(100.0)
    page.requests.labels("chat", "ok").inc(9)
    page.slo.labels("chat", "met").inc(8)
    page.slo.labels("chat", "missed").inc(1)
    page.queue.labels("chat", "prefill").observe(0.05)
    page.queue.labels("documents", "prefill").observe(documents_s)
    page.queue.labels("batch", "prefill").observe(40.0)

    evidence = evidence_of_metrics(Window(before, page.look(110.0)), "x")

    assert_is(evidence.router.queue, "documents", documents_s, 2.0)
    assert diagnose(evidence).bound is bound


@pytest.mark.parametrize(("documents_s", "bound"), [(1.2, Bound.NONE), (2.5, Bound.PREFILL)])
def test_prefill_takes_its_part_of_each_classs_own_promise(documents_s: float, bound: Bound) -> None:
    page = Page()
    page.promised.labels("chat").set(0.5)
    page.promised.labels("documents").set(2.0)
    before = page.look(100.0)
    page.requests.labels("chat", "ok").inc(3)
    for name, seconds in (("chat", 0.1), ("documents", documents_s), ("batch", 30.0)):
        page.prefill.labels(name, "prefill").observe(seconds)

    window = Window(before, page.look(200.0))

    assert_is(evidence_of_metrics(window, "x").prefill_part, "documents", documents_s, 2.0)
    assert diagnose(evidence_of_metrics(window, "x")).bound is bound
    assert_is(evidence_of_metrics(window, "x", Slo(40.0)).prefill_part, "", (0.1 + documents_s + 30.0) / 3, 40.0)


@pytest.mark.parametrize(("chat_s", "bound"), [(0.03, Bound.NONE), (0.04, Bound.DECODE)])
def test_the_tokens_of_each_class_keep_its_own_pace(chat_s: float, bound: Bound) -> None:
    page = Page()
    page.pace.labels("chat").set(30.0)
    before = page.look(100.0)
    page.requests.labels("chat", "ok").inc(3)
    for name, seconds in (("chat", chat_s), ("batch", 0.2)):
        page.gaps.labels(name, "decode").observe(seconds)

    evidence = evidence_of_metrics(Window(before, page.look(200.0)), "x")

    assert_is(evidence.decode_pace, "chat", chat_s, 1 / 30)
    assert diagnose(evidence).bound is bound


def test_a_load_tests_classes_are_held_against_their_own_slos() -> None:
    def answered(slo_class: str, prefill_s: float, token_s: float) -> Outcome:
        legs = Legs(prefill_s=prefill_s, decode_s=8 * token_s)
        outcome = Outcome(0, slo_class, 0.0, 0.0, 8, 10, output_tokens=10, counted=True, legs=legs)
        outcome.on_chunk(prefill_s)
        return outcome

    outcomes = [answered("chat", 0.2, 0.02), answered("documents", 1.8, 0.01), answered("batch", 30.0, 0.5)]
    summary = summarize(outcomes, SloTable.parse([]))

    generator = GeneratorReport(1, Distribution(0), Distribution(0), 0.1, ())
    evidence = evidence_of_result(Result(1, "x", 0.0, {}, summary, generator, (), Samples((), (), (), ())))

    assert_is(evidence.prefill_part, "documents", 1.8, 2.0)
    assert_is(evidence.decode_pace, "chat", 0.02, 1 / 30)
