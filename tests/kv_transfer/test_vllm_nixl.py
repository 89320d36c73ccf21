"""The NIXL connector's halves: its worker half between vLLM's NIXL worker, stood in for, and a real producer's
service; its scheduler half, around vLLM's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata, ReqMeta
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler
from vllm.v1.request import RequestStatus

from segue.kv_transfer import read_claims
from segue.kv_transfer.connector_config import KEY, ConnectorConfig, TransferReport
from segue.kv_transfer.handoff import Event
from segue.kv_transfer.moves import MoveOrder, Moves, give
from segue.kv_transfer.offers import OfferBook
from segue.kv_transfer.producer_end import NoBlocks
from segue.kv_transfer.read_claims import ReadClaims
from segue.kv_transfer.vllm_nixl import SegueNixlConnector
from segue.kv_transfer.vllm_nixl_reads import NixlPlan, NixlReads
from segue.kv_transfer.vllm_reports import Outgoing
from segue.proto.kv_transfer_pb2 import Ticket
from tests.kv_transfer.conftest import MakeConsumer
from tests.kv_transfer.ends import Consumer, Producer, eventually

THEIR_BLOCKS = (7, 3, 20)
OUR_BLOCKS = (1, 9, 2)


@dataclass
class FakeNixlWorker:
    """What the connector uses of vLLM's ``NixlPullConnectorWorker``. Reads what the test finishes."""

    started: list[str] = field(default_factory=list)
    _is_hma_required: bool = False
    _reqs_to_send: dict[str, float] = field(default_factory=dict)
    _reqs_to_process: set[str] = field(default_factory=set)

    def start_load_kv(self, metadata: NixlConnectorMetadata) -> None:
        self.started += metadata.reqs_to_recv


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


# The producer's side


@pytest.fixture
def connector(worker: FakeNixlWorker, monkeypatch: pytest.MonkeyPatch) -> SegueNixlConnector:
    """A worker half around a book, without an engine. ``theirs`` is what vLLM's own half answers."""
    made = SegueNixlConnector.__new__(SegueNixlConnector)
    made._config = ConnectorConfig("w", "e-1", "", 30.0, "m")
    made._checks = True
    made._book = OfferBook("e-1")
    made._ticket_of = {}
    made._reads = NixlReads(worker, ReadClaims(NoBlocks(), "off"))
    made._outgoing = Outgoing()
    made.connector_worker = worker
    made.theirs = KVConnectorTransferResults()
    monkeypatch.setattr(NixlPullConnector, "bind_connector_metadata", lambda *_: None)
    monkeypatch.setattr(NixlPullConnector, "get_transfer_results", lambda self, _: self.theirs)
    return made


def offer(connector: SegueNixlConnector) -> NixlConnectorMetadata:
    metadata = NixlConnectorMetadata()
    metadata.reqs_to_send["p"] = 1.0
    metadata.segue_plan = NixlPlan(offers=[("kv-a", "req-a", "p", (7, 3), 30)])
    connector.bind_connector_metadata(metadata)
    connector.connector_worker._reqs_to_send.update(metadata.reqs_to_send)
    return metadata


def sent(connector: SegueNixlConnector, *by_nixl: str) -> set[str]:
    connector.theirs = KVConnectorTransferResults(finished_sending=set(by_nixl))
    freed: set[str] = connector.get_transfer_results(set()).finished_sending
    return freed


def test_vllms_own_lease_is_off_and_the_books_counts(connector: SegueNixlConnector) -> None:
    assert offer(connector).reqs_to_send == {"p": float("inf")}
    assert sent(connector) == set()
    assert connector._book.renew("kv-a", time.monotonic(), 1000.0)
    connector._book.expire(time.monotonic() + 999.0)
    assert sent(connector) == set()
    connector._book.expire(time.monotonic() + 1001.0)
    assert sent(connector) == {"p"}
    assert sent(connector) == set()
    assert connector.connector_worker._reqs_to_send == {}


def test_nixls_word_that_a_read_has_ended_frees_nothing_that_was_claimed(connector: SegueNixlConnector) -> None:
    offer(connector)
    connector._book.claim("kv-a", "e-1", "req-a")
    assert sent(connector, "p") == set()
    assert connector._book.record("kv-a", Event.ACKNOWLEDGE)
    assert sent(connector) == {"p"}


def test_a_reader_that_claims_nothing_frees_by_nixls_word(connector: SegueNixlConnector) -> None:
    offer(connector)
    assert sent(connector, "p") == {"p"}
    assert sent(connector) == set()


def test_a_release_frees_at_once(connector: SegueNixlConnector) -> None:
    offer(connector)
    threading.Thread(target=connector._book.record, args=("kv-a", Event.REVOKE)).run()
    assert sent(connector) == {"p"}


