"""Loads on a mock server, from the first byte to the figures."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from segue.engine.embedded_model import ensure_embedded_model
from segue.loadtest.generator.run import Generator, Pace
from segue.loadtest.measure.outcome import Failure, Outcome
from segue.loadtest.plan import Api, Door, Plan, Rate, Share, open_target
from segue.loadtest.target.base import Ask
from segue.loadtest.target.discover import served_model
from segue.loadtest.workload.class_mix import ClassMix
from segue.loadtest.workload.lengths import Lengths
from segue.loadtest.workload.requests import Synthetic
from segue.router.text.tokenizer import TextCodec
from tests.loadtest.mock_server import MockServer

WHAT = Synthetic(Lengths("fixed", 12), Lengths("fixed", 5))


def a_plan(server: MockServer, pace: Pace = Pace(concurrency=2), **more: object) -> Plan:  # noqa: B008 (frozen)
    given = {"max_requests": 6, "requests": WHAT, "rate": None, "ask": Ask("mock", timeout_s=5.0), **more}
    return Plan(door=Door(server.url), pace=pace, **given)  # type: ignore[arg-type]


async def put_on(plan: Plan) -> list[Outcome]:
    target = open_target(plan)
    try:
        outcomes, _ = await Generator(target, plan.pace).run(plan.shapes(), time.monotonic, lambda _: None)
    finally:
        await target.close()
    return outcomes


async def test_a_closed_loop_sends_all_and_reads_every_token() -> None:
    async with MockServer().up() as server:
        outcomes = await put_on(a_plan(server))

    assert [outcome.failure for outcome in outcomes] == [None] * 6
    assert {(one.output_tokens, one.chunks, one.prompt_tokens, one.cached_tokens) for one in outcomes} == {(5, 5, 7, 3)}
    assert [len(body["prompt"]) for body in server.bodies] == [12] * 6
    assert all(body["max_tokens"] == 5 and body["ignore_eos"] for body in server.bodies)


async def test_a_closed_loop_has_no_more_clients_than_asked_for() -> None:
    async with MockServer(first_s=0.01).up() as server:
        outcomes = await put_on(a_plan(server, Pace(concurrency=3), max_requests=12))

    edges = sorted([(one.sent_s, 1) for one in outcomes] + [(one.end_s, -1) for one in outcomes])
    running = peak = 0
    for _, change in edges:
        running += change
        peak = max(peak, running)
    assert peak == 3


async def test_the_warm_up_is_answered_before_what_counts_is_sent() -> None:
    async with MockServer(first_s=0.02).up() as server:
        outcomes = await put_on(a_plan(server, Pace(concurrency=4, warm_up_requests=3), max_requests=10))

    assert len(outcomes) == 10
    assert max(one.end_s for one in outcomes[:3]) <= min(one.sent_s for one in outcomes[3:])


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    """All requests are with the server before it answers the first: coordinated omission would deadlock here."""
    server = MockServer(first_s=0.3)
    async with server.up():
        outcomes = await put_on(a_plan(server, Pace(), rate=Rate(200.0, "constant"), max_requests=20))

    first_answer_s = min(one.end_s for one in outcomes)
    assert all(one.sent_s < first_answer_s for one in outcomes)
    assert [one.intended_s for one in outcomes] == pytest.approx([number / 200 for number in range(20)])


async def test_waiting_at_the_server_shows_in_the_latencies_of_an_open_loop() -> None:
    """One slot and 50 ms a request, 20 requests at once: the last one's TTFT is that of the whole queue."""
    async with MockServer(first_s=0.05, capacity=1).up() as server:
        outcomes = await put_on(a_plan(server, Pace(), rate=Rate(10_000.0, "constant"), max_requests=20))

    assert max(one.ttft_s for one in outcomes) >= 20 * 0.05


async def test_nothing_is_sent_after_the_duration() -> None:
    async with MockServer().up() as server:
        outcomes = await put_on(a_plan(server, Pace(max_duration_s=0.2), rate=Rate(50.0, "constant"), max_requests=0))

    assert len(outcomes) == 10
    assert all(one.ok for one in outcomes)


async def test_what_is_not_answered_at_the_end_is_a_timeout() -> None:
    async with MockServer(first_s=30.0).up() as server:
        pace = Pace(max_duration_s=0.1, drain_s=0.1)
        outcomes = await put_on(a_plan(server, pace, rate=Rate(50.0, "constant"), max_requests=0))

    assert {one.failure for one in outcomes} == {Failure.TIMEOUT}


