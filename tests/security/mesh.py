"""Certificates for the tests: one CA that is ours and one that is a stranger's."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from segue.base.identity import Identity, Kind
from segue.base.tls import TlsFiles, TlsSource
from segue.cluster.certs import Holder, issue, make_ca

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Authority:
    """A CA in a folder of its own."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        make_ca(folder)
        return cls(folder)

    def files(self, kind: Kind, name: str, *hosts: str, expired: bool = False, file: str = "") -> TlsFiles:
        now = datetime.now(UTC) - timedelta(days=2) if expired else None
        holder = Holder(file or f"{kind}-{name}".replace("*", "any"), Identity(kind, name), hosts)
        return issue(self.folder, holder, days=1, now=now)

    def source(self, kind: Kind, name: str, *hosts: str, expired: bool = False) -> TlsSource:
        """Of files of its own: issuing it again is no rotation."""
        file = f"holder-{next(_NUMBERS)}"
        return TlsSource(self.files(kind, name, *hosts, expired=expired, file=file))

    @property
    def trust_only(self) -> TlsSource:
        """A caller that knows the CA and has no certificate."""
        return TlsSource(TlsFiles(ca=str(self.folder / "ca.crt")))

    def trusting(self, other: Authority, kind: Kind, name: str) -> TlsSource:
        """A certificate of ours, with trust in the other CA: passes its listener's certificate, not its check."""
        own = self.files(kind, name)
        return TlsSource(TlsFiles(own.cert, own.key, str(other.folder / "ca.crt")))
