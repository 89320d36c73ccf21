"""What a request may ask for: pure checks that both edges (OpenAI HTTP, gRPC) apply before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from segue.base.errors import InvalidRequest, PayloadTooLarge
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.prompt_tokens import PromptTokens

Ranged = Literal["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request, each settable as ``segue router --limit NAME=VALUE``."""

    max_body_bytes: int = 8 * 1024 * 1024  # HTTP body as it comes and unpacked; gRPC message.
    max_header_bytes: int = 16 * 1024  # One HTTP header or the request line; all of a gRPC call's metadata.
    max_json_depth: int = 64
    max_prompts: int = 32
    max_prompt_bytes: int = 4 * 1024 * 1024  # Of one prompt's text, or a conversation's texts together.
    max_prompt_tokens: int = 1024 * 1024  # The model's length bounds them too.
    max_messages: int = 4096
    max_n: int = 8
    max_answers: int = 128  # n for each prompt.
    max_stop: int = 8
    max_stop_chars: int = 256
    max_stop_token_ids: int = 128
    max_logprobs: int = 20
    max_logit_bias: int = 1024
    max_constraint_bytes: int = 64 * 1024  # Of a structured output's schema, grammar, ... as text.
    max_regex_chars: int = 4096
    max_choices: int = 1024
    max_label_chars: int = 128  # Of a gRPC request's label. HTTP drops labels that are no sane ids.
    default_timeout_s: float = 600.0
    max_timeout_s: float = 3600.0
    max_write_buffer_bytes: int = 1024 * 1024  # Unsent bytes of a stream before its reader counts as gone.
    drain_timeout_s: float = 30.0  # For a reader to take the rest of a finished stream.

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # NaN is not more than 0 either.
            if not value > 0 or math.isinf(value):
                raise ValueError(f"{field.name} is {value}; a limit must be a number of more than 0")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What of a model bounds a request."""

    max_model_len_tokens: int
    vocab_size: int


def check_body_size(size_bytes: int, limits: Limits) -> None:
    """Raises PayloadTooLarge."""
    if size_bytes > limits.max_body_bytes:
        raise PayloadTooLarge(f"the body has {size_bytes} bytes; at most {limits.max_body_bytes} are taken")


def check_counts(limits: Limits, *, n: int = 1, prompts: int = 1, messages: int = 1) -> None:
    """Check what a request has several of. Raises InvalidRequest."""
    if not 1 <= n <= limits.max_n:
        raise _fault("n", f"is {n}; it must be between 1 and {limits.max_n}")
    if not 1 <= prompts <= limits.max_prompts:
        raise _fault("prompt", f"holds {prompts} prompts; it must hold between 1 and {limits.max_prompts}")
    if not 1 <= messages <= limits.max_messages:
        raise _fault("messages", f"holds {messages} messages; it must hold between 1 and {limits.max_messages}")
    if n * prompts > limits.max_answers:
        answers = f"is {n} for each of {prompts} prompts, {n * prompts} answers in all"
        raise _fault("n", f"{answers}; at most {limits.max_answers} are given")


def check_prompt_size(size_bytes: int, limits: Limits, param: str = "prompt") -> None:
    """Check a prompt's text, before anything is made of it. Raises InvalidRequest."""
    if size_bytes > limits.max_prompt_bytes:
        raise _fault(param, f"has {size_bytes} bytes of text; at most {limits.max_prompt_bytes} are taken")


def check_label(label: str, limits: Limits) -> str:
    """The label as it is, or InvalidRequest."""
    if len(label) > limits.max_label_chars:
        raise _fault("request_label", f"has {len(label)} characters; it may have at most {limits.max_label_chars}")
    return label


def check_depth(value: object, most: int, named: str, param: str | None = None, *, depth: int = 0) -> None:
    """Check how deep arrays and objects lie within each other, where ``value`` itself lies within ``depth`` of them.

    Raises InvalidRequest.
    """
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        depth += 1
        if depth > most:
            raise too_deep(named, most, param)
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [child for children in inner for child in children if isinstance(child, (dict, list))]


def too_deep(named: str, most: int, param: str | None) -> InvalidRequest:
    """For what is nested deeper than ``most`` levels."""
    return InvalidRequest(f"{named} is nested more than {most} levels deep; at most {most} are taken", param=param)


def shown_s(seconds: float) -> str:
    """Seconds for people: no more digits than anybody reads."""
    digits = 0 if seconds >= 10 else 2 if seconds >= 0.1 else 4
    return f"{round(seconds, digits):g}"


def check_timeout_s(timeout_s: float, limits: Limits, param: str) -> float:
    """The timeout as it is, or InvalidRequest."""
    if not 0 < timeout_s <= limits.max_timeout_s:
        raise InvalidRequest(
            f"{param} is {timeout_s:g}; it must be more than 0 and at most {limits.max_timeout_s:g} seconds",
            param=param,
        )
    return timeout_s