# A running request is moved


@dataclass
class FakeRequest:
    """What is read of ``vllm.v1.request.Request``: it decodes, having loaded its KV, and is aborted."""

    request_id: str = "p"
    num_tokens: int = 31
    num_computed_tokens: int = 30
    num_in_flight_tokens: int = 0
    status: RequestStatus = RequestStatus.FINISHED_ABORTED
    kv_transfer_params: dict[str, Any] | None = None


@pytest.fixture
def scheduler(connector: SegueNixlConnector) -> SegueNixlConnector:
    """A scheduler half with vLLM's own under it."""
    theirs = NixlPullConnectorScheduler.__new__(NixlPullConnectorScheduler)
    fields: dict[str, Any] = dict.fromkeys(("is_bidirectional_kv_xfer_enabled", "_is_hma_required"), False)
    fields |= {name: {} for name in ("_heartbeat_req_engine", "_reqs_need_recv", "_reqs_need_send", "_reqs_need_save")}
    fields |= {"_reqs_in_batch": set(), "_reqs_not_processed": set(), "_kv_lease_duration": 30, "engine_id": "e"}
    fields |= {"side_channel_host": "h", "side_channel_port": 1, "transfer_tp_size": 1}
    parallel = SimpleNamespace(decode_context_parallel_size=1, pipeline_parallel_size=1)
    fields |= {"vllm_config": SimpleNamespace(parallel_config=parallel)}
    fields |= {"kv_cache_config": SimpleNamespace(select_transfer_block_ids=lambda blocks: blocks)}
    vars(theirs).update(fields)
    connector.connector_scheduler = theirs
    connector._block_tokens = 10
    connector._plan, connector._moves = NixlPlan(), Moves()
    connector._scheduler_reports, connector._external_tokens = {}, {}
    return connector


def stop(scheduler: SegueNixlConnector, request: Any, *groups: list[int]) -> tuple[bool, MoveOrder]:
    order = MoveOrder("kv-m", "req-a")
    give(request, order)
    held, answer = scheduler.request_finished_all_groups(request, groups)
    assert answer == order.answer
    return held, order


def test_a_moved_request_is_held_and_described_as_a_prefill_is(scheduler: SegueNixlConnector) -> None:
    request = FakeRequest(kv_transfer_params={KEY: {"claim": {"ticket": b"", "timeout_s": 1.0}}})
    scheduler._external_tokens["p"] = 20
    scheduler._scheduler_reports["p"] = TransferReport("nixl", 20, 100, 0.1)
    held, order = stop(scheduler, request, [4, 2, 9, 7])
    assert held
    assert order.answer is not None
    assert order.answer["do_remote_prefill"]
    assert order.answer["remote_block_ids"] == ([4, 2, 9],)
    assert order.answer["remote_num_tokens"] == 30
    assert (order.answer[KEY]["ticket_id"], order.answer[KEY]["tokens"], order.answer[KEY]["blocks"]) == ("kv-m", 30, 3)
    assert order.answer[KEY]["report"]["tokens"] == 20
    assert scheduler._plan.offers == [("kv-m", "req-a", "p", (4, 2, 9), 30)]
    assert scheduler._plan.cancels == []
    # vLLM's worker half keeps blocks for those that it has heard of alone.
    assert scheduler.connector_scheduler._reqs_in_batch == {"p"}
    assert request.status is RequestStatus.FINISHED_ABORTED


def test_a_request_moved_in_the_middle_of_its_read_is_cancelled_and_offers_nothing(
    scheduler: SegueNixlConnector,
) -> None:
    request = FakeRequest(kv_transfer_params={KEY: {"claim": {"ticket": b"", "timeout_s": 1.0}}})
    scheduler._external_tokens["p"] = 20
    held, order = stop(scheduler, request, [4, 2, 9])
    assert (held, order.answer) == (False, None)
    assert (scheduler._plan.cancels, scheduler._plan.offers) == (["p"], [])


def test_a_request_moved_before_its_claim_leaves_the_ticket_to_the_router(scheduler: SegueNixlConnector) -> None:
    claim = {"ticket": b"", "timeout_s": 1.0}
    request = FakeRequest(num_computed_tokens=0, kv_transfer_params={"do_remote_prefill": True, KEY: {"claim": claim}})
    held, order = stop(scheduler, request, [])
    assert (held, order.answer) == (False, None)
    assert (scheduler._plan.releases, scheduler._plan.offers) == ([], [])
    assert scheduler.connector_scheduler._reqs_need_recv == {}


def test_blocks_of_several_cache_groups_are_not_moved(scheduler: SegueNixlConnector) -> None:
    held, order = stop(scheduler, FakeRequest(), [4, 2, 9], [5])
    assert (held, order.answer) == (False, None)
