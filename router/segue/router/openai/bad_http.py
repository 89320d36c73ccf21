"""Bytes that are no HTTP request, or no body of the kind they are said to be: answered, and kept out of the log.

aiohttp would write a traceback with the line at fault. Anyone who reaches the port could fill the log with them, and
the line may hold an API key.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from segue.base.errors import InvalidRequest
from segue.base.logging import get_logger
from segue.router.openai import http, sse

_log = get_logger("openai")


def server_logger() -> logging.Logger:
    """For aiohttp's ``AppRunner``. What is no fault of the caller's is logged as ever."""
    logger = logging.getLogger("segue.http")
    if not logger.filters:
        logger.addFilter(_not_the_callers_fault)
    return logger


def _not_the_callers_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError | RequestPayloadError):
        return True
    _log.info("no_http_request", fault=type(error).__name__, caller=[str(one) for one in record.args or ()])
    return False


class Runner(web.AppRunner):
    """aiohttp's own answers headers that are too large with a plain 400, and with what was in them."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # The application makes it, and takes no other class.
        return server


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        answer = super().handle_error(request, status, exc, message)
        if not isinstance(exc, LineTooLong):
            return answer
        limit = exc.args[1]
        error = InvalidRequest(f"a header, or the request line, has more than {limit} bytes; at most {limit} are taken")
        too_large = http.json_response(sse.error_body(error), HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        too_large.force_close()
        return too_large
