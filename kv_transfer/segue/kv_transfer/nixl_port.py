"""The port on which NIXL's ends shake hands."""

from __future__ import annotations

import socket

from segue.base.errors import SettingsError


def check_listenable(host: str, port: int) -> None:
    """See to it that vLLM can listen there: it does so on a thread, whose failure it waits for without end.

    Raises:
        SettingsError: somebody else listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As ZeroMQ does.
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"NIXL can't listen for handshakes on {host}:{port}: {error.strerror}; "
                "set VLLM_NIXL_SIDE_CHANNEL_PORT to a free port, or leave it out and one is chosen"
            ) from error
