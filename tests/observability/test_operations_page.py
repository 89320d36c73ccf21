"""docs/operations.md names only what there is: metrics, alerts, commands and their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from segue.cli.main import app
from tests.observability.test_queries import EXPORTED, RULES

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
ALERTS = {rule["alert"] for rule in RULES}
# A histogram is named without its suffix.
METRICS = {re.sub(r"_(bucket|sum|count)$", "", name) for name in EXPORTED} | EXPORTED.keys()
COMMANDS = typer.main.get_command(app)


def test_every_metric_that_is_named_is_exported() -> None:
    named = set(re.findall(r"\b(?:segue|process|vllm)_[a-z_]+\b", PAGE))
    assert len(named) > 25
    assert named - METRICS == set()


def test_every_alert_has_its_line_in_the_table_of_incidents_and_no_other_is_named() -> None:
    table = PAGE.partition("| symptom | look at | what to do |")[2]
    named = set(re.findall(r"\bSegue[A-Z]\w+", PAGE))
    assert named - ALERTS == set()
    assert ALERTS - set(re.findall(r"\bSegue[A-Z]\w+", table)) == set()


def test_every_incident_has_something_to_look_at_and_something_to_do() -> None:
    rows = PAGE.partition("| symptom | look at | what to do |\n|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert len(rows) >= len(ALERTS)
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 3, row
        assert all(cells), row


@pytest.mark.parametrize("what", ["commands", "options"])
def test_commands_and_options_that_are_named_exist(what: str) -> None:
    assert isinstance(COMMANDS, TyperGroup)
    if what == "commands":
        named = set(re.findall(r"`segue ([a-z]+)", PAGE)) | set(re.findall(r"^    segue ([a-z]+)", PAGE, flags=re.M))
        known = set(COMMANDS.commands)
    else:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
        known = {
            flag for command in COMMANDS.commands.values() for parameter in command.params for flag in parameter.opts
        }
    assert named
    assert named - known == set()
