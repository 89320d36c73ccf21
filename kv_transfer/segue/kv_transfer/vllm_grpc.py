"""vLLM connector for the gRPC transport, loaded by module path (``kv_connector_module_path``).

vLLM makes one instance in its scheduler and one in each worker process (often the same process) and wants one class
for both. The two halves are classes of their own here: :class:`SchedulerHalf` decides which blocks are offered or
claimed, :class:`WorkerHalf` serves and pulls bytes. Each step's :class:`StepPlan` goes from the first to the second.

Interface: ``vllm.distributed.kv_transfer.kv_connector.v1.base`` of vLLM 0.32.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)

from segue.base.logging import get_logger
from segue.base.process import end_with_parent_process
from segue.base.tls import load_tls
from segue.kv_transfer.connector_config import ConnectorConfig
from segue.kv_transfer.grpc_puller import Claim, GrpcPuller
from segue.kv_transfer.grpc_server import KvTransferService, serve_kv_transfer
from segue.kv_transfer.moves import MoveOrder
from segue.kv_transfer.offers import Offer, OfferBook
from segue.kv_transfer.paged_cache import PagedCache
from segue.kv_transfer.vllm_grpc_scheduler import SchedulerHalf, StepPlan
from segue.kv_transfer.vllm_reports import Outgoing, Reports
from segue.proto.kv_transfer_pb2 import Ticket

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

log = get_logger("kv_transfer")


class WorkerHalf:
    """Holds the paged cache; serves offers (producer) and runs claims (consumer)."""

    def __init__(self, config: ConnectorConfig, block_tokens: int, serves: bool) -> None:
        self._config = config
        self._block_tokens = block_tokens
        self._serves = serves
        self._book = OfferBook(config.epoch)
        self._load_errors: set[int] = set()
        self._outgoing = Outgoing()
        self._puller: GrpcPuller | None = None

    def register(self, kv_caches: dict[str, torch.Tensor]) -> None:
        cache = PagedCache(kv_caches, self._block_tokens, self._config.model_fingerprint)
        tls = load_tls(self._config.tls)
        self._puller = GrpcPuller(cache, tls)
        if self._serves:
            service = KvTransferService(self._book, cache)
            self._server = serve_kv_transfer(service, self._config.address, tls, self._config.shared_port)

    def begin(self, plan: StepPlan) -> None:
        if self._puller is None:  # A dry run before the cache exists.
            return
        now_s = time.monotonic()
        for ticket_id, request_id, engine_request_id, block_ids, tokens, lease_s in plan.offers:
            offer = Offer(ticket_id, request_id, engine_request_id, block_ids, tokens, now_s + lease_s, lease_s)
            self._book.add(offer)
        for engine_request_id, ticket, block_ids, first_block, timeout_s in plan.claims:
            claim = Claim(engine_request_id, Ticket.FromString(ticket), block_ids, first_block, timeout_s)
            self._puller.start(claim)
        for engine_request_id in plan.cancels:
            self._puller.cancel(engine_request_id)
        for ticket, reason in plan.releases:
            self._puller.release(Ticket.FromString(ticket), reason)

    def finished(self) -> tuple[set[str], set[str]]:
        """Engine ids of requests whose blocks may be freed (sent) and whose transfer has ended (received)."""
        for offer in self._book.expire(time.monotonic()):
            log.warning("offer_expired", ticket_id=offer.ticket_id, request_id=offer.request_id)
        received = set[str]()
        for claim, report in self._puller.take_results() if self._puller else ():
            received.add(claim.engine_request_id)
            self._outgoing.add_reports({claim.engine_request_id: report})
            if report.error:
                self._load_errors.update(claim.block_ids[claim.first_block :])
        return self._book.take_over(), received

    def take_load_errors(self) -> set[int]:
        errors, self._load_errors = self._load_errors, set()
        return errors

    def order_move(self, engine_request_id: str, order: MoveOrder) -> None:
        self._outgoing.add_order(engine_request_id, order)

    def take_reports(self) -> Reports | None:
        return self._outgoing.take()

    def close(self) -> None:
        if self._puller is not None:
            self._puller.close()
        if self._serves and self._puller is not None:
            self._server.stop(grace=0.2)


class SegueGrpcConnector(KVConnectorBase_V1):
    """The class vLLM loads; hands each call to the half it is for."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        # With AsyncLLM this runs in vLLM's own processes, which would outlive a worker that is killed.
        end_with_parent_process()
        config = ConnectorConfig.from_extra_config(self._kv_transfer_config.kv_connector_extra_config)
        block_tokens = vllm_config.cache_config.block_size
        if role is KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerHalf(config, block_tokens)
        else:
            self._worker = WorkerHalf(config, block_tokens, self._kv_transfer_config.is_kv_producer)

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: VllmConfig) -> str | None:
        # Layer by layer, blocks outermost and contiguous; the layout NIXL asks for as well. MLA has but one.
        return None if vllm_config.model_config.use_mla else "LBHNC"

    # Scheduler half

    def on_new_request(self, request: Request) -> None:
        self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int, bool]:
        tokens = self._scheduler.matched_tokens(request, num_computed_tokens)
        return tokens, tokens > 0

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        self._scheduler.after_alloc(request, blocks.get_block_ids()[0], num_external_tokens)

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self._scheduler.finished(request, block_ids)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        return self._scheduler.take_plan()

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        reports = connector_output.kv_connector_worker_meta
        if isinstance(reports, Reports):
            self._scheduler.on_reports(reports.by_request)
            self._scheduler.on_orders(reports.orders)

    # Worker half

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._worker.register(kv_caches)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, StepPlan)
        # Not in start_load_kv: vLLM calls that after the forward pass has been launched, which on CPU is after it
        # has run, and a transfer would wait for everybody else's tokens.
        self._worker.begin(connector_metadata)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str], set[str]]:
        return self._worker.finished()

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_load_errors()

    def order_move(self, engine_request_id: str, order: MoveOrder) -> None:
        """Have a request end with its next token, and its blocks offered."""
        self._worker.order_move(engine_request_id, order)

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self._worker.take_reports()

    def shutdown(self) -> None:
        if self.role is KVConnectorRole.WORKER:
            self._worker.close()

    # Blocks move whole and between steps; vLLM's hooks inside a forward pass have nothing to do.

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        return

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        return

    def wait_for_save(self) -> None:
        return
