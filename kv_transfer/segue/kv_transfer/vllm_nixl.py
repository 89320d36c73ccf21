"""vLLM's NIXL connector with what Segue needs on top; layout and rank mapping stay vLLM's own.

- A decode request that continues behind the producer's first token: the KV to load is what the ticket holds, which
  is one token less than the request has.
- Tickets: nothing is read before the producer has accepted the claim, and nothing of what was read is decoded before it
  has said, with digests, that the blocks were held all the while (:mod:`segue.kv_transfer.read_claims`).
- Leases: NIXL's own notification that a read has ended frees nothing, and vLLM's own lease is off; the book of offers
  says when blocks may be freed, as with the other transport.
- Moves: a running request that stops is held and described as a finished prefill is.
- Reports: how long each transfer took and how many bytes it moved.

An engine of several ranks (tensor or pipeline parallel) keeps vLLM's own ways for all of this but the first: a ticket
is claimed once, and there each rank would claim it.

Interface: ``vllm.distributed.kv_transfer.kv_connector.v1.nixl`` of vLLM 0.32.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata

from segue.base.logging import get_logger
from segue.base.process import end_with_parent_process
from segue.base.tls import load_tls
from segue.kv_transfer.connector_config import KEY, ConnectorConfig, TransferReport
from segue.kv_transfer.grpc_server import KvTransferService, serve_kv_transfer
from segue.kv_transfer.handoff import Event, State
from segue.kv_transfer.moves import MOVED, MoveOrder, Moves, like_a_prefill, movable_tokens, ours
from segue.kv_transfer.nixl_port import check_listenable
from segue.kv_transfer.offers import Offer, OfferBook
from segue.kv_transfer.own_cores import own_cores
from segue.kv_transfer.paged_cache import PagedCache, UnsupportedCache
from segue.kv_transfer.producer_end import NoBlocks
from segue.kv_transfer.read_check import DigestMode
from segue.kv_transfer.read_claims import ReadClaims
from segue.kv_transfer.vllm_nixl_reads import NixlPlan, NixlReads
from segue.kv_transfer.vllm_reports import Outgoing, Reports

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


log = get_logger("kv_transfer")


class SegueNixlConnector(NixlPullConnector):
    """The class vLLM loads, in its scheduler and in its worker."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        with own_cores():
            super().__init__(vllm_config, role, kv_cache_config)
        # With AsyncLLM this runs in vLLM's own processes, which would outlive a worker that is killed.
        end_with_parent_process()
        self._config = ConnectorConfig.from_extra_config(self._kv_transfer_config.kv_connector_extra_config)
        self._block_tokens = vllm_config.cache_config.block_size
        self._checks = vllm_config.parallel_config.world_size == 1
        # Scheduler half
        self._plan = NixlPlan()
        self._moves = Moves()
        self._scheduler_reports: dict[str, TransferReport] = {}
        self._external_tokens: dict[str, int] = {}
        # Worker half
        self._book = OfferBook(self._config.epoch)
        self._ticket_of: dict[str, str] = {}
        self._reads: NixlReads | None = None
        self._outgoing = Outgoing()

    # Scheduler half

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        scheduler = self.connector_scheduler
        check_listenable(scheduler.side_channel_host, scheduler.side_channel_port)
        super().set_xfer_handshake_metadata_pp_aware(metadata)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        params = request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            theirs: tuple[int | None, bool] = super().get_num_new_matched_tokens(request, num_computed_tokens)
            return theirs
        tokens = max(0, min(params["remote_num_tokens"], request.num_tokens) - num_computed_tokens)
        self._external_tokens[request.request_id] = tokens
        return tokens, tokens > 0

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        claim = _unclaimed(request)
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if claim is None or not self._checks:
            return
        if num_external_tokens:
            self._plan.claims.append((request.request_id, claim["ticket"], claim["timeout_s"]))
        else:
            self._give_back(request, claim["ticket"], "acknowledged")

    def on_new_request(self, request: Request) -> None:
        super().on_new_request(request)
        self._moves.on_new_request(request)

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        order = self._moves.finished(request)
        claim = _unclaimed(request)
        if order is not None:
            held, params = self._move(request, order, block_ids)
        else:
            held, params = super().request_finished_all_groups(request, block_ids)
        tokens = self._external_tokens.pop(request.request_id, 0)
        if claim is not None and self._checks and order is None:  # Else the router goes on with the ticket.
            self._give_back(request, claim["ticket"], "cancelled")
        report = self._scheduler_reports.pop(request.request_id, None)
        if report is not None:
            told = asdict(replace(report, tokens=0 if report.error else tokens))
            params = {**(params or {}), KEY: {**(params or {}).get(KEY, {}), "report": told}}
        elif claim is None and "claim" in ours(request):
            self._plan.cancels.append(request.request_id)
        if order is not None:
            order.answer = params
            return held, params
        if not held or params is None or "offer" not in ours(request):
            return held, params
        offer = ours(request)["offer"]
        self._offer(request, (offer["ticket_id"], offer["request_id"]), block_ids[0], params)
        return held, params

    def _move(
        self, request: Request, order: MoveOrder, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Hold and describe what a request that stops has computed, as vLLM does for a prefill that has finished.

        Nothing of one that has yet to claim, or whose blocks are being written. Nor of several cache groups: a
        sliding window or a state is of the last token, not of the one before.
        """
        told = {KEY: {MOVED: True}} if order.max_tokens is not None else None
        scheduler, name = self.connector_scheduler, request.request_id
        tokens = movable_tokens(request)
        reading = self._external_tokens.get(name, 0) and name not in self._scheduler_reports
        if not self._checks or len(block_ids) > 1 or tokens <= 0 or _unclaimed(request) or reading:
            scheduler._stop_heartbeat(name)
            scheduler._reqs_need_recv.pop(name, None)
            return False, told
        blocks = block_ids[0][: -(-tokens // self._block_tokens)]
        with like_a_prefill(request):
            held, params = super().request_finished_all_groups(request, (blocks,))
        if not held or params is None:
            return False, told
        scheduler._reqs_in_batch.add(name)  # Its worker knows of no others that may be read.
        params = {**params, **(told or {}), "remote_num_tokens": tokens}
        self._offer(request, (order.ticket_id, order.request_id), blocks, params)
        return True, params

    def _offer(self, request: Request, ticket: tuple[str, str], block_ids: list[int], params: dict[str, Any]) -> None:
        """``ticket`` is its id and the router's id of the request; ``params`` are vLLM's, to which ours are added."""
        tokens, blocks = params["remote_num_tokens"], tuple(block_ids)
        self._plan.offers.append((*ticket, request.request_id, blocks, tokens))
        described = {"ticket_id": ticket[0], "tokens": tokens, "blocks": len(blocks)}
        params[KEY] = {**params.get(KEY, {}), **described, "address": self._config.ticket_address}

    def _give_back(self, request: Request, ticket: bytes, reason: str) -> None:
        """Not by a NIXL notification, for which vLLM would first shake hands with a peer that may be dead."""
        self.connector_scheduler._reqs_need_recv.pop(request.request_id, None)
        self._plan.releases.append((ticket, reason))

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        metadata = super().build_connector_meta(scheduler_output)
        if self._checks:
            # The router renews leases; a heartbeat to a dead peer would hold up the handshakes with others.
            metadata.heartbeat_by_engine = {}
        # vLLM's metadata has no room for ours, and subclassing it would mean copying what it builds.
        metadata.segue_plan = self._plan
        self._plan = NixlPlan()
        return metadata

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        super().update_connector_output(connector_output)
        reports = connector_output.kv_connector_worker_meta
        if isinstance(reports, Reports):
            # Of a request that has ended meanwhile nobody would ask for the report.
            open_reports = {n: report for n, report in reports.by_request.items() if n in self._external_tokens}
            self._scheduler_reports.update(open_reports)
            self._moves.on_orders(reports.orders)

    # Worker half

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        tls = load_tls(self._config.tls)
        cache = self._readable(kv_caches)
        if self._checks:
            mode: DigestMode = self._config.kv_digest if cache is not None else "off"
            self._reads = NixlReads(self.connector_worker, ReadClaims(cache or NoBlocks(), mode, tls))
        if self._config.address and self.connector_worker.tp_rank == 0:
            service = KvTransferService(self._book, cache, pulls=False)
            self._server = serve_kv_transfer(service, self._config.address, tls, self._config.shared_port)

    def _readable(self, kv_caches: dict[str, torch.Tensor]) -> PagedCache | None:
        """The cache by blocks as the scheduler counts them; None if its layout can't be read so."""
        kernel_blocks = self.connector_worker._physical_blocks_per_logical_kv_block
        try:
            if kernel_blocks > 1:
                kv_caches = {n: t.view(t.shape[0] // kernel_blocks, -1) for n, t in kv_caches.items()}
            return PagedCache(kv_caches, self._block_tokens, self._config.model_fingerprint)
        except (UnsupportedCache, RuntimeError) as unreadable:
            log.warning("kv_digest_off", why=str(unreadable), configured=self._config.kv_digest)
            return None

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, NixlConnectorMetadata)
        plan: NixlPlan = connector_metadata.segue_plan
        lease_s = self._config.lease_s if self._checks else float("inf")  # Else vLLM's own lease counts.
        for ticket_id, request_id, engine_request_id, block_ids, tokens in plan.offers:
            expires_at_s = time.monotonic() + lease_s
            self._book.add(Offer(ticket_id, request_id, engine_request_id, block_ids, tokens, expires_at_s, lease_s))
            self._ticket_of[engine_request_id] = ticket_id
            if self._checks and engine_request_id in connector_metadata.reqs_to_send:
                connector_metadata.reqs_to_send[engine_request_id] = float("inf")
        if self._reads is not None:
            self._reads.begin(plan, connector_metadata)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        if self._reads is not None:
            self._reads.start_granted()
        results = super().get_transfer_results(finished_req_ids)
        for engine_request_id in [name for name in results.finished_sending if name in self._ticket_of]:
            results.finished_sending.remove(engine_request_id)
            ticket_id = self._ticket_of[engine_request_id]
            # Whoever claimed the ticket acknowledges when it has compared digests; what NIXL says counts for others.
            if self._book.state_of(ticket_id) is State.OFFERED:
                self._book.record(ticket_id, Event.ACKNOWLEDGE)
        self._book.expire(time.monotonic())
        for engine_request_id in self._book.take_over():
            del self._ticket_of[engine_request_id]
            self.connector_worker._reqs_to_process.discard(engine_request_id)
            self.connector_worker._reqs_to_send.pop(engine_request_id, None)
            results.finished_sending.add(engine_request_id)
        if self._reads is not None:
            self._outgoing.add_reports(self._reads.collect(results))
        return results

    def get_block_ids_with_load_errors(self) -> set[int]:
        errors: set[int] = super().get_block_ids_with_load_errors()
        return errors if self._reads is None else errors | self._reads.take_load_errors()

    def order_move(self, engine_request_id: str, order: MoveOrder) -> None:
        """Have a request end with its next token, and its blocks offered."""
        self._outgoing.add_order(engine_request_id, order)

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self._outgoing.take()

    def shutdown(self) -> None:
        if self.role is KVConnectorRole.WORKER and hasattr(self, "_server"):
            self._server.stop(grace=0.2)
        if self._reads is not None:
            self._reads.close()
        super().shutdown()


def _unclaimed(request: Request) -> dict[str, Any] | None:
    """The claim in a request's parameters, as long as vLLM has not begun with it."""
    params = request.kv_transfer_params or {}
    claim: dict[str, Any] | None = params.get(KEY, {}).get("claim")
    return claim if params.get("do_remote_prefill") else None
