"""Transfers over gRPC that bring something else than was sent: always reported, never decoded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from segue.kv_transfer.digest import digest_of, digest_of_digests
from segue.proto.kv_transfer_pb2 import KvChunk
from tests.kv_transfer.conftest import MakeProducer
from tests.kv_transfer.ends import BLOCKS, Consumer, Producer, Spoil, SpoiltService

pytestmark = pytest.mark.usefixtures("small_chunks")

THEIR_BLOCKS = (7, 3, 20, 11, 5)
OUR_BLOCKS = (1, 9, 2, 15, 4)
CHUNKS_OF_A_LAYER = 3


def with_digests(chunks: Sequence[KvChunk]) -> list[KvChunk]:
    """As an honest but confused producer would send them: every digest is right."""
    sealed = []
    for number, chunk in enumerate(chunks, start=1):
        copy = KvChunk()
        copy.CopyFrom(chunk)
        copy.digest = digest_of(copy.payload)
        copy.last = number == len(chunks)
        sealed.append(copy)
    sealed[-1].digest_of_all = digest_of_digests(chunk.digest for chunk in sealed)
    return sealed


def flip_a_bit(chunks: list[KvChunk]) -> list[KvChunk]:
    payload = bytearray(chunks[4].payload)
    payload[17] ^= 1
    chunks[4].payload = bytes(payload)
    return chunks


def wrong_digest_of_all(chunks: list[KvChunk]) -> list[KvChunk]:
    chunks[-1].digest_of_all ^= 1
    return chunks


def without_last_mark(chunks: list[KvChunk]) -> list[KvChunk]:
    chunks[-1].last = False
    return chunks


def moved(chunks: list[KvChunk], **fields: int) -> list[KvChunk]:
    for name, value in fields.items():
        setattr(chunks[1], name, value)
    return with_digests(chunks)


def truncated(chunks: list[KvChunk]) -> list[KvChunk]:
    chunks[1].payload = chunks[1].payload[:-4]
    return with_digests(chunks)


SPOILT: dict[str, Spoil] = {
    "a bit flipped": flip_a_bit,
    "a chunk missing": lambda chunks: [*chunks[:4], *chunks[5:]],
    "a chunk missing, digests right": lambda chunks: with_digests([*chunks[:4], *chunks[5:]]),
    "the end missing": lambda chunks: chunks[:-1],
    "a chunk twice": lambda chunks: [*chunks[:4], *chunks[3:]],
    "a chunk twice in another's place": lambda chunks: with_digests([*chunks[:4], chunks[3], *chunks[5:]]),
    "two chunks the other way round": lambda chunks: with_digests([chunks[1], chunks[0], *chunks[2:]]),
    "more after the last": lambda chunks: [*chunks, chunks[-1]],
    "another digest of all": wrong_digest_of_all,
    "no last mark": without_last_mark,
    "nothing at all": lambda chunks: [],
    "a layer there is not": lambda chunks: moved(chunks, layer=99),
    "blocks past the end": lambda chunks: moved(chunks, first_block=100),
    "more blocks than asked for": lambda chunks: moved(chunks, blocks=50),
    "no blocks": lambda chunks: moved(chunks, blocks=0),
    "a payload too short": truncated,
}


@pytest.fixture
def spoilt(make_producer: MakeProducer) -> Producer:
    return make_producer(service_class=SpoiltService)


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("first_block", [0, 1])
def test_what_is_not_what_was_sent_is_reported_as_failed(
    spoilt: Producer, consumer: Consumer, how: str, first_block: int
) -> None:
    before = {name: tensor.clone() for name, tensor in consumer.tensors.items()}
    assert isinstance(spoilt.service, SpoiltService)
    spoilt.service.spoil = SPOILT[how]
    report = consumer.pull(spoilt.offer("a", THEIR_BLOCKS), OUR_BLOCKS, first_block)
    assert report.error != ""
    assert report.bytes == 0
    untouched = [block for block in range(BLOCKS) if block not in OUR_BLOCKS[first_block:]]
    for name, tensor in consumer.tensors.items():
        assert torch.equal(tensor[untouched], before[name][untouched]), "a block of another request was written"
    spoilt.wait_freed("a")


def test_a_flipped_bit_is_told_by_place_and_both_digests(spoilt: Producer, consumer: Consumer) -> None:
    assert isinstance(spoilt.service, SpoiltService)
    spoilt.service.spoil = flip_a_bit
    error = consumer.pull(spoilt.offer("a", THEIR_BLOCKS), OUR_BLOCKS).error
    assert error.startswith("layer 1 block 2: digest of what arrived is ")


def test_a_fault_of_the_consumers_own_is_reported_too(producer: Producer, consumer: Consumer) -> None:
    """The engine holds the request until the report comes; a thread that only dies would hold it for ever."""

    def fail(count: int) -> None:
        raise RuntimeError("out of device memory")

    consumer.cache.on_write = fail
    assert "out of device memory" in consumer.pull(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS).error
    producer.wait_freed("a")
