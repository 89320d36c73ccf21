"""A turn's course: when a flex worker gives up one role for the other. No I/O, clock passed in.

A worker has one role at any time. Told to turn, it takes nothing new in that role and gets empty (``EMPTYING``); only
then does it change (``CHANGING``), which begins with its streams to the routers being over, so that no router ever
knows it in two roles. One that doesn't get empty in time, or is told to stay, goes on as before: nothing has been
dropped.
"""

from __future__ import annotations

import enum
import math

from segue.base.errors import Conflict
from segue.engine.settings import EngineRole


class Phase(enum.Enum):
    LOADING = "loading"
    STEADY = "steady"
    EMPTYING = "emptying"
    CHANGING = "changing"
    LEAVING = "leaving"  # Told to drain, or lost: no more turns.


class Step(enum.Enum):
    """What :meth:`Turning.look` says is to be done."""

    WAIT = "wait"
    CHANGE = "change"
    STAY = "stay"


class Turning:
    """One worker's role now, and the one that it may turn to; ``other`` is None for a worker that may not.

    ``turns`` is how often it has turned. Not begun with a turn is whoever is ``LOADING``: :meth:`loaded` tells.
    """

    def __init__(self, role: EngineRole, other: EngineRole | None, timeout_s: float) -> None:
        self.role = role
        self.phase = Phase.LOADING
        self.turns = 0
        self._other = other
        self._timeout_s = timeout_s
        self._ends_at_s = math.inf

    @property
    def flex(self) -> bool:
        return self._other is not None

    @property
    def target(self) -> EngineRole | None:
        """The role that it is about to have; None if it stays as it is."""
        return self._other if self.phase in (Phase.EMPTYING, Phase.CHANGING) else None

    def left_s(self, now_s: float) -> float:
        """Of the time to get empty."""
        return max(0.0, self._ends_at_s - now_s)

    def loaded(self) -> None:
        if self.phase is Phase.LOADING:
            self.phase = Phase.STEADY

    def leave(self) -> None:
        """It drains, or its engine is lost: whatever turn is under way is over."""
        self.phase = Phase.LEAVING

    def ask(self, role: EngineRole, timeout_s: float, now_s: float) -> None:
        """Have ``role``. Asked again for the same turn, a time that is named sets its end anew; asked for the present
        role, a turn that has not begun to change is called off. ``timeout_s`` 0 is the worker's own setting.

        Raises:
            Conflict: it can't turn at all, or not now.
        """
        if role not in (self.role, self._other):
            raise Conflict(
                f"this worker was started as a {self.role} worker and stays one; start one that may turn with "
                "segue flex-worker"
            )
        if self.phase not in (Phase.STEADY, Phase.EMPTYING):
            raise Conflict(f"this worker is {self.phase.value} and can't turn now; ask again when it is ready")
        if role == self.role:
            self.phase = Phase.STEADY
        elif self.phase is Phase.STEADY or timeout_s > 0:
            self.phase = Phase.EMPTYING
            self._ends_at_s = now_s + (timeout_s if timeout_s > 0 else self._timeout_s)

    def look(self, empty: bool, now_s: float) -> Step:
        """What follows, while a turn is under way: ``empty`` says whether anything of the old role is left."""
        if self.phase is not Phase.EMPTYING:
            return Step.STAY
        if empty:
            self.phase = Phase.CHANGING
            return Step.CHANGE
        if self.left_s(now_s) > 0:
            return Step.WAIT
        self.phase = Phase.STEADY
        return Step.STAY

    def changed(self) -> None:
        """The engine and the registration are of the new role."""
        assert self._other is not None
        self.role, self._other = self._other, self.role
        self.turns += 1
        if self.phase is Phase.CHANGING:  # Else it was told to leave meanwhile.
            self.phase = Phase.STEADY
