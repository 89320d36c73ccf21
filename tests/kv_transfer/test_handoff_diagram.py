from __future__ import annotations

from pathlib import Path

from segue.kv_transfer.handoff import State
from segue.kv_transfer.handoff_diagram import page

COMMITTED = Path(__file__).parents[2] / "docs" / "handoff.md"


def test_the_committed_diagram_is_the_tables() -> None:
    remedy = "python -m segue.kv_transfer.handoff_diagram > docs/handoff.md"
    assert COMMITTED.read_text() == page(), f"the table has changed: {remedy}"


def test_every_state_is_drawn() -> None:
    assert all(f" {state.value}" in page() for state in State)
