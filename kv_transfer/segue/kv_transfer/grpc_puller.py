"""The consumer's end of KV transfer over gRPC: claims tickets, verifies chunks, writes them into the paged cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
# A chunk is at least one block of one layer, which may be more than gRPC's default of 4 MiB; the layout bounds it.
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1)]


class Corrupt(Exception):
    """What arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One request's pull: ``block_ids`` are the engine's for all the ticket's blocks; those before ``first_block``
    it has in its own prefix cache. ``timeout_s`` counts from :meth:`GrpcPuller.start`."""

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
        self._active: dict[str, tuple[Claim, Future[None]]] = {}
        self._cancelled: set[str] = set()
        self._results: list[tuple[Claim, TransferReport]] = []
        self._lock = threading.Lock()

    def start(self, claim: Claim) -> None:
        deadline_s = time.monotonic() + claim.timeout_s
        with self._lock:
            future = self._threads.submit(self._run, claim, deadline_s)
            self._active[claim.engine_request_id] = claim, future

    def cancel(self, engine_request_id: str) -> None:
        """Stop writing for this request; its report still comes, after the last write."""
        with self._lock:
            if engine_request_id not in self._active:
                return
            claim, future = self._active[engine_request_id]
            never_ran = future.cancel()
            self._cancelled.add(engine_request_id)
            call = self._calls.get(engine_request_id)
        if never_ran:
            self._report(claim, 0, 0.0, "CANCELLED: before it began")
            self.release(claim.ticket, "cancelled")
        elif call is not None:
            call.cancel()  # type: ignore[no-untyped-call]

    def release(self, ticket: Ticket, reason: str) -> None:
        """Tell the producer that the blocks are not needed any more; failures are left to the lease."""
        request = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        # Not waited for: a producer that doesn't answer must not keep a thread from the next pull.
        call = self._stub(ticket.address).Release.future(request, timeout=_RELEASE_TIMEOUT_S)
        call.add_done_callback(lambda _: _log_if_failed(ticket, call.code()))

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
                channel = self._channels[address] = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        return KvTransferStub(channel)

    def _run(self, claim: Claim, deadline_s: float) -> None:
        started_s = time.monotonic()
        received_bytes, error = 0, ""
        try:
            received_bytes = self._pull(claim, deadline_s - started_s)
        except grpc.RpcError as broken:
            error = f"{broken.code().name}: {broken.details()}"
        except Corrupt as corrupt:
            error = str(corrupt)
        except Exception as fault:  # The engine holds the request until its report comes, whatever broke.
            log.exception("kv_pull_fault", request_id=claim.ticket.request_id)
            error = f"INTERNAL: {fault!r}"
        self._report(claim, received_bytes, time.monotonic() - started_s, error)
        self.release(claim.ticket, "acknowledged" if not error else "failed")

    def _report(self, claim: Claim, received_bytes: int, seconds: float, error: str) -> None:
        report = TransferReport(
            transport="grpc",
            tokens=claim.ticket.tokens - claim.first_block * self._cache.layout.block_tokens,
            bytes=received_bytes,
            seconds=seconds,
            error=error,
        )
        with self._lock:
            self._active.pop(claim.engine_request_id, None)
            self._calls.pop(claim.engine_request_id, None)
            self._cancelled.discard(claim.engine_request_id)
            self._results.append((claim, report))
        wake_engine()
        if error:
            log.warning("kv_pull_failed", request_id=claim.ticket.request_id, error=error)

    def _pull(self, claim: Claim, timeout_s: float) -> int:
        ticket = claim.ticket
        stream = self._stub(ticket.address).Pull(
            PullRequest(
                ticket_id=ticket.ticket_id,
                producer_epoch=ticket.producer_epoch,
                request_id=ticket.request_id,
                layout=self._cache.layout,
                first_block=claim.first_block,
            ),
            timeout=timeout_s,
        )
        with self._lock:
            self._calls[claim.engine_request_id] = stream
            cancelled = claim.engine_request_id in self._cancelled
        if cancelled:
            stream.cancel()  # type: ignore[no-untyped-call]
        try:
            return self._receive(claim, stream)
        except BaseException:  # Raised on: whatever broke, the producer must not go on sending.
            stream.cancel()  # type: ignore[no-untyped-call]
            raise

    def _receive(self, claim: Claim, stream: Iterable[KvChunk]) -> int:
        """Write what arrives, chunk by chunk, each where the one before it ended; the bytes in all.

        Raises:
            Corrupt: a digest is another, or the chunks don't cover the blocks in order, each exactly once.
        """
        received_bytes, digests = 0, list[int]()
        last: KvChunk | None = None
        layer, block = 0, claim.first_block
        for chunk in stream:
            if (chunk.layer, chunk.first_block) != (layer, block):
                raise Corrupt(
                    f"layer {chunk.layer} block {chunk.first_block} arrived, layer {layer} block {block} was expected"
                )
            left = len(claim.block_ids) - block
            size_bytes = chunk.blocks * self._cache.layer_block_bytes
            if layer == self._cache.layers or not 0 < chunk.blocks <= left or len(chunk.payload) != size_bytes:
                raise Corrupt(
                    f"{chunk.blocks} blocks in {len(chunk.payload)} bytes arrived for layer {layer} block {block} of "
                    f"{self._cache.layers} layers of {len(claim.block_ids)} blocks of "
                    f"{self._cache.layer_block_bytes} bytes"
                )
            seen = digest_of(chunk.payload)
            if seen != chunk.digest:
                raise Corrupt(
                    f"layer {layer} block {block}: digest of what arrived is {seen:016x}, "
                    f"the producer sent {chunk.digest:016x}"
                )
            digests.append(seen)
            self._cache.write(layer, claim.block_ids[block : block + chunk.blocks], chunk.payload)
            received_bytes += size_bytes
            last = chunk
            layer, block = (layer, block + chunk.blocks) if chunk.blocks < left else (layer + 1, claim.first_block)
        expected_bytes = (len(claim.block_ids) - claim.first_block) * self._cache.layout.block_bytes
        if last is None or not last.last or received_bytes != expected_bytes:
            raise Corrupt(f"{received_bytes} bytes arrived, {expected_bytes} were expected; the stream ended early")
        if (seen := digest_of_digests(digests)) != last.digest_of_all:
            raise Corrupt(f"digest over all chunks is {seen:016x}, the producer sent {last.digest_of_all:016x}")
        return received_bytes


def _log_if_failed(ticket: Ticket, code: grpc.StatusCode) -> None:
    if code is not grpc.StatusCode.OK:
        log.warning("release_failed", ticket_id=ticket.ticket_id, error=code.name)
