"""When a waiting request may start: as long as workers have little work ahead. A pure function over the fleet.

Workers get just enough to stay busy until the router has heard from them and answered; what is beyond that waits in the
router, where it can still be put in order, or taken back for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segue.proto.worker_pb2 import ROLE_DECODE, ROLE_PREFILL
from segue.router.planning.prediction import (
    blocks_taken,
    decode_requests,
    free_places,
    prefill_line,
    queue_s,
    queued_tokens,
)
from segue.router.queueing.waiting import OnDecode, Room, Rooms, no_prompt
from segue.router.workers.fleet import FleetSnapshot, WorkerView

# Work ahead of a prefill worker. Measured: see docs/slo.md.
AHEAD_S = 0.15
AHEAD_MIN_TOKENS = 1024
# Places in decode are given out so long before they come free: about what prefill and hand-off take.
DECODE_AHEAD_S = 0.25
# How many at least as long as nobody knows when they come free.
_DECODE_AHEAD_MIN = 2.0
# More than one request may want. A worker may have thousands of places, each of which may come free any moment.
_PLENTY = 128
# What batch leaves of either.
_BATCH_SHARE = 0.9
_BATCH_AHEAD_SHARE = 0.5
# Prefill workers that long prompts leave to short ones: so many times those that short ones keep busy.
_KEPT = 1.5
# Below so many short prompts a second nothing is kept for them.
_FEW_PER_S = 0.05


@dataclass(frozen=True, slots=True)
class LongWork:
    """Long prompts that are being computed, and the short ones that come: how many a second, and of what length."""

    requests: int = 0
    tokens: int = 0
    short_per_s: float = 0.0
    short_tokens: float = 0.0


def rooms(fleet: FleetSnapshot, long: LongWork, on_decode: OnDecode = no_prompt) -> Rooms:
    """No room where decode has no worker; whoever looks for one says so better."""
    return Rooms(room(fleet, long, on_decode, interactive=True), room(fleet, long, interactive=False))


def room(fleet: FleetSnapshot, long: LongWork, on_decode: OnDecode = no_prompt, *, interactive: bool) -> Room:
    """That of one of both alone. Prompts that decode computes itself wait for no prefill worker; those of batch do, and
    so are no burden to decode while there is much to do."""
    decode, prefill = fleet.believed(ROLE_DECODE), fleet.believed(ROLE_PREFILL)
    short = _prefill_room(prefill, long, 1.0 if interactive else _BATCH_AHEAD_SHARE, fleet.now_s)
    may_long = short and (not prefill or long.requests < max(1, len(prefill) - _kept(prefill, long)))
    if interactive:
        return Room(short, may_long, _places(decode, fleet.now_s), _blocks(decode, 1.0), on_decode)
    return Room(short, may_long, _batch_places(decode), _blocks(decode, _BATCH_SHARE))


def _kept(prefill: Sequence[WorkerView], long: LongWork) -> int:
    """How many workers long prompts leave to short ones."""
    if long.short_per_s < _FEW_PER_S:
        return 0
    each_s = sum(prefill_line(worker)(long.short_tokens) for worker in prefill) / len(prefill)
    return math.ceil(_KEPT * long.short_per_s * each_s)


def _prefill_room(prefill: Sequence[WorkerView], long: LongWork, share: float, now_s: float) -> bool:
    """Whether some worker has less ahead than it may. Without any, decode computes prompts itself.

    An only worker can't be kept free of a long prompt. What is behind that is up to the engine, which may take both in
    turn, chunk by chunk; so the long prompt doesn't count.
    """
    passed_tokens = long.tokens if len(prefill) == 1 else 0
    for worker in prefill:
        ahead_s = queue_s(worker, now_s) - prefill_line(worker).each_s * passed_tokens
        ahead_tokens = queued_tokens(worker) - passed_tokens
        if ahead_s < share * AHEAD_S or ahead_tokens < share * AHEAD_MIN_TOKENS:
            return True
    return not prefill


def _places(decode: Sequence[WorkerView], now_s: float) -> float:
    """Answers that may be begun; a worker that has none of ours takes one request however many answers it wants."""
    total = 0.0
    for worker in decode:
        capacity = worker.max_running_requests
        if not capacity or not worker.assigned_requests:
            return math.inf
        if worker.rates.token_s:
            total += _places_soon(worker, now_s)
        else:
            ahead = max(_DECODE_AHEAD_MIN, capacity * DECODE_AHEAD_S / (worker.rates.decode_s or 1.0))
            total += max(0.0, capacity + min(ahead, capacity) - decode_requests(worker))
    return total


def _places_soon(worker: WorkerView, now_s: float) -> float:
    """Those that are free or will be in a moment; of more than anybody wants at once some are not counted."""
    soon = 0.0
    for free_s, places in free_places(worker, now_s):
        if free_s > DECODE_AHEAD_S:
            break
        soon += places
        if soon >= _PLENTY:
            break
    return soon


def _batch_places(decode: Sequence[WorkerView]) -> float:
    """Likewise for batch, which takes what is free already and leaves some of it."""
    total = 0.0
    for worker in decode:
        capacity = worker.max_running_requests
        if not capacity or not worker.assigned_requests:
            return math.inf
        total += max(0.0, _BATCH_SHARE * capacity - decode_requests(worker))
    return total


def _blocks(decode: Sequence[WorkerView], share: float) -> float:
    """The most that one worker has free, by what its requests will have written by their ends."""
    return max((_free_blocks(worker, share) for worker in decode), default=0.0)


def _free_blocks(worker: WorkerView, share: float) -> float:
    capacity = worker.kv_blocks
    if not capacity or not worker.block_tokens or not worker.assigned_requests:
        return math.inf
    return share * capacity - blocks_taken(worker)
