"""Both ends of the gRPC transport against each other, over loopback."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
import torch

from segue.kv_transfer.grpc_server import KvTransferService, serve_kv_transfer
from segue.kv_transfer.handoff import Event
from segue.kv_transfer.offers import MAX_WAITING, OfferBook
from segue.proto.kv_transfer_pb2 import PullRequest, ReleaseRequest, RenewRequest, Ticket
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub
from tests.kv_transfer.conftest import MakeConsumer, MakeProducer
from tests.kv_transfer.ends import BLOCK_TOKENS, BLOCKS, EPOCH, LAYERS, WAIT_S, Consumer, Producer, eventually, tensors

pytestmark = pytest.mark.usefixtures("small_chunks")

THEIR_BLOCKS = (7, 3, 20, 11, 5)
OUR_BLOCKS = (1, 9, 2, 15, 4)


def copies(layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in layers.items()}


def assert_transferred(producer: Producer, consumer: Consumer, before: dict[str, torch.Tensor], first: int) -> None:
    """Blocks from the ``first``-th on are the producer's, every other one is as it was."""
    changed = list(OUR_BLOCKS[first:])
    others = [block for block in range(BLOCKS) if block not in changed]
    for name, ours in consumer.tensors.items():
        assert torch.equal(ours[changed], producer.tensors[name][list(THEIR_BLOCKS[first:])])
        assert torch.equal(ours[others], before[name][others])


def assert_set(event: threading.Event) -> None:
    assert event.wait(WAIT_S)


@pytest.mark.parametrize("first_block", [0, 1, 2, 4])
def test_blocks_arrive_exactly_and_the_producer_frees(producer: Producer, consumer: Consumer, first_block: int) -> None:
    """Blocks before ``first_block`` are in the consumer's prefix cache and stay as they are."""
    before = copies(consumer.tensors)
    report = consumer.pull(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS, first_block)
    assert report.error == ""
    assert_transferred(producer, consumer, before, first_block)
    assert report.transport == "grpc"
    assert report.bytes == (5 - first_block) * producer.cache.layout.block_bytes
    assert report.tokens == (5 - first_block) * BLOCK_TOKENS - 1
    assert report.seconds > 0
    producer.wait_freed("a")


def test_many_claims_at_once_each_get_their_own(producer: Producer, consumer: Consumer) -> None:
    pairs = [(their, their + 1) for their in range(0, BLOCKS, 2)]
    ours = random.Random(1).sample(range(BLOCKS), BLOCKS)
    names = []
    for number, pair in enumerate(pairs):
        ticket = producer.offer(str(number), pair)
        names.append(consumer.start(ticket, ours[2 * number : 2 * number + 2]))
    assert [consumer.wait(name).error for name in names] == [""] * len(pairs)
    for name, tensor in consumer.tensors.items():
        assert torch.equal(tensor[ours], producer.tensors[name])
    producer.wait_freed(*(str(number) for number in range(len(pairs))))


def test_blocks_larger_than_grpcs_default_limit_travel(
    make_producer: MakeProducer, make_consumer: MakeConsumer
) -> None:
    """32 heads of 128 in float32 at 128 tokens a block are 4 MiB a layer: just over what gRPC takes by default."""
    shape = (2, 128, 32, 128)
    producer = make_producer(tensors={"layer.0": torch.randn(2, *shape)})
    consumer = make_consumer(own={"layer.0": torch.zeros(2, *shape)})
    assert consumer.pull(producer.offer("a", [1]), [0]).error == ""
    assert torch.equal(consumer.tensors["layer.0"][0], producer.tensors["layer.0"][1])


def test_a_ticket_used_twice_is_refused_the_second_time(producer: Producer, consumer: Consumer) -> None:
    ticket = producer.offer("a", THEIR_BLOCKS)
    assert consumer.pull(ticket, OUR_BLOCKS).error == ""
    producer.wait_freed("a")
    before = copies(consumer.tensors)
    del consumer.reports["d-kv-a"]
    report = consumer.pull(ticket, OUR_BLOCKS)
    assert report.error.startswith("NOT_FOUND: ticket kv-a is single-use")
    assert report.bytes == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in consumer.tensors.items())


def test_release_frees_and_a_later_pull_is_refused(producer: Producer, consumer: Consumer) -> None:
    ticket = producer.offer("a", THEIR_BLOCKS)
    consumer.puller.release(ticket, "cancelled")
    producer.wait_freed("a")
    assert consumer.pull(ticket, OUR_BLOCKS).error.startswith("NOT_FOUND")


