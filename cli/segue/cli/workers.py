"""``segue prefill-worker``, ``decode-worker`` and ``flex-worker``: the same options, two roles, and one of both."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from segue.base.process import exit_now
from segue.cli.worker_options import WorkerOptions, worker_command


class Pool(StrEnum):
    """The pools that a flex worker turns between."""

    prefill = "prefill"
    decode = "decode"


@worker_command
def prefill_worker(options: WorkerOptions) -> None:
    """Run one prefill worker: it reads prompts, samples the first token and offers the KV cache."""
    from segue.prefill_worker.main import run

    exit_now(run(options.settings()))


@worker_command
def decode_worker(options: WorkerOptions) -> None:
    """Run one decode worker: it takes over KV caches and generates the remaining tokens."""
    from segue.decode_worker.main import run

    exit_now(run(options.settings()))


@worker_command
def flex_worker(
    options: WorkerOptions, start_as: Annotated[Pool, typer.Option(help="The role that it begins in.")]
) -> None:
    """Run one worker that begins in one role and turns to the other when told, with its model as it is."""
    from segue.decode_worker.role import DecodeRole
    from segue.prefill_worker.role import PrefillRole
    from segue.worker.main import run_worker

    prefill, decode = PrefillRole(), DecodeRole()
    if start_as is Pool.prefill:
        exit_now(run_worker(options.settings(), prefill, turns_to=decode))
    exit_now(run_worker(options.settings(), decode, turns_to=prefill))
