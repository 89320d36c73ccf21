"""Who a certificate of the mesh says its holder is.

Each process of a cluster holds one certificate with two names in its subject alternative names. The URI,
``segue://KIND/NAME``, says what it is when it calls: ``segue://prefill/prefill-0``. The DNS name is what it must be
when it is called: callers put it in place of the host name they dial, so that TLS itself refuses a listener that is
another than the one meant. ``*`` for NAME (and for the DNS name's first label) stands for a whole pool that shares a
certificate: then a pool's members can't be told apart, only the pools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

Kind = Literal["router", "prefill", "decode", "operator", "client"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORKER_KINDS: tuple[Kind, ...] = ("prefill", "decode")

ROUTER_DNS = "router.segue.internal"
_URI = re.compile(r"segue://([a-z]+)/([A-Za-z0-9._-]{1,63}|\*)")


@dataclass(frozen=True, slots=True)
class Identity:
    """One name out of a certificate."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"segue://{self.kind}/{self.name}"

    def covers(self, kind: str, name: str) -> bool:
        """Whether the holder may call itself this."""
        return self.kind == kind and self.name in (name, "*")


def parse_identity(uri: str) -> Identity | None:
    """The identity in a URI; None if it is none of ours."""
    match = _URI.fullmatch(uri)
    if match is None or match[1] not in KINDS:
        return None
    return Identity(cast(Kind, match[1]), match[2])


def identities_of(uris: Iterable[str]) -> tuple[Identity, ...]:
    """All of ours among a certificate's names."""
    return tuple(found for uri in uris if (found := parse_identity(uri)) is not None)


def peer_identities(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[Identity, ...]:
    """Of a gRPC call's ``auth_context()``: who called. Empty on a connection without a client certificate."""
    return identities_of(name.decode("utf-8", "replace") for name in auth_context.get("peer_uri", ()))


def caller_problem(auth_context: Mapping[str, Iterable[bytes]], kind: str, name: str) -> str | None:
    """Why the caller may not call itself this; None if it may, or if the connection is in plain text."""
    if b"ssl" not in auth_context.get("transport_security_type", ()):
        return None
    callers = peer_identities(auth_context)
    if any(caller.covers(kind, name) for caller in callers):
        return None
    seen = ", ".join(map(str, callers)) or "no segue:// name"
    return f"calls itself segue://{kind}/{name}, and its certificate is for {seen}; give it its own certificate"


def worker_dns(worker_id: str) -> str:
    """The name a worker's certificate must have for whoever dials that worker."""
    return f"{worker_id}.worker.segue.internal"