def test_release_says_whether_anything_was_held(producer: Producer) -> None:
    producer.offer("a", THEIR_BLOCKS)
    with grpc.insecure_channel(producer.address) as channel:
        stub = KvTransferStub(channel)
        of_another_life = ReleaseRequest(ticket_id="kv-a", producer_epoch="epoch-0", reason="cancelled")
        release = ReleaseRequest(ticket_id="kv-a", producer_epoch=EPOCH, reason="cancelled")
        assert [stub.Release(each).freed for each in (of_another_life, release, release)] == [False, True, False]
    assert producer.woken.is_set()


def test_a_pull_that_comes_before_its_offer_waits_for_it(producer: Producer, consumer: Consumer) -> None:
    """Prefill answers as soon as it has token 1; its engine records the offer in its next step."""
    ticket = Ticket(ticket_id="kv-a", producer_epoch=EPOCH, request_id="req-a", tokens=19, address=producer.address)
    name = consumer.start(ticket, OUR_BLOCKS)
    producer.offer("a", THEIR_BLOCKS)
    assert consumer.wait(name).error == ""


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("producer_epoch", "epoch-0", ["FAILED_PRECONDITION", "epoch-0", EPOCH]),
        ("request_id", "req-b", ["FAILED_PRECONDITION", "req-a", "req-b"]),
    ],
)
def test_a_ticket_that_does_not_match_is_refused_with_both_values(
    producer: Producer, consumer: Consumer, field: str, value: str, words: list[str]
) -> None:
    ticket = producer.offer("a", THEIR_BLOCKS)
    setattr(ticket, field, value)
    report = consumer.pull(ticket, OUR_BLOCKS)
    assert all(word in report.error for word in words)


def test_layouts_that_differ_are_refused_with_both_values(producer: Producer, make_consumer: MakeConsumer) -> None:
    consumer = make_consumer(own=tensors(layers=2), model="another")
    report = consumer.pull(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS)
    assert report.error.startswith("FAILED_PRECONDITION: block layouts differ")
    assert "model: 'model' here, 'another' there" in report.error
    assert f"layers: {LAYERS} here, 2 there" in report.error
    assert report.bytes == 0
    producer.wait_freed("a")  # Nobody else may have this ticket; the refused consumer gives it back.


def test_a_producer_without_a_cache_of_bytes_refuses_pulls_and_takes_releases(
    producer: Producer, consumer: Consumer
) -> None:
    """NIXL's producer serves KvTransfer for Release alone."""
    producer.stop()
    service = KvTransferService(producer.book, None, on_release=producer.woken.set)
    server = serve_kv_transfer(service, producer.address)
    try:
        ticket = producer.offer("a", THEIR_BLOCKS)
        assert consumer.pull(ticket, OUR_BLOCKS).error.startswith("UNIMPLEMENTED")
        producer.wait_freed("a")
    finally:
        server.stop(grace=None).wait()


def test_a_consumer_that_leaves_in_the_middle_frees_the_blocks(producer: Producer) -> None:
    ticket = producer.offer("a", THEIR_BLOCKS)
    left = threading.Event()
    producer.cache.on_read = lambda count: None if count < 2 else assert_set(left)
    with grpc.insecure_channel(producer.address) as channel:
        request = PullRequest(ticket_id=ticket.ticket_id, producer_epoch=EPOCH, request_id="req-a")
        request.layout.CopyFrom(producer.cache.layout)
        stream = KvTransferStub(channel).Pull(request)
        next(iter(stream))
        stream.cancel()  # type: ignore[no-untyped-call]
    left.set()
    producer.wait_freed("a")


def test_what_was_read_from_blocks_taken_back_meanwhile_never_leaves(producer: Producer, consumer: Consumer) -> None:
    """The lease runs out while a chunk is read: the blocks may be another request's by the time of the copy."""

    def expire_and_reuse(count: int) -> None:
        if count == 3:
            producer.book.expire(float("inf"))
            for tensor in producer.tensors.values():
                tensor.fill_(666.0)

    ticket = producer.offer("a", THEIR_BLOCKS)
    producer.cache.on_read = expire_and_reuse
    report = consumer.pull(ticket, OUR_BLOCKS)
    assert report.error == "NOT_FOUND: ticket kv-a was taken back meanwhile"
    assert not any(tensor.eq(666.0).any() for tensor in consumer.tensors.values())
    producer.wait_freed("a")


def test_the_address_taken_by_another_producer_is_an_error(producer: Producer) -> None:
    """gRPC shares ports by default: half of the pulls would reach the other process."""
    with pytest.raises(RuntimeError, match="Failed to bind"):
        serve_kv_transfer(KvTransferService(OfferBook("epoch-2"), None), producer.address)


# Renewals, as a worker sends them to its engine


def renew(producer: Producer, epoch: str, *names: str, lease_s: float = 0.0) -> list[str]:
    with grpc.insecure_channel(producer.address) as channel:
        request = RenewRequest(ticket_ids=[f"kv-{name}" for name in names], producer_epoch=epoch, lease_s=lease_s)
        return list(KvTransferStub(channel).Renew(request, timeout=10).gone_ticket_ids)


