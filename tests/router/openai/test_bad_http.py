"""Bytes that are no HTTP request."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp import ClientSession

KEY = b"sk-segue-0123456789"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + KEY + b"\x01\r\n\r\n",
        b"GET /healthz HTTP/1.\x01\r\nHost: a\r\nAuthorization: Bearer " + KEY + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 19\r\n\r\n" + KEY,
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: \x80" + KEY + b"\r\n\r\n",
    ],
    ids=["header", "version", "compressed", "expectation of nothing there"],
)
async def test_they_are_refused_and_neither_they_nor_a_key_in_them_get_into_the_log(
    http: ClientSession, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], request_bytes: bytes
) -> None:
    """aiohttp would write a traceback with the line at fault."""
    base = http._base_url
    assert base is not None
    reader, writer = await asyncio.open_connection(base.host, base.port)
    with caplog.at_level(logging.INFO):
        writer.write(request_bytes)
        answer = await reader.read()
        writer.close()
    assert answer.split(b" ", 2)[1] in {b"400", b"417"}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    told = caplog.text + "".join(capsys.readouterr())
    assert KEY.decode() not in told
