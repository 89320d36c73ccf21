"""``segue loadtest``: load on a server, measured, shown, written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segue.cli.failures import fail, settings_errors
from segue.cluster.restarts import CONFIGURATION_STATUS

if TYPE_CHECKING:
    from segue.loadtest.measure.result import Result

# Where neither requests nor seconds were said.
_DEFAULT_DURATION_S = 30.0


class Api(StrEnum):
    """How the server is asked."""

    completions = "completions"
    chat = "chat"
    grpc = "grpc"
    session = "session"


class Arrivals(StrEnum):
    """How an open loop's requests come."""

    poisson = "poisson"
    constant = "constant"


_WHAT, _PACE, _OUT, _SERVER = "Requests", "Pace", "Results", "Server"


def loadtest(
    url: Annotated[str, typer.Argument(metavar="URL", help="http://HOST:PORT, or HOST:PORT of a router's gRPC.")],
    api: Annotated[Api, typer.Option(rich_help_panel=_SERVER)] = Api.completions,
    model: Annotated[str, typer.Option(help="Default: the first that is served.", rich_help_panel=_SERVER)] = "",
    tokenizer: Annotated[
        str,
        typer.Option(
            help="The model's folder or hub id: prompts of exact length as text. Needed for chat.",
            rich_help_panel=_SERVER,
        ),
    ] = "",
    as_text: Annotated[
        bool, typer.Option("--as-text", help="Completions: prompts as text.", rich_help_panel=_SERVER)
    ] = False,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="SEGUE_API_KEY", help="Better in the environment: others see command lines.", rich_help_panel=_SERVER
        ),
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME:VALUE", help="Repeatable.", rich_help_panel=_SERVER)
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds one answer may take.", rich_help_panel=_SERVER)
    ] = 600.0,
    rate: Annotated[float, typer.Option(min=0, help="Open loop: requests a second.", rich_help_panel=_PACE)] = 0.0,
    arrivals: Annotated[Arrivals, typer.Option(rich_help_panel=_PACE)] = Arrivals.poisson,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=0, help="Closed loop: clients at once.", rich_help_panel=_PACE)
    ] = 0,
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=0, help="At most so many.", rich_help_panel=_PACE)
    ] = 0,
    duration: Annotated[
        float, typer.Option(min=0, help="Seconds after which nothing more is sent.", rich_help_panel=_PACE)
    ] = 0.0,
    warm_up: Annotated[
        float, typer.Option(min=0, help="The first seconds, which count in no figure.", rich_help_panel=_PACE)
    ] = 0.0,
    warm_up_requests: Annotated[
        int, typer.Option(min=0, help="The first requests, which count in no figure.", rich_help_panel=_PACE)
    ] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Of the generator.", rich_help_panel=_PACE)] = 1,
    input_tokens: Annotated[
        str,
        typer.Option(help="512, 100-500, normal:MEAN,SD or lognormal:MEDIAN,SIGMA.", rich_help_panel=_WHAT),
    ] = "512",
    output_tokens: Annotated[str, typer.Option(help="Likewise.", rich_help_panel=_WHAT)] = "128",
    prefix_tokens: Annotated[
        int, typer.Option(min=0, help="Of a prefix that requests share.", rich_help_panel=_WHAT)
    ] = 0,
    prefix_groups: Annotated[int, typer.Option(min=1, help="Different such prefixes.", rich_help_panel=_WHAT)] = 1,
    prefix_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the requests that have one.", rich_help_panel=_WHAT)
    ] = 1.0,
    trace: Annotated[
        Path | None,
        typer.Option(help="Mooncake's JSON lines or Azure's CSV, instead of made-up lengths.", rich_help_panel=_WHAT),
    ] = None,
    length_scale: Annotated[
        float, typer.Option(help="A trace's lengths are divided by this.", rich_help_panel=_WHAT)
    ] = 1.0,
    time_scale: Annotated[
        float, typer.Option(help="A trace's pauses are multiplied by this.", rich_help_panel=_WHAT)
    ] = 1.0,
    max_prompt_tokens: Annotated[
        int, typer.Option(min=0, help="A trace's prompts are cut here.", rich_help_panel=_WHAT)
    ] = 0,
    max_output_tokens: Annotated[int, typer.Option(min=0, help="And its answers here.", rich_help_panel=_WHAT)] = 0,
    slo_classes: Annotated[
        str, typer.Option(help="Classes that requests name, such as chat=8,batch=2.", rich_help_panel=_WHAT)
    ] = "",
    seed: Annotated[int, typer.Option(help="The same one gives the same requests.", rich_help_panel=_WHAT)] = 0,
    eos: Annotated[
        bool, typer.Option("--eos", help="Answers may end early; else ignore_eos is sent.", rich_help_panel=_WHAT)
    ] = False,
    temperature: Annotated[float, typer.Option(min=0, rich_help_panel=_WHAT)] = 0.0,
    slo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]BOUNDS",
            help="chat=ttft_s:0.5,tokens_per_s:30 (the default); without a name for requests of no class. Repeatable.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="All figures.", rich_help_panel=_OUT)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="A page with plots.", rich_help_panel=_OUT)
    ] = None,
    fail_under_goodput: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Exit status 1 if a smaller share of requests met its SLO.", rich_help_panel=_OUT
        ),
    ] = 0.0,
    max_lag_ms: Annotated[
        float,
        typer.Option(min=1, help="Lag of the generator (p99) that makes figures invalid.", rich_help_panel=_OUT),
    ] = 50.0,
    title: Annotated[str, typer.Option(help="Of report and JSON.", rich_help_panel=_OUT)] = "",
) -> None:
    """Put load on an OpenAI server or a Segue router and measure it.

    With --rate or --trace the loop is open: requests go out when they are due, whatever became of those before, and
    latencies count from then. With --concurrency it is closed. Exit status: 0 measured, 1 goodput below the bound,
    3 the generator could not keep up or nothing was measured, so that the figures don't count.
    """
    from segue.cli.load_display import LoadDisplay, show
    from segue.loadtest.describe import describe
    from segue.loadtest.evaluate import Judging, evaluate
    from segue.loadtest.generator.processes import GeneratorDied, run_load
    from segue.loadtest.generator.run import Pace
    from segue.loadtest.measure.result import write_result
    from segue.loadtest.measure.slo import SloTable
    from segue.loadtest.plan import Door, Plan, Rate, Traced
    from segue.loadtest.report.page import html_report
    from segue.loadtest.target.base import Ask
    from segue.loadtest.target.discover import served_model
    from segue.loadtest.workload.class_mix import ClassMix
    from segue.loadtest.workload.lengths import Lengths
    from segue.loadtest.workload.requests import Replay, SharedPrefix, Synthetic

    console = Console()
    with settings_errors(), _bad_values():
        if bool(concurrency) == bool(rate or trace):
            raise ValueError("say how requests come: --rate or --trace (open loop), or --concurrency (closed loop)")
        judging = Judging(SloTable.parse(slo or ()), max_lag_ms / 1000)
        classes = ClassMix.parse(slo_classes)
        what: Synthetic | Traced
        if trace is not None:
            what = Traced(trace, Replay(length_scale, time_scale, max_prompt_tokens, max_output_tokens, classes))
        else:
            prefix = SharedPrefix(prefix_tokens, prefix_groups, prefix_share)
            what = Synthetic(Lengths.parse(input_tokens), Lengths.parse(output_tokens), prefix, classes)
        headers = tuple(_header(text) for text in header or ())
        bounded = requests or duration or trace
        plan = Plan(
            door=Door(url, api.value, as_text, tokenizer),
            ask=Ask(
                model or served_model(url, api.value, api_key, headers), timeout, not eos, temperature, api_key, headers
            ),
            requests=what,
            rate=Rate(rate, arrivals.value) if rate else None,
            pace=Pace(concurrency, duration if bounded else _DEFAULT_DURATION_S, timeout),
            max_requests=requests,
            warm_up_requests=warm_up_requests,
            warm_up_s=warm_up,
            seed=seed,
            processes=processes,
        )
        with LoadDisplay(console, plan) as display:
            try:
                load = run_load(plan, display.update)
            except GeneratorDied as error:
                raise fail(str(error)) from None
    result = evaluate(load, plan, judging, title or f"Load test of {url}", describe(plan))
    show(console, result)
    if json_file is not None:
        write_result(result, json_file)
    if report is not None:
        report.write_text(html_report(result), encoding="utf-8")
    raise typer.Exit(_status(result, fail_under_goodput))


def _status(result: Result, fail_under_goodput: float) -> int:
    if not result.generator.valid:
        return 3
    return 1 if result.summary.total.goodput_share < fail_under_goodput else 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name.strip() and colon):
        raise ValueError(f"--header {text!r} can't be read; write NAME:VALUE")
    return name.strip(), value.strip()


@contextmanager
def _bad_values() -> Iterator[None]:
    """What can't be carried out as asked: its message, status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise fail(str(error), CONFIGURATION_STATUS) from None
