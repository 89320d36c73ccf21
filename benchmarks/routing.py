"""What routing costs and what it is worth.

python benchmarks/routing.py scale                 # one router core before 100 workers, prompts of 100,000 tokens
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from comparison.machine import describe_machine


def main() -> None:
    options = _options()
    result: dict[str, Any] = {"machine": describe_machine()}
    if options.what == "scale":
        from routed.decisions import measure_decisions
        from routed.scale import measure_index, measure_scale

        result["decisions"] = [
            measure_decisions(workers, options.requests // 2, options.tokens) for workers in (options.workers, 4)
        ]
        result["index"] = [measure_index(options.index_blocks, sharing) for sharing in (1, 4)]
        result["routed"] = measure_scale(options.workers, options.requests, options.concurrent, options.tokens)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scale"])
    parser.add_argument("--workers", type=int, default=100, help="half of them prefill")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100_000, help="of each prompt; a tenth of them its own")
    parser.add_argument("--index-blocks", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
