"""Failures as a user sees them: one message on stderr and an exit status, no traceback for what is
expected."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError

from segue.base.errors import SettingsError
from segue.cluster.restarts import CONFIGURATION_STATUS


def fail(message: str, status: int = 1) -> typer.Exit:
    """Print the message on stderr; raise what is returned."""
    print(f"segue: {message}", file=sys.stderr)
    return typer.Exit(status)


@contextmanager
def settings_errors() -> Iterator[None]:
    """Turn a refusal of the settings into its message and status 2."""
    try:
        yield
    except SettingsError as error:
        raise fail(str(error), CONFIGURATION_STATUS) from None
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or error.title}: {item['msg']}, seen {item['input']!r}"
            for item in error.errors()
        ]
        raise fail("; ".join(lines), CONFIGURATION_STATUS) from None
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root not in {"vllm", "torch", "nixl", "transformers"}:
            raise
        raise fail(
            f"this command runs an engine, and {root} is not installed; "
            "install segue[cpu] or, on a machine with NVIDIA GPUs, segue[cuda]",
            CONFIGURATION_STATUS,
        ) from None
