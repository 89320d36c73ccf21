"""How fast a joint decision is followed: one worker at a time, and not before a direction has lasted.

Both pools move in one step or not at all: half a trade would leave the budget exceeded or a GPU idle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from segue.cluster.scaling.joint import Budget, Split, Work, best_split, served


@dataclass(frozen=True, slots=True)
class Joint:
    """Both pools out of one budget.

    ``use`` is how much of a pool's capacity the SLO tolerates to be used. Another split must serve ``gain`` more of the
    work to be worth a change. A change that takes a worker from a pool must have been wanted for ``patience_s``;
    growing into what the budget has left needs none. Between two changes lie ``pause_s`` at least.
    """

    budget: Budget
    use: float = 0.8
    gain: float = 0.1
    patience_s: float = 15.0
    pause_s: float = 15.0


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
    best = best_split(joint.budget, work, joint.use, enough=1 + joint.gain)
    told = (
        f"{_name(now)} serves {now.served:.0%} of {work.prompt_tokens_per_s:.0f} prompt and "
        f"{work.output_tokens_per_s:.0f} output tokens/s at {joint.use:.0%} use"
    )
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
    prefill, decode = _next(joint.budget, now, direction)
    split = Split(prefill, decode, served(prefill, decode, work, joint.use))
    return Move(split, told, replace(balance, changed_s=now_s))


def _next(budget: Budget, now: Split, direction: tuple[int, int]) -> tuple[int, int]:
    """One worker further in each direction; first the shrinking pool alone where the other's worker doesn't fit yet."""
    split = Split(max(1, now.prefill + direction[0]), max(1, now.decode + direction[1]), 0.0)
    if split.gpus(budget) <= budget.gpus:
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
