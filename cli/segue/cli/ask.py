"""``segue ask``: one prompt to a running cluster, over gRPC."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from segue.cli.failures import fail, settings_errors
from segue.cli.options import tls_files


def ask(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="A router's public gRPC.")] = "127.0.0.1:9000",
    model: Annotated[str, typer.Option(help="Default: the one that is served.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds the answer may take.")] = 600.0,
    api_key: Annotated[
        str, typer.Option(envvar="SEGUE_API_KEY", help="Better in the environment: others see command lines.")
    ] = "",
    tls: Annotated[bool, typer.Option("--tls", help="TLS, trusting the system's CAs.")] = False,
    tls_ca: Annotated[str, typer.Option(metavar="FILE", help="TLS, trusting this CA.")] = "",
    tls_cert: Annotated[str, typer.Option(metavar="FILE", help="Our certificate, if the router asks for one.")] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="Its key.")] = "",
) -> None:
    """Send a prompt and print the answer as it comes."""
    from segue.base.errors import SegueError
    from segue.base.tls import TlsFiles
    from segue.client import Connection, SegueClient

    async def stream(connection: Connection) -> None:
        async with SegueClient(connection) as client:
            deltas = client.stream(
                prompt, model=model, timeout_s=timeout, max_tokens=max_tokens, temperature=temperature
            )
            async for delta in deltas:
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        print()

    with settings_errors():
        files = tls_files(tls_cert, tls_key, tls_ca) or (TlsFiles() if tls else None)
        connection = Connection(address, api_key or None, files)
        try:
            asyncio.run(stream(connection))
        except SegueError as error:
            raise fail(f"{error.code}: {error.message}") from None
