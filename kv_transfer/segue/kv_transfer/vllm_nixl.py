"""vLLM's NIXL connector with the three things Segue needs on top; layout and rank mapping stay vLLM's own.

- A decode request that continues behind the producer's first token: the KV to load is what the ticket holds, which
  is one token less than the request has.
- Release: a ticket nobody will claim is given back at once, through ``KvTransfer.Release``, not by lease expiry.
- Reports: how long each transfer took and how many bytes it moved.

Interface: ``vllm.distributed.kv_transfer.kv_connector.v1.nixl`` of vLLM 0.32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata

from segue.base.process import end_with_parent_process
from segue.base.tls import load_tls
from segue.kv_transfer.connector_config import KEY, ConnectorConfig, TransferReport
from segue.kv_transfer.grpc_server import KvTransferService, serve_kv_transfer
from segue.kv_transfer.handoff import Event
from segue.kv_transfer.offers import Offer, OfferBook
from segue.kv_transfer.vllm_reports import Reports

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class SegueNixlConnector(NixlPullConnector):
    """The class vLLM loads, in its scheduler and in its worker."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        with _own_cores():
            super().__init__(vllm_config, role, kv_cache_config)
        # With AsyncLLM this runs in vLLM's own processes, which would outlive a worker that is killed.
        end_with_parent_process()
        self._config = ConnectorConfig.from_extra_config(self._kv_transfer_config.kv_connector_extra_config)
        # Scheduler half
        self._new_offers: list[tuple[str, str, str]] = []
        self._scheduler_reports: dict[str, TransferReport] = {}
        self._external_tokens: dict[str, int] = {}
        # Worker half
        self._book = OfferBook(self._config.epoch)
        self._ticket_of: dict[str, str] = {}
        self._started_s: dict[str, tuple[float, int]] = {}
        self._worker_reports: dict[str, TransferReport] = {}
        self._block_bytes = 0

    # Scheduler half

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        params = request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            theirs: tuple[int | None, bool] = super().get_num_new_matched_tokens(request, num_computed_tokens)
            return theirs
        tokens = max(0, min(params["remote_num_tokens"], request.num_tokens) - num_computed_tokens)
        self._external_tokens[request.request_id] = tokens
        return tokens, tokens > 0

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        held, params = super().request_finished_all_groups(request, block_ids)
        ours = (request.kv_transfer_params or {}).get(KEY, {})
        tokens = self._external_tokens.pop(request.request_id, 0)
        if (report := self._scheduler_reports.pop(request.request_id, None)) is not None:
            return held, {KEY: {"report": asdict(replace(report, tokens=0 if report.error else tokens))}}
        if not held or params is None or "offer" not in ours:
            return held, params
        offer = ours["offer"]
        self._new_offers.append((offer["ticket_id"], offer["request_id"], request.request_id))
        described = {
            "ticket_id": offer["ticket_id"],
            "tokens": params["remote_num_tokens"],
            "blocks": len(block_ids[0]),
        }
        return held, {**params, KEY: {**described, "address": self._config.ticket_address}}

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        metadata = super().build_connector_meta(scheduler_output)
        # vLLM's metadata has no room for ours, and subclassing it would mean copying what it builds.
        metadata.segue_offers = self._new_offers
        self._new_offers = []
        return metadata

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        super().update_connector_output(connector_output)
        reports = connector_output.kv_connector_worker_meta
        if isinstance(reports, Reports):
            # Of a request that has ended meanwhile nobody would ask for the report.
            open_reports = {n: report for n, report in reports.by_request.items() if n in self._external_tokens}
            self._scheduler_reports.update(open_reports)

    # Worker half

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        self._block_bytes = sum(tensor[0].nbytes for tensor in kv_caches.values())
        if self._kv_transfer_config.is_kv_producer:
            service = KvTransferService(self._book, cache=None)
            self._server = serve_kv_transfer(service, self._config.address, load_tls(self._config.tls))

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, NixlConnectorMetadata)
        for ticket_id, request_id, engine_request_id in connector_metadata.segue_offers:
            # vLLM keeps the lease of these blocks itself.
            self._book.add(Offer(ticket_id, request_id, engine_request_id, (), 0, float("inf")))
            self._ticket_of[engine_request_id] = ticket_id
        now_s = time.monotonic()
        for engine_request_id, request_meta in connector_metadata.reqs_to_recv.items():
            blocks = sum(len(group) for group in request_meta.local_block_ids)
            self._started_s[engine_request_id] = (now_s, blocks)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        results = super().get_transfer_results(finished_req_ids)
        for engine_request_id in results.finished_sending:
            if (ticket_id := self._ticket_of.pop(engine_request_id, None)) is not None:
                self._book.record(ticket_id, Event.ACKNOWLEDGE)
        for engine_request_id in self._book.take_over():
            if self._ticket_of.pop(engine_request_id, None) is not None:
                self.connector_worker._reqs_to_process.discard(engine_request_id)
                if self.connector_worker._reqs_to_send.pop(engine_request_id, None) is not None:
                    results.finished_sending.add(engine_request_id)
        for engine_request_id in results.finished_recving:
            self._report(engine_request_id, engine_request_id in results.failed_recving)
        return results

    def _report(self, engine_request_id: str, failed: bool) -> None:
        started = self._started_s.pop(engine_request_id, None)
        if started is None:
            return
        started_s, blocks = started
        self._worker_reports[engine_request_id] = TransferReport(
            transport="nixl",
            tokens=0,  # The scheduler half knows.
            bytes=0 if failed else blocks * self._block_bytes,
            seconds=time.monotonic() - started_s,
            error="NIXL reported that the transfer failed" if failed else "",
        )

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        if not self._worker_reports:
            return None
        reports, self._worker_reports = Reports(self._worker_reports), {}
        return reports

    def shutdown(self) -> None:
        if self.role is KVConnectorRole.WORKER and hasattr(self, "_server"):
            self._server.stop(grace=0.2)
        super().shutdown()


@contextmanager
def _own_cores() -> Iterator[None]:
    """Undo what is done to this thread's cores meanwhile.

    On CPU the connector of vLLM binds the thread that makes it, which is the one that runs the model, to the last core
    of its NUMA node: every engine of a machine to the same one.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
