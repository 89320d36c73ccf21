"""Conditions, as Kubernetes has them: a transition's time stays until the status changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from segue.operator.names import Manifest
from segue.operator.observed import timestamp


@dataclass(frozen=True, slots=True)
class Condition:
    """``reason`` is one CamelCase word, ``message`` a sentence."""

    type: str
    true: bool
    reason: str
    message: str


def conditions(owner: Manifest, now: Sequence[Condition], now_s: float) -> list[dict[str, Any]]:
    """For the status of ``owner``, whose last conditions are in it."""
    before = {one["type"]: one for one in owner.get("status", {}).get("conditions") or []}
    return [_condition(owner, before.get(condition.type), condition, now_s) for condition in now]


def changed(owner: Manifest, now: Iterable[Condition]) -> list[Condition]:
    """Those that say something else than they did: what an event is worth."""
    before = {one["type"]: (one["status"], one["reason"]) for one in owner.get("status", {}).get("conditions") or []}
    return [one for one in now if before.get(one.type) != (_status(one), one.reason)]


def _condition(owner: Manifest, before: dict[str, Any] | None, now: Condition, now_s: float) -> dict[str, Any]:
    same = before is not None and before["status"] == _status(now)
    return {
        "type": now.type,
        "status": _status(now),
        "observedGeneration": owner["metadata"].get("generation", 0),
        "lastTransitionTime": before["lastTransitionTime"] if before and same else timestamp(now_s),
        "reason": now.reason,
        "message": now.message,
    }


def _status(condition: Condition) -> str:
    return "True" if condition.true else "False"
