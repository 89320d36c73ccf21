"""Whether two paged caches may exchange blocks."""

from __future__ import annotations

from segue.proto.kv_transfer_pb2 import BlockLayout

# What must be equal on both ends. Tensor parallelism is not among them: NIXL maps ranks onto each other, and the
# gRPC transport refuses anything but 1 when it starts.
_FIELDS = ("model", "dtype", "block_tokens", "layers", "block_bytes", "order")


def layout_differences(ours: BlockLayout, theirs: BlockLayout) -> list[str]:
    """One line for each field that differs, with both values; empty if blocks can be copied between the two."""
    return [
        f"{name}: {getattr(ours, name)!r} here, {getattr(theirs, name)!r} there"
        for name in _FIELDS
        if getattr(ours, name) != getattr(theirs, name)
    ]
