"""KvTransfer: engines give KV to workers of their own cluster, and take it from whom the ticket names."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
import torch

from segue.base.identity import Kind, worker_dns
from segue.base.tls import TlsSource
from segue.kv_transfer import grpc_puller
from segue.kv_transfer.grpc_puller import GrpcPuller
from segue.kv_transfer.grpc_server import serve_kv_transfer
from segue.proto.kv_transfer_pb2 import DigestRequest, PullRequest, ReleaseRequest, RenewRequest, Ticket
from tests.kv_transfer.ends import BLOCK_TOKENS, EPOCH, Consumer, Producer, WatchedCache, tensors
from tests.security.mesh import Authority
from tests.security.peers import grpc_outcome, outsiders, plain_bytes

METHODS = ("Pull", "Release", "Renew", "Digest")


class Ends:
    """A producer and consumers with TLS."""

    def __init__(self, tls: TlsSource) -> None:
        self.producer = Producer()
        self.producer.stop()
        self.serve(tls)
        self._consumers: list[Consumer] = []

    def serve(self, tls: TlsSource) -> None:
        self.producer.server = serve_kv_transfer(self.producer.service, self.producer.address, tls)

    def consumer(self, tls: TlsSource | None) -> Consumer:
        own = tensors()
        made = Consumer(WatchedCache(own, BLOCK_TOKENS, "model"), own, threading.Event())
        made.puller.close()
        made.puller = GrpcPuller(made.cache, tls)
        self._consumers.append(made)
        return made

    def offer(self, name: str, producer_id: str = "prefill-0") -> Ticket:
        ticket = self.producer.offer(name, [3, 1, 4])
        ticket.producer_id = producer_id
        return ticket

    def stop(self) -> None:
        for consumer in self._consumers:
            consumer.puller.close()
        self.producer.stop()


@pytest.fixture
def ends(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    monkeypatch.setattr(grpc_puller, "wake_engine", lambda: None)
    made = Ends(ours.source("prefill", "prefill-0"))
    yield made
    made.stop()


def pulled(ends: Ends, consumer: Consumer) -> bool:
    names = ends.producer.tensors
    return all(torch.equal(consumer.tensors[name][[0, 1, 2]], names[name][[3, 1, 4]]) for name in names)


def request_for(ticket: Ticket, method: str, ends: Ends) -> object:
    name, epoch = ticket.ticket_id, EPOCH
    layout = ends.producer.cache.layout
    return {
        "Pull": PullRequest(ticket_id=name, producer_epoch=epoch, request_id=ticket.request_id, layout=layout),
        "Release": ReleaseRequest(ticket_id=name, producer_epoch=epoch, reason="cancelled"),
        "Renew": RenewRequest(ticket_ids=[name], producer_epoch=epoch),
        "Digest": DigestRequest(
            ticket_id=name, producer_epoch=epoch, request_id=ticket.request_id, layout=layout, blocks=[0]
        ),
    }[method]


async def test_outsiders_get_and_change_nothing(ends: Ends, ours: Authority, strangers: Authority) -> None:
    ticket, address = ends.offer("a"), ends.producer.address
    dns = worker_dns("prefill-0")
    for who, tls in outsiders(ours, strangers):
        for method in METHODS:
            asked = request_for(ticket, method, ends)
            code, _ = await grpc_outcome(address, tls, dns, f"/segue.v1.KvTransfer/{method}", asked)
            assert code == grpc.StatusCode.UNAVAILABLE, (who, method)
    kinds: tuple[Kind, ...] = ("client", "router", "operator")
    for kind in kinds:
        for method in METHODS:
            asked = request_for(ticket, method, ends)
            tls = ours.source(kind, "x")
            code, details = await grpc_outcome(address, tls, dns, f"/segue.v1.KvTransfer/{method}", asked)
            assert (code, f"segue://{kind}/x" in details) == (grpc.StatusCode.PERMISSION_DENIED, True), method
    assert plain_bytes(int(address.rpartition(":")[2])) == b""
    consumer = ends.consumer(ours.source("decode", "decode-0"))
    assert consumer.pull(ticket, [0, 1, 2]).error == ""
    assert pulled(ends, consumer)


def test_a_producer_other_than_the_tickets_gets_no_claim(ends: Ends, ours: Authority, strangers: Authority) -> None:
    consumer = ends.consumer(ours.source("decode", "decode-0"))
    before = {name: tensor.clone() for name, tensor in consumer.tensors.items()}
    report = consumer.pull(ends.offer("a", producer_id="prefill-1"), [0, 1, 2])
    assert "Hostname Verification Check failed" in report.error
    ends.producer.stop()
    ends.serve(strangers.trusting(ours, "prefill", "prefill-0"))
    report = consumer.pull(ends.offer("b"), [0, 1, 2])
    assert "CERTIFICATE_VERIFY_FAILED" in report.error
    assert all(torch.equal(before[name], consumer.tensors[name]) for name in before)


def test_rotated_certificates_serve_and_pull_without_a_restart(ends: Ends, ours: Authority) -> None:
    files = ours.files("decode", "decode-0", expired=True)
    consumer = ends.consumer(TlsSource(files))
    refused = consumer.pull(ends.offer("a"), [0, 1, 2])
    assert refused.error.startswith("UNAVAILABLE")
    ours.files("decode", "decode-0")
    assert consumer.pull(ends.offer("b"), [0, 1, 2]).error == ""

    own = ours.files("prefill", "prefill-0", expired=True)
    ends.producer.stop()
    ends.serve(TlsSource(own))
    late = ends.consumer(ours.source("decode", "decode-1"))
    assert "certificate has expired" in late.pull(ends.offer("c"), [0, 1, 2]).error
    ours.files("prefill", "prefill-0")
    other = ends.consumer(ours.source("decode", "decode-2"))
    assert other.pull(ends.offer("d"), [0, 1, 2]).error == ""
    assert pulled(ends, other)
