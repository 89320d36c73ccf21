"""What was asked for, in words, for whoever reads the result."""

from __future__ import annotations

from segue.loadtest.plan import Plan, Traced
from segue.loadtest.workload.lengths import Lengths


def describe(plan: Plan) -> dict[str, str]:
    """In the order to show it. Holds no credentials."""
    return {
        "server": f"{plan.door.url}, {plan.door.api}" + (", prompts as text" if plan.door.as_text else ""),
        "model": plan.ask.model or "the one served",
        "pace": _pace(plan),
        "requests": _requests(plan),
        "bounds": _bounds(plan),
    }


def _pace(plan: Plan) -> str:
    if plan.pace.concurrency:
        return f"closed loop of {plan.pace.concurrency}"
    if plan.rate is not None:
        return f"open loop, {plan.rate.per_s:g} requests/s, {plan.rate.kind}"
    return "open loop, by the trace's times"


def _requests(plan: Plan) -> str:
    what = plan.requests
    if isinstance(what, Traced):
        scales = f"lengths / {what.how.length_scale:g}, pauses x {what.how.time_scale:g}"
        words = f"trace {what.path.name}, {scales}"
    else:
        words = f"{_lengths(what.input_lengths)} in, {_lengths(what.output_lengths)} out"
        if what.prefix.tokens:
            words += (
                f", {100 * what.prefix.share:.0f} % after one of {what.prefix.groups} prefixes of "
                f"{what.prefix.tokens} tokens"
            )
    return f"{words}, seed {plan.seed}"


def _lengths(lengths: Lengths) -> str:
    match lengths.kind:
        case "fixed":
            return f"{lengths.a:g} tokens"
        case "uniform":
            return f"{lengths.a:g} to {lengths.b:g} tokens"
        case "normal":
            return f"{lengths.a:g} (sd {lengths.b:g}) tokens"
        case "lognormal":
            return f"median {lengths.a:g} (sigma {lengths.b:g}) tokens"


def _bounds(plan: Plan) -> str:
    parts = []
    if plan.max_requests:
        parts.append(f"{plan.max_requests} requests")
    if plan.pace.max_duration_s:
        parts.append(f"{plan.pace.max_duration_s:g} s")
    if plan.warm_up_s or plan.warm_up_requests:
        parts.append(f"warm-up {plan.warm_up_s:g} s and {plan.warm_up_requests} requests")
    if plan.processes > 1:
        parts.append(f"{plan.processes} generator processes")
    return ", ".join(parts) or "the whole trace"
