"""Two routers and their workers, without a wire: what one has in hand the other one knows, and forgets with it."""

from __future__ import annotations

from collections.abc import Sequence

from segue.proto.worker_pb2 import EngineFacts, Register, Role, RouterBacklog, Status, WorkerState
from segue.router.scaling.all_routers import AllRouters
from segue.router.scaling.pool_load import Backlog, Queue
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks

STATUS = Status(state=WorkerState.WORKER_STATE_READY, facts=EngineFacts(engine="e"))


class OneRouter:
    """With a link to each worker, and a queue of so many prompt tokens."""

    def __init__(self, name: str, workers: Sequence[str]) -> None:
        self.links = WorkerLinks()
        self.queue = Queue()
        self.all = AllRouters(name, self.links, lambda: self.queue)
        for worker in workers:
            self.attach(worker)

    def attach(self, worker: str) -> None:
        link = WorkerLink(Register(worker_id=worker, epoch="e", role=Role.ROLE_PREFILL))
        link.status, link.assigned_requests = STATUS, 1  # Busy: what waits waits for it.
        self.links.add(link)

    def lose(self, worker: str) -> None:
        self.links.remove(self.link(worker))

    def link(self, worker: str) -> WorkerLink:
        link = self.links.get(worker)
        assert link is not None
        return link

    def told(self, worker: str) -> RouterBacklog | None:
        """What has been put into the frame for the worker since the last look."""
        frame = self.link(worker)._frame
        backlog = frame.backlog if frame.HasField("backlog") else None
        self.link(worker)._frame.ClearField("backlog")
        return backlog

    def knows(self) -> Backlog:
        return self.all.backlog(self.links.snapshot())


def test_two_workers_are_told_once_of_each_change() -> None:
    router = OneRouter("a", ["p0", "p1", "p2"])
    router.all.tell()
    assert [router.told(name) for name in ("p0", "p1", "p2")] == [None] * 3, "nothing in hand, nothing to tell"
    router.queue = Queue(1, 1000)
    router.all.tell()
    backlog = RouterBacklog(router_id="a", number=1, prefill_tokens=1000)
    assert [router.told(name) for name in ("p0", "p1", "p2")] == [backlog, backlog, None]
    router.all.tell()
    assert [router.told(name) for name in ("p0", "p1", "p2")] == [None] * 3
    router.queue = Queue()
    router.all.tell()
    over = RouterBacklog(router_id="a", number=2)
    assert [router.told(name) for name in ("p0", "p1", "p2")] == [over, over, None]


def test_a_worker_that_is_lost_has_a_successor_that_is_told_at_once() -> None:
    router = OneRouter("a", ["p0", "p1", "p2"])
    router.queue = Queue(1, 1000)
    router.all.tell()
    router.lose("p0")
    router.all.tell()
    assert router.told("p2") == RouterBacklog(router_id="a", number=1, prefill_tokens=1000)


def test_a_router_knows_what_another_one_has_until_no_worker_tells_of_it() -> None:
    router = OneRouter("a", ["p0", "p1"])
    router.queue = Queue(1, 1000)
    router.link("p0").other_routers = [RouterBacklog(router_id="b", number=3, prefill_tokens=500, decode_requests=2)]
    router.link("p1").other_routers = [
        RouterBacklog(router_id="b", number=2, prefill_tokens=9000),
        RouterBacklog(router_id="a", number=1, prefill_tokens=1000),  # Ourselves, reached by another name.
    ]
    assert router.knows() == Backlog(1500.0, 2)
    router.lose("p0")
    assert router.knows() == Backlog(10000.0), "the older word, until the next comes"
    router.link("p1").other_routers = []
    assert router.knows() == Backlog(1000.0)
