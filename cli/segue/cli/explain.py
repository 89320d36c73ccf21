"""``segue explain``: why a request goes where it goes."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli.failures import fail, settings_errors
from segue.cli.fleet import Address, Tls, TlsCaFile, TlsCertFile, TlsKeyFile
from segue.cli.options import tls_files

if TYPE_CHECKING:
    from rich.table import Table

    from segue.proto.inference_pb2 import RoutingDecision

# In the order in which a request meets them; others, should there be some, follow.
_SCORES = ("queue", "prefill", "held up", "transfer", "wait", "decode")


def explain(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    address: Address = "127.0.0.1:9000",
    model: Annotated[str, typer.Option(help="Default: the one that is served.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer that is planned for.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds the answer may take.")] = 60.0,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="SEGUE_API_KEY", help="A client's key, if the router has keys: one for operations asks for nothing."
        ),
    ] = "",
    tls: Tls = False,
    tls_ca: TlsCaFile = "",
    tls_cert: TlsCertFile = "",
    tls_key: TlsKeyFile = "",
) -> None:
    """Send a prompt and show the router's decision: every worker with its predicted costs, and what decided."""
    from google.protobuf.json_format import MessageToDict
    from rich.console import Console

    from segue.base.errors import SegueError
    from segue.base.tls import TlsFiles
    from segue.client import Connection, SegueClient
    from segue.proto.inference_pb2 import GenerateRequest, GenerateResponse
    from segue.proto.sampling_pb2 import SamplingParams

    async def send(connection: Connection) -> GenerateResponse:
        request = GenerateRequest(
            model=model, text=prompt, explain=True, sampling=SamplingParams(max_tokens=max_tokens, temperature=0)
        )
        async with SegueClient(connection) as client:
            return await client.generate_raw(request, timeout_s=timeout)

    with settings_errors():
        files = tls_files(tls_cert, tls_key, tls_ca) or (TlsFiles() if tls else None)
        connection = Connection(address, api_key or None, files)
        try:
            response = asyncio.run(send(connection))
        except SegueError as error:
            raise fail(f"{error.code}: {error.message}") from None
    if as_json:
        print(json.dumps(MessageToDict(response.decision, preserving_proto_field_name=True), indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(decision_table(response.decision))
    where = "decode computed the prompt" if response.decision.local_prefill else "prefill computed the prompt"
    console.print(f"{where}: {response.decision.reason}", highlight=False)
    console.print(
        f"{response.usage.prompt_tokens} prompt tokens, {response.usage.cached_prompt_tokens} of them cached; "
        f"TTFT {1000 * response.timings.ttft_s:.1f} ms",
        highlight=False,
    )


def decision_table(decision: RoutingDecision) -> Table:
    """A row for each candidate, costs in milliseconds."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    named = {name for candidate in decision.candidates for name in candidate.scores_s} - {"total"}
    scores = [name for name in _SCORES if name in named] + sorted(named - set(_SCORES))
    table.add_column("")
    table.add_column("worker")
    table.add_column("role")
    for name in ("cached tokens", *(f"{name} ms" for name in scores), "total ms"):
        table.add_column(name, justify="right")
    table.add_column("left out")
    for candidate in sorted(decision.candidates, key=lambda one: (one.role != "prefill", one.worker_id)):
        costs = candidate.scores_s
        table.add_row(
            "*" if candidate.chosen else "",
            candidate.worker_id,
            candidate.role,
            str(candidate.cached_tokens),
            *(f"{1000 * costs[name]:.1f}" if name in costs else "" for name in (*scores, "total")),
            candidate.excluded,
            style="bold" if candidate.chosen else None,
        )
    return table
