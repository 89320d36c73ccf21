"""What the soak asks, and how an answer compares with the undisturbed one. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comparison.prompts import make_prompts

_LOGPROB_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``sampling`` is named alike in both APIs."""

    name: str
    prompt: str
    sampling: Mapping[str, Any]
    n: int = 1


@dataclass(slots=True)
class Choice:
    """One answer, or what came of it. ``tokens`` and ``logprobs`` are empty where the API doesn't tell them."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""


Answer = dict[int, Choice]


def make_asks(seed: int, count: int) -> list[Ask]:
    """Greedy mostly; the rest with what makes a hand-off or a continuation hard."""
    draw = random.Random(f"asks {seed}")
    words = [draw.choice((1, 8, 40, 90, 95, 120, 200, 400)) for _ in range(count)]
    asks = []
    for index, length in enumerate(words):
        prompt = make_prompts(1, length + 2, f"soak {seed} {index}")[0]
        greedy = {"temperature": 0.0, "ignore_eos": True, "max_tokens": draw.choice((1, 2, 16, 48, 96, 160))}
        kind = draw.choice(("greedy",) * 5 + ("seed", "penalties", "logprobs", "n", "structured"))
        extra: dict[str, Any] = {}
        if kind == "seed":
            extra = {"temperature": 0.8, "seed": index}
        elif kind == "penalties":
            extra = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 1.1}
        elif kind == "logprobs":
            extra = {"logprobs": 2}
        elif kind == "structured":
            extra = {"structured_outputs": {"regex": "([a-z]{3,9} ){8,24}[a-z]+[.]"}, "ignore_eos": False}
        elif kind == "n":
            extra = {"temperature": 0.8, "seed": index}
        asks.append(Ask(kind, prompt, greedy | extra, n=3 if kind == "n" else 1))
    return asks


def with_stop_string(ask: Ask, answer: Answer) -> Ask | None:
    """The same request, to be stopped in the middle of what it is known to say."""
    text = answer[0].text
    middle = text[len(text) // 2 : len(text) // 2 + 4]
    if len(middle) < 4 or "\ufffd" in middle:
        return None
    return Ask("stop", ask.prompt, {**ask.sampling, "stop": [middle]})


def difference(seen: Answer, undisturbed: Answer, *, complete: bool) -> str | None:
    """How an answer differs from the undisturbed one; one that broke off must be a beginning of it."""
    for index, expected in undisturbed.items():
        choice = seen.get(index, Choice())
        if complete and (choice.text, choice.finish) != (expected.text, expected.finish):
            return _first_difference(f"choice {index}'s text", choice.text, expected.text, choice.finish)
        # An unfinished character may still be held back, and a text may end in one that is replaced.
        if not complete and not expected.text.startswith(choice.text.rstrip("\ufffd")):
            return _first_difference(f"choice {index}'s beginning", choice.text, expected.text, choice.finish)
        if choice.tokens and choice.tokens != expected.tokens[: len(choice.tokens) if not complete else None]:
            return _first_difference(f"choice {index}'s tokens", choice.tokens, expected.tokens, choice.finish)
        for at, (one, other) in enumerate(zip(choice.logprobs, expected.logprobs, strict=False)):
            if abs(one - other) > _LOGPROB_TOLERANCE:
                return f"choice {index}'s logprob {at} is {one:.4f}, undisturbed {other:.4f}"
    return None


def _first_difference(what: str, seen: Sequence[Any], expected: Sequence[Any], finish: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(seen, expected, strict=False)) if a != b), min(len(seen), len(expected))
    )
    return (
        f"{what} differs at {at} of {len(expected)}: {seen[at : at + 12]!r}, undisturbed {expected[at : at + 12]!r} "
        f"({len(seen)} came, finish {finish!r})"
    )
