"""A consumer that talks nonsense: it gets what it has a ticket for or a refusal, and each block is freed once."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from segue.kv_transfer import grpc_server
from segue.kv_transfer.handoff import OVER
from segue.kv_transfer.offers import Offer
from segue.proto.kv_transfer_pb2 import DigestRequest, PullRequest, ReleaseRequest, RenewRequest, Ticket
from tests.fuzz.inputs import draws, mutated
from tests.fuzz.test_grpc import fill
from tests.kv_transfer.ends import EPOCH, Producer

METHODS: dict[str, type[Any]] = {
    "Pull": PullRequest,
    "Digest": DigestRequest,
    "Release": ReleaseRequest,
    "Renew": RenewRequest,
}
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
}
LEASE_S = 30.0


def request(draw: random.Random, producer: Producer, tickets: list[Ticket]) -> tuple[str, Message]:
    """A sane call with a ticket, some of its fields replaced."""
    method = draw.choice(list(METHODS))
    ticket = draw.choice(tickets)
    made = METHODS[method](producer_epoch=EPOCH)
    if method == "Renew":
        made.ticket_ids.append(ticket.ticket_id)
    else:
        made.ticket_id = ticket.ticket_id
    if method in ("Pull", "Digest"):
        made.request_id = ticket.request_id
        made.layout.CopyFrom(producer.cache.layout)
    if method == "Digest":
        made.claim = draw.random() < 0.5
        made.blocks.extend(draw.randrange(4) for _ in range(draw.randrange(4)))
    if draw.random() < 0.6:
        fill(draw, made, fields=2)
    return method, made


def test_claims_renewals_and_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "_OFFER_WAIT_S", 0.0)
    producer = Producer()
    seen: Counter[str] = Counter()
    freed: Counter[str] = Counter()
    tickets: list[Ticket] = []
    with grpc.insecure_channel(producer.address) as channel:
        for number, draw in enumerate(draws("kv transfer", quick=300)):
            if number % 3 == 0:
                tickets = [*tickets[-3:], producer.offer(str(number), draw.sample(range(24), 3), LEASE_S)]
            method, made = request(draw, producer, tickets)
            seen[call(channel, method, made.SerializeToString()).name] += 1
            freed.update(producer.book.take_over())
            # Whoever is silent from now on: all is free again within a lease, whatever was said before.
            producer.book.expire(time.monotonic() - 1)
            assert all(until_s <= time.monotonic() + 3600 for until_s in leases(producer)), (method, made)
        producer.book.expire(time.monotonic() + 3601)
        freed.update(producer.book.take_over())
        held = [offer for offer in producer.book._offers.values() if offer.handoff.state in OVER]
    producer.stop()
    assert not held
    assert set(freed.values()) <= {1}, "blocks were freed twice"
    print(f"kv transfer: {sum(seen.values())} inputs, {dict(seen)}")
    assert {"OK", "NOT_FOUND", "FAILED_PRECONDITION"} <= set(seen)


def leases(producer: Producer) -> list[float]:
    offers: list[Offer] = list(producer.book._offers.values())
    return [offer.expires_at_s for offer in offers]


def call(channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode:
    """How the call ended. Fails on a status that names no cause."""
    invoke: Any = channel.unary_stream(f"/segue.v1.KvTransfer/{method}")  # type: ignore[call-arg]
    answers = invoke(data, timeout=20)
    try:
        for _ in answers:
            pass
    except grpc.RpcError:
        pass
    code: grpc.StatusCode = answers.code()
    assert code in EXPECTED, (method, data, code, answers.details())
    return code


def test_bytes_that_are_no_message_leave_the_producer_serving() -> None:
    producer = Producer()
    ticket = producer.offer("a", [1, 2])
    sane = ReleaseRequest(ticket_id="other", producer_epoch=EPOCH, reason="a" * 20).SerializeToString()
    count = 0
    with grpc.insecure_channel(producer.address) as channel:
        for draw in draws("kv bytes", quick=50):
            invoke: Any = channel.unary_stream("/segue.v1.KvTransfer/Release")  # type: ignore[call-arg]
            answers = invoke(mutated(draw, sane), timeout=20)
            try:
                list(answers)
            except grpc.RpcError:
                assert answers.code() is grpc.StatusCode.INVALID_ARGUMENT
            count += 1
        done = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=EPOCH, reason="acknowledged")
        assert call(channel, "Release", done.SerializeToString()) is grpc.StatusCode.OK
    producer.wait_freed("a")
    producer.stop()
    print(f"kv bytes: {count} inputs")
