"""One schedule: two or three requests, a prefill worker, two decode workers and a router, and what happens to them.

Everything follows from the seed. When nothing is left to happen every lease has passed and every living process must
have all of its blocks back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from segue.kv_transfer.read_check import DigestMode
from tests.kv_transfer.simulation.consumer import Consumer
from tests.kv_transfer.simulation.producer import Producer
from tests.kv_transfer.simulation.router import Open, Router
from tests.kv_transfer.simulation.world import Faults, Violation, World

_DEADLINE_S = 9.0
_MODES: tuple[DigestMode | None, ...] = (None, *get_args(DigestMode))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How decode came by the KV of the requests it ran: by the hand-off, or by computing the prompt itself."""

    loaded: int
    recomputed: int


class Cluster:
    def __init__(self, world: World) -> None:
        self.world = world
        self.producers = {"p": Producer(world, "p", "e0")}
        self.consumers = {"c0": Consumer(world, self.producers), "c1": Consumer(world, self.producers)}
        self.router = Router(world, self.producers, self.consumers)
        self._past: list[Consumer] = []

    def start(self, request: Open) -> None:
        self.router.start(request)

    def cancel(self, request_id: str) -> None:
        self.router.end(request_id)

    def kill_producer(self) -> None:
        lost = self.producers["p"]
        lost.alive = False
        self.producers["p"] = Producer(self.world, "p", f"e{int(lost.epoch[1:]) + 1}")
        self.world.soon(lambda: self.router.producer_lost("p", lost.epoch))

    def kill_consumer(self, name: str) -> None:
        lost = self.consumers[name]
        lost.alive = False
        self._past.append(lost)
        self.consumers[name] = Consumer(self.world, self.producers)
        self.world.soon(lambda: self.router.consumer_lost(name))

    def kill_router(self) -> None:
        self.router.alive = False
        self.router = Router(self.world, self.producers, self.consumers)
        for consumer in self.consumers.values():
            self.world.soon(consumer.router_lost)

    def check_at_rest(self) -> None:
        memories = [each.memory for each in self.producers.values()] + [each.memory for each in self.consumers.values()]
        for memory in memories:
            if memory.held:
                raise Violation(f"blocks of {memory.held} were never freed")
        if len(book := self.producers["p"].book):
            raise Violation(f"{len(book)} offers are still held")

    def outcome(self) -> Outcome:
        every = [*self.consumers.values(), *self._past]
        return Outcome(sum(each.loaded for each in every), sum(each.recomputed for each in every))


def run(seed: int, faults: Faults | None = None) -> Outcome:
    """Run the schedule of ``seed``.

    Raises:
        Violation: a block had two owners, leaked, or was decoded with anything but its own verified content in it.
    """
    world = World(seed, faults)
    cluster, rng, faults = Cluster(world), world.rng, world.faults
    for number in range(rng.randint(1, 3)):
        begins_s = rng.random() * 3.0
        request = Open(f"r{number}", rng.randint(1, 3), rng.choice(_MODES), begins_s + _DEADLINE_S)
        world.after(begins_s, cluster.start, request)
        if faults.cancel and rng.random() < faults.cancel:
            world.after(begins_s + rng.random() * 4.0, cluster.cancel, request.request_id)
    kills = (cluster.kill_producer, cluster.kill_router)
    for kill in kills:
        if faults.crash and rng.random() < faults.crash:
            world.after(rng.random() * 5.0, kill)
    if faults.crash and rng.random() < faults.crash:
        world.after(rng.random() * 5.0, cluster.kill_consumer, rng.choice(("c0", "c1")))
    world.run()
    cluster.check_at_rest()
    return cluster.outcome()
