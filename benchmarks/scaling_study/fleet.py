"""Two pools of simulated engines under a load, in steps of a fifth of a second.

Not engines that schedule blocks, as ``--engine simulated`` runs them, but their timing model alone: a prefill worker
computes one prompt after the other, a decode worker gives each running request a token a step, and a step takes as long
as the roofline says for its batch and context. That makes a day of a dozen GPUs a matter of minutes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Literal

import numpy as np
from scaling_study.rates import TICK_S, Rates
from scaling_study.slots import Running, Slots
from scaling_study.traffic import SLOS, Arrival, Kind

from segue.cluster.scaling.readings import Cluster, Pool, WorkerReading
from segue.engine.simulated.timing import Timing

START_S = 60.0  # Until a new worker has loaded the model and is warm.
TURN_S = 2.0  # Until a flex worker that has drained serves in its other role.
_RATE_WINDOW_S = 30.0

POOLS: tuple[Pool, Pool] = ("prefill", "decode")
Phase = Literal["starting", "ready", "draining", "gone"]


@dataclass(slots=True)
class Worker:
    number: int
    pool: Pool
    phase: Phase
    ready_at_s: float
    free_at_s: float  # Prefill: when it is done with what it has.
    turns_to: Pool | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A request that ended, and whether its first token and its pace were in time."""

    at_s: float
    kind: Kind
    first: bool
    pace: bool
    tokens: int


@dataclass(slots=True)
class Outcome:
    """What became of the requests, and what it took."""

    requests: int = 0
    ended: int = 0
    good: int = 0
    late_first: int = 0
    slow: int = 0
    gpu_s: float = 0.0
    moves: int = 0
    samples: list[dict[str, float]] = field(default_factory=list)


