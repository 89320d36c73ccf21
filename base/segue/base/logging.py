"""Structured logs: one event a line on stderr, JSON or for people."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog

LogFormat = Literal["auto", "text", "json"]


def setup_logging(log_format: LogFormat = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Configure structlog for this process. ``auto`` is text on a terminal and JSON elsewhere."""
    out = stream or sys.stderr
    as_json = log_format == "json" or (log_format == "auto" and not out.isatty())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )


def get_logger(component: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry ``component``."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=component)
    return logger
