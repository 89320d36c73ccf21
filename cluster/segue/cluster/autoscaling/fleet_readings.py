"""What all routers' ``segue.v1.Fleet`` say, as the one picture that the scaling policy looks at. No I/O.

A worker's own figures cover all routers' work and count once. What a router has sent it and not yet seen computed is
known to that router alone, without what the worker has cached, and is added up. So is what waits in routers' queues.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from segue.cluster.scaling.readings import Cluster, RouterReading, WorkerPhase, WorkerReading, merge
from segue.proto.fleet_pb2 import FleetState, FleetWorker
from segue.proto.worker_pb2 import (
    WORKER_STATE_DRAINING,
    WORKER_STATE_READY,
    Role,
    WorkerState,
)

# A worker that has nothing to do says so at least this often, and a router is asked more often.
STALE_AFTER_S = 15.0
# A cold engine's first steps measure its compiler.
_LEAST_STEPS = 20
_PHASES: dict[WorkerState, WorkerPhase] = {WORKER_STATE_READY: "ready", WORKER_STATE_DRAINING: "draining"}


@dataclass(frozen=True, slots=True)
class Look:
    """What one router said, and when that was heard on the clock of whoever asks."""

    state: FleetState
    heard_s: float


def fleet_readings(looks: Iterable[Look], now_s: float, stale_after_s: float = STALE_AFTER_S) -> Cluster | None:
    """The picture at ``now_s``; None if no router has said anything within ``stale_after_s``.

    Of several looks of one router the latest counts. A router's name is its ``router_id``: processes that share one
    count as one. A pace that no worker could keep is taken as not promised: it is no reason for more workers.
    """
    latest: dict[str, Look] = {}
    for look in looks:
        known = latest.get(look.state.router_id)
        if now_s - look.heard_s <= stale_after_s and (known is None or look.heard_s > known.heard_s):
            latest[look.state.router_id] = look
    fresh = list(latest.values())
    queue = _queue(fresh)
    combined = _Combined(fresh, queue.for_decode)
    return merge((_router(look, queue, combined) for look in fresh), now_s, stale_after_s)


def itl_target_s(states: Iterable[FleetState]) -> float:
    """The shortest time between tokens that a class with requests is promised, or any class if none has some; 0: no
    class is promised a pace."""
    promised = [one for state in states for one in state.classes if one.promised_tokens_per_s]
    asked = [
        one
        for one in promised
        if one.running_requests or one.queued_requests or one.rates.arriving_requests_per_s or one.rates.requests_per_s
    ]
    return 1 / max(one.promised_tokens_per_s for one in asked or promised) if promised else 0.0


def pace_out_of_reach(states: Sequence[FleetState]) -> bool:
    """Whether no decode worker keeps the promised pace with one request alone: no number of workers would."""
    itl_s = itl_target_s(states)
    steps = [one.step for state in states for one in state.workers if _is_measured_decode(one)]
    return bool(itl_s and steps) and all(step.fixed_s + step.per_request_s > itl_s for step in steps)


def _is_measured_decode(worker: FleetWorker) -> bool:
    return worker.role == Role.ROLE_DECODE and worker.step.samples >= _LEAST_STEPS


@dataclass(frozen=True, slots=True)
class _Queue:
    """What requests in routers' queues wait for. ``for_decode`` requests a decode worker in the mean."""

    for_prefill: bool
    for_decode: float


def _queue(looks: Sequence[Look]) -> _Queue:
    """While a prefill worker stands idle nothing waits for prefill: it waits for places or blocks in decode."""
    given: dict[str, int] = defaultdict(int)
    decode = set()
    for look in looks:
        for worker in look.state.workers:
            if worker.state != WORKER_STATE_READY:
                continue
            if worker.role == Role.ROLE_PREFILL:
                given[worker.worker_id] += worker.assigned_requests
            elif worker.role == Role.ROLE_DECODE:
                decode.add(worker.worker_id)
    idle = any(not requests for requests in given.values())
    queued = sum(look.state.queued_requests for look in looks)
    return _Queue(not idle, queued / len(decode) if idle and decode else 0.0)


