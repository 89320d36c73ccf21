"""How fast a joint decision is followed: trades one worker at a time, and not before a direction has lasted; growing at
once.

Both pools move in one step or not at all: half a trade would leave the budget exceeded or a GPU idle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from segue.cluster.scaling.joint import UNLIMITED, Budget, Limits, Split, Work, best_split, served


@dataclass(frozen=True, slots=True)
class Joint:
    """Both pools out of one budget.

    ``use`` is how much of a pool's capacity the SLO tolerates to be used. Another split must serve ``gain`` more of the
    work to be worth a change. A change that takes a worker from a pool must have been wanted for ``patience_s``;
    growing into what the budget has left needs none, and takes up to ``grow_step`` workers a pool. Between two changes
    lie ``pause_s`` at least. Splits outside ``limits`` don't count. There is room for the load of the last
    ``room_starts`` times that a worker takes to start (``room.py``), which is ``start_s`` until it has been measured;
    before so long a time has been seen, ``may_give_back`` is False and no GPU becomes free that the budget has.
    """

    budget: Budget
    use: float = 0.8
    gain: float = 0.1
    patience_s: float = 15.0
    pause_s: float = 15.0
    grow_step: int = 4
    room_starts: float = 10.0
    start_s: float = 60.0
    limits: Limits = UNLIMITED
    may_give_back: bool = True

    def __post_init__(self) -> None:
        if self.grow_step < 1 or min(self.room_starts, self.start_s) < 0:
            raise ValueError(
                f"grow_step {self.grow_step} must be 1 or more, room_starts {self.room_starts:g} and start_s "
                f"{self.start_s:g} 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Balance:
    """What is remembered: the direction last wanted, (prefill, decode) as signs, and since when; the last change."""

    direction: tuple[int, int] = (0, 0)
    since_s: float = float("-inf")
    changed_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Move:
    """The split to have now, and why."""

    split: Split
    reason: str
    balance: Balance


def move(joint: Joint, balance: Balance, now: Split, work: Work, now_s: float) -> Move:
    """One look at a split; ``now.served`` need not be filled in."""
    now = replace(now, served=served(now.prefill, now.decode, work, joint.use))
    best = best_split(joint.budget, work, joint.use, 1 + joint.gain, joint.limits)
    told = (
        f"{_name(now)} serves {now.served:.0%} of {work.prompt_tokens_per_s:.0f} prompt and "
        f"{work.output_tokens_per_s:.0f} output tokens/s at {joint.use:.0%} use"
    )
    if (inside := joint.limits.clamp(now)) != replace(now, served=0.0):
        # At once: bounds are an order, not a recommendation.
        inside = inside if inside.gpus(joint.budget) <= joint.budget.gpus else best
        return Move(inside, f"{told}; bounds make it {_name(inside)}", replace(balance, changed_s=now_s))
    if not joint.may_give_back and _gives_back(joint, now, best):
        return Move(now, f"{told}; nothing is given back yet", replace(balance, direction=(0, 0)))
    if not _worth(joint, now, best):
        return Move(now, f"{told}; no other split is worth a change", replace(balance, direction=(0, 0)))
    told += f", {_name(best)} would serve {best.served:.0%}"
    direction = _sign(best.prefill - now.prefill), _sign(best.decode - now.decode)
    if direction != balance.direction:
        balance = replace(balance, direction=direction, since_s=now_s)
    waits = joint.patience_s if min(direction) < 0 else 0.0
    if now_s - balance.since_s < waits:
        return Move(now, f"{told}; wanted for {now_s - balance.since_s:.0f} of {waits:g} s", balance)
    if now_s - balance.changed_s < joint.pause_s:
        return Move(now, f"{told}; the last change is {now_s - balance.changed_s:.0f} s ago", balance)
    prefill, decode = _next(joint, now, best, direction)
    split = Split(prefill, decode, served(prefill, decode, work, joint.use))
    return Move(split, told, replace(balance, changed_s=now_s))


def _gives_back(joint: Joint, now: Split, best: Split) -> bool:
    return best.gpus(joint.budget) < now.gpus(joint.budget) <= joint.budget.gpus


def _next(joint: Joint, now: Split, best: Split, direction: tuple[int, int]) -> tuple[int, int]:
    """One worker further in each direction, more where nothing shrinks; first the shrinking pool alone where the
    other's worker doesn't fit yet."""
    step = joint.grow_step if min(direction) >= 0 else 1
    prefill = now.prefill + direction[0] * min(step, abs(best.prefill - now.prefill))
    decode = now.decode + direction[1] * min(step, abs(best.decode - now.decode))
    split = Split(max(1, prefill), max(1, decode), 0.0)
    if split.gpus(joint.budget) <= joint.budget.gpus:
        return split.prefill, split.decode
    return min(split.prefill, max(1, now.prefill)), min(split.decode, max(1, now.decode))


def _worth(joint: Joint, now: Split, best: Split) -> bool:
    if (now.prefill, now.decode) == (best.prefill, best.decode):
        return False
    if now.gpus(joint.budget) > joint.budget.gpus or min(now.prefill, now.decode) < 1:
        return True
    if now.served >= 1:  # Everything is served: only fewer GPUs, with some headroom, are better.
        return best.gpus(joint.budget) < now.gpus(joint.budget) and best.served >= 1 + joint.gain
    return best.served >= now.served * (1 + joint.gain)


def _name(split: Split) -> str:
    return f"{split.prefill}+{split.decode}"


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
