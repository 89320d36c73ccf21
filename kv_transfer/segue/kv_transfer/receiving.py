"""What the consumer checks of the chunks of a pull. No I/O: the caller receives and writes."""

from __future__ import annotations

from segue.kv_transfer.digest import digest_of, digest_of_digests
from segue.proto.kv_transfer_pb2 import KvChunk


class Corrupt(Exception):
    """What arrived is not what was sent."""


class Receiver:
    """Chunks must cover blocks ``first_block`` to ``blocks`` (exclusive) of every layer in order, each exactly once."""

    __slots__ = ("_block", "_blocks", "_digests", "_first_block", "_last", "_layer", "_layer_block_bytes", "_layers")

    def __init__(self, layers: int, layer_block_bytes: int, first_block: int, blocks: int) -> None:
        self._layers = layers
        self._layer_block_bytes = layer_block_bytes
        self._first_block = first_block
        self._blocks = blocks
        self._layer, self._block = 0, first_block
        self._digests: list[int] = []
        self._last: KvChunk | None = None

    def accept(self, chunk: KvChunk) -> None:
        """Check the next chunk; on return its payload may be written to where it says it belongs.

        Raises:
            Corrupt: it is not the next one, its size is not its blocks', or its digest is another.
        """
        layer, block = self._layer, self._block
        if (chunk.layer, chunk.first_block) != (layer, block):
            raise Corrupt(
                f"layer {chunk.layer} block {chunk.first_block} arrived, layer {layer} block {block} was expected"
            )
        left = self._blocks - block
        size_bytes = chunk.blocks * self._layer_block_bytes
        if layer == self._layers or not 0 < chunk.blocks <= left or len(chunk.payload) != size_bytes:
            raise Corrupt(
                f"{chunk.blocks} blocks in {len(chunk.payload)} bytes arrived for layer {layer} block {block} of "
                f"{self._layers} layers of {self._blocks} blocks of {self._layer_block_bytes} bytes"
            )
        seen = digest_of(chunk.payload)
        if seen != chunk.digest:
            raise Corrupt(
                f"layer {layer} block {block}: digest of what arrived is {seen:016x}, "
                f"the producer sent {chunk.digest:016x}"
            )
        self._digests.append(seen)
        self._last = chunk
        if chunk.blocks < left:
            self._block = block + chunk.blocks
        else:
            self._layer, self._block = layer + 1, self._first_block

    def finish(self) -> int:
        """The stream has ended; the bytes in all.

        Raises:
            Corrupt: something is missing, or the digest over all chunks is another.
        """
        expected_bytes = (self._blocks - self._first_block) * self._layers * self._layer_block_bytes
        last = self._last
        if last is None or not last.last or self._layer != self._layers:
            missing = f"layer {self._layer} block {self._block}" if self._layer != self._layers else "its last mark"
            raise Corrupt(f"the stream ended early, before {missing}; {expected_bytes} bytes were expected")
        if (seen := digest_of_digests(self._digests)) != last.digest_of_all:
            raise Corrupt(f"digest over all chunks is {seen:016x}, the producer sent {last.digest_of_all:016x}")
        return expected_bytes
