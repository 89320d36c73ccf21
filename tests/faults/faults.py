"""The faults, each done to a cluster whose request is in a phase."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest

from segue.proto.kv_transfer_pb2 import PullRequest
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub
from tests.faults.asks import Ask
from tests.faults.cells import BEFORE_CLAIM, BEFORE_VERIFIED, Cell, Fault
from tests.faults.cluster import DRAIN_S, Cluster
from tests.faults.proxy import LinkProxy

# How long a request stays in its phase after the fault: time for it to be noticed there.
_NOTICED_S = 0.4


async def strike(cell: Cell, cluster: Cluster, ask: Ask) -> None:
    """Do it, and return once it has been noticed or can't be any more."""
    fault = cell.fault
    if fault is Fault.DEADLINE:
        await ask.end()
    elif fault is Fault.CLIENT_CANCEL:
        ask.give_up()
    elif fault in {Fault.PREFILL_KILL, Fault.DECODE_KILL}:
        cluster.members[_victim(cell, cluster)].kill()
    elif fault is Fault.ROUTER_KILL:
        cluster.members["router-0"].kill()
    elif fault in {Fault.PREFILL_DRAIN, Fault.DECODE_DRAIN}:
        cluster.members[_victim(cell, cluster)].signal(signal.SIGTERM)
    elif fault is Fault.LEASE_EXPIRY:
        await _stop_the_router(cluster)
    elif fault is Fault.STALE_TICKET:
        await asyncio.to_thread(_present_stale_tickets, cell, cluster)
    else:
        for link in cluster.links.values():
            _spoil(link, fault)
    await asyncio.sleep(_NOTICED_S)


def lasts(fault: Fault) -> bool:
    """Whether what keeps the request in its phase is the fault itself, and stays until the request is over."""
    return fault in {Fault.LINK_CUT, Fault.LINK_STALL}


async def aftermath(cell: Cell, cluster: Cluster) -> None:
    """What the fault itself must come to, besides what every cell is checked for."""
    if cell.fault in {Fault.PREFILL_DRAIN, Fault.DECODE_DRAIN}:
        role = cell.fault.value.partition("_")[0]
        left = None
        for _ in range(int(10 * DRAIN_S)):
            left = next((member.process for member in cluster.of_role(role) if not member.alive), None)
            if left is not None:
                break
            await asyncio.sleep(0.1)
        assert left is not None, f"the drained {role} worker has not left within {DRAIN_S:g} s"
        assert left.returncode == 0, f"the drained {role} worker left with status {left.returncode}"


def _spoil(link: LinkProxy, fault: Fault) -> None:
    if fault is Fault.LINK_CUT:
        link.cut()
    elif fault is Fault.LINK_STALL:
        link.hold()
    else:
        link.corrupt(frames=1)


def _victim(cell: Cell, cluster: Cluster) -> str:
    return cluster.holder(cell.fault.value.partition("_")[0])


async def _stop_the_router(cluster: Cluster) -> None:
    """Nobody renews while it is stopped, and the lease runs out."""
    router = cluster.members["router-0"]
    router.signal(signal.SIGSTOP)
    await asyncio.sleep(cluster.lease_s + 1.0)
    router.signal(signal.SIGCONT)


def _present_stale_tickets(cell: Cell, cluster: Cluster) -> None:
    """Before the claim: it arrives at another life's engine. After it: the ticket is presented again, in three ways."""
    if cell.phase in BEFORE_CLAIM:
        names = list(cluster.links)
        for name, other in zip(names, reversed(names), strict=True):
            cluster.links[name].divert(cluster.kv_address(other))
        return
    name, used = next((name, link.pulls[-1]) for name, link in cluster.links.items() if link.pulls)
    other_epoch, other_request = PullRequest(), PullRequest()
    other_epoch.CopyFrom(used)
    other_epoch.producer_epoch = "0" * len(used.producer_epoch)
    other_request.CopyFrom(used)
    other_request.request_id += "x"
    with grpc.insecure_channel(cluster.kv_address(name)) as channel:
        stub = KvTransferStub(channel)
        for pull, expected in (
            (used, {grpc.StatusCode.NOT_FOUND}),
            (other_epoch, {grpc.StatusCode.FAILED_PRECONDITION}),
            (other_request, {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                next(iter(stub.Pull(pull, timeout=10)))
            assert refused.value.code() in expected, refused.value


def assert_noticed(cell: Cell, cluster: Cluster) -> None:
    """Damage on its way is seen, and said with both digests."""
    damaged = sum(link.corrupted_bytes for link in cluster.links.values())
    if cell.phase not in BEFORE_VERIFIED:
        assert damaged == 0
        return
    assert damaged > 0, "nothing passed that could have been damaged"
    said = "".join(member.said() for member in cluster.of_role("decode"))
    assert "digest" in said, "no decode worker says that digests differ"
