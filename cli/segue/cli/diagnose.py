"""``segue diagnose``: what holds a cluster back, and what would help."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segue.cli.failures import fail
from segue.cluster.restarts import CONFIGURATION_STATUS

if TYPE_CHECKING:
    from segue.loadtest.diagnose.evidence import Evidence
    from segue.loadtest.diagnose.verdict import Diagnosis


def diagnose(
    source: Annotated[
        str, typer.Argument(metavar="URL|FILE", help="A router's http://HOST:PORT, or the JSON of a segue loadtest.")
    ],
    window: Annotated[float, typer.Option(min=1, help="Seconds between the two looks at the metrics.")] = 10.0,
    slo: Annotated[
        str,
        typer.Option(
            help="What the means of all requests are held against, as in segue loadtest. Without it: each class's "
            "against what the router promises it. A file brings its own."
        ),
    ] = "",
    api_key: Annotated[str, typer.Option(envvar="SEGUE_API_KEY", help="One for operations, if keys are in use.")] = "",
    json_output: Annotated[bool, typer.Option("--json", help="Evidence and verdict as JSON.")] = False,
) -> None:
    """Say which part of a cluster holds it back, by which figures, and what would help.

    From live metrics under load, or from a load test's result.
    """
    import msgspec

    from segue.loadtest.diagnose.verdict import diagnose as verdict_of

    try:
        evidence = _of_file(Path(source)) if Path(source).is_file() else _of_router(source, window, slo, api_key)
    except (ValueError, OSError) as error:
        raise fail(str(error), CONFIGURATION_STATUS) from None
    diagnosis = verdict_of(evidence)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode({"evidence": evidence, "diagnosis": diagnosis})).decode())
    else:
        _show(Console(), evidence, diagnosis)


def _of_file(path: Path) -> Evidence:
    from segue.loadtest.diagnose.from_result import evidence_of_result
    from segue.loadtest.measure.result import read_result

    return evidence_of_result(read_result(path))


def _of_router(url: str, window_s: float, slo: str, api_key: str) -> Evidence:
    from segue.loadtest.diagnose.from_metrics import evidence_of_metrics
    from segue.loadtest.diagnose.read_metrics import read_metrics
    from segue.loadtest.diagnose.scrape import Window
    from segue.loadtest.measure.slo import Slo

    bounds = Slo.parse(slo)[1] if slo else None
    before = read_metrics(url, api_key)
    time.sleep(window_s)
    return evidence_of_metrics(Window(before, read_metrics(url, api_key)), url, bounds)


def _show(console: Console, evidence: Evidence, diagnosis: Diagnosis) -> None:
    from segue.loadtest.diagnose.verdict import Bound

    relaxed = diagnosis.bound in (Bound.NONE, Bound.UNDERUSED)
    console.print(f"[bold {'green' if relaxed else 'red'}]{diagnosis.bound}[/]: {diagnosis.summary}", highlight=False)
    met = "" if evidence.slo_share is None else f", {100 * evidence.slo_share:.1f} % met their SLO"
    console.print(
        f"[dim]{evidence.source}, {evidence.window_s:.0f} s: {evidence.requests_per_s:.2f} requests/s"
        f"{met}, {evidence.refused_per_s:.2f} refused/s[/dim]",
        highlight=False,
    )
    for finding in diagnosis.findings:
        if not finding.signs:
            continue
        part = finding.bound.removesuffix("-bound")
        console.print(f"\n[bold]{part}[/bold] {100 * finding.pressure:.0f} % of its limit", highlight=False)
        for sign in finding.signs:
            console.print(f"  {100 * sign.pressure:4.0f} %  {sign.words}", markup=False, highlight=False)
        if finding.bound is diagnosis.bound:
            for advice in finding.advice:
                console.print(f"  try: {advice}", style="cyan", markup=False, highlight=False, soft_wrap=True)
