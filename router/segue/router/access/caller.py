"""Whose API key a request came with, known to all that runs on its behalf."""

from __future__ import annotations

from contextvars import ContextVar

_NAME: ContextVar[str | None] = ContextVar("segue_caller", default=None)


def caller_name() -> str | None:
    """The key's name; None where no keys are in use."""
    return _NAME.get()


def set_caller(name: str) -> None:
    """For the rest of this task, and for those that it starts. The gate says it anew for each request."""
    _NAME.set(name)
