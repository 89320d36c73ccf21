"""The bad link itself: what it does to bytes, between two plain sockets and on a real gRPC stream."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.http2 import PREFACE, Frames, grpc_messages
from tests.faults.proxy import LinkProxy, wait_until_held

PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"  # An HTTP/2 frame that carries no data.
TIMEOUT_S = 5.0


def data_frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([0, 0, 0, 0, 0, 1]) + payload


class Answering:
    """A server that answers each 8 bytes it gets with ``answer``."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(ConnectionResetError):
                while connection.recv(len(PREFACE) + len(PING)):
                    connection.sendall(self._answer)


@pytest.fixture
def server() -> Iterator[Answering]:
    answering = Answering(data_frame(b"x" * 2000))
    yield answering
    answering.close()


@pytest.fixture
def link(server: Answering) -> Iterator[LinkProxy]:
    with LinkProxy(server.address) as proxy:
        yield proxy


def dial(link: LinkProxy) -> socket.socket:
    host, _, port = link.address.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def received(connection: socket.socket, size_bytes: int) -> bytes:
    got = b""
    while len(got) < size_bytes and (more := connection.recv(size_bytes - len(got))):
        got += more
    return got


def test_what_is_whole_passes(link: LinkProxy) -> None:
    with dial(link) as connection:
        connection.sendall(PREFACE + PING)
        assert received(connection, 2009) == data_frame(b"x" * 2000)


def test_one_byte_of_a_frame_is_flipped_and_the_framing_kept(link: LinkProxy) -> None:
    link.corrupt(frames=1)
    with dial(link) as connection:
        connection.sendall(PREFACE + PING)
        got = received(connection, 2009)
        assert sum(a != b for a, b in zip(got, data_frame(b"x" * 2000), strict=True)) == 1
        connection.sendall(PING)
        assert received(connection, 2009) == data_frame(b"x" * 2000)
    assert link.corrupted_bytes == 1


def test_what_is_held_goes_on_unharmed(link: LinkProxy) -> None:
    link.hold_after(to_client_bytes=500)
    with dial(link) as connection:
        connection.sendall(PREFACE + PING)
        assert len(received(connection, 500)) == 500
        wait_until_held([link], TIMEOUT_S)
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(TIMEOUT_S)
        link.release()
        assert len(received(connection, 1509)) == 1509


def test_a_link_that_was_held_from_the_start_may_lead_elsewhere(link: LinkProxy) -> None:
    other = Answering(data_frame(b"other" * 10))
    link.hold()
    with dial(link) as connection:
        connection.sendall(PREFACE + PING)
        wait_until_held([link], TIMEOUT_S)
        link.divert(other.address)
        link.release()
        assert received(connection, 59) == data_frame(b"other" * 10)
    other.close()


def test_a_cut_link_resets_what_is_open_and_what_is_new_until_it_heals(link: LinkProxy) -> None:
    with dial(link) as connection:
        connection.sendall(PREFACE + PING)
        received(connection, 2009)
        link.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionResetError), dial(link) as another:
            another.recv(1)
        link.heal()
        with dial(link) as third:
            third.sendall(PREFACE + PING)
            assert received(third, 2009)


def test_frames_are_followed_however_they_are_cut_up() -> None:
    seen: list[bytes] = []
    sent = PREFACE + PING + data_frame(b"abc") + data_frame(b"")
    for size in (1, 2, 7, 100):
        frames = Frames(from_client=True, on_data=lambda _, payload: seen.append(bytes(payload)))
        assert b"".join(frames.push(sent[at : at + size]) for at in range(0, len(sent), size)) == sent
    assert seen == [b"abc", b""] * 4


def test_whole_messages_of_a_stream_are_read() -> None:
    framed = b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in (b"one", b"", b"three"))
    assert grpc_messages(framed) == [b"one", b"", b"three"]
    assert grpc_messages(framed[:-1]) == [b"one", b""]
