"""The consumer's end of KV transfer over gRPC: claims tickets, verifies chunks, writes them into the paged cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.kv_transfer.connector_config import TransferReport, wake_engine
from segue.kv_transfer.consumer_claim import ConsumerClaim
from segue.kv_transfer.paged_cache import PagedCache
from segue.kv_transfer.producer_link import ProducerLinks
from segue.kv_transfer.receiving import Corrupt, Receiver
from segue.proto.kv_transfer_pb2 import KvChunk, PullRequest, Ticket

log = get_logger("kv_transfer")

_THREADS = 8


@dataclass(frozen=True, slots=True)
class Claim:
    """One request's pull: ``block_ids`` are the engine's for all the ticket's blocks; those before ``first_block``
    it has in its own prefix cache. ``timeout_s`` counts from :meth:`GrpcPuller.start`."""

    engine_request_id: str
    ticket: Ticket
    block_ids: tuple[int, ...]
    first_block: int
    timeout_s: float


@dataclass(slots=True)
class _Active:
    """A claim under way. ``state`` is touched under the puller's lock only.

    ``heard_s`` is when its call began or last brought a chunk.
    """

    claim: Claim
    state: ConsumerClaim
    call: grpc.Call | None = None
    heard_s: float = 0.0
    digest_seconds: float = 0.0


class GrpcPuller:
    """Runs claims on threads. ``take_results()`` gives each claim's report exactly once, however it ended; after it
    nothing is written for the request any more."""

    def __init__(self, cache: PagedCache, tls: TlsSource | None = None) -> None:
        self._cache = cache
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kv-pull")
        self._links = ProducerLinks(tls)
        self._active: dict[str, tuple[_Active, Future[None]]] = {}
        self._results: list[tuple[Claim, TransferReport]] = []
        self._lock = threading.Lock()

    def start(self, claim: Claim) -> None:
        deadline_s = time.monotonic() + claim.timeout_s
        active = _Active(claim, ConsumerClaim())
        with self._lock:
            self._active[claim.engine_request_id] = active, self._threads.submit(self._run, active, deadline_s)

    def cancel(self, engine_request_id: str) -> None:
        """Stop writing for this request; its report still comes, after the last write."""
        with self._lock:
            if engine_request_id not in self._active:
                return
            active, future = self._active[engine_request_id]
            active.state.cancel()
            never_ran = future.cancel()
            call = active.call
        if never_ran:
            self._settle(active, 0, 0.0)
        elif call is not None:
            call.cancel()  # type: ignore[no-untyped-call]

    def release(self, ticket: Ticket, reason: str) -> None:
        """Tell the producer that the blocks are not needed any more."""
        self._links.release(ticket, reason)

    def take_results(self) -> Sequence[tuple[Claim, TransferReport]]:
        """To be called again and again: it also gives up producers that send nothing."""
        self._end_stalled(time.monotonic())
        with self._lock:
            results, self._results = self._results, []
            return results

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._links.close()

    def _end_stalled(self, now_s: float) -> None:
        """A producer that answers pings and sends nothing for a lease: the time is better spent computing."""
        with self._lock:
            stalled = [active for active, _ in self._active.values() if _is_stalled(active, now_s)]
            for active in stalled:
                active.state.fail(f"STALLED: the producer has sent nothing for {active.claim.ticket.lease_s:g} s")
        for active in stalled:
            if active.call is not None:
                active.call.cancel()  # type: ignore[no-untyped-call]

    def _run(self, active: _Active, deadline_s: float) -> None:
        started_s = time.monotonic()
        received_bytes = 0
        try:
            with self._lock:
                began = active.state.begin()
            if began:
                received_bytes = self._pull(active, deadline_s - started_s)
        except grpc.RpcError as broken:
            self._fail(active, f"{broken.code().name}: {broken.details()}")
        except Corrupt as corrupt:
            self._fail(active, str(corrupt), corrupt=True)
        except Exception as fault:  # The engine holds the request until its report comes, whatever broke.
            log.exception("kv_pull_fault", request_id=active.claim.ticket.request_id)
            self._fail(active, f"INTERNAL: {fault!r}")
        self._settle(active, received_bytes, time.monotonic() - started_s)

    def _fail(self, active: _Active, error: str, corrupt: bool = False) -> None:
        with self._lock:
            active.state.fail(error, corrupt)

    def _settle(self, active: _Active, received_bytes: int, seconds: float) -> None:
        """Report, then tell the producer: the engine must not learn of its blocks' end from anybody else."""
        claim, state = active.claim, active.state
        with self._lock:
            if received_bytes:
                state.verify()
            loaded = state.may_read
            reason = state.finish()
            report = TransferReport(
                transport="grpc",
                tokens=claim.ticket.tokens - claim.first_block * self._cache.layout.block_tokens,
                bytes=received_bytes if loaded else 0,
                seconds=seconds,
                error=state.error,
                corrupt=state.corrupt,
                digest_seconds=active.digest_seconds,
            )
            self._active.pop(claim.engine_request_id, None)
            self._results.append((claim, report))
        wake_engine()
        if report.error:
            log.warning(
                "kv_pull_failed", request_id=claim.ticket.request_id, error=report.error, corrupt=report.corrupt
            )
        self.release(claim.ticket, reason)

    def _pull(self, active: _Active, timeout_s: float) -> int:
        claim, ticket = active.claim, active.claim.ticket
        stream = self._links.stub(ticket).Pull(
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
            active.call = stream
            active.heard_s = time.monotonic()
            cancelled = active.state.over
        if cancelled:
            stream.cancel()  # type: ignore[no-untyped-call]
        try:
            return self._receive(active, stream)
        except BaseException:  # Raised on: whatever broke, the producer must not go on sending.
            stream.cancel()  # type: ignore[no-untyped-call]
            raise

    def _receive(self, active: _Active, stream: Iterable[KvChunk]) -> int:
        """Write what arrives, chunk by chunk; the bytes in all, or 0 if the claim was cancelled meanwhile.

        Raises:
            Corrupt: a digest is another, or the chunks don't cover the blocks in order, each exactly once.
        """
        claim, cache = active.claim, self._cache
        receiver = Receiver(cache.layers, cache.layer_block_bytes, claim.first_block, len(claim.block_ids))
        for chunk in stream:
            with self._lock:
                wanted = active.state.receive()
                active.heard_s = time.monotonic()
            if not wanted:
                return 0
            before_s = time.perf_counter()
            receiver.accept(chunk)
            active.digest_seconds += time.perf_counter() - before_s
            block_ids = claim.block_ids[chunk.first_block : chunk.first_block + chunk.blocks]
            cache.write(chunk.layer, block_ids, chunk.payload)
        return receiver.finish()


def _is_stalled(active: _Active, now_s: float) -> bool:
    lease_s = active.claim.ticket.lease_s
    return active.call is not None and not active.state.over and 0 < lease_s < now_s - active.heard_s
