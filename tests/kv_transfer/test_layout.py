from __future__ import annotations

import pytest

from segue.kv_transfer.layout import layout_differences
from segue.proto.kv_transfer_pb2 import BlockLayout

OURS = BlockLayout(
    model="0123456789abcdef",
    dtype="bfloat16",
    block_tokens=128,
    layers=4,
    block_bytes=1 << 16,
    order="LBHNC",
    tensor_parallel=1,
)


def changed(**fields: object) -> BlockLayout:
    layout = BlockLayout()
    layout.CopyFrom(OURS)
    for name, value in fields.items():
        setattr(layout, name, value)
    return layout


def test_equal_layouts_have_no_differences() -> None:
    assert layout_differences(OURS, changed()) == []


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("model", "fedcba9876543210"),
        ("dtype", "float32"),
        ("block_tokens", 16),
        ("layers", 5),
        ("block_bytes", 1 << 17),
        ("order", "LBNHC"),
    ],
)
def test_a_difference_is_told_with_its_name_and_both_values(name: str, theirs: object) -> None:
    (line,) = layout_differences(OURS, changed(**{name: theirs}))
    assert line == f"{name}: {getattr(OURS, name)!r} here, {theirs!r} there"


def test_every_difference_is_told() -> None:
    assert len(layout_differences(OURS, changed(dtype="float32", layers=5, model="other"))) == 3


def test_ranks_may_differ_for_nixl_maps_them() -> None:
    assert layout_differences(OURS, changed(tensor_parallel=2)) == []
