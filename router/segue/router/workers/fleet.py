"""What the router knows of its workers, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from segue.kv_transfer.layout import layout_differences
from segue.proto.worker_pb2 import WORKER_STATE_READY, EngineFacts, Load, Role, WorkerState
from segue.router.rates.transfers import Links
from segue.router.rates.worker_rates import UNMEASURED, Rates


@dataclass(frozen=True)  # Without slots, so that one is made of another by copying a dict.
class WorkerView:
    """One worker at one moment.

    ``assigned_requests`` and ``assigned_tokens`` are what this router has sent it and not yet seen end: known at
    once, where ``load`` is as old as the worker's last frame and covers other routers' work too. ``spared`` says that
    the worker's circuit breaker is open.

    ``assigned_prefill_tokens`` are those prompt tokens of ours that it has still to compute, as far as is known (what
    it has cached is left out); ``busy_since_s`` is when it began with the first of them, 0 if it has none. ``ends_s``
    are the times by which those of our answers that it has begun to write will probably be over, in order; empty where
    it has so few that nobody waits for their ends. ``turn`` grows with each request that this router assigns; the
    worker had its last one at this. ``version`` is of Segue.

    A ``flex`` worker may change its role, and has done so ``turns`` times.

    What every decision asks of every worker is taken out of ``facts`` and ``load`` once: reading a message's field
    costs ten times as much. ``engine_requests`` run or wait in the engine; one that ``has_told`` nothing is new.
    """

    worker_id: str
    epoch: str
    role: Role
    state: WorkerState
    detail: str
    address: str
    facts: EngineFacts
    load: Load
    assigned_requests: int
    assigned_tokens: int
    spared: bool = False
    rates: Rates = UNMEASURED
    assigned_prefill_tokens: int = 0
    busy_since_s: float = 0.0
    ends_s: tuple[float, ...] = ()
    turn: int = 0
    version: str = ""
    flex: bool = False
    turns: int = 0
    block_tokens: int = field(init=False, compare=False, repr=False)
    token_bytes: float = field(init=False, compare=False, repr=False)
    kv_blocks: int = field(init=False, compare=False, repr=False)
    max_running_requests: int = field(init=False, compare=False, repr=False)
    has_told: bool = field(init=False, compare=False, repr=False)
    running_requests: int = field(init=False, compare=False, repr=False)
    engine_requests: int = field(init=False, compare=False, repr=False)
    waiting_tokens: int = field(init=False, compare=False, repr=False)
    free_blocks: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        facts, layout, load, put = self.facts, self.facts.layout, self.load, partial(object.__setattr__, self)
        put("block_tokens", layout.block_tokens)
        put("token_bytes", layout.block_bytes / layout.block_tokens if layout.block_tokens else 0.0)
        put("kv_blocks", facts.kv_blocks)
        put("max_running_requests", facts.max_running_requests)
        put("has_told", bool(load.ByteSize()))
        put("running_requests", load.running_requests)
        put("engine_requests", load.running_requests + load.waiting_requests)
        put("waiting_tokens", load.waiting_tokens)
        put("free_blocks", load.free_blocks)

    def counting(self, **counts: Any) -> WorkerView:
        """The same worker with other counts of ours or other rates: what was taken out of ``facts`` and ``load`` is
        still right. A tenth of what making it anew costs."""
        other = object.__new__(WorkerView)
        other.__dict__.update(self.__dict__, **counts)
        return other

    @property
    def ready(self) -> bool:
        return self.state == WORKER_STATE_READY


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The fleet at ``now_s``, on the clock of the views. ``links`` are the rates at which KV caches travel."""

    workers: tuple[WorkerView, ...]
    links: Links = field(default_factory=Links)
    now_s: float = 0.0
    _found: dict[tuple[str, Role], tuple[WorkerView, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def ready(self, role: Role) -> tuple[WorkerView, ...]:
        found = self._found.get(("ready", role))
        if found is None:  # Admission, queue and planner ask for the same, as for the next two.
            ready = WORKER_STATE_READY
            found = tuple([one for one in self.workers if one.role == role and one.state == ready])
            self._found["ready", role] = found
        return found

    def usable(self, role: Role) -> tuple[WorkerView, ...]:
        """Those that are ready, without those whose breakers are open, which stand idle because the planner spares
        them; all, if all are open."""
        found = self._found.get(("usable", role))
        if found is None:
            ready = self.ready(role)
            found = self._found["usable", role] = tuple([one for one in ready if not one.spared]) or ready
        return found

    def believed(self, role: Role) -> tuple[WorkerView, ...]:
        """The usable ones as they count for whoever refuses by them: without what those have said that have nothing of
        ours.

        An engine that does nothing reports nothing new; what it said last may be of a load that is gone, and whoever
        refuses by it would never learn better. One request finds out.
        """
        found = self._found.get(("believed", role))
        if found is None:
            found = self._found["believed", role] = tuple([_believed(one) for one in self.usable(role)])
        return found

    def know(self, other: FleetSnapshot) -> None:
        """Take over what has been found out of another one with the same views."""
        self._found.update(other._found)


def _believed(one: WorkerView) -> WorkerView:
    if one.assigned_requests or not (one.waiting_tokens or one.engine_requests):
        return one
    return replace(one, load=Load(free_blocks=one.kv_blocks))


def mismatch(facts: EngineFacts, peers: Sequence[WorkerView]) -> str | None:
    """Why a worker with these facts can't hand KV caches to or take them from ``peers``; None if it can.

    The message has both values of each difference. Engine arguments may differ between pools; these may not.
    """
    for peer in peers:
        if not peer.ready:
            continue
        differences = layout_differences(facts.layout, peer.facts.layout)
        for name in ("transport", "max_model_len_tokens", "vocab_size"):
            ours, theirs = getattr(facts, name), getattr(peer.facts, name)
            if ours != theirs:
                differences.append(f"{name}: {ours!r} here, {theirs!r} there")
        differences += _releases_differ(facts, peer.facts)
        if differences:
            return (
                f"does not fit worker {peer.worker_id}, which is attached: "
                + "; ".join(differences)
                + ". Start both pools with the same model, dtype, block size, context length, transport and release "
                "of the engine"
            )
    return None


def _releases_differ(facts: EngineFacts, peer: EngineFacts) -> list[str]:
    """Nobody promises that one release of vLLM understands the blocks that another one wrote, even of equal layout.

    Builds of one release (``0.32.0+cpu``) do. Simulated engines have no release but Segue's own.
    """
    ours, theirs = (one.engine_version.partition("+")[0] for one in (facts, peer))
    if ours == theirs or facts.simulated or peer.simulated:
        return []
    return [f"engine_version: {facts.engine_version!r} here, {peer.engine_version!r} there"]
