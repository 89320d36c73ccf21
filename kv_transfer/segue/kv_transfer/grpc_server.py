"""The producer's end of KV transfer: serves ``segue.v1.KvTransfer`` from threads inside the engine's process.

It runs where the paged cache is, which with ``AsyncLLM`` is not the worker's own process. The NIXL connector serves
it too, for ``Release`` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from segue.base.grpc_guard import Guard, only_kinds
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import add_port
from segue.kv_transfer.chunks import plan_chunks
from segue.kv_transfer.connector_config import wake_engine
from segue.kv_transfer.digest import digest_of, digest_of_digests
from segue.kv_transfer.handoff import Event
from segue.kv_transfer.layout import layout_differences
from segue.kv_transfer.offers import Offer, OfferBook, Refusal, TicketRefused
from segue.kv_transfer.paged_cache import PagedCache
from segue.proto.kv_transfer_pb2 import (
    BlockLayout,
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
_THREADS = 8

_NOT_HELD = {Refusal.UNKNOWN, Refusal.USED, Refusal.EXPIRED, Refusal.REVOKED}


class KvTransferService(KvTransferServicer):
    """Serves offers out of ``cache``; without one (NIXL) ``Pull`` is refused.

    ``on_release`` is told of every ticket that is given back, before the reply.
    """

    def __init__(self, book: OfferBook, cache: PagedCache | None, on_release: Callable[[], None] = wake_engine) -> None:
        self._book = book
        self._cache = cache
        self._on_release = on_release

    def Pull(self, request: PullRequest, context: grpc.ServicerContext) -> Iterator[KvChunk]:
        if self._cache is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "this producer transfers by nixl; it serves Release only")
        try:
            _check_layout(self._cache.layout, request.layout)
            offer = self._book.claim(
                request.ticket_id, request.producer_epoch, request.request_id, wait_s=_OFFER_WAIT_S
            )
        except TicketRefused as refused:
            _refuse(context, refused)
        self._book.record(offer.ticket_id, Event.SEND)
        finished = False
        try:
            for chunk in self._chunks(offer, request.first_block):
                if offer.handoff.over:  # See handoff.TABLE: what was read may be another request's by now.
                    context.abort(grpc.StatusCode.NOT_FOUND, f"ticket {offer.ticket_id} was taken back meanwhile")
                yield chunk
            finished = True
        finally:
            if not finished and self._book.record(offer.ticket_id, Event.FAIL):
                log.warning("pull_broken", ticket_id=offer.ticket_id, request_id=offer.request_id)
                self._on_release()

    def _chunks(self, offer: Offer, first_block: int) -> Iterator[KvChunk]:
        assert self._cache is not None
        plan = list(plan_chunks(self._cache.layers, first_block, len(offer.block_ids), self._cache.layer_block_bytes))
        digests: list[int] = []
        for number, chunk in enumerate(plan, start=1):
            block_ids = offer.block_ids[chunk.first_block : chunk.first_block + chunk.blocks]
            payload = self._cache.read(chunk.layer, block_ids)
            digests.append(digest_of(payload))
            last = number == len(plan)
            yield KvChunk(
                layer=chunk.layer,
                first_block=chunk.first_block,
                blocks=chunk.blocks,
                payload=payload,
                digest=digests[-1],
                last=last,
                digest_of_all=digest_of_digests(digests) if last else 0,
            )

    def Release(self, request: ReleaseRequest, context: grpc.ServicerContext) -> ReleaseResponse:
        if request.producer_epoch != self._book.epoch:
            return ReleaseResponse(freed=False)  # The producer that held it is gone, and its blocks with it.
        event = Event.ACKNOWLEDGE if request.reason == "acknowledged" else Event.REVOKE
        freed = self._book.record(request.ticket_id, event)
        if freed:
            self._on_release()
        return ReleaseResponse(freed=freed)

    def Renew(self, request: RenewRequest, context: grpc.ServicerContext) -> RenewResponse:
        if request.producer_epoch != self._book.epoch:
            return RenewResponse(gone_ticket_ids=request.ticket_ids)
        now_s = time.monotonic()
        gone = [name for name in request.ticket_ids if not self._book.renew(name, now_s, request.lease_s)]
        return RenewResponse(gone_ticket_ids=gone)

    def Digest(self, request: DigestRequest, context: grpc.ServicerContext) -> DigestResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "this producer gives no digests of single blocks")
        raise AssertionError  # abort has raised.


def _check_layout(ours: BlockLayout, theirs: BlockLayout) -> None:
    if differences := layout_differences(ours, theirs):
        raise TicketRefused(Refusal.OTHER_LAYOUT, "block layouts differ: " + "; ".join(differences))


def _refuse(context: grpc.ServicerContext, refused: TicketRefused) -> NoReturn:
    log.warning("claim_refused", why=refused.refusal.value, detail=str(refused))
    status = grpc.StatusCode.NOT_FOUND if refused.refusal in _NOT_HELD else grpc.StatusCode.FAILED_PRECONDITION
    context.abort(status, str(refused))
    raise AssertionError  # abort has raised.


def serve_kv_transfer(service: KvTransferService, address: str, tls: TlsSource | None = None) -> grpc.Server:
    """Start serving at ``address`` (host:port); with TLS to workers of this cluster alone.

    Raises:
        RuntimeError: the port is taken.
    """
    # gRPC lets processes share a port by default: pulls would reach whichever of them.
    options = [("grpc.so_reuseport", 0)]
    guards: list[grpc.ServerInterceptor[Any, Any]] = [] if tls is None else [Guard(only_kinds("prefill", "decode"))]
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kv-serve")
    server = grpc.server(threads, options=options, interceptors=guards)
    add_KvTransferServicer_to_server(service, server)
    add_port(server, address, tls)
    server.start()
    return server
