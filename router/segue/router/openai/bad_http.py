"""Bytes that are no HTTP request, or no body of the kind they are said to be, kept out of the log.

aiohttp would write a traceback with the line at fault. Anyone who reaches the port could fill the log with them, and
the line may hold an API key.
"""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from segue.base.logging import get_logger

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
