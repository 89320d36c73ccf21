"""What the NIXL connector holds for a reader and when it lets go; its scheduler half around vLLM's own."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler
from vllm.v1.request import RequestStatus

from segue.kv_transfer.connector_config import KEY, ConnectorConfig, TransferReport
from segue.kv_transfer.handoff import Event
from segue.kv_transfer.moves import MoveOrder, Moves, give
from segue.kv_transfer.offers import OfferBook
from segue.kv_transfer.producer_end import NoBlocks
from segue.kv_transfer.read_claims import ReadClaims
from segue.kv_transfer.vllm_nixl import SegueNixlConnector
from segue.kv_transfer.vllm_nixl_reads import NixlPlan, NixlReads
from segue.kv_transfer.vllm_reports import Outgoing
from tests.kv_transfer.nixl_worker import FakeNixlWorker


@pytest.fixture
def worker() -> FakeNixlWorker:
    return FakeNixlWorker()


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
