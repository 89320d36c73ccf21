"""Put measured figures and their plots into docs/reliability.md.

python benchmarks/reliability_figures.py --overload overload.json --soak soak.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from reliability.plots import plot_overload, plot_soak
from reliability.tables import between, overload_table, soak_table

_DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overload", type=Path, help="what overload.py wrote")
    parser.add_argument("--soak", type=Path, help="what soak.py wrote")
    options = parser.parse_args()
    page = _DOCS / "reliability.md"
    text = page.read_text()
    parts = (("overload", overload_table, plot_overload), ("soak", soak_table, plot_soak))
    for name, table, plot in parts:
        file: Path | None = getattr(options, name)
        if file is None:
            continue
        report = json.loads(file.read_text())
        plot(report, _DOCS / "figures" / f"{name}.png")
        text = between(text, name, f"{table(report)}\n\n![{name}](figures/{name}.png)")
    page.write_text(text)


if __name__ == "__main__":
    main()
