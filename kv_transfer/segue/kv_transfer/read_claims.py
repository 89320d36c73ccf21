"""The consumer's end of hand-offs whose bytes NIXL moves: asks the producer on threads, so that no engine step waits.

For each claim: the ticket is presented (``take_granted``), the connector lets NIXL read, says how that went
(``arrived`` or ``broke``), the digests are compared, and the result comes out of ``take_results``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc

from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.kv_transfer.connector_config import TransferReport, wake_engine
from segue.kv_transfer.consumer_claim import ConsumerClaim
from segue.kv_transfer.producer_end import BlockSource
from segue.kv_transfer.producer_link import ProducerLinks
from segue.kv_transfer.read_check import DigestMode, ReadCheck
from segue.kv_transfer.receiving import Corrupt
from segue.proto.kv_transfer_pb2 import DigestRequest, Ticket

log = get_logger("kv_transfer")

_THREADS = 8


@dataclass(frozen=True, slots=True)
class ReadClaim:
    """``block_ids`` are the engine's for the ticket's blocks from ``first_block`` on; those before it has in its own
    prefix cache. ``timeout_s`` counts from :meth:`ReadClaims.start`."""

    engine_request_id: str
    ticket: Ticket
    block_ids: tuple[int, ...]
    first_block: int
    timeout_s: float


@dataclass(slots=True)
class _Active:
    """``state`` and ``granted`` are touched under the lock only."""

    claim: ReadClaim
    check: ReadCheck
    started_s: float
    state: ConsumerClaim = field(default_factory=ConsumerClaim)
    digest_seconds: float = 0.0

    @property
    def left_s(self) -> float:
        return max(0.001, self.started_s + self.claim.timeout_s - time.monotonic())


class ReadClaims:
    """Runs claims on threads; every claim's report comes out of ``take_results()`` exactly once, however it ended.

    ``blocks`` is the consumer's own cache; its layout is compared with the producer's at the claim.
    """

    def __init__(self, blocks: BlockSource, mode: DigestMode, tls: TlsSource | None = None) -> None:
        self._blocks = blocks
        self._mode = mode
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kv-claim")
        self._links = ProducerLinks(tls)
        self._active: dict[str, _Active] = {}
        self._reading: set[str] = set()
        self._granted: list[ReadClaim] = []
        self._results: list[tuple[ReadClaim, TransferReport]] = []
        self._lock = threading.Lock()

    def start(self, claim: ReadClaim) -> None:
        check = ReadCheck(self._mode, claim.ticket, self._blocks.layout, claim.first_block)
        active = _Active(claim, check, time.monotonic())
        with self._lock:
            self._active[claim.engine_request_id] = active
        self._threads.submit(self._attempt, active, self._present)

    def take_granted(self) -> Sequence[ReadClaim]:
        """Claims that the producer has accepted since the last call: NIXL may read, and must be reported on."""
        with self._lock:
            granted, self._granted = self._granted, []
            self._reading.update(claim.engine_request_id for claim in granted)
        return granted

    def owns(self, engine_request_id: str) -> bool:
        """Whether NIXL reads for a claim of ours at the moment."""
        return engine_request_id in self._reading

    def arrived(self, engine_request_id: str) -> None:
        """NIXL has read everything; the report comes once it has been checked."""
        self._reading.discard(engine_request_id)
        self._threads.submit(self._attempt, self._active[engine_request_id], self._confirm)

    def broke(self, engine_request_id: str, error: str) -> None:
        """NIXL has given up, and writes no more."""
        self._reading.discard(engine_request_id)
        active = self._active[engine_request_id]
        self._fail(active, error)
        self._settle(active)

    def cancel(self, engine_request_id: str) -> None:
        """The request has ended; its report still comes, once NIXL doesn't write for it any more."""
        with self._lock:
            if (active := self._active.get(engine_request_id)) is None:
                return
            active.state.cancel()
            waiting = active.claim in self._granted
            if waiting:
                self._granted.remove(active.claim)
        if waiting:
            self._settle(active)

    def release(self, ticket: Ticket, reason: str) -> None:
        """Tell the producer that the blocks are not needed any more."""
        self._links.release(ticket, reason)

    def take_results(self) -> Sequence[tuple[ReadClaim, TransferReport]]:
        with self._lock:
            results, self._results = self._results, []
            return results

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._links.close()

    # On the threads

    def _attempt(self, active: _Active, part: Callable[[_Active], None]) -> None:
        try:
            part(active)
            return
        except grpc.RpcError as broken:
            self._fail(active, f"{broken.code().name}: {broken.details()}")
        except Corrupt as corrupt:
            self._fail(active, str(corrupt), corrupt=True)
        except Exception as fault:  # The engine holds the request until its report comes, whatever broke.
            log.exception("kv_claim_fault", request_id=active.claim.ticket.request_id)
            self._fail(active, f"INTERNAL: {fault!r}")
        self._settle(active)

    def _present(self, active: _Active) -> None:
        with self._lock:
            begun = active.state.begin()
        if begun:
            self._ask(active, active.check.claim_request())
        with self._lock:
            wanted = active.state.receive()
            if wanted:
                self._granted.append(active.claim)
        if wanted:
            wake_engine()
        else:
            self._settle(active)

    def _confirm(self, active: _Active) -> None:
        with self._lock:
            wanted = not active.state.over
        if wanted:
            before_s = time.perf_counter()
            theirs = self._ask(active, active.check.digest_request())
            claim = active.claim
            ours = self._blocks.digests([claim.block_ids[n - claim.first_block] for n in active.check.positions])
            active.check.compare(theirs, ours)
            active.digest_seconds = time.perf_counter() - before_s
            with self._lock:
                active.state.verify()
        self._settle(active)

    def _ask(self, active: _Active, request: DigestRequest) -> Sequence[int]:
        ticket = active.claim.ticket
        return self._links.stub(ticket).Digest(request, timeout=active.left_s).digests

    def _fail(self, active: _Active, error: str, corrupt: bool = False) -> None:
        with self._lock:
            active.state.fail(error, corrupt)

    def _settle(self, active: _Active) -> None:
        claim, state, layout = active.claim, active.state, self._blocks.layout
        with self._lock:
            loaded = state.may_read
            reason = state.finish()
            report = TransferReport(
                transport="nixl",
                tokens=claim.ticket.tokens - claim.first_block * layout.block_tokens,
                bytes=len(claim.block_ids) * layout.block_bytes if loaded else 0,
                seconds=time.monotonic() - active.started_s,
                error=state.error,
                corrupt=state.corrupt,
                digest_seconds=active.digest_seconds,
            )
            self._active.pop(claim.engine_request_id, None)
            self._results.append((claim, report))
        wake_engine()
        if report.error:
            log.warning(
                "kv_read_failed", request_id=claim.ticket.request_id, error=report.error, corrupt=report.corrupt
            )
        self.release(claim.ticket, reason)
