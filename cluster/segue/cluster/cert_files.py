"""Where a folder of certificates keeps whose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from segue.base.tls import TlsFiles

CA_NAME = "ca"
OPERATOR = "operator"


def files_of(folder: Path, holder: str) -> TlsFiles:
    """Where a holder's files are."""
    return TlsFiles(str(folder / f"{holder}.crt"), str(folder / f"{holder}.key"), str(folder / f"{CA_NAME}.crt"))


def write_private(folder: Path, files: Mapping[str, str]) -> None:
    """Texts by file name, for this user alone; the folder is made if need be. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        (path := folder / name).unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
