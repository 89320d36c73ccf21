"""A paged cache that knows whose each block is and what should be in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from segue.kv_transfer.digest import BlockDigest
from segue.proto.kv_transfer_pb2 import BlockLayout
from tests.kv_transfer.simulation.world import Violation

LAYERS = 2
LAYER_BLOCK_BYTES = 16
LAYOUT = BlockLayout(model="m", layers=LAYERS)


@lru_cache(maxsize=4096)
def content(request_id: str, epoch: str, position: int, layer: int) -> bytes:
    """What a prefill of that epoch computes for that block of the request: the same nowhere else."""
    return f"{request_id}/{epoch}/{position}/{layer}".encode().ljust(LAYER_BLOCK_BYTES, b".")


class Memory:
    """A :class:`~segue.kv_transfer.producer_end.BlockSource` with an allocator that reuses what was freed last."""

    layout = LAYOUT
    layers = LAYERS
    layer_block_bytes = LAYER_BLOCK_BYTES

    def __init__(self, blocks: int) -> None:
        self._owner: list[str | None] = [None] * blocks
        self._free = list(range(blocks))
        self._bytes = [[b"\0" * LAYER_BLOCK_BYTES] * blocks for _ in range(LAYERS)]

    def allocate(self, owner: str, count: int) -> tuple[int, ...] | None:
        if count > len(self._free):
            return None
        taken = tuple(self._free.pop() for _ in range(count))
        for block in taken:
            if self._owner[block] is not None:
                raise Violation(f"block {block} has two owners: {self._owner[block]} and {owner}")
            self._owner[block] = owner
        return taken

    def free(self, owner: str, block_ids: Sequence[int]) -> None:
        for block in block_ids:
            if self._owner[block] != owner:
                raise Violation(f"{owner} freed block {block}, whose owner is {self._owner[block]}")
            self._owner[block] = None
            self._free.append(block)

    def compute(self, owner: str, block_ids: Sequence[int], request_id: str, epoch: str) -> None:
        for position, block in enumerate(block_ids):
            for layer in range(LAYERS):
                self.write(owner, layer, block, content(request_id, epoch, position, layer))

    def write(self, owner: str, layer: int, block: int, payload: bytes) -> None:
        if self._owner[block] != owner:
            raise Violation(f"{owner} wrote into block {block}, whose owner is {self._owner[block]}")
        self._bytes[layer][block] = payload

    def check(self, block_ids: Sequence[int], request_id: str, epoch: str) -> None:
        """An engine reads its blocks."""
        for position, block in enumerate(block_ids):
            for layer in range(LAYERS):
                expected, seen = content(request_id, epoch, position, layer), self._bytes[layer][block]
                if seen != expected:
                    raise Violation(f"decode read {seen!r} where {expected!r} belongs")

    def read(self, layer: int, block_ids: Sequence[int]) -> bytes:
        row = self._bytes[layer]
        return b"".join([row[block] for block in block_ids])

    def digests(self, block_ids: Sequence[int]) -> list[int]:
        digests = []
        for block in block_ids:
            digest = BlockDigest()
            for row in self._bytes:
                digest.update(row[block])
            digests.append(digest.value)
        return digests

    @property
    def held(self) -> list[str]:
        return [owner for owner in self._owner if owner is not None]
