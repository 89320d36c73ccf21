"""How a worker joins the mesh: with a certificate that names it, or in plain text where that is allowed."""

from __future__ import annotations

from segue.base.exposure import check_exposure
from segue.base.tls import TlsSource, check_own_identity, load_mesh
from segue.engine.settings import EngineRole
from segue.worker.settings import WorkerSettings


def open_mesh(settings: WorkerSettings, *roles: EngineRole) -> TlsSource | None:
    """The worker's certificate, which must name it in each of its roles; None is plain text.

    Raises:
        SettingsError: it can't be used, it isn't this worker's, or plain text would be open to others.
    """
    check_exposure(
        settings.host,
        f"{roles[0]} worker {settings.worker_id}",
        tls=settings.tls is not None,
        tls_option="--tls-cert, --tls-key and --tls-ca",
        insecure=settings.insecure,
    )
    tls = load_mesh(settings.tls)
    if tls is not None:
        for role in roles:
            check_own_identity(tls, role, settings.worker_id)
    return tls
