"""OpenAI requests as ``segue.v1`` ones: the same names for the same things, with OpenAI's defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass

from segue.base.errors import InvalidRequest
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.openai.constraint import read_constraint
from segue.router.openai.schema import ChatCompletionRequest, CompletionRequest
from segue.router.text.prompt import ChatPrompt, Prompt, TextPrompt, TokenPrompt

_COMPLETION_MAX_TOKENS = 16

# Same name and meaning on both sides.
_SCALARS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "max_tokens",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one HTTP request asks for: ``n`` answers to each prompt."""

    chat: bool
    model: str
    prompts: tuple[Prompt, ...]
    sampling: SamplingParams
    n: int
    echo: bool
    stream: bool
    include_usage: bool
    constraint_param: str  # The field that a constraint on the answer's text came in.

    @property
    def prompt_param(self) -> str:
        """The field that the prompts came in."""
        return "messages" if self.chat else "prompt"

    @property
    def messages(self) -> int:
        """How many messages a conversation has; 1 for completions."""
        return len(self.prompts[0].messages) if isinstance(self.prompts[0], ChatPrompt) else 1


def from_completion(request: CompletionRequest) -> Ask:
    """Raises InvalidRequest for what can't be said in ``segue.v1``."""
    sampling = _sampling(request)
    if request.max_tokens is None:
        sampling.max_tokens = _COMPLETION_MAX_TOKENS
    if request.logprobs is not None:
        sampling.logprobs = request.logprobs
    prompts = tuple(TextPrompt(one) if isinstance(one, str) else TokenPrompt(one) for one in request.prompt)
    return _ask(request, chat=False, prompts=prompts, sampling=sampling)


def from_chat(request: ChatCompletionRequest) -> Ask:
    """Raises InvalidRequest for what can't be said in ``segue.v1``."""
    sampling = _sampling(request)
    if request.max_completion_tokens is not None:
        sampling.max_tokens = request.max_completion_tokens
    if request.logprobs:
        sampling.logprobs = request.top_logprobs or 0
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    return _ask(request, chat=True, prompts=(ChatPrompt(messages),), sampling=sampling)


def _ask(
    request: CompletionRequest | ChatCompletionRequest,
    *,
    chat: bool,
    prompts: tuple[Prompt, ...],
    sampling: SamplingParams,
) -> Ask:
    constraint, constraint_param = read_constraint(request.response_format, request.structured_outputs)
    if constraint is not None:
        sampling.structured_outputs.CopyFrom(constraint)
    if not prompts:
        raise InvalidRequest("prompt is an empty array; it must hold at least one prompt", param="prompt")
    return Ask(
        chat=chat,
        model=request.model,
        prompts=prompts,
        sampling=sampling,
        n=request.n,
        echo=request.echo,
        stream=request.stream,
        constraint_param=constraint_param,
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
    )


def _sampling(request: CompletionRequest | ChatCompletionRequest) -> SamplingParams:
    given = {name: value for name in _SCALARS if (value := getattr(request, name)) is not None}
    stop = [request.stop] if isinstance(request.stop, str) else request.stop
    sampling = SamplingParams(**given, stop=stop or (), stop_token_ids=request.stop_token_ids or ())
    if request.logit_bias:
        sampling.logit_bias.update({_token_id(key): bias for key, bias in request.logit_bias.items()})
    return sampling


def _token_id(key: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", key, re.ASCII) or int(key) >= 2**32:
        raise InvalidRequest(f"logit_bias has the key {key[:40]!r}; its keys must be token ids", param="logit_bias")
    return int(key)
