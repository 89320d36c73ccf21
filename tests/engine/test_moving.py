"""Two real decode workers and a router's end of our own: a running request goes from one to the other."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from segue.proto.kv_transfer_pb2 import ReleaseRequest, Ticket
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import RouterFrame, Submit, WorkerState
from tests.engine.decode_workers import Decode, decode_workers, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

PROMPT = [7 * number % 1900 + 50 for number in range(300)]
# An answer that is still going on when this process comes to it, also on a machine that pauses for seconds.
LONG_TOKENS = 3000
REST_TOKENS = 50


def leg(name: str, output: Sequence[int], ticket: Ticket | None = None, tokens: int = LONG_TOKENS) -> Submit:
    """So much of the answer behind ``output``."""
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    return Submit(request_id=name, input_token_ids=[*PROMPT, *output], sampling=sampling, timeout_s=60, ticket=ticket)


def rest(name: str, output: Sequence[int], ticket: Ticket | None = None) -> Submit:
    return leg(name, output, ticket, REST_TOKENS)


class Undisturbed:
    """The answer when nothing happens to it, as far as anybody has asked."""

    def __init__(self) -> None:
        self._tokens: list[int] = []

    async def first(self, tokens: int, worker: Decode) -> list[int]:
        if tokens > len(self._tokens):
            name = f"undisturbed {tokens}"
            await worker.submit(leg(name, [], tokens=tokens))
            await worker.last(name)
            self._tokens = worker.tokens(name)
            assert len(self._tokens) == tokens
        return self._tokens[:tokens]


@pytest.mark.parametrize(
    ("engine", "transport"),
    [
        ("inproc", "grpc"),
        pytest.param("inproc", "nixl", marks=pytest.mark.variant),
        pytest.param("async", "grpc", marks=pytest.mark.variant),
        pytest.param("async", "nixl", marks=pytest.mark.variant),
    ],
)
async def test_running_requests_move_with_their_kv_cache(tmp_path: Path, engine: str, transport: str) -> None:
    """One test for all of it: to start the two engines takes most of its time."""
    arguments = ("--engine", engine, "--transport", transport)
    async with decode_workers(tmp_path, ["decode-0", "decode-1"], *arguments) as (one, two):
        expected = Undisturbed()
        await expected.first(150, one)
        await one.is_at_baseline()
        await moved_in_the_middle_of_its_stream(one, two, expected)
        await moved_before_its_first_token(one, two, expected)
        await moved_and_given_up(one)
        await cancelled(one)
        await moved_by_a_drain(one, two, expected)


async def moved_in_the_middle_of_its_stream(one: Decode, two: Decode, expected: Undisturbed) -> None:
    await one.submit(leg("moved", []))
    await until(lambda: len(one.tokens("moved")) >= 40)
    await one.session.send(RouterFrame(move_request_ids=["moved"]))
    last = await one.last("moved")
    assert last.finish_reason == FinishReason.FINISH_REASON_ABORT
    assert not last.HasField("error")
    emitted = one.tokens("moved")
    assert 40 <= len(emitted) < LONG_TOKENS
    assert last.offer.tokens == len(PROMPT) + len(emitted) - 1
    held = (await one.describe()).load
    assert (held.held_offers, held.running_requests) == (1, 0)
    await two.submit(rest("moved", emitted, last.offer))
    done = await two.last("moved")
    assert emitted + two.tokens("moved") == await expected.first(len(emitted) + REST_TOKENS, one)
    assert done.usage.transferred_tokens == last.offer.tokens
    assert done.usage.computed_tokens == 1
    assert done.transfer.error == ""
    await one.is_at_baseline()
    await two.is_at_baseline()


async def moved_before_its_first_token(one: Decode, two: Decode, expected: Undisturbed) -> None:
    await one.submit(leg("early", []))
    await one.session.send(RouterFrame(move_request_ids=["early"]))
    early = await one.last("early")
    assert early.finish_reason == FinishReason.FINISH_REASON_ABORT
    emitted = one.tokens("early")
    await two.submit(rest("early", emitted, early.offer if early.HasField("offer") else None))
    await two.last("early")
    assert emitted + two.tokens("early") == await expected.first(len(emitted) + REST_TOKENS, one)
    await one.is_at_baseline()


async def moved_and_given_up(one: Decode) -> None:
    await one.submit(leg("given up", []))
    await until(lambda: one.tokens("given up"))
    await one.session.send(RouterFrame(move_request_ids=["given up"]))
    ticket = (await one.last("given up")).offer
    assert ticket.tokens > 0
    release = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason="cancelled")
    await one.session.send(RouterFrame(release=[release]))
    await one.is_at_baseline()


async def cancelled(one: Decode) -> None:
    """While it decodes: the load that is looked at is of the last step, which before the cancel had the request."""
    await one.submit(leg("cancelled", []))
    await until(lambda: len(one.tokens("cancelled")) >= 5)
    started_s = time.monotonic()
    await one.session.send(RouterFrame(abort_request_ids=["cancelled"]))
    await one.is_at_baseline()
    print(f"from cancel to free blocks, seen from outside: {1000 * (time.monotonic() - started_s):.0f} ms")


async def moved_by_a_drain(one: Decode, two: Decode, expected: Undisturbed) -> None:
    """A worker that is told to leave offers what it has, and leaves when that has been fetched."""
    await one.submit(leg("drained", []))
    await until(lambda: len(one.tokens("drained")) >= 5)
    one.process.send_signal(signal.SIGTERM)
    await until(lambda: one.status.state == WorkerState.WORKER_STATE_DRAINING)
    assert one.status.detail.startswith("draining: 1 request, 0 offers left")
    await one.session.send(RouterFrame(move_request_ids=["drained"]))
    ticket = (await one.last("drained")).offer
    await asyncio.sleep(0.3)
    assert one.process.poll() is None, "it left with an offer that was not fetched"
    assert one.status.detail.startswith("draining: 0 requests, 1 offer left")
    emitted = one.tokens("drained")
    await two.submit(rest("drained", emitted, ticket))
    done = await two.last("drained")
    assert emitted + two.tokens("drained") == await expected.first(len(emitted) + REST_TOKENS, two)
    assert done.transfer.error == ""
    await until(lambda: one.process.poll() == 0, 60.0)
    await two.is_at_baseline()
