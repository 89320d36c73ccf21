"""Ports of this machine for processes that are about to start."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from segue.base.errors import SettingsError

_HIGHEST_PORT = 65_535
# Below those that Linux (from 32768 on) and macOS (from 49152 on) give to connections and to whoever asks for any port:
# else one of them could have the port before its process binds it, or while that starts again.
_CHOSEN_PORTS = range(20_000, 32_768)
_TRIES = 20


@dataclass(frozen=True)
class Ports:
    """The router's ports: OpenAI HTTP, public gRPC, and the one its workers dial."""

    http: int
    grpc: int
    worker: int


def choose_ports(host: str, http: int = 0, grpc: int = 0, router_processes: int = 1) -> Ports:
    """Free ports of this host; those given are only checked. Raises SettingsError if one is taken.

    Behind the workers' port as many more are free as there are further router processes.

    The ports are let go before the router binds them, so another process could take one in between; the
    router then says so and ends.
    """
    with ExitStack() as held:
        return Ports(
            http=_held_port(held, host, http, "--port"),
            grpc=_held_port(held, host, grpc, "--grpc-port"),
            # Workers of this machine alone use it.
            worker=_held_row(held, router_processes),
        )


def free_port(host: str) -> int:
    """One that is free now."""
    with ExitStack() as held:
        return _held_port(held, host, 0, "--port")


def _held_row(held: ExitStack, count: int) -> int:
    """The first of so many free ports in a row."""
    for _ in range(_TRIES):
        with ExitStack() as row:
            first = _held_port(row, "127.0.0.1", 0, "--worker-port")
            with suppress(SettingsError):
                for number in range(1, count):
                    _held_port(row, "127.0.0.1", first + number, "--worker-port")
                held.push(row.pop_all())
                return first
    raise SettingsError(f"there are no {count} free ports in a row for workers")


def _held_port(held: ExitStack, host: str, port: int, option: str) -> int:
    if not 0 <= port <= _HIGHEST_PORT:
        raise SettingsError(f"{option} is {port}, expected 0 (choose a free one) to {_HIGHEST_PORT}")
    try:
        # As servers do: a port whose old connections are still winding down is free to listen on.
        return _bound(held, host, port, socket.SO_REUSEADDR) if port else _held_free_port(held, host)
    except OSError as error:
        raise SettingsError(f"{option} {host}:{port} can't be had ({error.strerror}); choose another one") from None


def _held_free_port(held: ExitStack, host: str) -> int:
    for _ in range(_TRIES):
        with suppress(OSError):
            return _bound(held, host, _CHOSEN_PORTS[secrets.randbelow(len(_CHOSEN_PORTS))])
    return _bound(held, host, 0)


def _bound(held: ExitStack, host: str, port: int, *options: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = held.enter_context(socket.socket(family))
    for option in options:
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind((host, port))
    number: int = listener.getsockname()[1]
    return number
