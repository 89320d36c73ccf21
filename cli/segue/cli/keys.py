"""``segue keys``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from segue.cli.failures import settings_errors

app = typer.Typer(help="API keys for clients.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """API keys for clients."""


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for logs and refusals.")],
    max_concurrent_requests: Annotated[int, typer.Option(min=0, help="At once; 0 is no limit.")] = 0,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0 is no limit.")] = 0,
    operations: Annotated[
        bool, typer.Option("--operations", help="For metrics, segue status and segue top; makes no requests.")
    ] = False,
    append: Annotated[Path | None, typer.Option(metavar="FILE", help="Append the line to this file.")] = None,
) -> None:
    """Make a key: it is shown this once, and the router gets the line with its hash."""
    with settings_errors():
        from segue.base.errors import SettingsError
        from segue.router.access.keys import KeyLimits, mint, parse_keys

        limits = KeyLimits(max_concurrent_requests, requests_per_minute)
        if operations and limits != KeyLimits():
            raise SettingsError("a key for --operations makes no requests, so it has no limits; leave them out")
        secret, key = mint(name, limits, operations=operations)
        if append is None:
            print(f"for the router's --api-keys file: {key.line()}", file=sys.stderr)
        else:
            before = append.read_text() if append.exists() else ""
            lines = before + ("" if before.endswith("\n") or not before else "\n") + key.line() + "\n"
            parse_keys(lines, str(append))  # Refuses a name that is there already, before anything is written.
            append.write_text(lines)
    print(secret)
