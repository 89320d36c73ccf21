"""The reports of the reliability benchmarks as Markdown. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def overload_table(report: Report) -> str:
    settings, slo, peak, over = (report[name] for name in ("settings", "slo", "peak", "overload"))
    first = report["recovery_first_second"][0]
    rows = [
        ("peak goodput, before and after", f"{peak['goodput_per_s']:.1f} and {peak['again_per_s']:.1f} answers/s"),
        ("offered", f"{over['sent'] / over['seconds']:.0f} requests/s for {over['seconds']:.0f} s"),
        ("goodput under it", f"{over['goodput_per_s']:.1f} answers/s, {report['goodput_ratio']:.2f} of the peak"),
        ("refused", f"{over['refused']:,}, {over['refused_without_retry_after']} of them without `Retry-After`"),
        (
            "refusal latency at the client, p50, p99, max",
            ", ".join(f"{over['refusal_ms'][name]:.1f}" for name in ("p50", "p99", "max")) + " ms",
        ),
        ("refused within 50 ms", f"{100 * over['refused_within_50_ms']:.1f} %"),
        ("the client itself was late, p99", f"{over['sent_late_ms']['p99']:.1f} ms"),
        ("router's processor time for a refusal", f"{report['router_cpu']['ms_per_refusal']:.2f} ms"),
        ("TTFT of answers, p50, p99", f"{over['ttft_ms']['p50']:.0f}, {over['ttft_ms']['p99']:.0f} ms"),
        ("other errors", f"{over['other_errors']}"),
        ("expired leases, recomputed prompts", f"{report['lease_expiries']}, {over['recomputed']}"),
        ("blocks and requests left over", f"{len(report['leftovers'])}"),
        (
            "first second at half the peak",
            f"{first['sent']} sent, {first['met_slo']} answered within the SLO, {first['refused']} refused",
        ),
        ("last refusal, after the overload's end", f"{report.get('recovery_last_refusal_s', math.nan):.1f} s"),
    ]
    spread = f" in the mean, {settings['output_spread']:.0%} less to more" if settings.get("output_spread") else ""
    lead = (
        f"{_when(report)} `--max-queue-s {settings['max_queue_s']:g}`, {settings['places']} places in decode; about "
        f"{settings['prompt_words']}-word prompts, {settings['output_tokens']} output tokens{spread}. An answer counts "
        f"if its first token came within {slo['ttft_s']:g} s and its tokens {slo['itl_s']:g} s apart in the mean."
    )
    return lead + "\n\n" + _table(("figure", "measured"), rows)


def soak_table(report: Report) -> str:
    settings = report["settings"]
    zero = [(kind, f"{count}") for kind, count in report["must_be_zero"].items()]
    endings = [(f"ended: {kind}", f"{count:,}") for kind, count in report["endings"].items()]
    rows = [
        ("requests", f"{report['requests']:,}"),
        *zero,
        *endings,
        ("answers that went on after a loss", f"{report['answers_continued']:,}"),
        ("faults", ", ".join(f"{count} {kind}" for kind, count in sorted(report["fault_counts"].items()))),
        ("quiet moments, each with every block free", f"{len(report['quiet_moments'])}"),
    ]
    trends = [
        (
            one["name"],
            f"{one['seconds'] / 60:.1f}",
            "{} to {}".format(*one["rss_mib"]),
            "{} to {}".format(*one["descriptors"]),
        )
        for one in _longest(report["trends"])
    ]
    head = ("process", "minutes", "resident MiB, first to last quarter", "descriptors")
    lead = f"{_when(report)} {settings['minutes']:g} minutes, seed {settings['seed']}."
    return "\n\n".join((lead, _table(("figure", "counted"), rows), _table(head, trends)))


def between(text: str, name: str, content: str) -> str:
    """Put ``content`` between the two comments that carry ``name``. Raises ValueError without them."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no {begin} followed by {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def _when(report: Report) -> str:
    return f"Measured {report['measured_at'][:10]}."


def _longest(trends: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The longest life of each process; they come longest first."""
    found: dict[str, Mapping[str, Any]] = {}
    for one in trends:
        found.setdefault(one["name"], one)
    return list(found.values())


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
