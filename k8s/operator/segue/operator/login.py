"""Who the operator is to the API server: its service account in a pod, the user's kubeconfig elsewhere."""

from __future__ import annotations

import kopf

from segue.base.errors import SettingsError


def login() -> kopf.ConnectionInfo:
    """Raises SettingsError: there is neither."""
    settings = kopf.OperatorSettings()
    found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if found is None:
        raise SettingsError(
            "no way to the API server: neither a pod's service account nor a kubeconfig; set KUBECONFIG, or run "
            "where kubectl works"
        )
    return found
