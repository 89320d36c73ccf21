"""The client: prompts in; text, token ids and timings out; Segue's errors instead of gRPC's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from segue.base.tls import TlsFiles
from segue.client.connection import Connection
from segue.client.errors import from_rpc_error
from segue.client.messages import Delta, Prompt, build_request, finish_reason
from segue.client.session import Session
from segue.proto.inference_pb2 import (
    GenerateRequest,
    GenerateResponse,
    ListModelsRequest,
    Timings,
    TokenizeRequest,
    Usage,
)
from segue.proto.inference_pb2_grpc import InferenceStub


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of one choice. ``timings`` are those of the request's first choice."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    timings: Timings


class SegueClient:
    """One router. Sampling parameters are keyword arguments named as in ``segue.v1.SamplingParams``; so are a request's
    ``slo_class``, ``priority``, ``tenant`` and ``explain``."""

    def __init__(
        self,
        address: str | Connection,
        *,
        api_key: str | None = None,
        tls: TlsFiles | None = None,
        default_timeout_s: float = 600.0,
    ) -> None:
        """``address`` is the host:port of a router's public gRPC, or a whole :class:`Connection`.

        Raises:
            SettingsError: the API key would leave this machine in plain text, or the TLS files can't be used.
        """
        connection = address if isinstance(address, Connection) else Connection(address, api_key, tls)
        self._channel = connection.open()
        self._metadata = connection.metadata()
        self._stub = InferenceStub(self._channel)
        self._timeout_s = default_timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close(grace=None)

    async def stream(
        self, prompt: Prompt, *, model: str = "", n: int = 1, timeout_s: float | None = None, **sampling: Any
    ) -> AsyncIterator[Delta]:
        """The answer as it forms. Leaving the loop early cancels the request and frees its workers.

        Raises:
            SegueError: by what went wrong; see :mod:`segue.base.errors`.
        """
        request = build_request(prompt, model, n, sampling)
        call = self._stub.Generate(request, timeout=timeout_s or self._timeout_s, metadata=self._metadata)
        try:
            async for response in call:
                for choice in response.choices:
                    yield Delta(choice.index, choice.text, tuple(choice.token_ids), finish_reason(choice.finish_reason))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    def session(self) -> Session:
        """Many requests on one call, which costs both ends far less than a call each: see :class:`Session`."""
        return Session(self._stub, self._metadata)

    async def generate(
        self, prompt: Prompt, *, model: str = "", timeout_s: float | None = None, **sampling: Any
    ) -> Answer:
        """The whole answer. Raises like :meth:`stream`."""
        response = await self.generate_raw(build_request(prompt, model, 1, sampling), timeout_s=timeout_s)
        (choice,) = response.choices
        return Answer(
            text=choice.text,
            token_ids=tuple(choice.token_ids),
            finish_reason=finish_reason(choice.finish_reason) or "",
            usage=response.usage,
            timings=response.timings,
        )

    async def generate_raw(self, request: GenerateRequest, *, timeout_s: float | None = None) -> GenerateResponse:
        """``GenerateUnary`` as it is, for what the other methods don't cover (n, echo, logprobs)."""
        try:
            timeout_s = timeout_s or self._timeout_s
            return await self._stub.GenerateUnary(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def models(self) -> list[str]:
        """Names of the models that are served."""
        try:
            request = ListModelsRequest()
            response = await self._stub.ListModels(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return [model.id for model in response.models]

    async def tokenize(self, text: str, *, model: str = "") -> list[int]:
        """The token ids that a prompt of this text has."""
        try:
            request = TokenizeRequest(model=model, text=text)
            response = await self._stub.Tokenize(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return list(response.token_ids)
