"""Holds back what vLLM's NIXL worker would read until the producer has accepted the claim, and what it has read until
its digests are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata

from segue.kv_transfer.connector_config import TransferReport
from segue.kv_transfer.read_claims import ReadClaim, ReadClaims
from segue.proto.kv_transfer_pb2 import Ticket

if TYPE_CHECKING:
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import ReqMeta


@dataclass
class NixlPlan:
    """What the worker half has to begin with this step, beside vLLM's own plan. Times are seconds from now."""

    offers: list[tuple[str, str, str, tuple[int, ...], int]] = field(default_factory=list)
    claims: list[tuple[str, bytes, float]] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    releases: list[tuple[bytes, str]] = field(default_factory=list)


class NixlReads:
    """On the engine's thread; the claims do their asking on threads of their own.

    ``worker`` is vLLM's ``NixlPullConnectorWorker``.
    """

    def __init__(self, worker: Any, claims: ReadClaims) -> None:
        self._worker = worker
        self._claims = claims
        self._held_back: dict[str, ReqMeta] = {}
        self._load_errors: set[int] = set()

    def begin(self, plan: NixlPlan, metadata: NixlConnectorMetadata) -> None:
        """Take what is to be claimed out of vLLM's plan, and start the claims."""
        for engine_request_id, serialized, timeout_s in plan.claims:
            request = metadata.reqs_to_recv.pop(engine_request_id)
            self._held_back[engine_request_id] = request
            ticket = Ticket.FromString(serialized)
            # vLLM's blocks are those that its own prefix cache lacks, which are the last ones.
            block_ids = tuple(request.local_block_ids[0])
            first_block = ticket.blocks - len(block_ids)
            self._claims.start(ReadClaim(engine_request_id, ticket, block_ids, first_block, timeout_s))
        for engine_request_id in plan.cancels:
            self._claims.cancel(engine_request_id)
        for serialized, reason in plan.releases:
            self._claims.release(Ticket.FromString(serialized), reason)

    def start_granted(self) -> None:
        for claim in self._claims.take_granted():
            metadata = NixlConnectorMetadata()
            metadata.reqs_to_recv[claim.engine_request_id] = self._held_back.pop(claim.engine_request_id)
            self._worker.start_load_kv(metadata)

    def collect(self, results: KVConnectorTransferResults) -> Mapping[str, TransferReport]:
        """Turn what NIXL has finished into what may be decoded: ``results`` is changed in place.

        Returns:
            The reports of the claims that have ended.
        """
        for name in [name for name in results.finished_recving if self._claims.owns(name)]:
            results.finished_recving.remove(name)
            if name in results.failed_recving:
                results.failed_recving.remove(name)
                self._claims.broke(name, "NIXL reported that the transfer failed")
            else:
                self._claims.arrived(name)
        reports = {}
        for claim, report in self._claims.take_results():
            name = claim.engine_request_id
            self._held_back.pop(name, None)
            reports[name] = report
            results.finished_recving.add(name)
            if report.error:
                results.failed_recving.add(name)
                if not self._worker._is_hma_required:  # As vLLM does: with several cache groups ids are ambiguous.
                    self._load_errors.update(claim.block_ids)
        return reports

    def take_load_errors(self) -> set[int]:
        errors, self._load_errors = self._load_errors, set()
        return errors

    def close(self) -> None:
        self._claims.close()
