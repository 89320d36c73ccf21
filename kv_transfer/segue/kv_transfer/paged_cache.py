"""An engine's paged KV cache as bytes: read blocks out of it, write blocks into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from segue.kv_transfer.digest import BlockDigest
from segue.proto.kv_transfer_pb2 import BlockLayout

if TYPE_CHECKING:
    import torch


class UnsupportedCache(Exception):
    """The engine lays its cache out in a way that blocks can't be copied from as they stand."""


class PagedCache:
    """The layers of one rank's cache; each is a tensor whose first dimension counts blocks.

    Args:
        layers: layer name -> tensor ``[blocks, ...]``, a block contiguous; in the model's order.
        block_tokens: tokens a block holds.
        model_fingerprint: see :class:`BlockLayout`.

    Raises:
        UnsupportedCache: a layer's blocks are not contiguous or differ from the other layers'.
    """

    def __init__(self, layers: Mapping[str, torch.Tensor], block_tokens: int, model_fingerprint: str) -> None:
        import torch

        self._torch = torch
        first = next(iter(layers.values()))
        for name, tensor in layers.items():
            if tensor.shape != first.shape or tensor.dtype != first.dtype or not tensor[0].is_contiguous():
                raise UnsupportedCache(
                    f"layer {name} has shape {tuple(tensor.shape)}, strides {tensor.stride()} and {tensor.dtype}; the "
                    f"gRPC transport needs every layer like the first ({tuple(first.shape)}, {first.dtype}) with "
                    "contiguous blocks; use --transport nixl for this model"
                )
        self._layers = [tensor.view(torch.uint8).flatten(1) for tensor in layers.values()]
        self.layers = len(self._layers)
        self.blocks = int(first.shape[0])
        self.layer_block_bytes = int(self._layers[0].shape[1])
        self.layout = BlockLayout(
            model=model_fingerprint,
            dtype=str(first.dtype).removeprefix("torch."),
            block_tokens=block_tokens,
            layers=self.layers,
            block_bytes=self.layer_block_bytes * self.layers,
            order="x".join(str(size) for size in first.shape[1:]),
            tensor_parallel=1,
        )

    def read(self, layer: int, block_ids: Sequence[int]) -> bytes:
        """The blocks' bytes, one after the other."""
        tensor = self._layers[layer]
        index = self._torch.tensor(block_ids, device=tensor.device)
        payload: bytes = tensor.index_select(0, index).cpu().numpy().tobytes()
        return payload

    def digests(self, block_ids: Sequence[int]) -> list[int]:
        """For each block one digest over all its layers in order. Blocks on a GPU are copied to the host for it."""
        digests = [BlockDigest() for _ in block_ids]
        for tensor in self._layers:
            # On the host the bytes are hashed where they lie.
            rows = tensor if tensor.device.type == "cpu" else tensor[list(block_ids)].cpu()
            array = rows.numpy()
            for number, (digest, block_id) in enumerate(zip(digests, block_ids, strict=True)):
                digest.update(array[block_id if rows is tensor else number].data)
        return [digest.value for digest in digests]

    def write(self, layer: int, block_ids: Sequence[int], payload: bytes) -> None:
        """Overwrite blocks. On return the bytes are where the engine's next step reads them."""
        tensor = self._layers[layer]
        source = self._torch.frombuffer(bytearray(payload), dtype=self._torch.uint8)
        index = self._torch.tensor(block_ids, device=tensor.device)
        tensor.index_copy_(0, index, source.view(len(block_ids), -1).to(tensor.device))
        if tensor.is_cuda:
            self._torch.cuda.current_stream(tensor.device).synchronize()
