"""The OpenAI HTTP API on aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from aiohttp import web
from aiohttp.http_writer import HttpVersion11

from segue.base.errors import DeadlineExceeded
from segue.router.limits import Limits, ModelFacts, check_counts, check_prompt, check_prompt_size, complete_sampling
from segue.router.models import ServedModel
from segue.router.openai import http, wire
from segue.router.openai.answer import Shape, UnaryAnswer
from segue.router.openai.bad_http import Runner, server_logger
from segue.router.openai.headers import RequestHeaders, read_headers
from segue.router.openai.openapi import describe
from segue.router.openai.schema import ChatCompletionRequest, CompletionRequest, parse
from segue.router.openai.stream import EventWriter, StreamAnswer
from segue.router.openai.translate import Ask, from_chat, from_completion
from segue.router.queueing.admission import Demand
from segue.router.queueing.slo import DEFAULT_CLASSES, SloClasses
from segue.router.service import Generation, GenerationService, find_model
from segue.router.structured_outputs import check_structured_outputs
from segue.router.text.prompt import Prompt, TextPrompt, prompt_bytes, read_prompt

# With so little unsent asyncio's transports (64 KiB and on) don't make a writer wait.
_WITHOUT_WAIT_BYTES = 32 * 1024
_SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # Proxies of the nginx family would hold the tokens back.
}


def make_app(
    service: GenerationService,
    models: Mapping[str, ServedModel],
    limits: Limits,
    classes: SloClasses = DEFAULT_CLASSES,
) -> web.Application:
    """The application. ``models`` is read anew for each request, so its owner may change it.

    Serve it with :func:`make_runner`: only a runner with ``handler_cancellation=True`` tells a handler
    that its client has gone, which is what cancels the request's generations.
    """
    app = web.Application(middlewares=[http.errors_as_json], client_max_size=limits.max_body_bytes + 1)
    app.on_response_prepare.append(http.echo_label)
    edge = _Edge(service, models, limits, classes)
    for method, path, handler in (
        ("POST", "/v1/completions", edge.completions),
        ("POST", "/v1/chat/completions", edge.chat_completions),
        ("GET", "/v1/models", edge.list_models),
        ("GET", "/v1/models/{id:.+}", edge.get_model),
        ("GET", "/healthz", edge.healthz),
        ("GET", "/openapi.json", edge.openapi),
    ):
        route = app.router.add_get if method == "GET" else partial(app.router.add_route, method)  # GET takes HEAD too.
        route(path, handler, expect_handler=http.on_expect)
    anywhere = http.Anywhere("/{path:.*}")
    app.router.register_resource(anywhere)
    anywhere.add_route("*", http.nothing_here, expect_handler=http.on_expect)
    return app


def make_runner(app: web.Application, limits: Limits, shutdown_timeout_s: float = 30.0) -> web.AppRunner:
    """A runner as ``make_app`` needs it. On cleanup, running requests have that many seconds to finish."""
    return Runner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=server_logger(),
        shutdown_timeout=shutdown_timeout_s,
        max_line_size=limits.max_header_bytes,
        max_field_size=limits.max_header_bytes,
    )


class _Edge:
    """The handlers."""

    def __init__(
        self,
        service: GenerationService,
        models: Mapping[str, ServedModel],
        limits: Limits,
        classes: SloClasses,
    ) -> None:
        self._service = service
        self._models = models
        self._limits = limits
        self._classes = classes
        self._description = wire.encode(describe(limits, classes))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        headers, body = await self._admitted(request)
        return await self._answer(request, headers, from_completion(parse(CompletionRequest, body)))

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        headers, body = await self._admitted(request)
        return await self._answer(request, headers, from_chat(parse(ChatCompletionRequest, body)))

    async def list_models(self, request: web.Request) -> web.Response:
        data = [_model_json(model) for model in self._models.values()]
        return http.json_response(wire.encode({"object": "list", "data": data}))

    async def get_model(self, request: web.Request) -> web.Response:
        model = find_model(self._models, request.match_info["id"])
        return http.json_response(wire.encode(_model_json(model)))

    async def healthz(self, request: web.Request) -> web.Response:
        return http.json_response(b'{"status":"ok"}')

    async def _admitted(self, request: web.Request) -> tuple[RequestHeaders, object]:
        # Before anything is parsed, let alone tokenised: a refusal is to cost next to nothing. What the request turns
        # out to want is weighed when it starts.
        headers = read_headers(request, self._limits, self._classes)
        terms = headers.terms
        self._service.admit(Demand(headers.timeout_s, slo_class=terms.slo_class, tenant=terms.tenant))
        return headers, await http.read_json(request, self._limits)

    async def openapi(self, request: web.Request) -> web.Response:
        return http.json_response(self._description)

    async def _answer(self, request: web.Request, headers: RequestHeaders, ask: Ask) -> web.StreamResponse:
        deadline = time.monotonic() + headers.timeout_s
        check_counts(self._limits, n=ask.n, prompts=len(ask.prompts), messages=ask.messages)
        for prompt in ask.prompts:
            check_prompt_size(prompt_bytes(prompt), self._limits, ask.prompt_param)
        check_structured_outputs(ask.sampling, self._limits, ask.constraint_param)
        model = find_model(self._models, ask.model)
        generations = [await self._generation(headers, ask, prompt, model, deadline) for prompt in ask.prompts]
        shape = Shape(
            chat=ask.chat,
            model=model.id,
            created_unix_s=int(time.time()),
            prompts=len(generations),
            n=ask.n,
            logprobs=ask.sampling.HasField("logprobs"),
            include_usage=ask.include_usage,
        )
        answer = StreamAnswer(shape, model.codec) if ask.stream else UnaryAnswer(shape, model.codec)
        try:
            answer.start(self._service, generations)
            if isinstance(answer, StreamAnswer):
                return await self._stream(request, answer)
            return await _unary(answer)
        finally:
            # Whatever ended this handler (the answer, an error, the client's going), nothing may run on.
            answer.let_go()

    async def _generation(
        self, headers: RequestHeaders, ask: Ask, prompt: Prompt, model: ServedModel, deadline: float
    ) -> Generation:
        max_model_len = model.max_model_len_tokens
        ids = await read_prompt(model.codec, prompt, max_model_len_tokens=max_model_len)
        facts = ModelFacts(max_model_len, model.vocab_size)
        check_prompt(ids, facts, self._limits, param=ask.prompt_param)
        sampling = complete_sampling(ask.sampling, prompt_tokens=len(ids), model=facts, limits=self._limits)
        timeout_s = deadline - time.monotonic()
        if timeout_s <= 0:
            raise DeadlineExceeded("the deadline passed before the prompt was read; allow the request more time")
        terms = headers.terms
        return Generation(
            model=model.id,
            prompt=ids,
            prompt_text=_prompt_text(prompt, ids, model) if ask.echo else None,
            sampling=sampling,
            n=ask.n,
            echo=ask.echo,
            label=headers.label,
            timeout_s=timeout_s,
            slo_class=terms.slo_class,
            priority=terms.priority,
            tenant=terms.tenant,
            explain=terms.explain,
            trace=headers.trace,
        )

    async def _stream(self, request: web.Request, answer: StreamAnswer) -> web.StreamResponse:
        await answer.begun
        if answer.error is not None:
            raise answer.error
        response = web.StreamResponse(headers=_SSE_HEADERS | {http.REQUEST_ID_HEADER: answer.request_id})
        chunked = request.version >= HttpVersion11
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.force_close()
        await response.prepare(request)
        writer = EventWriter(request, answer, chunked=chunked, limit_bytes=self._limits.max_write_buffer_bytes)
        answer.attach(writer)
        await answer.done
        with suppress(ConnectionError):  # the client went away at the very end
            if writer.unsent_bytes < _WITHOUT_WAIT_BYTES:
                await response.write_eof(answer.rest)
                return response
            try:
                async with asyncio.timeout(self._limits.drain_timeout_s):
                    await response.write_eof(answer.rest)
            except TimeoutError:
                writer.abort("the client doesn't read the end of its stream")
        return response


async def _unary(answer: UnaryAnswer) -> web.Response:
    await answer.done
    if answer.error is not None:
        raise answer.error
    return http.json_response(answer.body(), headers={http.REQUEST_ID_HEADER: answer.request_id})


def _prompt_text(prompt: Prompt, ids: Sequence[int], model: ServedModel) -> str:
    return prompt.text if isinstance(prompt, TextPrompt) else model.codec.decode(ids)


def _model_json(model: ServedModel) -> wire.Json:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_unix_s,
        "owned_by": "segue",
        "max_model_len": model.max_model_len_tokens,
        **({"simulated": True} if model.simulated else {}),
    }
