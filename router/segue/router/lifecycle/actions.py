"""What a :class:`~segue.router.lifecycle.choice_run.ChoiceRun` wants done: to workers, client and planner."""

from __future__ import annotations

from dataclasses import dataclass

from segue.base.errors import SegueError
from segue.proto.inference_pb2 import ChoiceDelta
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.worker_pb2 import Submit


@dataclass(frozen=True, slots=True)
class Send:
    worker_id: str
    submit: Submit


@dataclass(frozen=True, slots=True)
class Abort:
    worker_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Release:
    worker_id: str
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Move:
    """Have a worker stop a request and offer its KV cache."""

    worker_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Emit:
    delta: ChoiceDelta


@dataclass(frozen=True, slots=True)
class Fail:
    error: SegueError


@dataclass(frozen=True, slots=True)
class Replan:
    """``worker_id`` has left the answer; find others and :meth:`ChoiceRun.go_on`. ``error`` is for when there are none.

    ``at_fault`` says whether the worker failed; one that drains has not.
    """

    worker_id: str
    error: SegueError
    at_fault: bool


Action = Send | Abort | Release | Move | Emit | Fail | Replan
