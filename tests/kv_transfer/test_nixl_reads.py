"""The NIXL connector's worker half between vLLM's NIXL worker, stood in for, and a real producer's service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata, ReqMeta

from segue.kv_transfer import read_claims
from segue.kv_transfer.read_claims import ReadClaims
from segue.kv_transfer.vllm_nixl_reads import NixlPlan, NixlReads
from segue.proto.kv_transfer_pb2 import Ticket
from tests.kv_transfer.conftest import MakeConsumer
from tests.kv_transfer.ends import Consumer, Producer, eventually
from tests.kv_transfer.nixl_worker import FakeNixlWorker

THEIR_BLOCKS = (7, 3, 20)
OUR_BLOCKS = (1, 9, 2)


@pytest.fixture
def consumer(make_consumer: MakeConsumer) -> Consumer:
    return make_consumer()


@pytest.fixture
def worker() -> FakeNixlWorker:
    return FakeNixlWorker()


@pytest.fixture
def reads(consumer: Consumer, worker: FakeNixlWorker, monkeypatch: pytest.MonkeyPatch) -> Iterator[NixlReads]:
    monkeypatch.setattr(read_claims, "wake_engine", lambda: None)
    made = NixlReads(worker, ReadClaims(consumer.cache, "full"))
    yield made
    made.close()


def begin(reads: NixlReads, ticket: Ticket, **plan: Any) -> NixlConnectorMetadata:
    metadata = NixlConnectorMetadata()
    metadata.reqs_to_recv["d"] = ReqMeta((list(OUR_BLOCKS),), (list(OUR_BLOCKS),), tp_size=1, awaiting_kvs=True)
    reads.begin(NixlPlan(claims=[("d", ticket.SerializeToString(), 10.0)], **plan), metadata)
    return metadata


def wait_started(reads: NixlReads, worker: FakeNixlWorker) -> None:
    def started() -> bool:
        reads.start_granted()
        return bool(worker.started)

    eventually(started)


def collect(reads: NixlReads, **finished: set[str]) -> tuple[KVConnectorTransferResults, str]:
    """Steps until the claim's report is there; the step's results and the report's error."""
    results = KVConnectorTransferResults(**finished)
    reports = dict(reads.collect(results))

    def reported() -> bool:
        nonlocal results
        if not reports:
            results = KVConnectorTransferResults()
            reports.update(reads.collect(results))
        return bool(reports)

    eventually(reported)
    return results, reports["d"].error


def test_nothing_is_read_before_the_claim_nor_decoded_before_the_digests(
    producer: Producer, consumer: Consumer, reads: NixlReads, worker: FakeNixlWorker
) -> None:
    metadata = begin(reads, producer.offer("a", THEIR_BLOCKS))
    assert metadata.reqs_to_recv == {}
    wait_started(reads, worker)
    for name, tensor in consumer.tensors.items():
        tensor[list(OUR_BLOCKS)] = producer.tensors[name][list(THEIR_BLOCKS)]
    finished = KVConnectorTransferResults(finished_recving={"d"})
    reports = reads.collect(finished)
    if not reports:
        assert finished.finished_recving == set()
        finished, error = collect(reads)
        assert error == ""
    assert finished.finished_recving == {"d"}
    assert finished.failed_recving == set()
    assert reads.take_load_errors() == set()
    producer.wait_freed("a")


def test_what_differs_is_reported_as_blocks_that_failed_to_load(
    producer: Producer, reads: NixlReads, worker: FakeNixlWorker
) -> None:
    begin(reads, producer.offer("a", THEIR_BLOCKS))
    wait_started(reads, worker)
    results, error = collect(reads, finished_recving={"d"})
    assert "digest of what arrived is" in error
    assert results.finished_recving == results.failed_recving == {"d"}
    assert reads.take_load_errors() == set(OUR_BLOCKS)
    assert reads.take_load_errors() == set()


def test_a_refused_ticket_is_a_failed_load_and_nixl_hears_nothing_of_it(
    producer: Producer, reads: NixlReads, worker: FakeNixlWorker
) -> None:
    ticket = producer.offer("a", THEIR_BLOCKS)
    ticket.producer_epoch = "epoch-0"
    begin(reads, ticket)
    results, error = collect(reads)
    assert "it has restarted" in error
    assert results.failed_recving == {"d"}
    assert worker.started == []


def test_a_transfer_that_nixl_gives_up_is_reported_once(
    producer: Producer, reads: NixlReads, worker: FakeNixlWorker
) -> None:
    begin(reads, producer.offer("a", THEIR_BLOCKS))
    wait_started(reads, worker)
    results, error = collect(reads, finished_recving={"d"}, failed_recving={"d"})
    assert "NIXL" in error
    assert results.finished_recving == results.failed_recving == {"d"}
    producer.wait_freed("a")


def test_a_request_that_ends_in_the_same_step_reads_nothing(
    producer: Producer, reads: NixlReads, worker: FakeNixlWorker
) -> None:
    begin(reads, producer.offer("a", THEIR_BLOCKS), cancels=["d"])
    _, error = collect(reads)
    assert error.startswith("CANCELLED")
    assert worker.started == []
    producer.wait_freed("a")
