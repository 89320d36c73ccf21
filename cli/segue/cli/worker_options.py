"""The options that every worker command takes, named once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from segue.cli.failures import settings_errors
from segue.cli.model import model_and_served_name
from segue.cli.options import (
    DieWithParent,
    DrainTimeout,
    EngineArg,
    EngineKind,
    Insecure,
    KvCacheGib,
    KvDigest,
    LogFormat,
    LogFormatOption,
    MetricsHost,
    MetricsPort,
    Model,
    OtlpEndpoint,
    SimulatedGpu,
    SimulatedModel,
    SimulatedSpeed,
    TlsCa,
    TlsCert,
    TlsKey,
    Transport,
    TransportOption,
    parse_engine_args,
    simulated_args,
    start_process,
    tls_files,
)

if TYPE_CHECKING:
    from segue.worker.settings import WorkerSettings

Routers = Annotated[
    list[str], typer.Option("--router", metavar="HOST:PORT", help="A router's worker port. Repeatable.")
]
Host = Annotated[str, typer.Option(help="Address to listen on, and that peers dial.")]
Port = Annotated[int, typer.Option(help="gRPC of this worker; 0 chooses a free one.")]
WorkerId = Annotated[str | None, typer.Option(help="Name in the pool. Default: made of the host's name.")]
Engine = Annotated[
    EngineKind,
    typer.Option(
        help="inproc: one process, one thread. async: vLLM's AsyncLLM. auto: by platform. simulated: no model, only "
        "its timing."
    ),
]
KvPort = Annotated[int, typer.Option(help="KV transfer of this worker; 0 chooses a free one.")]
AdvertiseKv = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT", help="Where other workers reach our KV transfer, if not where it listens: NAT, a proxy."
    ),
]
KvDigestOption = Annotated[
    KvDigest,
    typer.Option("--kv-digest", help="Blocks that NIXL moved and whose digests are compared; over gRPC all are."),
]
Lease = Annotated[float, typer.Option(min=0.1, help="Seconds that offered KV blocks wait to be claimed.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker is told on its command line; a field is an option."""

    router: Routers
    model: Model = None
    host: Host = "127.0.0.1"
    port: Port = 0
    kv_port: KvPort = 0
    advertise_kv: AdvertiseKv = ""
    worker_id: WorkerId = None
    transport: TransportOption = Transport.auto
    kv_digest: KvDigestOption = KvDigest.sampled
    engine: Engine = EngineKind.auto
    engine_arg: EngineArg = field(default_factory=list)
    simulated_gpu: SimulatedGpu = ""
    simulated_model: SimulatedModel = ""
    simulated_speed: SimulatedSpeed = None
    kv_cache_gib: KvCacheGib = 1.0
    lease: Lease = 30.0
    drain_timeout: DrainTimeout = 60.0
    tls_cert: TlsCert = ""
    tls_key: TlsKey = ""
    tls_ca: TlsCa = ""
    insecure: Insecure = False
    metrics_host: MetricsHost = "127.0.0.1"
    metrics_port: MetricsPort = None
    otlp_endpoint: OtlpEndpoint = ""
    log_format: LogFormatOption = LogFormat.auto
    die_with_parent: DieWithParent = 0

    def settings(self) -> WorkerSettings:
        """What the worker runs with. Raises what :func:`~segue.cli.failures.settings_errors` tells of."""
        from segue.worker.settings import WorkerSettings

        simulated = simulated_args(self.engine, self.simulated_gpu, self.simulated_model, self.simulated_speed)
        path, _ = model_and_served_name(self.model, None)
        settings = WorkerSettings(
            model=path,
            routers=tuple(self.router),
            host=self.host,
            port=self.port,
            kv_port=self.kv_port,
            advertise_kv=self.advertise_kv,
            transport=self.transport.value,
            kv_digest=self.kv_digest.value,
            engine=self.engine.value,
            engine_args=parse_engine_args([*simulated, *self.engine_arg]),
            kv_cache_gib=self.kv_cache_gib,
            lease_s=self.lease,
            drain_timeout_s=self.drain_timeout,
            tls=tls_files(self.tls_cert, self.tls_key, self.tls_ca),
            insecure=self.insecure,
            metrics_host=self.metrics_host,
            metrics_port=self.metrics_port,
            otlp_endpoint=self.otlp_endpoint,
            log_format=self.log_format.value,
        )
        # Without a name given, the settings' own default is it.
        return settings if self.worker_id is None else settings.model_copy(update={"worker_id": self.worker_id})


def worker_command(run: Callable[..., None]) -> Callable[..., None]:
    """``run(options, ...)`` as a command: each field of :class:`WorkerOptions` is an option of it, beside its own."""
    own = {name: one for name, one in inspect.signature(run, eval_str=True).parameters.items() if name != "options"}

    @functools.wraps(run)
    def command(**given: Any) -> None:
        beside = {name: given.pop(name) for name in own}
        options = WorkerOptions(**given)
        start_process(options.die_with_parent)
        with settings_errors():
            run(options, **beside)

    parameters = [*own.values(), *_parameters()]
    # Typer reads both.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(WorkerOptions, include_extras=True)
    found = []
    for one in fields(WorkerOptions):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        found.append(
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is MISSING else default,
                annotation=hints[one.name],
            )
        )
    return found
