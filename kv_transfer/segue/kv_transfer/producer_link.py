"""A consumer's channels to the producers that it claims from, whichever transport moves the bytes."""

from __future__ import annotations

import grpc

from segue.base.identity import worker_dns
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import Channels, open_channel
from segue.proto.kv_transfer_pb2 import ReleaseRequest, Ticket
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub

log = get_logger("kv_transfer")

_RELEASE_TIMEOUT_S = 5.0
_OPTIONS = [
    # A chunk is at least one block of one layer, which may be more than gRPC's default of 4 MiB; the layout bounds it.
    ("grpc.max_receive_message_length", -1),
    # gRPC's own backoff grows to two minutes: a producer that has come back would be passed by for as long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),  # Despite the name, the longest that one attempt to connect may take.
    # A producer that hangs or a link that swallows packets is given up after 5 s without a sign of life, not only when
    # the lease has run out; gRPC's own threads answer, so one that is merely busy is alive.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 3000),  # gRPC 1.85 goes by this one.
]


class ProducerLinks:
    """Methods may be called from any thread."""

    def __init__(self, tls: TlsSource | None) -> None:
        self._channels = Channels(open_channel, tls)

    def stub(self, ticket: Ticket) -> KvTransferStub:
        """The ticket's producer. With TLS the listener's certificate must be that of the producer it names."""
        return KvTransferStub(self._channels.get(ticket.address, worker_dns(ticket.producer_id), _OPTIONS))

    def release(self, ticket: Ticket, reason: str) -> None:
        """Tell the producer that the blocks are not needed any more; failures are left to the lease."""
        request = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        # Not waited for: a producer that doesn't answer must not keep a thread from the next claim.
        call = self.stub(ticket).Release.future(request, timeout=_RELEASE_TIMEOUT_S)
        call.add_done_callback(lambda _: _log_if_failed(ticket, call.code()))

    def close(self) -> None:
        for channel in self._channels.take_all():
            channel.close()


def _log_if_failed(ticket: Ticket, code: grpc.StatusCode) -> None:
    if code is not grpc.StatusCode.OK:
        log.warning("release_failed", ticket_id=ticket.ticket_id, error=code.name)