class Fleet:
    """The pools and what runs in them. Times are of the simulation."""

    def __init__(self, timing: Timing, gpus: int, prefill: int, decode: int, warm_up_s: float = 0.0) -> None:
        """Time begins at ``-warm_up_s``, and nothing counts that comes or is spent before 0."""
        self.rates = Rates(timing)
        self.gpus = gpus
        self.now_s = -warm_up_s
        self._began_s = self.now_s
        self.outcome = Outcome()
        self.workers: list[Worker] = []
        self._queue: deque[Arrival] = deque()
        self._prefilled: list[tuple[float, int, Arrival]] = []
        self._waiting: deque[Running] = deque()
        self._slots = Slots()
        self._arrived: deque[Arrival] = deque()
        self._kept: deque[Kept] = deque()
        self._means: dict[Kind, float] = {}
        self._prefill_speed = 0.0
        self._started = 0
        self._order = count()
        self._ready: dict[Pool, list[Worker]] = {}
        self._changing = False
        for pool, workers in zip(POOLS, (prefill, decode), strict=True):
            for _ in range(workers):
                self.add(pool, ready=True)

    # What a scaler does

    def present(self, pool: Pool) -> list[Worker]:
        return [worker for worker in self.workers if worker.pool == pool and worker.phase in ("starting", "ready")]

    def add(self, pool: Pool, *, ready: bool = False) -> bool:
        """False if no GPU is free."""
        if len(self.workers) >= self.gpus:
            return False
        phase: Phase = "ready" if ready else "starting"
        at_s = self.now_s if ready else self.now_s + START_S
        self.workers.append(Worker(self._started, pool, phase, ready_at_s=at_s, free_at_s=at_s))
        self._started += 1
        self._note_phases()
        return True

    def let_go(self, pool: Pool, turns_to: Pool | None = None) -> None:
        """The one with the least to do drains; then it is gone, or serves in its other role."""
        staying = self.present(pool)
        worker = min(staying, key=lambda one: (one.phase == "ready", self._work(one), -one.number))
        worker.phase, worker.turns_to = "draining", turns_to
        self._note_phases()
        if pool == "decode":
            self._move_from(worker)

    # Time

    def run_tick(self, arrivals: Iterable[Arrival]) -> None:
        self.now_s += TICK_S
        for arrival in arrivals:
            self.outcome.requests += arrival.at_s >= 0
            self._arrived.append(arrival)
            self._queue.append(arrival)
        self._change_phases()
        self._prefill()
        self._place()
        self._decode()
        if self.now_s > 0:
            self.outcome.gpu_s += TICK_S * len(self.workers)

    def _note_phases(self) -> None:
        self.workers = [worker for worker in self.workers if worker.phase != "gone"]
        self._changing = any(worker.phase != "ready" for worker in self.workers)
        for pool in POOLS:
            self._ready[pool] = [one for one in self.workers if one.pool == pool and one.phase == "ready"]

    def _change_phases(self) -> None:
        """Nearly always there is nothing to do."""
        if not self._changing:
            return
        for worker in self.workers:
            if worker.phase == "starting" and worker.ready_at_s <= self.now_s:
                worker.phase, worker.free_at_s = "ready", self.now_s
            elif worker.phase == "draining" and not self._busy(worker):
                if worker.turns_to is None:
                    worker.phase = "gone"
                else:
                    worker.pool, worker.turns_to = worker.turns_to, None
                    worker.phase, worker.ready_at_s = "starting", self.now_s + TURN_S
        self._note_phases()

    def _busy(self, worker: Worker) -> bool:
        if worker.pool == "prefill":
            return worker.free_at_s > self.now_s
        return self._slots.count(worker.number) > 0

    def _work(self, worker: Worker) -> float:
        return worker.free_at_s if worker.pool == "prefill" else self._slots.count(worker.number)

    def _prefill(self) -> None:
        workers = self._ready["prefill"]
        while self._queue and workers:
            worker = min(workers, key=_free_at)
            if worker.free_at_s > self.now_s:
                break
            arrival = self._queue.popleft()
            took_s = self.rates.prefill_s(arrival.lengths)
            worker.free_at_s = max(worker.free_at_s, arrival.at_s) + took_s
            speed = arrival.lengths.computed_tokens / took_s
            self._prefill_speed = 0.98 * self._prefill_speed + 0.02 * speed if self._prefill_speed else speed
            heappush(self._prefilled, (worker.free_at_s, next(self._order), arrival))
        while self._prefilled and self._prefilled[0][0] <= self.now_s:
            first_s, _, arrival = heappop(self._prefilled)
            running = Running(arrival, first_s)
            if arrival.lengths.output_tokens == 1:
                self._end(running, first_s)
            else:
                self._waiting.append(running)

    def _place(self) -> None:
        ready = [worker.number for worker in self._ready["decode"]]
        while self._waiting and ready:
            running = self._waiting[0]
            worker = min(ready, key=self._slots.reserved)
            if self._slots.reserved(worker) + running.needs_tokens > self.rates.kv_tokens and self._slots.count(worker):
                break
            self._waiting.popleft()
            since_s = max(self.now_s - TICK_S, running.first_s)
            self._slots.take(worker, running, starts_s=since_s + self._transfer_s(running))

    def _transfer_s(self, running: Running) -> float:
        return self.rates.transfer_s_per_token * running.arrival.lengths.prompt_tokens

    def _decode(self) -> None:
        for running, at_s in self._slots.advance(self.rates, self.now_s):
            self._end(running, at_s)

    def _end(self, running: Running, at_s: float) -> None:
        arrival, slo = running.arrival, SLOS[running.arrival.lengths.kind]
        tokens = arrival.lengths.output_tokens
        first = running.first_s - arrival.at_s <= slo.ttft_s
        pace = tokens == 1 or (at_s - running.first_s) / (tokens - 1) <= 1 / slo.tokens_per_s
        if arrival.at_s >= 0:
            self.outcome.ended += 1
            self.outcome.good += first and pace
            self.outcome.late_first += not first
            self.outcome.slow += not pace
        self._kept.append(Kept(self.now_s, arrival.lengths.kind, first, pace, tokens))

    def _move_from(self, worker: Worker) -> None:
        """Running requests go on elsewhere, as far as there is room; the others finish where they are."""
        others = [one.number for one in self._ready["decode"]]
        for running in self._slots.of(worker.number):
            if not others:
                return
            target = min(others, key=self._slots.reserved)
            if self._slots.reserved(target) + running.needs_tokens > self.rates.kv_tokens:
                return
            self._slots.move(running, target, starts_s=self.now_s + self._transfer_s(running))
            self.outcome.moves += 1

    # What a scaler sees

    def readings(self) -> Cluster:
        """As a router would tell them."""
        since_s = self.now_s - _RATE_WINDOW_S
        while self._arrived and self._arrived[0].at_s < since_s:
            self._arrived.popleft()
        while self._kept and self._kept[0].at_s < since_s:
            self._kept.popleft()
        window_s = min(_RATE_WINDOW_S, max(self.now_s - self._began_s, TICK_S))
        queued = sum(arrival.lengths.computed_tokens for arrival in self._queue)
        kept = len(self._kept)
        return Cluster(
            workers=tuple(self._reading(worker) for worker in self.workers),
            queued_tokens=float(queued),
            arriving_tokens_per_s=sum(one.lengths.computed_tokens for one in self._arrived) / window_s,
            arriving_output_tokens_per_s=sum(map(self._wanted, SLOS)) / window_s,
            ttft_attainment=sum(one.first for one in self._kept) / kept if kept else 1.0,
            itl_attainment=sum(one.pace for one in self._kept) / kept if kept else 1.0,
        )

    def _wanted(self, kind: Kind) -> float:
        """Output tokens of what has arrived. What new requests will want is not known, only what those of their kind
        wanted that ended, lately or at all."""
        ended = [one.tokens for one in self._kept if one.kind == kind]
        if ended:
            self._means[kind] = sum(ended) / len(ended)
        return self._means.get(kind, 0.0) * sum(one.lengths.kind == kind for one in self._arrived)

    def _reading(self, worker: Worker) -> WorkerReading:
        phase = worker.phase
        if phase == "starting" or phase == "gone":  # noqa: PLR1714 - the type checker understands it so
            return WorkerReading(f"w{worker.number}", "e", worker.pool, "starting", self.now_s)
        ready_for_s = self.now_s - worker.ready_at_s
        if worker.pool == "prefill":
            backlog_s = max(0.0, worker.free_at_s - self.now_s)
            return WorkerReading(
                *(f"w{worker.number}", "e", "prefill", phase, self.now_s, ready_for_s),
                backlog_tokens=backlog_s * self._prefill_speed,
                tokens_per_s=self._prefill_speed,
            )
        context = self._slots.mean_context() or 4096.0
        itl_s = 1 / max(slo.tokens_per_s for slo in SLOS.values())
        batch = self.rates.batch_within(itl_s, context)
        step_s = float(self.rates.step_s(np.array([batch]), np.array([batch * context]))[0])
        places = max(1, sum(one.pool == "decode" and one.phase == "ready" for one in self.workers))
        waiting = sum(one.arrival.lengths.prompt_tokens for one in self._waiting) / places
        return WorkerReading(
            *(f"w{worker.number}", "e", "decode", phase, self.now_s, ready_for_s),
            tokens_per_s=batch / step_s,
            kv_use=(self._slots.reserved(worker.number) + waiting) / self.rates.kv_tokens,
            running=float(self._slots.count(worker.number)),
            running_at_slo=batch,
        )


def _free_at(worker: Worker) -> float:
    return worker.free_at_s
