"""Who leaves when a pool shrinks, and when its Deployment may follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from segue.operator.shrink import Load, PoolSize, Worker, resize

NOW_S = 1000.0
DRAIN_S = 120.0


def worker(pod: str, requests: int = 0, **more: object) -> Worker:
    base = Worker(pod, ip="10.0.0.1", ready=True, started_s=1.0, load=Load(requests=requests))
    return replace(base, **more)  # type: ignore[arg-type]


def size(desired: int, *workers: Worker, replicas: int | None = None, rolling: bool = False) -> PoolSize:
    return PoolSize(desired, len(workers) if replicas is None else replicas, workers, DRAIN_S, rolling)


def marked(pod: str, requests: int = 0, *, since_s: float = NOW_S - 1, draining: bool = True) -> Worker:
    return worker(pod, leaving_since_s=since_s, ready=not draining, load=Load(requests=requests, draining=draining))


def test_grows_at_once() -> None:
    done = resize(size(3, worker("a")), NOW_S)
    assert (done.replicas, done.mark, done.settled) == (3, (), False)


def test_the_worker_with_the_least_to_do_is_marked_and_nothing_else_happens_yet() -> None:
    done = resize(size(2, worker("a", 3), worker("b", 1), worker("c", 2)), NOW_S)
    assert (done.replicas, done.mark, done.tell) == (3, ("b",), ())


def test_held_tickets_are_work_too() -> None:
    idle, holding = worker("a", 1), worker("b", load=Load(offers=2))
    assert resize(size(1, idle, holding), NOW_S).mark == ("a",)


def test_one_that_is_not_ready_goes_first_because_kubernetes_would_take_it_first() -> None:
    starting = worker("b", ready=False, started_s=None, load=None)
    assert resize(size(1, worker("a"), starting), NOW_S).mark == ("b",)


def test_one_that_was_named_goes_before_all_others() -> None:
    named = worker("b", 9, named_since_s=NOW_S - 1)
    starting = worker("c", ready=False, started_s=None, load=None)
    assert resize(size(2, worker("a"), named, starting), NOW_S).mark == ("b",)


def test_a_name_that_no_shrink_has_followed_is_taken_back_after_a_while() -> None:
    named = worker("b", named_since_s=NOW_S)
    assert resize(size(2, worker("a"), named), NOW_S + 30).recall == (), "the number may be written any moment"
    late = resize(size(2, worker("a"), named), NOW_S + 61)
    assert (late.recall, late.mark, late.replicas, late.settled) == (("b",), (), 2, True)
    shrinks = resize(size(1, worker("a"), named, rolling=True), NOW_S + 61)
    assert shrinks.recall == (), "it waits for the roll-out"


def test_one_that_serves_and_does_not_say_how_much_goes_last() -> None:
    assert resize(size(1, worker("a", load=None), worker("b", 50)), NOW_S).mark == ("b",)


def test_a_marked_worker_is_told_until_it_drains() -> None:
    told = resize(size(1, worker("a"), marked("b", 1, draining=False)), NOW_S)
    assert (told.tell, told.replicas) == (("b",), 2)
    assert resize(size(1, worker("a"), marked("b", 1)), NOW_S).tell == ()


def test_the_deployment_follows_once_the_worker_is_empty() -> None:
    assert resize(size(1, worker("a"), marked("b", 1)), NOW_S).replicas == 2
    assert resize(size(1, worker("a"), marked("b", 0)), NOW_S).replicas == 1


def test_idle_is_not_empty_until_the_worker_takes_nothing_new() -> None:
    assert resize(size(1, worker("a"), marked("b", 0, draining=False)), NOW_S).replicas == 2


def test_one_that_was_started_again_since_has_left() -> None:
    again = worker("b", leaving_since_s=NOW_S - 5, started_s=NOW_S - 2, load=None, ready=False)
    assert resize(size(1, worker("a"), again), NOW_S).replicas == 1


def test_one_that_does_not_answer_is_waited_for_until_its_time_is_up() -> None:
    silent = worker("b", leaving_since_s=NOW_S, load=None)
    pool = size(1, worker("a"), silent)
    assert resize(pool, NOW_S + DRAIN_S).replicas == 2
    late = resize(pool, NOW_S + DRAIN_S + 11)
    assert (late.replicas, late.timed_out) == (1, ("b",))


def test_of_several_that_leave_those_that_are_empty_go_without_waiting_for_the_others() -> None:
    done = resize(size(1, worker("a"), marked("b", 0), marked("c", 4)), NOW_S)
    assert done.replicas == 2


def test_the_busiest_may_stay_when_the_pool_is_to_be_larger_again() -> None:
    pool = size(2, worker("a"), marked("b", 1, draining=False), marked("c", 5, draining=False))
    done = resize(pool, NOW_S)
    assert (done.recall, done.tell) == (("c",), ("b",))


def test_all_marks_go_when_nobody_has_to_leave_any_more() -> None:
    done = resize(size(2, worker("a"), marked("b", 1), replicas=2), NOW_S)
    assert (done.recall, done.replicas, done.tell) == (("b",), 2, ())


def test_nobody_is_marked_while_pods_are_replaced_by_newer_ones() -> None:
    workers = worker("a"), worker("b"), worker("new", ready=False)
    done = resize(size(1, *workers, replicas=2, rolling=True), NOW_S)
    assert (done.mark, done.replicas) == ((), 2)


def test_pods_that_were_never_made_are_given_up_at_once() -> None:
    assert resize(size(2, worker("a"), worker("b"), replicas=5), NOW_S).replicas == 2


def test_is_settled_when_all_is_as_it_should_be() -> None:
    assert resize(size(2, worker("a"), worker("b")), NOW_S).settled


@dataclass
class Simulation:
    """A ReplicaSet, its workers, and an operator that forgets everything between two looks."""

    workers: dict[str, Worker] = field(default_factory=dict)
    replicas: int = 3
    now_s: float = NOW_S
    made: int = 0
    lost: list[str] = field(default_factory=list)

    def look(self, desired: int) -> bool:
        pool = PoolSize(desired, self.replicas, tuple(self.workers.values()), DRAIN_S)
        done = resize(pool, self.now_s)
        for pod in done.mark:
            self.workers[pod] = replace(self.workers[pod], leaving_since_s=self.now_s)
        for pod in done.recall:
            self.workers[pod] = replace(self.workers[pod], leaving_since_s=None)
        for pod in done.tell:
            load = self.workers[pod].load
            assert load is not None
            self.workers[pod] = replace(self.workers[pod], ready=False, load=replace(load, draining=True))
        self.replicas = done.replicas
        return done.settled

    def controller(self) -> None:
        """As a ReplicaSet's: pods that aren't ready go first, then those of the lowest deletion cost."""
        while len(self.workers) < self.replicas:
            self.made += 1
            pod = f"w{self.made}"
            self.workers[pod] = worker(pod, started_s=self.now_s)
        order = sorted(self.workers.values(), key=lambda one: (one.ready, not one.leaving))
        for one in order[: max(0, len(self.workers) - self.replicas)]:
            assert one.load is not None
            timed_out = one.leaving_since_s is not None and self.now_s - one.leaving_since_s > DRAIN_S
            if one.load.requests and not timed_out:
                self.lost.append(one.pod)
            del self.workers[one.pod]

    def kubelet(self) -> None:
        """Starts again what has drained and exited."""
        for pod, one in self.workers.items():
            if one.load is not None and one.load.empty:
                self.workers[pod] = worker(pod, started_s=self.now_s, leaving_since_s=one.leaving_since_s)

    def finish(self, number: int) -> None:
        """One request of one worker ends; one that doesn't drain takes a new one now and then."""
        if self.workers:
            pod = sorted(self.workers)[number % len(self.workers)]
            one = self.workers[pod]
            assert one.load is not None
            change = -1 if one.load.draining or number % 3 else 2
            requests = max(0, one.load.requests + change)
            self.workers[pod] = replace(one, load=replace(one.load, requests=requests))


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("desired"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["look", "controller", "kubelet"]), st.just(0)),
        st.tuples(st.just("finish"), st.integers(0, 20)),
        st.tuples(st.just("time"), st.integers(1, 40)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(_EVENTS)
def test_whatever_happens_in_whatever_order_no_work_is_lost_and_the_pool_settles(events: list[tuple[str, int]]) -> None:
    world = Simulation()
    world.controller()
    desired = 3
    for event, number in events:
        match event:
            case "desired":
                desired = number
            case "look":
                world.look(desired)
            case "controller":
                world.controller()
            case "kubelet":
                world.kubelet()
            case "finish":
                world.finish(number)
            case "time":
                world.now_s += number
    for _ in range(60):
        settled = world.look(desired)
        world.controller()
        world.now_s += 5
        if settled and len(world.workers) == desired:
            break
        world.kubelet()
        for pod, one in world.workers.items():
            if one.load is not None and one.load.draining:
                world.workers[pod] = replace(one, load=replace(one.load, requests=0))
    assert (len(world.workers), world.replicas) == (desired, desired)
    assert not world.lost