@pytest.mark.parametrize(
    ("server", "failure"),
    [
        (MockServer(status=429), Failure.REFUSED),
        (MockServer(status=500), Failure.SERVER_ERROR),
        (MockServer(status=400), Failure.CLIENT_ERROR),
        (MockServer(status=504), Failure.TIMEOUT),
        (MockServer(break_after=2), Failure.RESET),
        (MockServer(end_after=2), Failure.INCOMPLETE),
        (MockServer(end_after=0), Failure.INCOMPLETE),
    ],
    ids=lambda value: str(value) if isinstance(value, Failure) else "",
)
async def test_failures_are_told_apart(server: MockServer, failure: Failure) -> None:
    async with server.up():
        outcomes = await put_on(a_plan(server))

    assert {one.failure for one in outcomes} == {failure}
    assert all(one.detail for one in outcomes)


async def test_a_client_waits_no_longer_than_it_said() -> None:
    async with MockServer(first_s=30.0).up() as server:
        outcomes = await put_on(a_plan(server, ask=Ask("mock", timeout_s=0.1)))

    assert {one.failure for one in outcomes} == {Failure.TIMEOUT}


async def test_a_server_that_is_not_there_is_no_connection() -> None:
    async with MockServer().up() as server:
        plan = a_plan(server)
    outcomes = await put_on(plan)

    assert {one.failure for one in outcomes} == {Failure.CONNECT}


async def test_a_kept_connection_that_the_server_closes_is_no_failure() -> None:
    """The server's keep-alive ends between two requests of one client."""
    async with MockServer().up() as server:
        target = open_target(a_plan(server))
        shapes = list(a_plan(server).shapes())
        for shape in shapes[:2]:
            outcome = Outcome(0, "", 0.0, 0.0, 1, 5)
            await target.send(target.prepare(shape), outcome, time.monotonic)
            outcome.close(0.0)
            assert outcome.ok
            [connection] = target._client._idle  # type: ignore[attr-defined]
            connection.transport.close()  # As if the server had, unseen until the next request.
        await target.close()


async def test_several_tokens_in_a_chunk_are_counted_by_usage() -> None:
    async with MockServer(per_chunk=4).up() as server:
        outcomes = await put_on(a_plan(server))

    assert {(one.output_tokens, one.chunks) for one in outcomes} == {(5, 2)}


async def test_a_server_without_usage_is_measured_by_chunks() -> None:
    async with MockServer(usage=False).up() as server:
        outcomes = await put_on(a_plan(server))

    assert {(one.output_tokens, one.counted, one.ok) for one in outcomes} == {(5, False, True)}


@pytest.mark.parametrize(("api", "as_text"), [("chat", False), ("completions", True)])
async def test_prompts_as_text_have_the_right_length(api: Api, as_text: bool) -> None:
    folder = str(ensure_embedded_model())
    async with MockServer().up() as server:
        plan = Plan(Door(server.url, api, as_text, folder), Ask("mock"), WHAT, None, Pace(1), max_requests=2)
        outcomes = await put_on(plan)

    assert all(one.ok for one in outcomes)
    codec = TextCodec.load(folder)
    for body in server.bodies:
        text = body["messages"][0]["content"] if api == "chat" else body["prompt"]
        assert len(codec.encode(text, add_special_tokens=False)) == 12


async def test_requests_name_their_class_and_carry_key_and_headers() -> None:
    what = Synthetic(Lengths("fixed", 3), Lengths("fixed", 1), classes=ClassMix.parse("batch"))
    async with MockServer().up() as server:
        await put_on(a_plan(server, requests=what, ask=Ask("mock", api_key="k", headers=(("X-Own", "1"),))))

    assert {(one["X-Segue-SLO-Class"], one["Authorization"], one["X-Own"]) for one in server.headers} == {
        ("batch", "Bearer k", "1")
    }


async def test_the_served_model_is_found() -> None:
    async with MockServer().up() as server:
        assert await asyncio.to_thread(served_model, server.url + "/v1", "completions", "", ()) == "mock"


def test_a_server_without_models_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--model"):
        served_model("http://127.0.0.1:9", "completions", "", ())


def test_shares_of_several_processes_make_the_whole(tmp_path: Path) -> None:
    plan = Plan(
        Door("x"), Ask("mock"), WHAT, Rate(5.0), Pace(concurrency=7), max_requests=23, warm_up_requests=4, processes=3
    )
    shares = [Share(part, 3) for part in range(3)]

    together = [shape for share in shares for shape in share.shapes(plan)]

    assert sorted(together, key=lambda shape: shape.index) == list(plan.shapes())
    assert [share.pace(plan).concurrency for share in shares] == [3, 2, 2]
    assert [share.pace(plan).warm_up_requests for share in shares] == [2, 1, 1]
