"""Any server with OpenAI's streaming completions or chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from segue.loadtest.measure.outcome import Failure, Outcome
from segue.loadtest.target.base import Ask, Clock
from segue.loadtest.target.http import ConnectFailed, ConnectionBroken, HttpClient, HttpFault, Origin, TimedOut
from segue.loadtest.target.openai_events import OpenAiReader
from segue.loadtest.workload.prompts import PromptMaker
from segue.loadtest.workload.shape import RequestShape

Api = Literal["completions", "chat"]
_PATHS: Mapping[Api, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
_FAILURES: Mapping[type[HttpFault], Failure] = {
    ConnectFailed: Failure.CONNECT,
    ConnectionBroken: Failure.RESET,
    TimedOut: Failure.TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class OpenAiOptions:
    """``as_text``: prompts of completions as text; chat always takes text."""

    api: Api = "completions"
    as_text: bool = False


class OpenAiTarget:
    """Prompts go out as token ids (completions) or as text of the same length."""

    def __init__(self, url: str, ask: Ask, prompts: PromptMaker, options: OpenAiOptions) -> None:
        """Raises ValueError for a URL that is none."""
        self._ask = ask
        self._prompts = prompts
        self._options = options
        headers = {"Authorization": f"Bearer {ask.api_key}"} if ask.api_key else {}
        self._client = HttpClient(Origin.parse(url), {**headers, **dict(ask.headers)})

    def prepare(self, shape: RequestShape) -> bytes:
        options = self._options
        body: dict[str, Any] = {
            "model": self._ask.model,
            "max_tokens": shape.output_tokens,
            "temperature": self._ask.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._ask.ignore_eos:
            body["ignore_eos"] = True
        if options.api == "chat":
            body["messages"] = [{"role": "user", "content": self._prompts.text(shape.segments)}]
        elif options.as_text:
            body["prompt"] = self._prompts.text(shape.segments)
        else:
            body["prompt"] = self._prompts.token_ids(shape.segments)
        headers = {"X-Segue-SLO-Class": shape.slo_class} if shape.slo_class else {}
        return self._client.encode(_PATHS[options.api], msgspec.json.encode(body), headers)

    async def send(self, prepared: bytes, outcome: Outcome, clock: Clock) -> None:
        reader = OpenAiReader(outcome)
        try:
            status = await self._client.send(
                prepared, lambda status, data: reader.feed(status, data, clock()), self._ask.timeout_s
            )
        except HttpFault as error:
            outcome.fail(_FAILURES[type(error)], str(error))
        else:
            reader.end(status)

    async def close(self) -> None:
        await self._client.close()
