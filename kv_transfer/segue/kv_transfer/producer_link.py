"""How a consumer's channels to producers behave."""

from __future__ import annotations

PRODUCER_CHANNEL_OPTIONS = [
    # A chunk is at least one block of one layer, which may be more than gRPC's default of 4 MiB; the layout bounds it.
    ("grpc.max_receive_message_length", -1),
    # gRPC's own backoff grows to two minutes: a producer that has come back would be passed by for as long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A producer that hangs or a link that swallows packets is given up after 5 s without a sign of life, not only when
    # the lease has run out; gRPC's own threads answer, so one that is merely busy is alive.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 3000),  # gRPC 1.85 goes by this one.
]
