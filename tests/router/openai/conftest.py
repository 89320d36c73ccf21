"""The OpenAI API on loopback in front of a scripted core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientSession, web

from segue.base.errors import SegueError
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse, Path, Timings, Usage
from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs, TokenLogprob
from segue.router.limits import Limits
from segue.router.models import ServedModel
from segue.router.openai.server import make_app, make_runner
from segue.router.queueing.admission import Demand
from segue.router.service import Generation, ResponseSink
from segue.router.text.tokenizer import TextCodec

# What a script yields: a response, an error, or seconds to wait.
Step = GenerateResponse | SegueError | float
Script = Callable[[Generation], Iterator[Step]]


@dataclass
class FakeHandle:
    request_id: str
    task: asyncio.Task[None] | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def cancel(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()
            self.cancelled.set()


def answer_in_words(generation: Generation) -> Iterator[Step]:
    """``max_tokens`` words for each choice, one a step: "w0 w1 ...", prefixed by the choice's number."""
    count = generation.sampling.max_tokens
    for step in range(count):
        deltas = []
        for index in range(generation.n):
            text = f"{generation.prompt_text if step == 0 and generation.echo else ''}{index}w{step} "
            delta = ChoiceDelta(index=index, text=text, token_ids=[20 + step])
            if generation.sampling.HasField("logprobs"):
                top = [TokenLogprob(token_id=30 + rank, logprob=-rank, rank=rank) for rank in (1, 2)]
                sampled = TokenLogprob(token_id=20 + step, logprob=-0.5, rank=3)
                delta.logprobs.append(PositionLogprobs(sampled=sampled, top=top[: generation.sampling.logprobs]))
            if step == count - 1:
                delta.finish_reason = FinishReason.FINISH_REASON_LENGTH
            deltas.append(delta)
        response = GenerateResponse(model=generation.model, choices=deltas)
        if step == count - 1:
            finish(response, generation)
        yield response
        yield 0.0


def finish(response: GenerateResponse, generation: Generation) -> GenerateResponse:
    """Make it the last one."""
    response.usage.CopyFrom(
        Usage(
            prompt_tokens=len(generation.prompt),
            cached_prompt_tokens=1,
            output_tokens=generation.sampling.max_tokens * generation.n,
        )
    )
    response.timings.CopyFrom(Timings(path=Path.PATH_SEEDED, transport="grpc", ttft_s=0.1, transfer_bytes=7))
    return response


class FakeService:
    """Runs ``script`` for each generation and remembers what it was asked."""

    def __init__(self) -> None:
        self.script: Script = answer_in_words
        self.refusal: Exception | None = None
        self.demands: list[Demand] = []
        self.full: Exception | None = None
        self.generations: list[Generation] = []
        self.handles: list[FakeHandle] = []

    def admit(self, demand: Demand) -> None:
        self.demands.append(demand)
        if self.full is not None:
            raise self.full

    def start(self, generation: Generation, sink: ResponseSink) -> FakeHandle:
        if self.refusal is not None:
            raise self.refusal
        handle = FakeHandle(f"req-{len(self.handles)}")
        self.generations.append(generation)
        self.handles.append(handle)
        handle.task = asyncio.get_running_loop().create_task(self._run(generation, sink, handle.request_id))
        return handle

    async def _run(self, generation: Generation, sink: ResponseSink, request_id: str) -> None:
        for step in self.script(generation):
            if isinstance(step, GenerateResponse):
                step.request_id = request_id
                sink.on_delta(step)
            elif isinstance(step, SegueError):
                sink.on_error(step)
            else:
                await asyncio.sleep(step)


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return TextCodec.load(str(ensure_embedded_model(tmp_path_factory.mktemp("models"))))


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def limits() -> Limits:
    return Limits(max_body_bytes=200_000, max_timeout_s=100, default_timeout_s=50, max_write_buffer_bytes=100_000)


@pytest.fixture
def models(codec: TextCodec) -> dict[str, ServedModel]:
    return {"org/tiny": ServedModel("org/tiny", codec, 512, 2048, 1_700_000_000)}


@pytest.fixture
async def url(service: FakeService, models: dict[str, ServedModel], limits: Limits) -> AsyncIterator[str]:
    runner = make_runner(make_app(service, models, limits), limits, shutdown_timeout_s=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}"
    await runner.cleanup()


@pytest.fixture
async def http(url: str) -> AsyncIterator[ClientSession]:
    async with ClientSession(url) as session:
        yield session
