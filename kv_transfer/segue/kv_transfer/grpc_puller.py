"""The consumer's end of KV transfer over gRPC: claims tickets, verifies chunks, writes them into the paged cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from segue.base.logging import get_logger
from segue.kv_transfer.connector_config import TransferReport, wake_engine
from segue.kv_transfer.digest import digest_of, digest_of_digests
from segue.kv_transfer.paged_cache import PagedCache
from segue.proto.kv_transfer_pb2 import KvChunk, PullRequest, ReleaseRequest, Ticket
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub

log = get_logger("kv_transfer")

_THREADS = 8
_RELEASE_TIMEOUT_S = 5.0


class Corrupt(Exception):
    """What arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One request's pull: ``block_ids`` are the engine's for all the ticket's blocks; those before ``first_block``
    it has in its own prefix cache."""

    engine_request_id: str
    ticket: Ticket
    block_ids: tuple[int, ...]
    first_block: int
    timeout_s: float


class GrpcPuller:
    """Runs claims on threads. ``take_results()`` gives each claim's report exactly once, however it ended."""

    def __init__(self, cache: PagedCache) -> None:
        self._cache = cache
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kv-pull")
        self._channels: dict[str, grpc.Channel] = {}
        self._calls: dict[str, grpc.Call] = {}
        self._active: set[str] = set()
        self._cancelled: set[str] = set()
        self._results: list[tuple[Claim, TransferReport]] = []
        self._lock = threading.Lock()

    def start(self, claim: Claim) -> None:
        with self._lock:
            self._active.add(claim.engine_request_id)
        self._threads.submit(self._run, claim)

    def cancel(self, engine_request_id: str) -> None:
        """Stop writing for this request; its report still comes, after the last write."""
        with self._lock:
            if engine_request_id not in self._active:
                return
            self._cancelled.add(engine_request_id)
            call = self._calls.get(engine_request_id)
        if call is not None:
            call.cancel()  # type: ignore[no-untyped-call]

    def release(self, ticket: Ticket, reason: str) -> None:
        """Tell the producer that the blocks are not needed any more; failures are left to the lease."""
        self._threads.submit(self._release, ticket, reason)

    def take_results(self) -> Sequence[tuple[Claim, TransferReport]]:
        with self._lock:
            results, self._results = self._results, []
            return results

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for channel in self._channels.values():
            channel.close()

    def _stub(self, address: str) -> KvTransferStub:
        with self._lock:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = grpc.insecure_channel(address)
        return KvTransferStub(channel)

    def _run(self, claim: Claim) -> None:
        started_s = time.monotonic()
        received_bytes, error = 0, ""
        try:
            received_bytes = self._pull(claim)
        except grpc.RpcError as broken:
            error = f"{broken.code().name}: {broken.details()}"
        except Corrupt as corrupt:
            error = str(corrupt)
        report = TransferReport(
            transport="grpc",
            tokens=claim.ticket.tokens - claim.first_block * self._cache.layout.block_tokens,
            bytes=received_bytes,
            seconds=time.monotonic() - started_s,
            error=error,
        )
        with self._lock:
            self._active.discard(claim.engine_request_id)
            self._calls.pop(claim.engine_request_id, None)
            self._cancelled.discard(claim.engine_request_id)
            self._results.append((claim, report))
        wake_engine()
        if error:
            log.warning("kv_pull_failed", request_id=claim.ticket.request_id, error=error)
        self._release(claim.ticket, "acknowledged" if not error else "failed")

    def _pull(self, claim: Claim) -> int:
        ticket = claim.ticket
        stream = self._stub(ticket.address).Pull(
            PullRequest(
                ticket_id=ticket.ticket_id,
                producer_epoch=ticket.producer_epoch,
                request_id=ticket.request_id,
                layout=self._cache.layout,
                first_block=claim.first_block,
            ),
            timeout=claim.timeout_s,
        )
        with self._lock:
            self._calls[claim.engine_request_id] = stream
            cancelled = claim.engine_request_id in self._cancelled
        if cancelled:
            stream.cancel()  # type: ignore[no-untyped-call]
        received_bytes, digests = 0, list[int]()
        last: KvChunk | None = None
        for chunk in stream:
            seen = digest_of(chunk.payload)
            if seen != chunk.digest:
                stream.cancel()  # type: ignore[no-untyped-call]
                raise Corrupt(
                    f"layer {chunk.layer} block {chunk.first_block}: digest of what arrived is {seen:016x}, "
                    f"the producer sent {chunk.digest:016x}"
                )
            digests.append(seen)
            block_ids = claim.block_ids[chunk.first_block : chunk.first_block + chunk.blocks]
            self._cache.write(chunk.layer, block_ids, chunk.payload)
            received_bytes += len(chunk.payload)
            last = chunk
        expected_bytes = (len(claim.block_ids) - claim.first_block) * self._cache.layout.block_bytes
        if last is None or not last.last or received_bytes != expected_bytes:
            raise Corrupt(f"{received_bytes} bytes arrived, {expected_bytes} were expected; the stream ended early")
        if (seen := digest_of_digests(digests)) != last.digest_of_all:
            raise Corrupt(f"digest over all chunks is {seen:016x}, the producer sent {last.digest_of_all:016x}")
        return received_bytes

    def _release(self, ticket: Ticket, reason: str) -> None:
        request = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        try:
            self._stub(ticket.address).Release(request, timeout=_RELEASE_TIMEOUT_S)
        except grpc.RpcError as broken:
            log.warning("release_failed", ticket_id=ticket.ticket_id, error=f"{broken.code().name}")
