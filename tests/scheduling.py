"""Which tests share a process where they run in several (``make test``).

All modules that start engines are one unit: their clusters are shared, and each takes both cores of a small machine
while it starts. Every other module is a unit of its own. Read from the module's text because the process that
distributes the tests collects none. (xdist's own groups, the mark ``xdist_group``, have no effect with pytest 9.2.)
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ENGINES = "engines"


class EnginesTogether(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types.
    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self._root = config.rootpath

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return ENGINES if starts_engines(self._root / module) else module


@cache
def starts_engines(module: Path) -> bool:
    return "pytest.mark.engine" in module.read_text(encoding="utf-8")
