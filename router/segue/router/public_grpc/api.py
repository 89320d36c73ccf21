"""The public gRPC API, ``segue.v1.Inference``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import grpc.aio

from segue.base.errors import InternalError, InvalidRequest, SegueError
from segue.base.grpc_status import status_metadata
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import (
    ChatMessages,
    GenerateRequest,
    GenerateResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    SessionRequest,
    TokenizeRequest,
    TokenizeResponse,
)
from segue.proto.inference_pb2_grpc import InferenceServicer
from segue.router.limits import (
    Limits,
    ModelFacts,
    check_counts,
    check_label,
    check_prompt,
    check_prompt_size,
    check_timeout_s,
    complete_sampling,
)
from segue.router.models import ServedModel
from segue.router.prompt_tokens import PromptTokens
from segue.router.public_grpc.merging_sink import MergingSink
from segue.router.public_grpc.session import Session, SessionContext, SessionCore, call_trace_parent
from segue.router.queueing.admission import Demand
from segue.router.queueing.slo import DEFAULT_CLASSES, SloClasses
from segue.router.queueing.terms import Terms, check_terms
from segue.router.service import Generation, GenerationService, find_model
from segue.router.structured_outputs import check_structured_outputs
from segue.router.text.prompt import ChatPrompt, Prompt, TextPrompt, TokenPrompt, prompt_bytes, read_prompt

log = get_logger("grpc")

_GenerateContext = grpc.aio.ServicerContext[GenerateRequest, GenerateResponse]


class InferenceService(InferenceServicer):
    """Translates calls into generations. The call's deadline is the request's."""

    def __init__(
        self,
        service: GenerationService,
        models: Mapping[str, ServedModel],
        limits: Limits,
        classes: SloClasses = DEFAULT_CLASSES,
        enter: Callable[[Any], Callable[[], None]] = lambda context: lambda: None,
    ) -> None:
        """``enter`` is what the gate asks of each request of a session: see :class:`SessionCore`."""
        self._service = service
        self._models = models
        self._limits = limits
        self._classes = classes
        self._sessions = SessionCore(service, self._generation, limits, enter)

    # Written by hand: as a generator, each message would pass through one more for every interceptor.
    async def Generate(  # type: ignore[override]
        self, request: GenerateRequest, context: _GenerateContext
    ) -> None:
        sink = MergingSink(self._limits.max_write_buffer_bytes)
        try:
            await self._start(request, context, sink)
            finished = False
            while not finished:
                response = await sink.take()
                finished = response.HasField("usage")
                await context.write(response)
        except SegueError as error:
            _end_with(context, error)
        finally:
            sink.close()

    async def GenerateUnary(self, request: GenerateRequest, context: _GenerateContext) -> GenerateResponse:
        sink = MergingSink()
        try:
            await self._start(request, context, sink)
            return await sink.take_whole()
        except SegueError as error:
            _end_with(context, error)
            return GenerateResponse()  # Not sent.
        finally:
            sink.close()

    # The generated base class knows only the iterator style; read() and write() let two tasks share the stream.
    async def Session(  # type: ignore[override]
        self, request_iterator: AsyncIterator[SessionRequest], context: SessionContext
    ) -> None:
        try:
            await Session(self._sessions, context).run()
        except SegueError as error:
            _end_with(context, error)

    async def ListModels(
        self,
        request: ListModelsRequest,
        context: grpc.aio.ServicerContext[ListModelsRequest, ListModelsResponse],
    ) -> ListModelsResponse:
        return ListModelsResponse(
            models=[
                Model(
                    id=model.id,
                    max_model_len_tokens=model.max_model_len_tokens,
                    created_unix_s=model.created_unix_s,
                )
                for model in self._models.values()
            ]
        )

    async def Tokenize(
        self, request: TokenizeRequest, context: grpc.aio.ServicerContext[TokenizeRequest, TokenizeResponse]
    ) -> TokenizeResponse:
        try:
            model = find_model(self._models, request.model)
            prompt = _prompt_of(request, request.WhichOneof("prompt"))
            self._check_size(prompt)
            token_ids = await read_prompt(model.codec, prompt, max_model_len_tokens=model.max_model_len_tokens)
        except SegueError as error:
            _end_with(context, error)
            return TokenizeResponse()  # Not sent.
        return TokenizeResponse(token_ids=token_ids, max_model_len_tokens=model.max_model_len_tokens)

    async def _start(self, request: GenerateRequest, context: _GenerateContext, sink: MergingSink) -> None:
        generation = await self._generation(request, partial(self._timeout_s, context))
        sink.handle = self._service.start(replace(generation, trace=call_trace_parent(context)), sink)

    async def _generation(self, request: GenerateRequest, left_s: Callable[[], float]) -> Generation:
        model = find_model(self._models, request.model)
        facts = ModelFacts(model.max_model_len_tokens, model.vocab_size)
        kind = request.WhichOneof("prompt")
        if request.echo and kind == "chat":
            raise InvalidRequest("echo is not for chat: its prompt is a template's", param="echo")
        prompt = _prompt_of(request, kind)
        n = request.n or 1
        self._check_size(prompt)
        check_counts(self._limits, n=n)
        label = check_label(request.request_label, self._limits)
        check_structured_outputs(request.sampling, self._limits)
        timeout_s = left_s()
        asked = Terms(request.slo_class, request.priority, request.tenant, request.explain)
        terms = check_terms(asked, self._classes)
        # Before the prompt is tokenised: a refusal is to cost next to nothing.
        self._service.admit(Demand(timeout_s, n=n, slo_class=terms.slo_class, tenant=terms.tenant))
        token_ids = await read_prompt(model.codec, prompt, max_model_len_tokens=model.max_model_len_tokens)
        check_prompt(token_ids, facts, self._limits)
        sampling = complete_sampling(request.sampling, prompt_tokens=len(token_ids), model=facts, limits=self._limits)
        echoed = None
        if request.echo:
            echoed = request.text if kind == "text" else model.codec.decode(token_ids)
        return Generation(
            model=model.id,
            prompt=token_ids,
            prompt_text=echoed,
            sampling=sampling,
            n=n,
            echo=request.echo,
            label=label or None,
            timeout_s=left_s(),
            slo_class=terms.slo_class,
            priority=terms.priority,
            tenant=terms.tenant,
            explain=terms.explain,
        )

    def _check_size(self, prompt: Prompt) -> None:
        chat = isinstance(prompt, ChatPrompt)
        if isinstance(prompt, ChatPrompt):
            check_counts(self._limits, messages=len(prompt.messages))
        check_prompt_size(prompt_bytes(prompt), self._limits, "messages" if chat else "prompt")

    def _timeout_s(self, context: _GenerateContext) -> float:
        remaining_s = context.time_remaining()
        if remaining_s is None:
            return self._limits.default_timeout_s
        return check_timeout_s(min(remaining_s, self._limits.max_timeout_s), self._limits, "deadline")


def _prompt_of(request: GenerateRequest | TokenizeRequest, kind: str | None) -> Prompt:
    if kind == "text":
        return TextPrompt(request.text)
    if kind == "chat":
        chat: ChatMessages = request.chat
        return ChatPrompt([{"role": message.role, "content": message.content} for message in chat.messages])
    if kind == "token_ids" and isinstance(request, GenerateRequest):
        return TokenPrompt(PromptTokens(request.token_ids))
    raise InvalidRequest("the request has no prompt; set text, token_ids or chat", param="prompt")


def _end_with(context: grpc.aio.ServicerContext, error: SegueError) -> None:  # type: ignore[type-arg]
    """Make the call end so once its method returns, whatever that returns.

    Not with ``context.abort``: what it raises is kept by the context, which the frames that it passes keep. Nor may the
    error keep the frames that it has passed: one of them has the sink, which has the error. Such a ring, with all of
    the request in it, would wait for the garbage collector to look at what is old.
    """
    if isinstance(error, InternalError):
        log.error("request_failed", error=error.message)
    context.set_code(error.grpc_status)
    context.set_details(error.message)
    context.set_trailing_metadata(status_metadata(error))
    error.__traceback__ = None
