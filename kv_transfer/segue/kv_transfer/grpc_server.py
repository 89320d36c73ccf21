"""The producer's end of KV transfer: serves ``segue.v1.KvTransfer`` from threads inside the engine's process.

It runs where the paged cache is, which with ``AsyncLLM`` is not the worker's own process. The NIXL connector serves
it too, for everything but ``Pull``. What is answered is decided in ``producer_end``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from segue.base.grpc_guard import Guard, only_kinds
from segue.base.logging import get_logger
from segue.base.own_threads import OwnThreads
from segue.base.tls import TlsSource
from segue.base.tls_grpc import add_port
from segue.base.undecodable import RefuseUndecodableThreaded
from segue.kv_transfer.connector_config import wake_engine
from segue.kv_transfer.offers import OfferBook, Refusal, TicketRefused
from segue.kv_transfer.paged_cache import PagedCache
from segue.kv_transfer.producer_end import BadPosition, NoBlocks, ProducerEnd
from segue.proto.kv_transfer_pb2 import (
    DigestRequest,
    DigestResponse,
    KvChunk,
    PullRequest,
    ReleaseRequest,
    ReleaseResponse,
    RenewRequest,
    RenewResponse,
)
from segue.proto.kv_transfer_pb2_grpc import KvTransferServicer, add_KvTransferServicer_to_server

log = get_logger("kv_transfer")

# Prefill answers as soon as the engine has the first token; the engine records the offer in its next step.
_OFFER_WAIT_S = 5.0
# Claims take as long as a transfer, or wait for an offer (see offers.MAX_WAITING). Whatever they do, releases and
# renewals are answered at once: leases depend on it.
_CLAIM_THREADS = 12
_CONTROL_THREADS = 4
_CLAIMS = ("/segue.v1.KvTransfer/Pull", "/segue.v1.KvTransfer/Digest")

_NOT_HELD = {Refusal.UNKNOWN, Refusal.USED, Refusal.EXPIRED, Refusal.REVOKED}


class KvTransferService(KvTransferServicer):
    """Serves ``book``'s offers out of ``cache``.

    With NIXL ``pulls`` is off, and ``cache`` is None if its layout allows no digests: claims then say so.
    ``on_release`` is told of every ticket that is given back, before the reply.
    """

    def __init__(
        self,
        book: OfferBook,
        cache: PagedCache | None,
        on_release: Callable[[], None] = wake_engine,
        pulls: bool = True,
    ) -> None:
        self._end = ProducerEnd(book, NoBlocks() if cache is None else cache, _OFFER_WAIT_S)
        self._pulls = pulls and cache is not None
        self._digests = cache is not None
        self._on_release = on_release

    def Pull(self, request: PullRequest, context: grpc.ServicerContext) -> Iterator[KvChunk]:
        if not self._pulls:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "this producer transfers by nixl; it serves no Pull")
        sent = False
        try:
            offer = self._end.begin(request)
        except TicketRefused as refused:
            _refuse(context, refused)

        def on_end() -> None:
            if not sent and self._end.broke(offer):
                log.warning("pull_broken", ticket_id=request.ticket_id, request_id=request.request_id)
                self._on_release()

        # Not at the generator's own end: gRPC drops that of a stream whose consumer has left, and Python closes it
        # whenever it is collected.
        if not context.add_callback(on_end):
            on_end()
            return
        try:
            yield from self._end.send(offer, request.first_block)
            sent = True
        except TicketRefused as refused:
            _refuse(context, refused)

    def Digest(self, request: DigestRequest, context: grpc.ServicerContext) -> DigestResponse:
        if request.blocks and not self._digests:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "the layout of this producer's cache allows no digests")
        try:
            return DigestResponse(digests=self._end.digest(request))
        except TicketRefused as refused:
            _refuse(context, refused)
        except BadPosition as bad:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(bad))
            raise AssertionError from bad  # abort has raised.

    def Release(self, request: ReleaseRequest, context: grpc.ServicerContext) -> ReleaseResponse:
        freed = self._end.release(request)
        if freed:
            self._on_release()
        return ReleaseResponse(freed=freed)

    def Renew(self, request: RenewRequest, context: grpc.ServicerContext) -> RenewResponse:
        gone = self._end.renew(request, time.monotonic())
        return RenewResponse(gone_ticket_ids=gone, held_offers=len(self._end.book))


def _refuse(context: grpc.ServicerContext, refused: TicketRefused) -> NoReturn:
    log.warning("claim_refused", why=refused.refusal.value, detail=str(refused))
    status = grpc.StatusCode.NOT_FOUND if refused.refusal in _NOT_HELD else grpc.StatusCode.FAILED_PRECONDITION
    context.abort(status, str(refused))
    raise AssertionError  # abort has raised.


def serve_kv_transfer(
    service: KvTransferService, address: str, tls: TlsSource | None = None, shared_port: bool = False
) -> grpc.Server:
    """Start serving at ``address`` (host:port); with TLS to workers of this cluster alone.

    ``shared_port``: a socket of ours that doesn't listen has the port already.

    Raises:
        RuntimeError: the port is taken.
    """
    # gRPC lets processes share a port by default: pulls would reach whichever of them.
    # And it takes pings as frequent as the consumer's for an attack.
    options = [("grpc.so_reuseport", int(shared_port)), ("grpc.http2.min_ping_interval_without_data_ms", 1000)]
    claim_threads = ThreadPoolExecutor(_CLAIM_THREADS, thread_name_prefix="kv-serve")
    interceptors: list[grpc.ServerInterceptor[Any, Any]] = [OwnThreads(_CLAIMS, claim_threads)]
    if tls is not None:
        interceptors.append(Guard(only_kinds("prefill", "decode")))
    interceptors.append(RefuseUndecodableThreaded())
    control_threads = ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="kv-control")
    server = grpc.server(control_threads, options=options, interceptors=interceptors)
    add_KvTransferServicer_to_server(service, server)
    add_port(server, address, tls)
    server.start()
    return server
