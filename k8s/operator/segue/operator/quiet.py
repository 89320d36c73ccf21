"""How often a status is written that has nothing new to say but figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from segue.operator.actions import Action, Apply
from segue.operator.merge import covers
from segue.operator.names import Manifest

# A watcher of the objects is told of each write.
_FIGURES_S = 60.0
_SENTENCES = ("reason", "scaling")
# A split of workers, 2+1, is what was decided; all other numbers move with every look.
_FIGURE = re.compile(r"\d+\+\d+|\d+(?:\.\d+)?")

Key = tuple[str, str]  # Kind and name.


class Quiet:
    """Of one PDCluster and its pools. What it doesn't know it has written, it lets through."""

    def __init__(self) -> None:
        self._written_s: dict[Key, float] = {}

    def holds_back(self, action: Action, objects: Mapping[Key, Manifest], now_s: float) -> bool:
        """Whether to leave this out of a look's actions: the status in ``objects`` says the same already, in other
        figures, and is not a minute old."""
        if not isinstance(action, Apply) or not action.status:
            return False
        key = action.manifest["kind"], action.manifest["metadata"]["name"]
        said = objects.get(key, {}).get("status", {})
        if now_s - self._written_s.get(key, float("-inf")) < _FIGURES_S and _says(said, action.manifest["status"]):
            return True
        self._written_s[key] = now_s
        return False


def _says(said: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    before, now = _without_figures(said), _without_figures(wanted)
    return before.keys() == now.keys() and covers(before, now)


def _without_figures(status: Mapping[str, Any]) -> dict[str, Any]:
    words = {name: _FIGURE.sub(_kept, status[name]) for name in _SENTENCES if name in status}
    return {**{name: value for name, value in status.items() if name != "backlogTokens"}, **words}


def _kept(number: re.Match[str]) -> str:
    return number[0] if "+" in number[0] else "0"
