"""The consumer's end of what NIXL moves, against a real producer's service; a copy between tensors stands for NIXL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.kv_transfer import read_claims
from segue.kv_transfer.connector_config import TransferReport
from segue.kv_transfer.handoff import Event
from segue.kv_transfer.read_check import DigestMode, positions_to_check
from segue.kv_transfer.read_claims import ReadClaim, ReadClaims
from segue.proto.kv_transfer_pb2 import Ticket
from tests.kv_transfer.conftest import MakeConsumer, MakeProducer
from tests.kv_transfer.ends import BLOCK_TOKENS, BLOCKS, WAIT_S, Consumer, Producer, eventually

THEIR_BLOCKS = (7, 3, 20, 11, 5)
OUR_BLOCKS = (1, 9, 2, 15, 4)
MODES: tuple[DigestMode, ...] = ("full", "sampled", "off")


class Reader:
    def __init__(self, consumer: Consumer, mode: DigestMode, woken: threading.Event) -> None:
        self.claims = ReadClaims(consumer.cache, mode)
        self.tensors = consumer.tensors
        self.cache = consumer.cache
        self.woken = woken
        self.reports: dict[str, TransferReport] = {}

    def start(self, ticket: Ticket, first_block: int = 0, timeout_s: float = WAIT_S) -> str:
        name = f"d-{ticket.ticket_id}"
        self.claims.start(ReadClaim(name, ticket, OUR_BLOCKS[first_block:], first_block, timeout_s))
        return name

    def granted(self) -> ReadClaim:
        found: list[ReadClaim] = []

        def any_granted() -> bool:
            found.extend(self.claims.take_granted())
            return bool(found)

        eventually(any_granted, self.woken)
        return found[0]

    def copy(self, producer: Producer, first_block: int = 0) -> None:
        for name, tensor in self.tensors.items():
            tensor[list(OUR_BLOCKS[first_block:])] = producer.tensors[name][list(THEIR_BLOCKS[first_block:])]

    def result(self, name: str) -> TransferReport:
        def reported() -> bool:
            for claim, report in self.claims.take_results():
                assert claim.engine_request_id not in self.reports, "reported twice"
                self.reports[claim.engine_request_id] = report
            return name in self.reports

        eventually(reported, self.woken)
        return self.reports[name]


MakeReader = Callable[[DigestMode], Reader]


@pytest.fixture
def make_reader(make_consumer: MakeConsumer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeReader]:
    woken = threading.Event()
    monkeypatch.setattr(read_claims, "wake_engine", woken.set)
    made: list[Reader] = []

    def make(mode: DigestMode) -> Reader:
        made.append(Reader(make_consumer(), mode, woken))
        return made[-1]

    yield make
    for reader in made:
        reader.claims.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first_block", [0, 2])
def test_what_arrived_whole_may_be_read_and_frees_the_producer(
    producer: Producer, make_reader: MakeReader, mode: DigestMode, first_block: int
) -> None:
    reader, ticket = make_reader(mode), producer.offer("a", THEIR_BLOCKS)
    name = reader.start(ticket, first_block)
    reader.granted()
    assert reader.claims.owns(name)
    assert producer.book.take_over() == set()
    reader.copy(producer, first_block)
    reader.claims.arrived(name)
    report = reader.result(name)
    assert report.error == ""
    assert report.transport == "nixl"
    assert report.bytes == (5 - first_block) * reader.cache.layout.block_bytes
    assert report.tokens == ticket.tokens - first_block * BLOCK_TOKENS
    producer.wait_freed("a")


@pytest.mark.parametrize("mode", ["full", "sampled"])
def test_a_byte_that_differs_is_found_by_both_digests_and_never_read(
    producer: Producer, make_reader: MakeReader, mode: DigestMode
) -> None:
    reader = make_reader(mode)
    name = reader.start(producer.offer("a", THEIR_BLOCKS))
    reader.granted()
    reader.copy(producer)
    reader.tensors["layer.2"][OUR_BLOCKS[-1], 1, 3, 4] += 1
    reader.claims.arrived(name)
    report = reader.result(name)
    assert report.corrupt
    assert report.error.startswith("block 4: digest of what arrived is ")
    assert report.bytes == 0
    producer.wait_freed("a")


@pytest.mark.parametrize("mode", MODES)
def test_what_was_taken_back_while_it_was_read_is_not_decoded(
    producer: Producer, make_reader: MakeReader, mode: DigestMode
) -> None:
    """A read of somebody else's memory can't be stopped from there: only the answer afterwards tells."""
    reader = make_reader(mode)
    name = reader.start(producer.offer("a", THEIR_BLOCKS))
    reader.granted()
    producer.book.expire(float("inf"))
    reader.copy(producer)
    reader.claims.arrived(name)
    assert "already expired" in reader.result(name).error


def refused(reader: Reader, ticket: Ticket) -> str:
    report = reader.result(reader.start(ticket))
    assert reader.claims.take_granted() == []
    assert not report.corrupt
    return report.error


def test_a_ticket_is_refused_with_its_reason_before_anything_is_read(
    producer: Producer, make_producer: MakeProducer, make_reader: MakeReader
) -> None:
    reader = make_reader("full")
    used = producer.offer("used", THEIR_BLOCKS)
    reader.start(used)
    reader.granted()
    twice = make_reader("full")
    assert "already transferring" in refused(twice, used)
    expired = producer.offer("expired", THEIR_BLOCKS)
    producer.book.record("kv-expired", Event.EXPIRE)
    assert "already expired" in refused(twice, expired)
    elsewhere = producer.offer("elsewhere", THEIR_BLOCKS)
    elsewhere.request_id = "req-other"
    assert "offered for request req-elsewhere" in refused(twice, elsewhere)
    older = producer.offer("older", THEIR_BLOCKS)
    older.producer_epoch = "epoch-0"
    assert "it has restarted" in refused(twice, older)
    unlike = make_reader("full")
    unlike.cache.layout.dtype = "float64"
    assert "dtype" in refused(unlike, producer.offer("layout", THEIR_BLOCKS))
    gone = make_producer()
    ticket = gone.offer("gone", THEIR_BLOCKS)
    gone.stop()
    assert refused(twice, ticket).startswith("UNAVAILABLE")


def test_a_request_that_ends_before_its_grant_is_taken_reads_nothing(
    producer: Producer, make_reader: MakeReader
) -> None:
    reader = make_reader("full")
    name = reader.start(producer.offer("a", THEIR_BLOCKS))
    reader.woken.wait(WAIT_S)
    reader.claims.cancel(name)
    assert reader.result(name).error.startswith("CANCELLED")
    assert reader.claims.take_granted() == []
    producer.wait_freed("a")


def test_a_request_that_ends_while_nixl_reads_is_reported_only_when_nixl_has_stopped_writing(
    producer: Producer, make_reader: MakeReader
) -> None:
    """Its blocks are freed by the report."""
    reader = make_reader("full")
    name = reader.start(producer.offer("a", THEIR_BLOCKS))
    reader.granted()
    reader.claims.cancel(name)
    assert reader.claims.take_results() == []
    assert producer.book.take_over() == set()
    reader.copy(producer)
    reader.claims.arrived(name)
    assert reader.result(name).error.startswith("CANCELLED")
    producer.wait_freed("a")


def test_a_read_that_nixl_gives_up_frees_the_producer(producer: Producer, make_reader: MakeReader) -> None:
    reader = make_reader("off")
    name = reader.start(producer.offer("a", THEIR_BLOCKS))
    reader.granted()
    reader.claims.broke(name, "the link broke")
    assert reader.result(name).error == "the link broke"
    producer.wait_freed("a")


def test_a_renewed_lease_covers_a_read_that_takes_longer(producer: Producer, make_reader: MakeReader) -> None:
    reader = make_reader("sampled")
    name = reader.start(producer.offer("a", THEIR_BLOCKS, lease_s=1000.0))
    reader.granted()
    now_s = time.monotonic()
    assert producer.book.renew("kv-a", now_s, 3000.0)
    assert producer.book.expire(now_s + 1001.0) == []
    reader.copy(producer)
    reader.claims.arrived(name)
    assert reader.result(name).error == ""


@given(st.integers(0, 200), st.integers(0, 200), st.text(max_size=5))
def test_a_sample_has_both_ends_and_an_eighth_of_the_rest(first: int, count: int, ticket_id: str) -> None:
    chosen = positions_to_check("sampled", ticket_id, first, first + count)
    every = positions_to_check("full", ticket_id, first, first + count)
    assert every == list(range(first, first + count))
    assert positions_to_check("off", ticket_id, first, first + count) == []
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(every)
    if every:
        assert {every[0], every[-1]} <= set(chosen)
    inner = max(0, count - 2)
    assert len(chosen) == min(count, 2) + -(-inner // 8)
    assert chosen == positions_to_check("sampled", ticket_id, first, first + count)


def test_a_digest_covers_every_byte_of_its_block_and_no_other(consumer: Consumer) -> None:
    before = consumer.cache.digests(range(BLOCKS))
    assert len(set(before)) == BLOCKS
    consumer.tensors["layer.1"].view(torch.uint8)[6, -1, -1, -1] ^= 1
    after = consumer.cache.digests(range(BLOCKS))
    assert [block for block in range(BLOCKS) if before[block] != after[block]] == [6]
