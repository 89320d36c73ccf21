"""What a pull does when the other end is broken, slow or gone: one report, and no block loaded."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time

import pytest

from segue.kv_transfer import grpc_puller
from segue.proto.kv_transfer_pb2 import Ticket
from tests.faults.proxy import LinkProxy
from tests.kv_transfer.conftest import MakeProducer
from tests.kv_transfer.ends import BLOCKS, EPOCH, WAIT_S, Consumer, Producer, eventually

pytestmark = pytest.mark.usefixtures("small_chunks")

THEIR_BLOCKS = (7, 3, 20, 11, 5)
OUR_BLOCKS = (1, 9, 2, 15, 4)


def test_a_producer_that_is_not_there_is_reported(consumer: Consumer) -> None:
    ticket = Ticket(ticket_id="kv-a", producer_epoch=EPOCH, request_id="req-a", tokens=19, address="127.0.0.1:1")
    assert consumer.pull(ticket, OUR_BLOCKS).error.startswith("UNAVAILABLE")


def test_a_producer_that_stops_in_the_middle_is_reported(producer: Producer, consumer: Consumer) -> None:
    arrived = threading.Event()
    consumer.cache.on_write = lambda count: arrived.set()
    gate = threading.Event()
    producer.cache.on_read = lambda count: None if count < 4 else _wait(gate)
    name = consumer.start(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS)
    _wait(arrived)
    stopped = producer.server.stop(grace=None)
    assert consumer.wait(name).error != ""
    gate.set()
    stopped.wait()


KILLED_PRODUCER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from segue.kv_transfer.digest import digest_of
from segue.proto.kv_transfer_pb2 import KvChunk
from segue.proto.kv_transfer_pb2_grpc import KvTransferServicer, add_KvTransferServicer_to_server

class Stalls(KvTransferServicer):
    def Pull(self, request, context):
        payload = bytes(int(sys.argv[1]))
        yield KvChunk(layer=0, first_block=0, blocks=2, payload=payload, digest=digest_of(payload))
        time.sleep(600)

server = grpc.server(ThreadPoolExecutor(2))
add_KvTransferServicer_to_server(Stalls(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
time.sleep(600)
"""


