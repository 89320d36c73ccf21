"""The tokens a simulated engine answers with: each a function of all tokens before it.

So an answer is the same wherever it is computed, in one leg or several, and a test can say what it must be
(:func:`expected_tokens`). The function is a polynomial over the tokens, which a long prompt's can be taken of at once
and each further token added to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_BASE = 0x9E3779B97F4A7C15
_powers: NDArray[np.uint64] = np.ones(1, dtype=np.uint64)


class TokenStream:
    """Tokens behind ``tokens``, out of a vocabulary of ``vocab_size``."""

    __slots__ = ("_power", "_sum", "_vocab_size")

    def __init__(self, tokens: Sequence[int], vocab_size: int) -> None:
        values = np.asarray(tokens, dtype=np.uint64) + np.uint64(1)
        self._sum = int(np.sum(values * _first_powers(len(values)), dtype=np.uint64))
        self._power = pow(_BASE, len(values), 1 << 64)
        self._vocab_size = vocab_size

    def next(self, banned: Collection[int] = ()) -> int:
        """The next token, which counts as one before all further ones; none of ``banned``."""
        mixed = _mix(self._sum)
        while (token := mixed % self._vocab_size) in banned:
            mixed = _mix(mixed)
        self.push(token)
        return token

    def push(self, token: int) -> None:
        """The next token is ``token``, whatever it would have been."""
        self._sum = (self._sum + (token + 1) * self._power) & _MASK
        self._power = self._power * _BASE & _MASK


def expected_tokens(prompt: Sequence[int], count: int, vocab_size: int, eos: Collection[int] = ()) -> list[int]:
    """What a simulated engine answers to ``prompt``: ``count`` tokens, or fewer if one of ``eos`` ends it."""
    stream = TokenStream(prompt, vocab_size)
    answer: list[int] = []
    while len(answer) < count and not (answer and answer[-1] in eos):
        answer.append(stream.next())
    return answer


def _mix(value: int) -> int:
    """splitmix64's finaliser."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _first_powers(count: int) -> NDArray[np.uint64]:
    """The base to the power of 0, 1, ..., modulo 2**64. Kept for the longest prompt so far."""
    global _powers  # noqa: PLW0603 - a table of constants that grows
    if len(_powers) < count:
        factors = np.full(2 * count, _BASE, dtype=np.uint64)
        factors[0] = 1
        _powers = np.cumprod(factors, dtype=np.uint64)
    return _powers[:count]
