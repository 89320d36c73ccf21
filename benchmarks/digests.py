"""What checking transferred KV blocks by digests costs: ``python benchmarks/digests.py``.

Two parts. Hashing alone: xxh3 (which Segue uses) and crc32 over buffers of a block's size, beside a memory copy. And
whole transfers between two NIXL agents in two processes of this machine, followed by the check of each mode as the
connector makes it: both ends' digests, over gRPC. Figures are the best of several, taken in turns; the ratios are what
carries to other machines.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from segue.kv_transfer.digest import digest_of
from segue.kv_transfer.grpc_server import KvTransferService, serve_kv_transfer
from segue.kv_transfer.offers import Offer, OfferBook
from segue.kv_transfer.paged_cache import PagedCache
from segue.kv_transfer.read_check import DigestMode
from segue.kv_transfer.read_claims import ReadClaim, ReadClaims
from segue.proto.kv_transfer_pb2 import Ticket

MODES: tuple[DigestMode, ...] = ("off", "sampled", "full")
EPOCH = "bench"


def best_s(repeats: int, call: Callable[[], object]) -> float:
    call()
    taken = []
    for _ in range(repeats):
        before_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - before_s)
    return min(taken)


def hashing(block_bytes: int, blocks: int, repeats: int) -> None:
    buffers = [bytearray(block_bytes) for _ in range(blocks)]
    total = block_bytes * blocks
    rows = {
        "copy": lambda: [bytes(buffer) for buffer in buffers],
        "xxh3": lambda: [digest_of(memoryview(buffer)) for buffer in buffers],
        "crc32": lambda: [zlib.crc32(buffer) for buffer in buffers],
    }
    seconds = {name: best_s(repeats, call) for name, call in rows.items()}
    print(f"hashing {blocks} blocks of {block_bytes >> 10} KiB")
    for name, taken_s in seconds.items():
        print(f"  {name:6} {total / taken_s / 1e9:6.2f} GB/s   {taken_s / seconds['xxh3']:5.2f} x xxh3")


def tensors(layers: int, blocks: int, layer_block_bytes: int) -> dict[str, Any]:
    import torch

    return {f"layer.{n}": torch.zeros((blocks, layer_block_bytes), dtype=torch.uint8) for n in range(layers)}


def agent(name: str, cache: dict[str, Any]) -> tuple[Any, Any]:
    from nixl._api import nixl_agent, nixl_agent_config

    made = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    registered = made.register_memory(list(cache.values()))
    return made, registered


def produce(layers: int, blocks: int, layer_block_bytes: int, pipe: Connection) -> None:
    """The other process: memory that NIXL may read, and KvTransfer for the claims."""
    cache = tensors(layers, blocks, layer_block_bytes)
    for number, tensor in enumerate(cache.values()):
        tensor.random_(0, 255).add_(number)
    nixl, registered = agent("producer", cache)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    book = OfferBook(EPOCH)
    server = serve_kv_transfer(KvTransferService(book, PagedCache(cache, 16, "bench"), pulls=False), address)
    descriptors = nixl.get_serialized_descs(registered.trim())
    pipe.send((address, nixl.get_agent_metadata(), descriptors))
    while (name := pipe.recv()) is not None:
        book.add(Offer(name, name, name, tuple(range(blocks)), blocks * 16, float("inf")))
        pipe.send(name)
    server.stop(grace=None).wait()


@dataclass(frozen=True)
class Consumer:
    """This process's end: its cache, the producer's address, and how NIXL reads from there."""

    cache: PagedCache
    address: str
    offers: Connection
    read: Callable[[], None]

    def hand_over(self, claims: ReadClaims, name: str) -> float:
        """Seconds from the claim to its result, with everything on both ends that the mode asks for."""
        blocks = self.cache.blocks
        self.offers.send(name)
        self.offers.recv()
        ticket = Ticket(
            ticket_id=name,
            producer_epoch=EPOCH,
            request_id=name,
            tokens=blocks * 16,
            blocks=blocks,
            address=self.address,
        )
        before_s = time.perf_counter()
        claims.start(ReadClaim(name, ticket, tuple(range(blocks)), 0, 60.0))
        while not claims.take_granted():
            time.sleep(0.0002)
        self.read()
        claims.arrived(name)
        while not (results := claims.take_results()):
            time.sleep(0.0002)
        taken_s = time.perf_counter() - before_s
        if results[0][1].error:
            raise RuntimeError(results[0][1].error)
        time.sleep(0.05)  # For the release, which nobody waits for.
        return taken_s


def transfers(layers: int, blocks: int, layer_block_bytes: int, repeats: int) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    producer = context.Process(target=produce, args=(layers, blocks, layer_block_bytes, theirs), daemon=True)
    producer.start()
    address, metadata, descriptors = ours.recv()
    cache = tensors(layers, blocks, layer_block_bytes)
    nixl, registered = agent("consumer", cache)
    remote = nixl.add_remote_agent(metadata)
    remote_descriptors = nixl.deserialize_descs(descriptors)

    def read() -> None:
        handle = nixl.initialize_xfer("READ", registered.trim(), remote_descriptors, remote)
        nixl.transfer(handle)
        while nixl.check_xfer_state(handle) == "PROC":
            time.sleep(0)
        nixl.release_xfer_handle(handle)

    total_bytes = layers * blocks * layer_block_bytes
    print(f"transfers of {blocks} blocks, {total_bytes / 2**20:.0f} MiB, by NIXL")
    consumer = Consumer(PagedCache(cache, 16, "bench"), address, ours, read)
    by_mode = {mode: ReadClaims(consumer.cache, mode) for mode in MODES}
    taken: dict[DigestMode, list[float]] = {mode: [] for mode in MODES}
    bare: list[float] = []
    for number in range(repeats + 1):  # In turns, so that what else the machine does meets all alike.
        before_s = time.perf_counter()
        read()
        bare.append(time.perf_counter() - before_s)
        for mode, claims in by_mode.items():
            taken[mode].append(consumer.hand_over(claims, f"{mode}-{number}"))
    seconds: dict[str, float] = {"no claim": min(bare[1:])}
    for mode, claims in by_mode.items():
        seconds[mode] = min(taken[mode][1:])
        claims.close()
    for name, taken_s in seconds.items():
        print(f"  {name:8} {taken_s * 1e3:8.2f} ms   {taken_s / seconds['no claim']:5.2f} x no claim")
    ours.send(None)
    producer.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=64, help="of a request; 16 tokens each")
    parser.add_argument("--layer-block-kib", type=int, default=64, help="an 8B model's: 16 tokens, 8 heads, bfloat16")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    layer_block_bytes = given.layer_block_kib << 10
    hashing(layer_block_bytes, given.blocks * given.layers // 4, given.repeats)
    transfers(given.layers, given.blocks, layer_block_bytes, given.repeats)


if __name__ == "__main__":
    main()
