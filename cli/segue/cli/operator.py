"""``segue operator``, and what other commands need to reach a cluster that runs on Kubernetes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from segue.base.errors import SettingsError
from segue.cli.failures import settings_errors
from segue.cli.options import LogFormat, LogFormatOption, TlsCa, TlsCert, TlsKey, tls_files

if TYPE_CHECKING:
    from segue.cluster.pools_access import PoolsAt

Namespaces = Annotated[
    list[str], typer.Option("--namespace", help="Only PDClusters of this namespace. Repeatable. Default: of all.")
]
PoolsOf = Annotated[
    str,
    typer.Option("--pools-of", metavar="NAMESPACE/NAME", help="The PDCluster whose pools segue scale reaches here."),
]


def operator(
    namespace: Namespaces = [],  # noqa: B006 - typer copies it
    health_port: Annotated[int, typer.Option(min=0, max=65535, help="GET /healthz; 0 serves none.")] = 8080,
    pools_of: PoolsOf = "",
    pools_port: Annotated[
        int, typer.Option(help="Where segue scale reaches the pools of --pools-of, by kubectl port-forward.")
    ] = 9600,
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    tls_ca: TlsCa = "",
    log_format: LogFormatOption = LogFormat.auto,
) -> None:
    """Run the Kubernetes operator: it keeps what PDClusters describe; see docs/kubernetes.md."""
    from segue.base.logging import setup_logging

    setup_logging(log_format.value)
    with settings_errors(), needs_k8s():
        from segue.operator.main import OperatorSettings, run

        run(
            OperatorSettings(
                namespaces=tuple(namespace),
                health_port=health_port,
                pools_of=namespace_and_name(pools_of) if pools_of else None,
                pools_port=pools_port,
                mesh=tls_files(tls_cert, tls_key, tls_ca),
            )
        )


@asynccontextmanager
async def pools_on_kubernetes(cluster: str) -> AsyncIterator[PoolsAt]:
    """Serves ``segue.v1.Pools`` of NAMESPACE/NAME on this machine while the block runs, with the rights of whoever runs
    it, and for nobody else.

    Raises:
        SettingsError: it isn't NAMESPACE/NAME, or there is no kubeconfig.
    """
    with needs_k8s():
        from segue.cluster.manager import serve_pools
        from segue.cluster.pools_access import PoolsAt, PoolsGuard, new_token
        from segue.operator.api import Api
        from segue.operator.kubernetes_pools import KubernetesPools
        from segue.operator.login import login

    namespace, name = namespace_and_name(cluster)
    guard = PoolsGuard(token=new_token())
    async with (
        Api(login) as api,
        KubernetesPools(api, namespace, name) as pools,
        serve_pools(pools, guard=guard) as address,
    ):
        yield PoolsAt(address, token=guard.token)


def namespace_and_name(text: str) -> tuple[str, str]:
    """Raises SettingsError if it is something else."""
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise SettingsError(f"{text!r} is not NAMESPACE/NAME of a PDCluster; write for example segue/chat")
    return namespace, name


@contextmanager
def needs_k8s() -> Iterator[None]:
    """Raises SettingsError where the extra isn't installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"kopf", "yaml"}:
            raise
        raise SettingsError(f"this command needs {error.name}, which is not installed; install segue[k8s]") from None
