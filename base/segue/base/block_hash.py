"""Names of KV cache blocks: a hash over all tokens from the prompt's start to the block's end.

Equal names mean equal prefixes, on every worker and in the router, whatever the engine itself calls its blocks. 64 bits
are enough for choosing a worker, where a collision costs a cache miss; nothing is decoded on the strength of a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_PARENT = 0

# All arithmetic is of 64 bits. A name is _CHAIN * (the name of the block before it) + mixed(block), where the block is
# a sum of its tokens, each times an odd number of its position's own. Sums and a chain of products, unlike a hash
# function that is called for each block, can be had of 100,000 tokens in a few array operations.
_ALL = (1 << 64) - 1
_CHAIN = 0x9E3779B97F4A7C15
_UNCHAIN = pow(_CHAIN, -1, 1 << 64)
_MIX = ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53))  # murmur3's finaliser.
_LAST_SHIFT = 33
_FEW_TOKENS = 256  # Array operations have their price.
_AT_ONCE = 4096  # Blocks; the powers of as many are kept.


def block_hashes(tokens: Sequence[int] | NDArray[Any], block_tokens: int, parent: int = NO_PARENT) -> list[int]:
    """Names of the full blocks of ``tokens``, each ``block_tokens`` long, that follow the block ``parent``.

    Tokens behind the last full block have no name. Tokens fit into 32 bits.
    """
    blocks = len(tokens) // block_tokens
    if blocks * block_tokens > _FEW_TOKENS:
        return block_names(tokens, block_tokens, parent).tolist()  # type: ignore[no-any-return]
    odd, length = _position_factors(block_tokens)
    names = []
    for start in range(0, blocks * block_tokens, block_tokens):
        block = tokens[start : start + block_tokens]
        one = (sum(map(mul, block.tolist() if isinstance(block, np.ndarray) else block, odd)) + length) & _ALL
        for shift, factor in _MIX:
            one = ((one ^ (one >> shift)) * factor) & _ALL
        parent = (parent * _CHAIN + (one ^ (one >> _LAST_SHIFT))) & _ALL
        names.append(parent)
    return names


def block_names(tokens: Sequence[int] | NDArray[Any], block_tokens: int, parent: int = NO_PARENT) -> NDArray[np.uint64]:
    """What :func:`block_hashes` has, as an array."""
    blocks = len(tokens) // block_tokens
    words = np.asarray(tokens[: blocks * block_tokens], dtype=np.uint32).reshape(blocks, block_tokens)
    odd, length = _position_factor_arrays(block_tokens)
    names = words.astype(np.uint64) @ odd + length
    for shift, factor in _MIX:
        names ^= names >> np.uint64(shift)
        names *= np.uint64(factor)
    names ^= names >> np.uint64(_LAST_SHIFT)
    # name[i] = sum of mixed[j] * _CHAIN ** (i - j): the powers of j taken out of the sum.
    up, down = _powers(_CHAIN), _powers(_UNCHAIN)
    for start in range(0, blocks, _AT_ONCE):
        part = names[start : start + _AT_ONCE]
        part *= down[: len(part)]
        part[:1] += np.uint64((parent * _CHAIN) & _ALL)
        np.cumsum(part, out=part)
        part *= up[: len(part)]
        parent = int(part[-1])
    return names


@lru_cache(maxsize=64)
def _position_factors(block_tokens: int) -> tuple[tuple[int, ...], int]:
    """An odd number for each position, and one for the length: a shorter block is no longer one that ends in zeros."""
    numbers = [_scattered(number) for number in range(block_tokens + 1)]
    return tuple(number | 1 for number in numbers[:-1]), numbers[-1]


@lru_cache(maxsize=64)
def _position_factor_arrays(block_tokens: int) -> tuple[NDArray[np.uint64], np.uint64]:
    odd, length = _position_factors(block_tokens)
    return np.array(odd, np.uint64), np.uint64(length)


@lru_cache(maxsize=2)
def _powers(base: int) -> NDArray[np.uint64]:
    powers = np.empty(_AT_ONCE, np.uint64)
    power = 1
    for number in range(_AT_ONCE):
        powers[number] = power
        power = (power * base) & _ALL
    return powers


def _scattered(number: int) -> int:
    """The splitmix64 sequence."""
    value = ((number + 1) * 0x9E3779B97F4A7C15) & _ALL
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _ALL
    return value ^ (value >> 31)
