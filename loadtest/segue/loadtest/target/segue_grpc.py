"""A Segue router over gRPC: ``Generate``, a call per request."""

from __future__ import annotations

import grpc
import grpc.aio

from segue.base.errors import DeadlineExceeded, Overloaded, SegueError, Unavailable
from segue.client.connection import Connection
from segue.client.errors import from_rpc_error
from segue.loadtest.measure.outcome import Failure, Legs, Outcome
from segue.loadtest.target.base import Ask, Clock
from segue.loadtest.workload.prompts import PromptMaker
from segue.loadtest.workload.shape import RequestShape
from segue.proto.inference_pb2 import GenerateRequest, GenerateResponse, Path, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import FinishReason, SamplingParams


class GrpcTarget:
    """Prompts are token ids. A message costs some 150 us of CPU at either end, however few tokens are in it."""

    def __init__(self, address: str, ask: Ask, prompts: PromptMaker) -> None:
        """Raises SettingsError if the API key would leave this machine in plain text."""
        connection = Connection(address, ask.api_key or None)
        self._ask = ask
        self._prompts = prompts
        self._channel = connection.open()
        self._metadata = call_metadata(connection, ask)
        self._stub = InferenceStub(self._channel)

    def prepare(self, shape: RequestShape) -> GenerateRequest:
        return generate_request(shape, self._ask, self._prompts)

    async def send(self, prepared: GenerateRequest, outcome: Outcome, clock: Clock) -> None:
        call = self._stub.Generate(prepared, timeout=self._ask.timeout_s, metadata=self._metadata)
        try:
            async for response in call:
                take_response(response, outcome, clock())
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error)
            trailing: dict[str, str | bytes] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
            outcome.fail(failure_of(told, by_the_router="segue-error-code" in trailing), f"{told.code}: {told.message}")
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close(grace=None)


def call_metadata(connection: Connection, ask: Ask) -> tuple[tuple[str, str], ...]:
    """What each call carries. Names of metadata are lower case, those of headers as people write them."""
    return (*connection.metadata(), *((name.lower(), value) for name, value in ask.headers))


def generate_request(shape: RequestShape, ask: Ask, prompts: PromptMaker) -> GenerateRequest:
    return GenerateRequest(
        model=ask.model,
        token_ids=TokenIds(ids=prompts.token_ids(shape.segments)),
        sampling=SamplingParams(max_tokens=shape.output_tokens, temperature=ask.temperature, ignore_eos=ask.ignore_eos),
        slo_class=shape.slo_class,
    )


def take_response(response: GenerateResponse, outcome: Outcome, now_s: float) -> None:
    """One part of the answer. One part may carry the tokens of several steps: it counts as one chunk."""
    for delta in response.choices:
        if delta.token_ids:
            outcome.on_chunk(now_s)
        if delta.finish_reason:
            outcome.finish_reason = FinishReason.Name(delta.finish_reason).removeprefix("FINISH_REASON_").lower()
    if response.HasField("usage"):
        usage, timings = response.usage, response.timings
        outcome.prompt_tokens = usage.prompt_tokens
        outcome.cached_tokens = usage.cached_prompt_tokens
        outcome.output_tokens = usage.output_tokens
        outcome.counted = True
        outcome.legs = Legs(
            Path.Name(timings.path).removeprefix("PATH_").lower(),
            timings.ttft_s,
            timings.queue_s,
            timings.prefill_s,
            timings.handoff_s,
            timings.transfer_s,
            timings.transfer_bytes,
            timings.decode_s,
            timings.prefill_worker,
            timings.decode_worker,
            timings.transport,
        )


def failure_of(error: SegueError, *, by_the_router: bool) -> Failure:
    """Without a word of the router's own, an "unavailable" is the channel's: the connection broke."""
    if isinstance(error, Overloaded):
        return Failure.REFUSED
    if isinstance(error, DeadlineExceeded):
        return Failure.TIMEOUT
    if isinstance(error, Unavailable) and not by_the_router:
        return Failure.RESET
    return Failure.SERVER_ERROR if error.http_status >= 500 else Failure.CLIENT_ERROR
