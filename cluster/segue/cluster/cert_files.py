"""Where a folder of certificates keeps whose."""

from __future__ import annotations

from pathlib import Path

from segue.base.tls import TlsFiles

CA_NAME = "ca"


def files_of(folder: Path, holder: str) -> TlsFiles:
    """Where a holder's files are."""
    return TlsFiles(str(folder / f"{holder}.crt"), str(folder / f"{holder}.key"), str(folder / f"{CA_NAME}.crt"))
