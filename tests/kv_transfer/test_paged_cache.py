"""Blocks as bytes, in and out of CPU tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.kv_transfer.paged_cache import PagedCache, UnsupportedCache

BLOCKS = 10


def random_layers(count: int = 2, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    return {f"layer.{n}": torch.randn(BLOCKS, 2, 3, 4).to(dtype) for n in range(count)}


@given(block_ids=st.lists(st.integers(0, BLOCKS - 1), min_size=1, max_size=BLOCKS, unique=True))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_what_is_read_from_one_cache_and_written_to_another_is_the_same(
    dtype: torch.dtype, block_ids: list[int]
) -> None:
    theirs, ours = random_layers(dtype=dtype), random_layers(dtype=dtype)
    kept = {name: tensor.clone() for name, tensor in ours.items()}
    source, target = PagedCache(theirs, 16, "m"), PagedCache(ours, 16, "m")
    to_ids = list(range(len(block_ids)))
    for layer in range(2):
        payload = source.read(layer, block_ids)
        assert len(payload) == len(block_ids) * source.layer_block_bytes
        target.write(layer, to_ids, payload)
    for name, tensor in ours.items():
        as_bytes, before = tensor.view(torch.uint8), kept[name].view(torch.uint8)
        assert torch.equal(as_bytes[to_ids], theirs[name].view(torch.uint8)[block_ids])
        assert torch.equal(as_bytes[len(to_ids) :], before[len(to_ids) :])


def test_the_layout_is_what_the_tensors_are() -> None:
    layout = PagedCache(random_layers(3, torch.float32), 16, "fingerprint").layout
    assert (layout.model, layout.dtype, layout.block_tokens, layout.layers) == ("fingerprint", "float32", 16, 3)
    assert layout.block_bytes == 3 * (2 * 3 * 4) * 4
    assert layout.tensor_parallel == 1


def test_blocks_with_room_between_them_are_written_in_place() -> None:
    """One allocation for all layers, block by block: each layer is a strided view of it."""
    pool = torch.zeros(BLOCKS, 2, 3, 4)
    layers = {f"layer.{n}": pool[:, n] for n in range(2)}
    cache = PagedCache(layers, 16, "m")
    cache.write(1, [4], torch.ones(3, 4).numpy().tobytes())
    assert pool[4, 1].eq(1).all()
    assert pool.sum() == 12


def test_layers_of_different_shapes_are_refused_with_both_and_a_way_out() -> None:
    layers = {"first": torch.zeros(BLOCKS, 2, 3), "second": torch.zeros(BLOCKS, 2, 4)}
    with pytest.raises(UnsupportedCache, match=r"layer second has shape \(10, 2, 4\).*\(10, 2, 3\).*--transport nixl"):
        PagedCache(layers, 16, "m")


def test_a_block_that_is_not_contiguous_is_refused() -> None:
    """Keys and values in two planes: a block's bytes are in two places."""
    with pytest.raises(UnsupportedCache, match="contiguous blocks"):
        PagedCache({"first": torch.zeros(2, BLOCKS, 3).transpose(0, 1)}, 16, "m")
