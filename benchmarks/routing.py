"""What routing costs and what it is worth.

python benchmarks/routing.py scale         # one router core before 100 workers, prompts of 100,000 tokens
python benchmarks/routing.py policies      # real engines: KV-aware against round-robin on a scaled trace
python benchmarks/routing.py conditional   # real engines: --disaggregation auto against always and never
python benchmarks/routing.py both          # the last two before the same engines, --minutes for each

`--engines simulated` runs the same processes with simulated engines, `--engines virtual` (conditional alone) everything
in this process on a virtual clock.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from comparison.machine import describe_machine
from virtual.clock import quiet


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
        gpu = options.simulated_gpu or ("H100" if options.engines == "simulated" else "")
        result["routed"] = measure_scale(options.workers, options.requests, options.concurrent, options.tokens, gpu)
    elif options.engines == "virtual":
        from routed.conditional import pairs
        from virtual.conditional import compare_modes as compare_virtually

        quiet()
        result["conditional"] = compare_virtually(options)
        result["pairs"] = pairs(result["conditional"])
    else:
        result |= _before_engines(options)
    text = json.dumps(result, indent=1)
    print(text)
    for row in result.get("pairs", ()):
        print(
            f"{row['mode']:9} {row['workload']:6} {row['figure']:19} /always {row['over_always']:.3f} "
            f"+- {row['over_always_error']:.3f}  /never {row['over_never']:.3f} +- {row['over_never_error']:.3f}"
            f"  /better {row['over_better']:.3f}  ({row['rounds']} rounds)"
        )
    if options.json:
        options.json.write_text(text)


def _before_engines(options: argparse.Namespace) -> dict[str, Any]:
    """Routers of all that is compared before the same engines."""
    from routed.cluster import routed_engines
    from routed.conditional import compare_modes, pairs
    from routed.policies import compare_policies

    always = ("--disaggregation", "always")
    policies = {name: ("--routing", name, *always) for name in ("kv", "load", "round-robin")}
    modes = {name: ("--disaggregation", name) for name in ("auto", "never")} | {"always": policies["kv"]}
    chosen = (modes if options.what != "policies" else {}) | (policies if options.what != "conditional" else {})
    gpu = options.simulated_gpu or ("H100" if options.engines == "simulated" else "")
    result: dict[str, Any] = {}
    with routed_engines(chosen, options.kv_blocks, gpu) as addresses:
        if options.what != "policies":
            result["conditional"] = compare_modes({name: addresses[name] for name in modes}, options)
            result["pairs"] = pairs(result["conditional"])
        if options.what != "conditional":
            result["policies"] = compare_policies({name: addresses[name] for name in policies}, options)
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scale", "policies", "conditional", "both"])
    parser.add_argument("--workers", type=int, default=100, help="half of them prefill")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100_000, help="of each prompt; a tenth of them its own")
    parser.add_argument("--index-blocks", type=int, default=1_000_000)
    parser.add_argument("--engines", choices=["real", "simulated", "virtual"], default="real")
    parser.add_argument("--rounds", type=int, default=6, help="of turns; on a virtual clock, seeds")
    parser.add_argument("--minutes", type=float, default=4.5, help="after which no further round of turns begins")
    parser.add_argument("--turn-requests", type=int, default=12, help="of each turn of conditional")
    parser.add_argument("--devices", type=int, default=0, help="that virtual engines share; 0: each has one of its own")
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
