from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.kv_transfer.chunks import CHUNK_BYTES, plan_chunks

GRPC_DEFAULT_LIMIT_BYTES = 4 << 20


@given(
    layers=st.integers(1, 8),
    first_block=st.integers(0, 40),
    blocks=st.integers(0, 40),
    layer_block_bytes=st.integers(1, 3 * CHUNK_BYTES),
)
def test_chunks_cover_every_block_of_every_layer_once_and_in_order(
    layers: int, first_block: int, blocks: int, layer_block_bytes: int
) -> None:
    end_block = first_block + blocks
    chunks = list(plan_chunks(layers, first_block, end_block, layer_block_bytes))
    covered = [(c.layer, block) for c in chunks for block in range(c.first_block, c.first_block + c.blocks)]
    assert covered == [(layer, block) for layer in range(layers) for block in range(first_block, end_block)]


@given(blocks=st.integers(1, 2000), layer_block_bytes=st.integers(1, 3 * CHUNK_BYTES))
def test_a_chunk_is_bounded_unless_a_single_block_is_larger(blocks: int, layer_block_bytes: int) -> None:
    for chunk in plan_chunks(2, 0, blocks, layer_block_bytes):
        assert chunk.blocks >= 1
        assert chunk.blocks == 1 or chunk.blocks * layer_block_bytes <= CHUNK_BYTES < GRPC_DEFAULT_LIMIT_BYTES


@given(blocks=st.integers(1, 200), layer_block_bytes=st.integers(1, CHUNK_BYTES))
def test_no_more_chunks_than_needed(blocks: int, layer_block_bytes: int) -> None:
    per_chunk = CHUNK_BYTES // layer_block_bytes
    assert len(list(plan_chunks(1, 0, blocks, layer_block_bytes))) == -(-blocks // per_chunk)
