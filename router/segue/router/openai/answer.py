"""One HTTP request's answer as it forms: several generations (one a prompt) feed it, one body comes out."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from segue.base.errors import InternalError, SegueError
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse
from segue.proto.sampling_pb2 import PositionLogprobs
from segue.router.openai import wire
from segue.router.service import Generation, GenerationService, Handle
from segue.router.text.offsets import TextOffsets
from segue.router.text.tokenizer import TextCodec

_log = get_logger("openai")


class PromptSink:
    """The ResponseSink of one prompt's generation."""

    __slots__ = ("_answer", "_first_choice", "_prompt")

    def __init__(self, answer: Answer, prompt: int) -> None:
        self._answer = answer
        self._prompt = prompt
        self._first_choice = prompt * answer.shape.n

    def on_token(self, index: int, text: str, token_id: int) -> None:
        if not text:
            return
        try:
            self._answer.take_text(self._first_choice + index, text)
        except Exception as error:  # noqa: BLE001 - as below
            self._answer_failed(error)

    def on_delta(self, response: GenerateResponse) -> None:
        try:
            self._answer.take(self._prompt, response)
        except Exception as error:  # noqa: BLE001 - a fault in one answer must not reach the core, which runs all
            self._answer_failed(error)

    def _answer_failed(self, error: Exception) -> None:
        _log.error("answer_failed", request_id=self._answer.request_id, error=repr(error), exc_info=error)
        self._answer.fail(InternalError("the answer could not be written"))

    def on_error(self, error: SegueError) -> None:
        self._answer.fail(error)


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer will hold: ``n`` choices to each of ``prompts`` prompts."""

    chat: bool
    model: str
    created_unix_s: int
    prompts: int
    n: int
    logprobs: bool
    include_usage: bool

    @property
    def choices(self) -> int:
        return self.prompts * self.n

    def head(self, request_id: str) -> wire.Head:
        prefix = "chatcmpl-" if self.chat else "cmpl-"
        return wire.Head(prefix + request_id, self.model, self.created_unix_s, self.chat)


class Answer(ABC):
    """Collects what all prompts' generations give. Choices are numbered prompt by prompt, as OpenAI does."""

    def __init__(self, shape: Shape, codec: TextCodec) -> None:
        self.shape = shape
        self.codec = codec
        self.handles: list[Handle] = []
        self.error: SegueError | None = None
        self._over = False
        self._finished = 0
        self._request_ids = [""] * shape.prompts
        self._last = [GenerateResponse()] * shape.prompts

    def start(self, service: GenerationService, generations: Sequence[Generation]) -> None:
        """Start them all. Raises SegueError; ``cancel`` must follow in any case."""
        for prompt, generation in enumerate(generations):
            self.handles.append(service.start(generation, PromptSink(self, prompt)))

    @property
    def request_id(self) -> str:
        """The first prompt's; it names the whole."""
        return self.handles[0].request_id if self.handles else self._request_ids[0]

    def take(self, prompt: int, response: GenerateResponse) -> None:
        """Take one response of one prompt's generation."""
        if self._over:
            return
        self._request_ids[prompt] = response.request_id
        if response.HasField("usage"):
            self._finished += 1
            self._last[prompt] = response
        last = self._finished == self.shape.prompts
        first_choice = prompt * self.shape.n
        self._add([(first_choice + delta.index, delta) for delta in response.choices], last=last)
        if last:
            self._over = True
            self._complete()

    @abstractmethod
    def take_text(self, choice: int, text: str) -> None:
        """Take more text of a choice that has begun."""

    def fail(self, error: SegueError) -> None:
        """End with an error; whoever waits cancels the other prompts' generations."""
        if not self._over:
            self._over = True
            self._failed(error)

    def cancel(self) -> None:
        """Cancel what still runs and wake who waits. Idempotent."""
        self._over = True
        for handle in self.handles:
            handle.cancel()
        self._complete()

    def let_go(self) -> None:
        """Nobody waits any more: cancel what still runs, and keep nothing that keeps this. The error has passed frames
        that have the answer; such a ring would wait for the garbage collector to look at what is old."""
        self.cancel()
        self.handles.clear()
        self.error = None

    def usage(self) -> wire.Json:
        return wire.usage([last.usage for last in self._last])

    def segue(self) -> wire.Json:
        return wire.segue_field(self._last)

    @abstractmethod
    def _add(self, deltas: Sequence[tuple[int, ChoiceDelta]], *, last: bool) -> None:
        """Add to the choices; ``last`` if nothing follows."""

    @abstractmethod
    def _complete(self) -> None:
        """Wake who waits. May be called again."""

    @abstractmethod
    def _failed(self, error: SegueError) -> None:
        """Tell who waits, or the client."""


class _Choice:
    """One choice of a unary answer."""

    __slots__ = ("finish_reason", "logprobs", "stop_reason", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.logprobs: list[PositionLogprobs] = []
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None

    def add(self, delta: ChoiceDelta) -> None:
        self.text.append(delta.text)
        self.logprobs.extend(delta.logprobs)
        if delta.finish_reason:
            self.finish_reason = wire.finish_reason(delta)
            self.stop_reason = wire.stop_reason(delta)


class UnaryAnswer(Answer):
    """The whole answer in one body."""

    def __init__(self, shape: Shape, codec: TextCodec) -> None:
        super().__init__(shape, codec)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._choices = [_Choice() for _ in range(shape.choices)]

    def body(self) -> bytes:
        """The JSON, once ``done`` and without ``error``."""
        choices = [self._choice_json(index, choice) for index, choice in enumerate(self._choices)]
        return wire.encode(
            self.shape.head(self.request_id).object(chunk=False)
            | {"choices": choices, "usage": self.usage(), "segue": self.segue()}
        )

    def _choice_json(self, index: int, choice: _Choice) -> wire.Json:
        text = "".join(choice.text)
        chat = self.shape.chat
        logprobs: wire.Json | None = None
        if self.shape.logprobs:
            logprobs = (
                wire.chat_logprobs(self.codec, choice.logprobs)
                if chat
                else wire.completion_logprobs(self.codec, choice.logprobs, TextOffsets(self.codec))
            )
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}
        return {
            "index": index,
            **content,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def _add(self, deltas: Sequence[tuple[int, ChoiceDelta]], *, last: bool) -> None:
        for index, delta in deltas:
            self._choices[index].add(delta)

    def take_text(self, choice: int, text: str) -> None:
        if not self._over:
            self._choices[choice].text.append(text)

    def _complete(self) -> None:
        resolve(self.done)

    def _failed(self, error: SegueError) -> None:
        self.error = error
        self._complete()


def resolve(future: asyncio.Future[None]) -> None:
    """Wake who waits for ``future``, once."""
    if not future.done():
        future.set_result(None)
