"""``segue model``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SERVED_NAME = "segue-tiny"


def model(
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where to keep it. Default: segue/models in the user's cache folder.")
    ] = None,
) -> None:
    """Make the embedded model if it isn't there, and print its folder."""
    from segue.engine.embedded_model import ensure_embedded_model

    print(ensure_embedded_model(cache_dir))


def model_and_served_name(given: str | None, served_name: str | None) -> tuple[str, str]:
    """What to load and the name to serve it by: as given, else the last part of the path or hub id.

    Without a model given it is the embedded one, made first if need be.
    """
    if given is not None:
        return given, served_name or given.rstrip("/").rsplit("/", 1)[-1]
    from segue.engine.embedded_model import ensure_embedded_model

    return str(ensure_embedded_model()), served_name or SERVED_NAME
