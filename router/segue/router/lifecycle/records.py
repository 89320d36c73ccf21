"""What is known of a request once it is over: one value, from which usage log, metrics, prices and spans are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from segue.proto.inference_pb2 import Cost, Timings, Usage
from segue.proto.worker_pb2 import Transfer

# Why a worker left an answer: it hands it over as it drains; it is gone or can't; it failed.
Interrupted = Literal["moved", "unavailable", "failed"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, however it ended.

    ``outcome`` is ``ok``, ``cancelled`` or an error's code (``overloaded``, ``unavailable``, ...). ``timings`` are of
    its first answer. ``ended_unix_s`` is wall-clock time, for people; ``end_to_end_s`` was measured monotonically.
    ``cost`` is None where the router has no prices.
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
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """When and where a request's first token came. ``pool`` is the one that computed the prompt, ``prefill`` or
    ``decode``; times as in ``Timings``."""

    pool: str
    ttft_s: float
    queue_s: float
    prefill_s: float


class RouterObserver:
    """Told what happens to requests; an observer overrides what it wants to know.

    Called on the event loop; never blocks and never raises.
    """

    def on_refused(self, tenant: str, slo_class: str, code: str) -> None:
        """A request was not taken. ``code`` is its error's."""

    def on_accepted(self, slo_class: str, prompt_tokens: int) -> None:
        """A request was taken; it may have to wait."""

    def on_first_token(self, slo_class: str, first: FirstToken) -> None:
        """A request's first answer has begun."""

    def on_tokens(self, slo_class: str, pool: str, itl_s: Sequence[float]) -> None:
        """A worker's frame gave this class tokens, to answers whose prompts that pool computed; for each of these
        streams, the seconds since the token before."""

    def on_transfer(self, slo_class: str, pool: str, transfer: Transfer) -> None:
        """A decode worker has loaded a KV cache from a worker of ``pool``, or could not (``transfer.error``)."""

    def on_interrupted(self, slo_class: str, cause: Interrupted) -> None:
        """An answer was left by its worker; another one is looked for."""

    def on_finished(self, record: RequestRecord) -> None:
        """A request that had been taken is over."""


class Observers(RouterObserver):
    """Several as one."""

    def __init__(self, observers: Iterable[RouterObserver]) -> None:
        self._observers = tuple(observers)
        # Told for every frame: not those to whom it means nothing.
        ignoring = RouterObserver.on_tokens
        self._on_tokens = tuple(one for one in self._observers if type(one).on_tokens is not ignoring)

    def on_refused(self, tenant: str, slo_class: str, code: str) -> None:
        for observer in self._observers:
            observer.on_refused(tenant, slo_class, code)

    def on_accepted(self, slo_class: str, prompt_tokens: int) -> None:
        for observer in self._observers:
            observer.on_accepted(slo_class, prompt_tokens)

    def on_first_token(self, slo_class: str, first: FirstToken) -> None:
        for observer in self._observers:
            observer.on_first_token(slo_class, first)

    def on_tokens(self, slo_class: str, pool: str, itl_s: Sequence[float]) -> None:
        for observer in self._on_tokens:
            observer.on_tokens(slo_class, pool, itl_s)

    def on_transfer(self, slo_class: str, pool: str, transfer: Transfer) -> None:
        for observer in self._observers:
            observer.on_transfer(slo_class, pool, transfer)

    def on_interrupted(self, slo_class: str, cause: Interrupted) -> None:
        for observer in self._observers:
            observer.on_interrupted(slo_class, cause)

    def on_finished(self, record: RequestRecord) -> None:
        for observer in self._observers:
            observer.on_finished(record)
