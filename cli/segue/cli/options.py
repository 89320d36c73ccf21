"""Options that several commands take, and their parsing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from segue.base.tls import TlsFiles
    from segue.router.limits import Limits


class Transport(StrEnum):
    """How the KV cache travels."""

    auto = "auto"
    nixl = "nixl"
    grpc = "grpc"


class KvDigest(StrEnum):
    """How much of what NIXL moves is checked."""

    full = "full"
    sampled = "sampled"
    off = "off"


class EngineKind(StrEnum):
    """What runs the model, or pretends to."""

    auto = "auto"
    inproc = "inproc"
    async_ = "async"
    simulated = "simulated"


class LogFormat(StrEnum):
    """How log lines are written."""

    auto = "auto"
    text = "text"
    json = "json"


class RoutingChoice(StrEnum):
    """What a request's workers are chosen by."""

    kv = "kv"
    load = "load"
    round_robin = "round-robin"


class DisaggregationChoice(StrEnum):
    """Who computes prompts."""

    auto = "auto"
    always = "always"
    never = "never"


class DeviceChoice(StrEnum):
    """What the workers compute on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DeathPolicy(StrEnum):
    """What follows when one process dies."""

    exit = "exit"
    restart = "restart"


Model = Annotated[
    str | None,
    typer.Option(help="Local folder or hub id, loaded by vLLM. Default: the embedded tiny model."),
]
ServedName = Annotated[
    str | None,
    typer.Option("--served-model-name", help="The name clients ask for. Default: the last part of --model."),
]
TransportOption = Annotated[Transport, typer.Option(help="How the KV cache travels from prefill to decode.")]
KvCacheGib = Annotated[float, typer.Option(min=0.01, help="KV cache of each CPU worker, in GiB. GPUs size their own.")]
DrainTimeout = Annotated[float, typer.Option(min=0, help="Seconds a drain may take before what is left is dropped.")]
MaxQueue = Annotated[
    float,
    typer.Option("--max-queue-s", min=0.001, help="Requests that would wait longer for the cluster get a 429."),
]
MaxStall = Annotated[
    float,
    typer.Option(
        "--max-stall-s", min=0, help="With auto: how long a prompt that decode computes may hold up the streams there."
    ),
]
RoutingOption = Annotated[
    RoutingChoice, typer.Option(help="kv: prefix caches weigh too; load: they don't; round-robin: nothing does.")
]
DisaggregationOption = Annotated[
    DisaggregationChoice,
    typer.Option(help="auto: decode computes a prompt itself where that is faster and harmless; always; never."),
]
SloClassOption = Annotated[
    list[str],
    typer.Option(
        "--slo-class",
        metavar="NAME=FIGURES",
        help="What a class of requests is promised, such as chat=ttft_s:0.5,tokens_per_s:30; see docs/slo.md. "
        "Repeatable.",
    ),
]
TenantWeight = Annotated[
    list[str],
    typer.Option(
        "--tenant-weight",
        metavar="NAME=WEIGHT",
        help="A tenant's share when requests wait, against 1 of those not named. Repeatable.",
    ),
]
Prices = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE", help="What tokens cost, as TOML or JSON; see docs/slo.md.")
]
UsageLog = Annotated[
    Path | None, typer.Option("--usage-log", metavar="FILE", help="Gets a JSON line for each request.")
]
RouterProcesses = Annotated[
    int,
    typer.Option(
        "--processes",
        min=1,
        max=64,
        help="Router processes on the same public ports; workers dial --worker-port and as many more behind it.",
    ),
]
DieWithParent = Annotated[int, typer.Option("--die-with-parent", metavar="PID", hidden=True)]
LogFormatOption = Annotated[LogFormat, typer.Option(help="auto: text on a terminal, JSON elsewhere.")]
EngineArg = Annotated[
    list[str],
    typer.Option(
        "--engine-arg",
        metavar="KEY=VALUE",
        help="Passed to vLLM's EngineArgs, which checks it, or to the simulation; the value is JSON or a plain word. "
        "Repeatable.",
    ),
]
SimulatedGpu = Annotated[
    str, typer.Option(help="What simulated engines compute on: H100, H200, A100, L40S, RTX4090 or CPU.")
]
SimulatedModel = Annotated[
    str, typer.Option(help="What simulated engines compute, such as llama-3.1-70b; --model is whose tokens travel.")
]
SimulatedSpeed = Annotated[
    float | None, typer.Option(help="The simulated hardware's seconds in one second; 0.1 is slow motion.")
]
LimitOption = Annotated[
    list[str],
    typer.Option(
        "--limit",
        metavar="NAME=VALUE",
        help="A bound on one request, such as max_body_bytes=1048576; see the README for all. Repeatable.",
    ),
]

MetricsHost = Annotated[str, typer.Option(help="Address of --metrics-port.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="GET /metrics on a port of its own, without a key; 0 is a free one."),
]

OtlpEndpoint = Annotated[
    str, typer.Option("--otlp-endpoint", metavar="URL", help="Send spans to this collector: OTLP over gRPC.")
]

TlsCert = Annotated[str, typer.Option("--tls-cert", metavar="FILE", help="Our certificate towards the mesh, PEM.")]
TlsKey = Annotated[str, typer.Option("--tls-key", metavar="FILE", help="Its key.")]
TlsCa = Annotated[str, typer.Option("--tls-ca", metavar="FILE", help="The CA whose certificates the mesh accepts.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow plain text on an address that other machines may reach.")
]
ApiKeys = Annotated[
    Path | None,
    typer.Option(
        "--api-keys", metavar="FILE", help="Hashed API keys (see segue keys new); SEGUE_API_KEYS may hold more."
    ),
]


def tls_files(cert: str, key: str, ca: str) -> TlsFiles | None:
    """None if none of them is given. Raises SettingsError for a certificate without its key or the reverse."""
    if not (cert or key or ca):
        return None
    from segue.base.tls import TlsFiles

    return TlsFiles(cert, key, ca)


def start_process(die_with_parent: int) -> None:
    """First thing in a process of a cluster, before anything slow is imported. 0: it has no supervisor."""
    if die_with_parent:
        from segue.base import process

        process.die_with_parent(die_with_parent)


def parse_engine_args(pairs: Iterable[str], option: str = "--engine-arg") -> dict[str, Any]:
    """``key=value`` pairs as a dict; dashes in a key count as underscores, a value that isn't JSON is a
    string.

    Raises typer.BadParameter for a pair without ``=`` or a key given twice.
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not key.isidentifier():
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE; write for example max_num_seqs=8", param_hint=option)
        if key in parsed:
            raise typer.BadParameter(f"{key} is given twice; keep one of them", param_hint=option)
        try:
            parsed[key] = json.loads(value)
        except json.JSONDecodeError:
            parsed[key] = value
    return parsed


