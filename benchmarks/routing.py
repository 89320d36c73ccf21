"""What routing costs and what it is worth.

python benchmarks/routing.py scale         # one router core before 100 workers, prompts of 100,000 tokens
python benchmarks/routing.py policies      # real engines: KV-aware against round-robin on a scaled trace
python benchmarks/routing.py conditional   # real engines: --disaggregation auto against always and never
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
    elif options.what == "policies":
        from routed.cluster import routed_engines
        from routed.policies import compare_policies

        always = ("--disaggregation", "always")
        policies = {name: ("--routing", name, *always) for name in ("kv", "load", "round-robin")}
        with routed_engines(policies, options.kv_blocks, options.simulated_gpu) as addresses:
            result["turns"] = compare_policies(addresses, options)
    else:
        from routed.cluster import routed_engines
        from routed.conditional import compare_modes

        modes = {name: ("--disaggregation", name) for name in ("auto", "always", "never")}
        with routed_engines(modes, options.kv_blocks, options.simulated_gpu) as addresses:
            result["turns"] = compare_modes(addresses, options)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scale", "policies", "conditional"])
    parser.add_argument("--workers", type=int, default=100, help="half of them prefill")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100_000, help="of each prompt; a tenth of them its own")
    parser.add_argument("--index-blocks", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="of turns, on real engines")
    parser.add_argument("--kv-blocks", type=int, default=400, help="of 128 tokens, of each engine")
    parser.add_argument("--simulated-gpu", default="", help="simulate this one, e.g. H100, instead of real engines")
    parser.add_argument("--trace", type=Path, default=Path("traces/mooncake_conversation.jsonl"))
    parser.add_argument("--conversations", type=int, default=40, help="of the trace")
    parser.add_argument("--turns", type=int, default=4, help="that each of them has at least")
    parser.add_argument("--count", type=int, default=150, help="of their requests")
    parser.add_argument("--scale", type=int, default=8, help="the trace's prompts are so much shorter")
    parser.add_argument("--streams", type=int, default=4, help="that run beside the requests that are measured")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
