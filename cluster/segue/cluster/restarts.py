"""What to do when a process has died. Decisions only: ``(policy, history, death) -> decision``."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import Literal

OnDeath = Literal["exit", "restart"]

# A process that ends with this status can't run as it is configured, or nobody lets it in.
CONFIGURATION_STATUS = 2


@dataclass(frozen=True)
class Death:
    """How one life of a process ended. ``returncode`` is the exit status, or minus the signal's number."""

    returncode: int
    lived_s: float

    def __str__(self) -> str:
        if self.returncode >= 0:
            how = f"exited with status {self.returncode}"
        else:
            try:
                name = signal.Signals(-self.returncode).name
            except ValueError:
                name = "an unnamed signal"
            how = f"was killed by {name} ({-self.returncode})"
        return f"{how} after {self.lived_s:.1f} s"


@dataclass(frozen=True)
class RestartPolicy:
    """``on_death``: end the whole pool, or start the dead one again after a pause.

    The pause starts at ``first_pause_s`` and doubles up to ``longest_pause_s``; a life of ``stable_after_s``
    or more clears the count.
    """

    on_death: OnDeath = "exit"
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    stable_after_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.first_pause_s <= self.longest_pause_s:
            raise ValueError(
                f"first_pause_s {self.first_pause_s} must be above 0 and at most longest_pause_s {self.longest_pause_s}"
            )


@dataclass(frozen=True)
class History:
    """How often a process has died in a row without a stable life in between. ``joined_later``: the pool has run
    without it, or with an earlier life of it."""

    quick_deaths: int = 0
    joined_later: bool = False


@dataclass(frozen=True)
class EndPool:
    """Stop everything and report why."""

    reason: str


@dataclass(frozen=True)
class Restart:
    """Start the process again after ``pause_s``; ``history`` is what to decide from next time."""

    pause_s: float
    history: History


def decide(policy: RestartPolicy, history: History, death: Death) -> EndPool | Restart:
    """What follows a death that nobody asked for. An exit with status 0 is one too: these processes never
    finish.

    What can't run as it is configured ends a pool that is only starting. Later that is no reason to end those that do
    run: the process is of a newer version that they refuse, or a file of its has changed; it is tried again, seldom.
    """
    if policy.on_death == "exit":
        return EndPool("the pool ends with the first process that dies (--on-death exit)")
    if death.returncode == CONFIGURATION_STATUS:
        if history.joined_later:
            return Restart(policy.longest_pause_s, replace(history, quick_deaths=history.quick_deaths + 1))
        return EndPool("it can't start as it is configured, so another try would end the same way")
    quick_deaths = 1 if death.lived_s >= policy.stable_after_s else history.quick_deaths + 1
    # The exponent is bounded so that a long row of deaths can't overflow the float.
    pause_s = min(policy.first_pause_s * 2.0 ** min(quick_deaths - 1, 64), policy.longest_pause_s)
    return Restart(pause_s, History(quick_deaths, joined_later=True))
