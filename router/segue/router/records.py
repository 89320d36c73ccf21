"""What is known of a request once it is over: one value, from which usage log, metrics, prices and spans are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from segue.proto.inference_pb2 import Timings, Usage


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, however it ended.

    ``outcome`` is ``ok``, ``cancelled`` or an error's code (``overloaded``, ``unavailable``, ...). ``timings`` are of
    its first answer. ``ended_unix_s`` is wall-clock time, for people; ``end_to_end_s`` was measured monotonically.
    """

    request_id: str
    label: str
    model: str
    tenant: str
    slo_class: str
    outcome: str
    usage: Usage
    timings: Timings
    end_to_end_s: float
    ended_unix_s: float


class RouterObserver(Protocol):
    """Told what happens to requests. Called on the event loop; never blocks and never raises."""

    def on_refused(self, tenant: str, slo_class: str, code: str) -> None:
        """A request was not taken. ``code`` is its error's."""

    def on_tokens(self, slo_class: str, worker_id: str, itl_s: Sequence[float]) -> None:
        """A worker's frame gave this class tokens; for each of its streams, the seconds since the token before."""

    def on_finished(self, record: RequestRecord) -> None:
        """A request that had been taken is over."""