def parse_limits(pairs: Iterable[str]) -> Limits:
    """``name=value`` pairs over the default limits.

    Raises typer.BadParameter: not a limit's name (with the nearest one), or not a number that it may have.
    """
    from segue.router.limits import Limits

    settable = {field.name: field.default for field in fields(Limits) if field.name != "default_timeout_s"}
    given = parse_engine_args(pairs, "--limit")
    for name, value in given.items():
        if name not in settable:
            near = get_close_matches(name, settable, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(settable))}"
            raise typer.BadParameter(f"{name!r} is not a limit; {hint}", param_hint="--limit")
        whole = isinstance(settable[name], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise typer.BadParameter(f"{name} is {value!r}; it must be {kind}", param_hint="--limit")
    try:
        return Limits(**given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--limit") from error


def simulated_args(engine: EngineKind, gpu: str, model: str, speed: float | None) -> list[str]:
    """The options of a simulation as engine arguments, ``key=value``.

    Raises typer.BadParameter if there are some and the engine isn't simulated.
    """
    given = {
        "gpu": ("--simulated-gpu", gpu),
        "model_shape": ("--simulated-model", model),
        "speed": ("--simulated-speed", "" if speed is None else f"{speed!r}"),
    }
    for option, value in given.values():
        if value and engine is not EngineKind.simulated:
            raise typer.BadParameter("it is for --engine simulated alone", param_hint=option)
    return [f"{name}={value}" for name, (_, value) in given.items() if value]


def parse_tenant_weights(pairs: Iterable[str]) -> dict[str, float]:
    """Raises typer.BadParameter: not NAME=WEIGHT, not a number above 0, or a name given twice."""
    weights: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = 0.0
        if not name or name in weights or not 0 < weight < float("inf"):
            raise typer.BadParameter(
                f"{pair!r} is not NAME=WEIGHT with a number above 0, each name once", param_hint="--tenant-weight"
            )
        weights[name] = weight
    return weights


def as_flags(option: str, pairs: Iterable[str]) -> tuple[str, ...]:
    """The pairs as command-line words, to hand on to a child process."""
    return tuple(word for pair in pairs for word in (option, pair))
