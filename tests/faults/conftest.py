"""One cluster for all cells of a transport; a table of what became of each at the end.

By default the quick cells run. All of them: ``-m matrix``; one: ``pytest tests/faults -k "decode_kill and decoding"``.
The seed is ``SEGUE_FAULT_SEED``, 1 if it isn't set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.reference import Case, Reference
from tests.faults.cells import COMPARED_TOKENS, QUICK, Cell, all_cells, interleaved
from tests.faults.cluster import Cluster
from tests.faults.table import table

SEED = int(os.environ.get("SEGUE_FAULT_SEED", "1"))
NEXT_PROMPT_TOKENS = 200
NEXT_ANSWER_TOKENS = 8

Record = Callable[[str, object], None]  # pytest's ``record_property``.


@pytest.hookimpl(trylast=True)  # After -k and -m.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Cells that nobody asked for are left out, but for the quick ones; the others get an order that saves time."""
    _leave_out(config, items)
    places = [place for place, item in enumerate(items) if cell_of(item) is not None]
    by_cell = {cell: items[place] for place in places if (cell := cell_of(items[place])) is not None}
    for place, cell in zip(places, interleaved(list(by_cell)), strict=True):
        items[place] = by_cell[cell]


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = any("faults" in argument for argument in config.args)
    if "matrix" in config.option.markexpr or (
        here and (config.option.keyword or any("::" in one for one in config.args))
    ):
        return
    left_out = [item for item in items if (cell := cell_of(item)) is not None and cell not in QUICK]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell that this test is of; None if it isn't of the matrix."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec is not None else None
    return cell if isinstance(cell, Cell) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """From what the tests' reports carry: they may have run in another process."""
    cells = {cell.name: cell for cell in all_cells()}
    results = {}
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        recorded = dict(report.user_properties)
        if (cell := cells.get(str(recorded.get("cell")))) is not None:
            results[cell] = f"{recorded['freed_s']:.1f}" if report.passed else "FAILED"
    if results:
        terminalreporter.section(f"faults, seed {SEED} (SEGUE_FAULT_SEED)")
        terminalreporter.write_line(table(results))


@pytest.fixture(scope="session")
def undisturbed(request: pytest.FixtureRequest, reference: Reference) -> dict[tuple[int, ...], tuple[int, ...]]:
    """By prompt, the greedy answer of a plain engine that nothing happens to; for all cells that run."""
    cells = [cell for item in request.session.items if (cell := cell_of(item)) is not None]
    lengths = {cell.prompt(SEED): COMPARED_TOKENS for cell in cells}
    lengths |= {cell.prompt(SEED, NEXT_PROMPT_TOKENS): NEXT_ANSWER_TOKENS for cell in cells}
    cases = [
        Case(prompt, {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True})
        for prompt, tokens in lengths.items()
    ]
    return dict(zip(lengths, reference.answer_together(cases), strict=True))


# Of the package: four engines are not to stay while other tests run.
@pytest.fixture(scope="package")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[Cluster]:
    transport: str = request.param
    run_dir = tmp_path_factory.mktemp(f"faults-{transport}")
    with Cluster(model, transport, run_dir) as running:
        yield running
