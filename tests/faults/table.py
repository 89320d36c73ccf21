"""The printed matrix."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults.cells import Cell, Fault, Phase, excluded

_WIDTH = 14


def table(results: Mapping[Cell, str]) -> str:
    """One table a transport: faults down, phases across."""
    lines = []
    for transport in sorted({cell.transport for cell in results}):
        lines.append(f"{transport:<{_WIDTH + 2}}" + "".join(f"{phase.value:<{_WIDTH}}" for phase in Phase))
        for fault in Fault:
            if excluded(transport, fault):
                continue
            cells = (results.get(Cell(transport, fault, phase), "-") for phase in Phase)
            lines.append(f"{fault.value:<{_WIDTH + 2}}" + "".join(f"{said:<{_WIDTH}}" for said in cells))
        lines.append("")
    lines.append("A figure is the seconds until every block was free again; '-' did not run.")
    return "\n".join(lines)