def test_a_producer_killed_in_the_middle_is_reported(consumer: Consumer) -> None:
    arrived = threading.Event()
    consumer.cache.on_write = lambda count: arrived.set()
    command = [sys.executable, "-c", KILLED_PRODUCER, str(2 * consumer.cache.layer_block_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = f"127.0.0.1:{int(process.stdout.readline())}"
            ticket = Ticket(ticket_id="kv-a", producer_epoch=EPOCH, request_id="req-a", tokens=19, address=address)
            name = consumer.start(ticket, OUR_BLOCKS, timeout_s=600)
            _wait(arrived)
        finally:
            process.kill()
    assert consumer.wait(name).error.startswith("UNAVAILABLE")


def test_a_producer_that_comes_back_is_dialled_again_soon(make_producer: MakeProducer, consumer: Consumer) -> None:
    """At the same address, as with ``--kv-port``. gRPC's own pauses grow from a second to two minutes: here the next
    one would end after some 3.3 s."""
    producer = make_producer()
    assert not consumer.pull(producer.offer("before", THEIR_BLOCKS), OUR_BLOCKS).error
    producer.stop()
    gone_s = time.monotonic()
    while time.monotonic() < gone_s + 6.0:
        name = f"meanwhile-{time.monotonic()}"
        assert consumer.pull(producer.offer(name, THEIR_BLOCKS), OUR_BLOCKS).error
        time.sleep(0.2)
    again = make_producer(address=producer.address)
    tries = 0
    while consumer.pull(again.offer(f"after-{tries}", THEIR_BLOCKS), OUR_BLOCKS).error:
        tries += 1
        assert tries < 58  # 2.9 s, and more where the machine stands still.
        time.sleep(0.05)


def test_a_stalled_pull_ends_by_its_timeout(producer: Producer, consumer: Consumer) -> None:
    gate = threading.Event()
    producer.cache.on_read = lambda count: None if count < 4 else _wait(gate)
    report = consumer.pull(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS, timeout_s=1.0)
    gate.set()
    assert report.error.startswith("DEADLINE_EXCEEDED")
    assert report.seconds > 0.25
    producer.wait_freed("a")


def test_a_link_that_swallows_everything_is_given_up_long_before_the_timeout(
    producer: Producer, consumer: Consumer
) -> None:
    with LinkProxy(producer.address) as link:
        ticket = producer.offer("a", THEIR_BLOCKS)
        ticket.address = link.address
        link.hold_after(200)
        report = consumer.pull(ticket, OUR_BLOCKS, timeout_s=600)
        assert report.error.startswith("UNAVAILABLE")


def test_a_producer_that_hangs_before_the_first_word_is_given_up_as_soon(
    producer: Producer, consumer: Consumer
) -> None:
    """Its kernel still takes the connection; gRPC's own patience with one is 20 s."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        ticket = producer.offer("a", THEIR_BLOCKS)
        ticket.address = f"127.0.0.1:{hung.getsockname()[1]}"
        report = consumer.pull(ticket, OUR_BLOCKS, timeout_s=600)
    assert report.error.startswith("UNAVAILABLE")
    assert report.seconds < 15


def test_a_producer_that_is_merely_slow_is_waited_for(producer: Producer, consumer: Consumer) -> None:
    """Six seconds in which no chunk comes, but its process answers."""
    producer.cache.on_read = lambda count: time.sleep(6) if count == 4 else None
    assert consumer.pull(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS, timeout_s=600).error == ""


def test_a_producer_that_answers_but_sends_nothing_for_a_lease_is_given_up(
    producer: Producer, consumer: Consumer
) -> None:
    """The router renews the lease of a request that is alive, so that alone ends nothing; decode can still compute."""
    gate = threading.Event()
    producer.cache.on_read = lambda count: None if count < 4 else _wait(gate)
    ticket = producer.offer("a", THEIR_BLOCKS)
    ticket.lease_s = 0.3
    report = consumer.pull(ticket, OUR_BLOCKS, timeout_s=600)
    gate.set()
    assert report.error.startswith("STALLED: the producer has sent nothing for 0.3 s")
    producer.wait_freed("a")


def test_a_pull_that_goes_on_may_take_longer_than_a_lease(producer: Producer, consumer: Consumer) -> None:
    producer.cache.on_read = lambda _: time.sleep(0.4)
    ticket = producer.offer("a", THEIR_BLOCKS)
    ticket.lease_s = 3.0
    report = consumer.pull(ticket, OUR_BLOCKS, timeout_s=600)
    assert report.error == ""
    assert report.seconds > ticket.lease_s


def test_the_timeout_counts_from_the_start_not_from_a_free_thread(
    producer: Producer, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    producer.cache.on_read = lambda count: _wait(gate)
    names = [consumer.start(producer.offer(str(n), [n]), [n], timeout_s=3.0) for n in range(2 * grpc_puller._THREADS)]
    reports = [consumer.wait(name) for name in names]
    gate.set()
    assert all(report.error.startswith("DEADLINE_EXCEEDED") for report in reports)
    # Those that had to wait for a thread had next to nothing left when they got one.
    assert all(report.seconds < 3.0 for report in reports[grpc_puller._THREADS :])


def test_cancel_ends_a_pull_that_runs(producer: Producer, consumer: Consumer) -> None:
    gate, arrived = threading.Event(), threading.Event()
    consumer.cache.on_write = lambda count: arrived.set()
    producer.cache.on_read = lambda count: None if count < 4 else _wait(gate)
    name = consumer.start(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS)
    _wait(arrived)
    consumer.puller.cancel(name)
    assert consumer.wait(name).error.startswith("CANCELLED")
    gate.set()
    producer.wait_freed("a")


def test_cancel_ends_a_pull_that_waits_for_a_thread(producer: Producer, consumer: Consumer) -> None:
    gate = threading.Event()
    producer.cache.on_read = lambda count: _wait(gate)
    names = [consumer.start(producer.offer(str(n), [n]), [n]) for n in range(grpc_puller._THREADS + 1)]
    consumer.puller.cancel(names[-1])
    assert consumer.wait(names[-1]).error != ""
    assert len(consumer.reports) == 1
    gate.set()
    assert all(consumer.wait(name).error == "" for name in names[:-1])
    producer.wait_freed(*(str(n) for n in range(len(names))))


def test_cancel_of_what_is_over_or_unknown_does_nothing(producer: Producer, consumer: Consumer) -> None:
    consumer.puller.cancel("nobody")
    name = consumer.start(producer.offer("a", THEIR_BLOCKS), OUR_BLOCKS)
    assert consumer.wait(name).error == ""
    consumer.puller.cancel(name)
    assert consumer.pull(producer.offer("b", THEIR_BLOCKS), OUR_BLOCKS).error == ""
    assert consumer.collect() == []


@pytest.mark.parametrize("seed", range(5))
def test_each_claim_reports_once_and_writes_nothing_after(producer: Producer, consumer: Consumer, seed: int) -> None:
    """Cancelled at any moment. A block is the engine's again from the report on: whatever it writes must stay."""
    chance = random.Random(seed)
    consumer.cache.on_write = lambda count: time.sleep(chance.random() / 500)
    blocks_of = {}
    for number in range(BLOCKS // 2):
        blocks = [2 * number, 2 * number + 1]
        ticket = producer.offer(str(number), blocks)
        blocks_of[consumer.start(ticket, blocks)] = blocks

    def all_reported() -> bool:
        for name in chance.sample(sorted(blocks_of), 2):
            consumer.puller.cancel(name)
        for name in consumer.collect():
            for tensor in consumer.tensors.values():
                tensor[blocks_of[name]] = 42.0
        return len(consumer.reports) == len(blocks_of)

    eventually(all_reported, consumer.woken)
    producer.wait_freed(*(str(number) for number in range(BLOCKS // 2)))
    assert all(tensor.eq(42.0).all() for tensor in consumer.tensors.values())
    assert consumer.collect() == []


def _wait(event: threading.Event) -> None:
    assert event.wait(WAIT_S)
