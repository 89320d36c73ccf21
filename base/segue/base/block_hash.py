"""Names of KV cache blocks: a hash over all tokens from the prompt's start to the block's end.

Equal names mean equal prefixes, on every worker and in the router, whatever the engine itself calls its blocks. 64 bits
are enough for choosing a worker, where a collision costs a cache miss; nothing is decoded on the strength of a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

NO_PARENT = 0


def block_hashes(tokens: Sequence[int] | NDArray[Any], block_tokens: int, parent: int = NO_PARENT) -> list[int]:
    """Names of the full blocks of ``tokens``, each ``block_tokens`` long, that follow the block ``parent``.

    A name is the xxh3-64 of the block's tokens (32 bits each, little-endian), seeded with the name of the block before
    it. Tokens behind the last full block have no name.
    """
    full = len(tokens) - len(tokens) % block_tokens
    data = np.asarray(tokens[:full], dtype="<u4").tobytes()
    step = 4 * block_tokens
    names = []
    for start in range(0, len(data), step):
        parent = xxhash.xxh3_64_intdigest(data[start : start + step], parent)
        names.append(parent)
    return names
