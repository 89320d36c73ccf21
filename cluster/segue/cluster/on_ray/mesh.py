"""Certificates of a cluster on Ray: the manager has the CA and signs one for each process that it starts.

The CA's key travels to the manager, and each process's own key to its actor, among what their actors are made with. Ray
keeps that in its control store: whoever may talk to Ray can read it, and could as well run what he likes on every node.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from segue.base.errors import SettingsError
from segue.base.identity import Identity
from segue.base.tls import TlsFiles, TlsSource
from segue.cluster.cert_files import CA_NAME, OPERATOR, files_of
from segue.cluster.certs import Holder, issue, make_ca, worker_holder
from segue.cluster.on_ray.settings import OWN_FILES, CaPem

# A cluster's own CA ends with the cluster, and nothing else trusts it.
_OWN_CA_DAYS = 3650.0


def new_ca() -> CaPem:
    """One for a single cluster."""
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        make_ca(Path(folder), days=_OWN_CA_DAYS)
        return read_ca(Path(folder))


def read_ca(folder: Path) -> CaPem:
    """That of a folder as ``segue certs`` makes it. Raises SettingsError: it isn't there."""
    try:
        return CaPem(*((folder / f"{CA_NAME}{end}").read_text() for end in (".crt", ".key")))
    except OSError as error:
        raise SettingsError(
            f"{error.filename} can't be read ({error.strerror}); on Ray each worker gets a certificate when it is "
            "started, for which the CA's key is needed: leave --certs out, and the cluster gets a CA of its own, or "
            "make one with segue certs"
        ) from None


class Mesh:
    """Signs with one CA, in a folder of this process alone."""

    def __init__(self, ca: CaPem) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="segue-mesh-")
        self._folder = Path(self._kept.name)
        for end, text in ((".crt", ca.cert), (".key", ca.key)):
            (self._folder / f"{CA_NAME}{end}").write_text(text)

    def close(self) -> None:
        """Remove what it has on disk; it signs nothing afterwards."""
        self._kept.cleanup()

    def of_router(self, host: str) -> dict[str, str]:
        """The router's files by name, for clients who reach it at ``host``."""
        hosts = tuple(dict.fromkeys((host, socket.gethostname(), "localhost", "127.0.0.1")))
        return self._signed(Holder(OWN_FILES, Identity("router", "router"), hosts))

    def of_worker(self, role_and_id: str) -> dict[str, str]:
        """The files of ``prefill/ID``, ``decode/ID`` or ``flex/ID``."""
        holder = worker_holder(role_and_id)
        return self._signed(Holder(OWN_FILES, holder.identity, other=holder.other))

    def of_operator(self) -> dict[str, str]:
        return self._signed(Holder(OPERATOR, Identity("operator", OPERATOR)))

    def manager(self) -> TlsSource:
        """What the manager serves its port and dials routers with."""
        holder = Holder("manager", Identity("router", "manager"))
        return TlsSource(issue(self._folder, holder, days=_OWN_CA_DAYS))

    def operator(self) -> TlsFiles:
        """What the manager dials workers with."""
        self.of_operator()
        return files_of(self._folder, OPERATOR)

    def _signed(self, holder: Holder) -> dict[str, str]:
        files = issue(self._folder, holder, days=_OWN_CA_DAYS)
        return {Path(path).name: Path(path).read_text() for path in (files.cert, files.key, files.ca)}