def check_prompt(token_ids: Sequence[int], model: ModelFacts, limits: Limits, *, param: str = "prompt") -> None:
    """Check a prompt's ids against the model. Raises InvalidRequest."""
    if not token_ids:
        raise InvalidRequest(f"{param} is empty; it must have at least one token", param=param)
    if len(token_ids) > limits.max_prompt_tokens:
        raise _fault(param, f"has {len(token_ids)} tokens; at most {limits.max_prompt_tokens} are taken")
    if len(token_ids) >= model.max_model_len_tokens:
        raise InvalidRequest(
            f"the prompt has {len(token_ids)} tokens, but the model takes {model.max_model_len_tokens}, "
            "prompt and answer together, of which at least one is the answer's; shorten the prompt",
            param=param,
            code="context_length_exceeded",
        )
    _check_token_ids(token_ids, model, param)


def complete_sampling(
    sampling: SamplingParams, *, prompt_tokens: int, model: ModelFacts, limits: Limits
) -> SamplingParams:
    """A checked copy with ``max_tokens`` set: as asked, or else what the model's length leaves after the
    prompt.

    The prompt must have passed ``check_prompt``. Raises InvalidRequest naming the field, its value and
    its bounds.
    """
    _check_ranges(sampling)
    _check_lists(sampling, model, limits)
    completed = SamplingParams()
    completed.CopyFrom(sampling)
    completed.max_tokens = _max_tokens(sampling, prompt_tokens, model)
    if completed.min_tokens > completed.max_tokens:
        most = f"it must be at most max_tokens, which is {completed.max_tokens}"
        raise _fault("min_tokens", f"is {completed.min_tokens}; {most}")
    return completed


def _max_tokens(sampling: SamplingParams, prompt_tokens: int, model: ModelFacts) -> int:
    room = model.max_model_len_tokens - prompt_tokens
    if not sampling.HasField("max_tokens"):
        return room
    asked = sampling.max_tokens
    if asked < 1:
        raise _fault("max_tokens", f"is {asked}; it must be at least 1")
    if asked > room:
        raise InvalidRequest(
            f"the prompt has {prompt_tokens} tokens, max_tokens is {asked}: {prompt_tokens + asked} in all. "
            f"The model takes {model.max_model_len_tokens}; ask for at most {room} or shorten the prompt",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return asked


_RANGES: tuple[tuple[Ranged, float, float, bool], ...] = (  # Lowest, highest, and whether the lowest is left out.
    ("temperature", 0, 2, False),
    ("top_p", 0, 1, True),
    ("min_p", 0, 1, False),
    ("presence_penalty", -2, 2, False),
    ("frequency_penalty", -2, 2, False),
    ("repetition_penalty", 0, math.inf, True),
)


def _check_ranges(sampling: SamplingParams) -> None:
    for name, low, high, above_low in _RANGES:
        if sampling.HasField(name):
            _check_range(name, getattr(sampling, name), (low, high), above_low=above_low)
    if sampling.HasField("top_k") and sampling.top_k < -1:
        raise _fault("top_k", f"is {sampling.top_k}; it must be at least -1 (0 and -1: all tokens)")


def _check_range(name: str, value: float, bounded: tuple[float, float], *, above_low: bool) -> None:
    low, high = bounded
    if math.isfinite(value) and (low < value if above_low else low <= value) and value <= high:
        return
    bounds = f"more than {low:g}" if above_low else f"at least {low:g}"
    if math.isfinite(high):
        bounds += f" and at most {high:g}"
    raise _fault(name, f"is {value:.7g}; it must be a number of {bounds}")


def _check_lists(sampling: SamplingParams, model: ModelFacts, limits: Limits) -> None:
    if sampling.HasField("logprobs") and sampling.logprobs > limits.max_logprobs:
        asked = f"asks for the best {sampling.logprobs} tokens"
        raise _fault("logprobs", f"{asked}; at most {limits.max_logprobs} are given")
    if not (sampling.stop or sampling.stop_token_ids or sampling.logit_bias):
        return
    _check_count("stop", len(sampling.stop), limits.max_stop)
    for stop in sampling.stop:
        if not 1 <= len(stop) <= limits.max_stop_chars:
            held = f"holds a string of {len(stop)} characters"
            raise _fault("stop", f"{held}; each must have between 1 and {limits.max_stop_chars}")
    _check_count("stop_token_ids", len(sampling.stop_token_ids), limits.max_stop_token_ids)
    _check_token_ids(sampling.stop_token_ids, model, "stop_token_ids")
    _check_count("logit_bias", len(sampling.logit_bias), limits.max_logit_bias)
    _check_token_ids(list(sampling.logit_bias), model, "logit_bias")
    for token_id, bias in sampling.logit_bias.items():
        if not -100 <= bias <= 100:
            raise _fault("logit_bias", f"of token {token_id} is {bias:.7g}; it must be between -100 and 100")


def _check_count(param: str, count: int, most: int) -> None:
    if count > most:
        raise _fault(param, f"holds {count} entries; it may hold at most {most}")


def _check_token_ids(token_ids: Sequence[int], model: ModelFacts, param: str) -> None:
    if not token_ids:
        return
    bounds = token_ids.bounds() if isinstance(token_ids, PromptTokens) else (min(token_ids), max(token_ids))
    for token_id in bounds:
        if not 0 <= token_id < model.vocab_size:
            raise _fault(param, f"holds token id {token_id}; the model's ids are 0 to {model.vocab_size - 1}")


def _fault(param: str, message: str) -> InvalidRequest:
    """Made only where there is one: most requests are right, and text is dear."""
    return InvalidRequest(f"{param} {message}", param=param)
