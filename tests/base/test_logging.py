from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from segue.base.logging import get_logger, setup_logging


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_away_from_a_terminal_a_line_is_one_json_object() -> None:
    out = io.StringIO()
    setup_logging("auto", stream=out)
    get_logger("router").info("attached", worker_id="w-0")
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"component": "router", "event": "attached", "level": "info", "worker_id": "w-0"}


def test_text_is_for_people() -> None:
    out = io.StringIO()
    setup_logging("text", stream=out)
    get_logger("router").warning("attached", worker_id="w-0")
    assert "attached" in out.getvalue()
    assert "worker_id=w-0" in out.getvalue()


def test_what_is_below_the_level_is_left_out() -> None:
    out = io.StringIO()
    setup_logging("json", level="warning", stream=out)
    get_logger("router").info("attached")
    assert out.getvalue() == ""
