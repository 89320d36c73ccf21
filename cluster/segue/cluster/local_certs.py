"""Whether every process of a local cluster has its certificate."""

from __future__ import annotations

from segue.base.errors import SettingsError
from segue.base.identity import Kind
from segue.base.tls import TlsSource, check_own_identity
from segue.cluster.cert_files import OPERATOR, files_of
from segue.cluster.local import LocalCluster, LocalWorker
from segue.cluster.pools import POOL_NAMES


def check_certs(cluster: LocalCluster) -> None:
    """Raises SettingsError unless every process of the cluster has its certificate in the folder."""
    _check_cert(cluster, "router", "router")
    _check_cert(cluster, "operator", OPERATOR)  # Whoever scales its pools and tells its workers to turn.
    for worker in cluster.workers():
        check_worker_cert(cluster, worker)


def check_worker_cert(cluster: LocalCluster, worker: LocalWorker) -> None:
    """Raises SettingsError unless this worker has its certificate in the folder, for each role that it may have."""
    for role in POOL_NAMES if worker.flex else (worker.role,):
        _check_cert(cluster, role, worker.name)


def _check_cert(cluster: LocalCluster, role: Kind, name: str) -> None:
    if cluster.certs is None:
        return
    try:
        check_own_identity(TlsSource(files_of(cluster.certs, name)), role, "*" if role == "router" else name)
    except SettingsError as error:
        raise SettingsError(
            f"{error}; segue certs {cluster.certs} makes them, for as many workers as it is told"
        ) from None
