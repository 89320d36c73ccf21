"""The seam between the router's edges (OpenAI HTTP and gRPC) and its core, which runs the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from segue.base.errors import ModelNotFound, SegueError
from segue.base.trace_parent import TraceParent
from segue.proto.inference_pb2 import GenerateResponse
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.models import ServedModel
from segue.router.queueing.admission import Demand


@dataclass(frozen=True, slots=True)
class Generation:
    """One prompt, n answers: checked, tokenised, ready to run.

    ``prompt_text`` is set where ``echo`` is: the core puts it in front of each answer's first text.
    ``label`` is the client's own name for the request: shown to people, never used inside.
    ``timeout_s`` counts from the call of :meth:`GenerationService.start`.
    ``slo_class`` (empty: the default one), ``priority`` and ``tenant`` are its checked terms (see ``terms``);
    ``explain`` asks for the routing decision. ``trace`` is the client's span, if it sent one.
    """

    model: str
    prompt: Sequence[int]
    prompt_text: str | None
    sampling: SamplingParams
    n: int
    echo: bool
    label: str | None
    timeout_s: float
    slo_class: str = ""
    priority: int = 0
    tenant: str = ""
    explain: bool = False
    trace: TraceParent | None = None

    def demand(self) -> Demand:
        """What it wants of the cluster."""
        return Demand(
            self.timeout_s,
            len(self.prompt),
            self.sampling.max_tokens,
            self.n,
            slo_class=self.slo_class,
            tenant=self.tenant,
        )


class ResponseSink(Protocol):
    """Where one generation's answer goes. Called on the event loop; never blocks and never raises.

    What is more than a token and its text comes by ``on_delta``, and so do a choice's first and last tokens.

    Each choice's last delta has its ``finish_reason``; the response with ``usage`` has such a delta.
    """

    def on_token(self, index: int, text: str, token_id: int) -> None:
        """Take one further token of a choice that has begun. ``text`` may be empty: a character is under way."""

    def on_delta(self, response: GenerateResponse) -> None:
        """Take what one engine step gave. The last response, and only it, has ``usage`` (and ``timings``)."""

    def on_error(self, error: SegueError) -> None:
        """Take the error that ended the generation. Nothing follows it."""


class _Deaf:
    """A sink that takes everything and keeps nothing."""

    def on_token(self, index: int, text: str, token_id: int) -> None:
        return

    def on_delta(self, response: GenerateResponse) -> None:
        return

    def on_error(self, error: SegueError) -> None:
        return


DEAF: Final[ResponseSink] = _Deaf()


class Handle(Protocol):
    """A generation that runs."""

    request_id: str

    def cancel(self) -> None:
        """Abort both legs; nothing if it has ended. The sink isn't called afterwards."""


class GenerationService(Protocol):
    """The core."""

    def admit(self, demand: Demand) -> None:
        """Raises the error that :meth:`start` would raise now for such a request: Overloaded or Unavailable.

        Asked before a prompt is tokenised, so that a refusal costs next to nothing.
        """

    def start(self, generation: Generation, sink: ResponseSink) -> Handle:
        """Run a generation. Raises SegueError (e.g. Unavailable) when it can't be taken at all."""


def find_model(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """The model that a client names; without a name, the one that is served. Raises ModelNotFound."""
    if not name and len(models) == 1:
        return next(iter(models.values()))
    model = models.get(name)
    if model is None:
        served = ", ".join(repr(known) for known in sorted(models)) or "none yet"
        raise ModelNotFound(f"model {name!r} is not served here; served: {served}", param="model")
    return model