def test_a_renewal_holds_what_is_held_and_names_what_is_gone(producer: Producer) -> None:
    producer.offer("a", THEIR_BLOCKS, lease_s=1.0)
    producer.offer("b", THEIR_BLOCKS, lease_s=1.0)
    assert producer.book.record("kv-b", Event.REVOKE)
    assert renew(producer, EPOCH, "a", "b", "c", lease_s=3000.0) == ["kv-b", "kv-c"]
    assert producer.book.expire(time.monotonic() + 2000.0) == []
    assert len(producer.book.expire(time.monotonic() + 4000.0)) == 1


def test_another_epoch_renews_nothing(producer: Producer) -> None:
    producer.offer("a", THEIR_BLOCKS, lease_s=1.0)
    assert renew(producer, "epoch-0", "a", lease_s=5000.0) == ["kv-a"]
    assert producer.book.expire(time.monotonic() + 10.0)


def test_a_process_that_offers_claims_too(make_producer: MakeProducer, make_consumer: MakeConsumer) -> None:
    """A decode worker whose running requests move to another one, which passes them on in turn."""
    first, middle = make_producer(), make_producer()
    last = make_consumer()
    passing = make_consumer(own=middle.tensors)
    assert passing.pull(first.offer("a", THEIR_BLOCKS), OUR_BLOCKS).error == ""
    first.wait_freed("a")
    assert last.pull(middle.offer("b", OUR_BLOCKS), OUR_BLOCKS).error == ""
    middle.wait_freed("b")
    for name, tensor in last.tensors.items():
        assert torch.equal(tensor[list(OUR_BLOCKS)], first.tensors[name][list(THEIR_BLOCKS)])


def pull_of(ticket: Ticket, producer: Producer) -> PullRequest:
    return PullRequest(
        ticket_id=ticket.ticket_id,
        producer_epoch=EPOCH,
        request_id=ticket.request_id,
        layout=producer.cache.layout,
    )


@pytest.fixture
def waiting(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> Iterator[KvTransferStub]:
    """While many pulls of unknown tickets wait for offers, for as long as a test takes."""
    monkeypatch.setattr(producer.service._end, "_wait_s", 600.0)
    unknown = [Ticket(ticket_id=f"unknown-{number}") for number in range(40)]
    with grpc.insecure_channel(producer.address) as channel:
        stub = KvTransferStub(channel)
        calls = [stub.Pull(pull_of(ticket, producer)) for ticket in unknown]
        eventually(lambda: producer.book._waiting == MAX_WAITING)
        yield stub
        assert producer.book._waiting == MAX_WAITING
        for call in calls:
            call.cancel()  # type: ignore[no-untyped-call]
        for ticket in unknown:  # Nobody waits on.
            producer.book.record(ticket.ticket_id, Event.REVOKE)


def test_claims_that_wait_hold_up_no_release_and_no_renewal(producer: Producer, waiting: KvTransferStub) -> None:
    ticket = producer.offer("a", THEIR_BLOCKS)
    renew = RenewRequest(ticket_ids=[ticket.ticket_id], producer_epoch=EPOCH)
    assert list(waiting.Renew(renew, timeout=WAIT_S).gone_ticket_ids) == []
    assert waiting.Release(ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=EPOCH), timeout=WAIT_S).freed


def test_claims_that_wait_hold_up_no_pull(producer: Producer, consumer: Consumer, waiting: KvTransferStub) -> None:
    assert consumer.pull(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS).error == ""


def test_pulls_that_take_long_hold_up_no_release(producer: Producer) -> None:
    """More of them than there are threads for them, each stopped in the middle of its bytes."""
    go_on = threading.Event()
    held: list[int] = []

    def hold(count: int) -> None:
        held.append(count)
        go_on.wait(WAIT_S)

    producer.cache.on_read = hold
    tickets = [producer.offer(str(number), [number]) for number in range(20)]
    with grpc.insecure_channel(producer.address) as channel:
        stub = KvTransferStub(channel)
        pulls = [stub.Pull(pull_of(ticket, producer)) for ticket in tickets]
        eventually(lambda: len(held) >= 8)
        unwanted = ReleaseRequest(ticket_id=tickets[-1].ticket_id, producer_epoch=EPOCH)
        assert stub.Release(unwanted, timeout=WAIT_S).freed
        assert not go_on.is_set()
        go_on.set()
        sent = [pull for pull, ticket in zip(pulls, tickets, strict=True) if ticket.ticket_id != unwanted.ticket_id]
        assert [sum(chunk.last for chunk in pull) for pull in sent] == [1] * 19
