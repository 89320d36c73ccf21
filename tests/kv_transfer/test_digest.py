from __future__ import annotations

import struct

import xxhash
from hypothesis import assume, given
from hypothesis import strategies as st

from segue.kv_transfer.digest import digest_of, digest_of_digests

digests = st.lists(st.integers(0, 2**64 - 1), max_size=20)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_flipped_bit_shows(payload: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    flipped = bytearray(payload)
    flipped[bit // 8] ^= 1 << bit % 8
    assert digest_of(bytes(flipped)) != digest_of(payload)


def test_a_view_and_its_bytes_have_one_digest() -> None:
    assert digest_of(memoryview(b"blocks")) == digest_of(b"blocks")


@given(digests)
def test_the_digest_over_all_is_as_the_contract_says(parts: list[int]) -> None:
    """xxh3-64 over the chunks' digests in order, little-endian: what another implementation would compute."""
    assert digest_of_digests(parts) == xxhash.xxh3_64_intdigest(struct.pack(f"<{len(parts)}Q", *parts))


@given(digests, st.data())
def test_a_missing_a_repeated_and_a_moved_chunk_show(parts: list[int], data: st.DataObject) -> None:
    assume(len(set(parts)) >= 2)
    at = data.draw(st.integers(0, len(parts) - 1))
    whole = digest_of_digests(parts)
    assert digest_of_digests(parts[:at] + parts[at + 1 :]) != whole
    assert digest_of_digests([*parts[: at + 1], *parts[at:]]) != whole
    turned = parts[1:] + parts[:1]
    assert turned == parts or digest_of_digests(turned) != whole
