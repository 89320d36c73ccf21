"""A port that NIXL could not listen on is an error at start, not a load without end."""

from __future__ import annotations

import socket

import pytest

from segue.base.errors import SettingsError
from segue.kv_transfer.nixl_port import check_listenable


def test_a_port_on_which_somebody_listens_is_refused_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port}.*VLLM_NIXL_SIDE_CHANNEL_PORT"):
            check_listenable("127.0.0.1", port)


def test_one_that_is_held_without_listening_will_do() -> None:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        check_listenable("127.0.0.1", held.getsockname()[1])
