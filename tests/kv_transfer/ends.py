"""The two ends of a gRPC transfer, over loopback and small caches."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import torch

from segue.kv_transfer.connector_config import TransferReport
from segue.kv_transfer.grpc_puller import Claim, GrpcPuller
from segue.kv_transfer.grpc_server import KvTransferService, serve_kv_transfer
from segue.kv_transfer.offers import Offer, OfferBook
from segue.kv_transfer.paged_cache import PagedCache
from segue.proto.kv_transfer_pb2 import KvChunk, PullRequest, Ticket

EPOCH = "epoch-1"
LAYERS = 3
BLOCKS = 24
BLOCK_TOKENS = 4
BLOCK_SHAPE = (2, BLOCK_TOKENS, 5)  # Keys and values, tokens, one head.
WAIT_S = 30.0


def tensors(layers: int = LAYERS, shape: Sequence[int] = BLOCK_SHAPE) -> dict[str, torch.Tensor]:
    return {f"layer.{n}": torch.randn(BLOCKS, *shape) for n in range(layers)}


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def eventually(condition: Callable[[], object], wake: threading.Event | None = None) -> None:
    """Wait until ``condition`` holds; looked at whenever ``wake`` is set, and now and then."""
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s, "it did not come to be in time"
        if wake is not None:
            wake.wait(0.01)
            wake.clear()
        else:
            time.sleep(0.005)


class WatchedCache(PagedCache):
    """Calls ``on_read`` and ``on_write`` with the count of reads or writes so far, before each."""

    on_read: Callable[[int], None] = staticmethod(lambda count: None)
    on_write: Callable[[int], None] = staticmethod(lambda count: None)
    reads = 0
    writes = 0

    def read(self, layer: int, block_ids: Sequence[int]) -> bytes:
        self.on_read(self.reads)
        self.reads += 1
        return super().read(layer, block_ids)

    def write(self, layer: int, block_ids: Sequence[int], payload: bytes) -> None:
        self.on_write(self.writes)
        self.writes += 1
        super().write(layer, block_ids, payload)


Spoil = Callable[[list[KvChunk]], Sequence[KvChunk]]


class SpoiltService(KvTransferService):
    """Sends what ``spoil`` makes of the honest chunks."""

    spoil: Spoil = staticmethod(lambda chunks: chunks)

    def Pull(self, request: PullRequest, context: grpc.ServicerContext) -> Iterator[KvChunk]:
        yield from self.spoil(list(super().Pull(request, context)))


@dataclass
class Producer:
    tensors: dict[str, torch.Tensor] = field(default_factory=tensors)
    service_class: type[KvTransferService] = KvTransferService
    address: str = field(default_factory=free_address)

    def __post_init__(self) -> None:
        self.cache = WatchedCache(self.tensors, BLOCK_TOKENS, "model")
        self.book = OfferBook(EPOCH)
        self.woken = threading.Event()
        self.service = self.service_class(self.book, self.cache, on_release=self.woken.set)
        self.server = serve_kv_transfer(self.service, self.address)

    def offer(self, name: str, block_ids: Sequence[int], lease_s: float = 1000.0) -> Ticket:
        tokens = len(block_ids) * BLOCK_TOKENS - 1
        self.book.add(
            Offer(
                f"kv-{name}", f"req-{name}", f"p-{name}", tuple(block_ids), tokens, time.monotonic() + lease_s, lease_s
            )
        )
        return Ticket(
            ticket_id=f"kv-{name}",
            producer_epoch=EPOCH,
            request_id=f"req-{name}",
            tokens=tokens,
            blocks=len(block_ids),
            lease_s=lease_s,
            address=self.address,
            transport="grpc",
        )

    def wait_freed(self, *names: str) -> None:
        freed = set[str]()

        def all_freed() -> bool:
            taken = self.book.take_over()
            assert not taken & freed, "freed twice"
            freed.update(taken)
            return freed >= {f"p-{name}" for name in names}

        eventually(all_freed, self.woken)

    def stop(self) -> None:
        self.server.stop(grace=None).wait()


class Consumer:
    """``woken`` is to be set by the puller's wake-up, which the fixture sees to."""

    def __init__(self, cache: WatchedCache, own: dict[str, torch.Tensor], woken: threading.Event) -> None:
        self.cache = cache
        self.tensors = own
        self.woken = woken
        self.puller = GrpcPuller(cache)
        self.reports: dict[str, TransferReport] = {}

    def pull(
        self, ticket: Ticket, block_ids: Sequence[int], first_block: int = 0, timeout_s: float = WAIT_S
    ) -> TransferReport:
        name = f"d-{ticket.ticket_id}"
        self.start(ticket, block_ids, first_block, timeout_s)
        return self.wait(name)

    def start(self, ticket: Ticket, block_ids: Sequence[int], first_block: int = 0, timeout_s: float = WAIT_S) -> str:
        name = f"d-{ticket.ticket_id}"
        self.puller.start(Claim(name, ticket, tuple(block_ids), first_block, timeout_s))
        return name

    def collect(self) -> list[str]:
        """Names of claims that have newly ended; fails on one that ends twice."""
        names = []
        for claim, report in self.puller.take_results():
            assert claim.engine_request_id not in self.reports, "reported twice"
            self.reports[claim.engine_request_id] = report
            names.append(claim.engine_request_id)
        return names

    def wait(self, name: str) -> TransferReport:
        def reported() -> bool:
            self.collect()
            return name in self.reports

        eventually(reported, self.woken)
        return self.reports[name]
