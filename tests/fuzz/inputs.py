"""Inputs that nobody would send on purpose, from a seeded source."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

SEED = int(os.environ.get("SEGUE_FUZZ_SEED", "1"))
# How many inputs each target gets; the quick run's, unless ``make fuzz`` says more.
COUNT = int(os.environ.get("SEGUE_FUZZ_COUNT", "0"))

STRINGS = (
    "",
    " ",
    "a",
    "\x00",
    "\ud83d",
    "\U0001f600" * 3,
    "e\u0301" * 5,
    "\u202e\u200b",
    "null",
    "NaN",
    "-1",
    "../../etc/passwd",
    "{{ 7 * 7 }}{% for x in range(9) %}",
    "<|im_start|>",
    "a" * 300,
    "\r\n\r\n",
    "data: [DONE]\n\n",
    "kv_transfer_params",
)
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, -(2**31), 2**32 - 1, 2**32, 2**53 + 1, 2**63, -(2**63) - 1, 10**30)
FLOATS = (0.0, -0.0, 0.5, 1.0, -2.0, 2.0001, 1e-300, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan)


def draws(target: str, quick: int) -> Iterator[random.Random]:
    """A source for each input, named by its number so that one alone can be had again."""
    for number in range(COUNT or quick):
        yield random.Random(f"{SEED}/{target}/{number}")


def nasty(draw: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: draw.random() < 0.5,
        lambda: draw.choice(NUMBERS),
        lambda: draw.randrange(-5, 40),
        lambda: draw.choice(FLOATS),
        lambda: draw.uniform(-3, 3),
        lambda: draw.choice(STRINGS),
    ]
    if depth < 4:
        kinds += [
            lambda: [nasty(draw, depth + 1) for _ in range(draw.randrange(4))],
            lambda: {draw.choice(STRINGS): nasty(draw, depth + 1) for _ in range(draw.randrange(3))},
        ]
    return draw.choice(kinds)()


def nasty_object(draw: random.Random, sane: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """``sane`` with some fields replaced, added and taken out."""
    made = dict(sane)
    for _ in range(draw.choice((0, 0, 1, 1, 1, 2, 5))):
        made[draw.choice(names)] = nasty(draw)
    if draw.random() < 0.1 and made:
        del made[draw.choice(list(made))]
    return made


def as_json(value: Any) -> bytes:
    """With what JSON has no word for (NaN, lone surrogates) as Python and others would write it."""
    return json.dumps(value).encode()


def mutated(draw: random.Random, data: bytes) -> bytes:
    """A few bytes changed, doubled, cut out or cut off."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0:
                changed[at : at + 1] = draw.randbytes(1)
            case 1:
                changed[at:at] = draw.randbytes(draw.randrange(1, 9))
            case 2:
                del changed[at : at + draw.randrange(1, 9)]
            case 3:
                changed[at:at] = changed[at : at + 40]
            case _:
                if draw.random() < 0.3:
                    del changed[at:]
    return bytes(changed)