class _Combined:
    """Of each worker's life what only all routers together know."""

    def __init__(self, looks: Sequence[Look], queued: float) -> None:
        states = [look.state for look in looks]
        self.pace_out_of_reach = pace_out_of_reach(states)
        self.itl_s = 0.0 if self.pace_out_of_reach else itl_target_s(states)
        self.queued = queued
        self._backlog: dict[tuple[str, str], int] = defaultdict(int)
        self._ready_for_s: dict[tuple[str, str], float] = defaultdict(float)
        for look in looks:
            for worker in look.state.workers:
                life = worker.worker_id, worker.epoch
                self._backlog[life] += worker.assigned_prefill_tokens
                self._ready_for_s[life] = max(self._ready_for_s[life], worker.ready_for_s)

    def reading(self, worker: FleetWorker, heard_s: float) -> WorkerReading:
        life = worker.worker_id, worker.epoch
        base = WorkerReading(
            worker_id=worker.worker_id,
            epoch=worker.epoch,
            pool="prefill" if worker.role == Role.ROLE_PREFILL else "decode",
            phase=_PHASES.get(worker.state, "starting"),
            read_s=heard_s - worker.heard_s_ago,
            ready_for_s=self._ready_for_s[life],
        )
        if base.pool == "prefill":
            # By its own steps, in which all routers' prompts are; what one router measures is its own part.
            rate = worker.step_prompt_tokens_per_s or worker.prefill_tokens_per_s
            return replace(base, backlog_tokens=float(self._backlog[life]), tokens_per_s=rate)
        return self._decode(base, worker)

    def _decode(self, base: WorkerReading, worker: FleetWorker) -> WorkerReading:
        load, facts = worker.load, worker.facts
        queued = self.queued if base.phase == "ready" else 0.0
        waiting = load.waiting_requests + queued
        used = max(0, facts.kv_blocks - load.free_blocks)
        each = used / load.running_requests if load.running_requests else 0.0
        batch = self._batch_at_slo(worker)
        fitting = min(batch, facts.kv_blocks / each) if each else batch
        step_s = worker.step.fixed_s + worker.step.per_request_s * fitting
        return replace(
            base,
            kv_use=(used + waiting * each) / facts.kv_blocks if facts.kv_blocks else 0.0,
            running=load.running_requests + waiting,
            running_at_slo=batch or float(facts.max_running_requests),
            tokens_per_s=fitting / step_s if batch else 0.0,
        )

    def _batch_at_slo(self, worker: FleetWorker) -> float:
        """The largest batch whose steps keep the pace that is promised; 0 if that isn't known. A line without a fixed
        part was measured at one batch size alone, and tells nothing of others."""
        step, most = worker.step, float(worker.facts.max_running_requests)
        if step.samples < _LEAST_STEPS or step.fixed_s <= 0 or step.per_request_s <= 0:
            return 0.0
        if not self.itl_s:
            return most
        batch = max(1.0, (self.itl_s - step.fixed_s) / step.per_request_s)
        return min(batch, most) if most else batch


def _router(look: Look, queue: _Queue, combined: _Combined) -> RouterReading:
    state, rates = look.state, look.state.rates
    cached = rates.cached_prompt_tokens_per_s / rates.prompt_tokens_per_s if rates.prompt_tokens_per_s else 0.0
    uncached = max(0.0, 1.0 - cached)
    hopeless = combined.pace_out_of_reach
    return RouterReading(
        router_id=state.router_id,
        read_s=look.heard_s,
        workers=tuple(
            combined.reading(worker, look.heard_s)
            for worker in state.workers
            if worker.role in (Role.ROLE_PREFILL, Role.ROLE_DECODE)
        ),
        # Of what waits nobody knows yet what is cached where: as much as of the others lately.
        queued_tokens=uncached * state.queued_prompt_tokens if queue.for_prefill else 0.0,
        arriving_tokens_per_s=uncached * rates.arriving_prompt_tokens_per_s,
        ended_requests=rates.requests_per_s * state.window_s,
        arriving_output_tokens_per_s=_output_wanted(state),
        ttft_attainment=rates.ttft_attainment if rates.HasField("ttft_attainment") else 1.0,
        itl_attainment=rates.itl_attainment if rates.HasField("itl_attainment") and not hopeless else 1.0,
    )


def _output_wanted(state: FleetState) -> float:
    """Output tokens a second, by what requests of each class wanted that ended: where a class of short answers bursts,
    the mean over all classes is still that of the long ones before it."""
    classes = [one.rates for one in state.classes if one.rates.arriving_requests_per_s]
    return sum(one.arriving_requests_per_s * one.mean_output_tokens for one in classes or [state.rates])


def work_by_worker(states: Iterable[FleetState]) -> dict[str, float]:
    """How much each worker has to do, to be compared within a pool: requests, what all routers have sent it or what it
    says itself, whichever is more; on prefill workers also each token of the prompts that they still have to compute.
    """
    sent: dict[str, float] = defaultdict(float)
    said: dict[str, float] = {}
    tokens: dict[str, int] = defaultdict(int)
    for state in states:
        for worker in state.workers:
            sent[worker.worker_id] += worker.assigned_requests
            tokens[worker.worker_id] += worker.assigned_prefill_tokens if worker.role == Role.ROLE_PREFILL else 0
            said[worker.worker_id] = worker.load.running_requests + worker.load.waiting_requests
    return {worker_id: max(requests, said[worker_id]) + tokens[worker_id] for worker_id, requests in sent.items()}
