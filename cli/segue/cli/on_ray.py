"""``segue up --ray`` and ``segue down``: a cluster on Ray, which goes on when the command has ended."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.failures import settings_errors

if TYPE_CHECKING:
    from segue.cluster.on_ray.settings import CaPem, RayCluster, RayPool

Address = Annotated[
    str,
    typer.Option(help="With Ray. auto: the cluster of this machine; host:port; ray://host:10001 from outside."),
]
RayPoolOption = Annotated[
    list[str],
    typer.Option(
        metavar="KEY=VALUE",
        help="With Ray: num_cpus, num_gpus, accelerator_type or a resource of each worker, or label:NAME=VALUE of its "
        "node. Repeatable.",
    ),
]
_OWN = ("num_cpus", "num_gpus", "accelerator_type")
_LABEL = "label:"


def up_on_ray(cluster: RayCluster, address: str, name: str) -> None:
    """Start a cluster on Ray, or find the one that runs there, and say where it is. Raises SettingsError."""
    _connect(address)
    from segue.cluster.on_ray.announced import announce
    from segue.cluster.on_ray.manager import start_manager

    found = start_manager(cluster)
    run = announce(found, cluster.log_dir)
    print(f"model {cluster.model} (name {name}); engines are loading: {found.http_url}/readyz says when they are ready")
    print(f"{found.http_url}/v1, gRPC {found.grpc}")
    if run.certs:
        print(f"TLS on every link; {run.certs}/ca.crt is what clients trust")
    print(f"segue scale --cluster {found.pools} prefill=2 decode=2 changes how many workers there are")
    print("segue down stops it")


def ca_of(certs: Path | None, *, insecure: bool) -> CaPem | None:
    """What signs the cluster's certificates; None: plain text, because that was asked for. Raises SettingsError."""
    from segue.cluster.on_ray.mesh import new_ca, read_ca

    if certs is not None:
        return read_ca(certs)
    return None if insecure else new_ca()


def down(address: Address = "auto") -> None:
    """End a cluster that segue up --ray has started, once its workers have finished what they have."""
    with settings_errors():
        _connect(address)
        from segue.cluster.on_ray.announced import forget
        from segue.cluster.on_ray.manager import stop_manager

        if (stopped := stop_manager()) is not None:
            forget(stopped)
    print("stopped")


def _connect(address: str) -> None:
    """Raises SettingsError: no Ray there, or none installed."""
    from segue.base.errors import SettingsError

    # Ray would set it to nothing for actors that ask for no GPU; a worker on CPU doesn't care, a test's might.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise SettingsError("this command needs Ray, which is not installed; install segue[ray]") from None
    from segue.cluster.on_ray.settings import NAMESPACE

    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise SettingsError(
            f"no Ray cluster lets us in at {address!r}: {_in_short(error)}; start one with ray start --head or, if "
            "it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to it"
        ) from None


def _in_short(error: Exception) -> str:
    """Without the traceback that Ray Client puts between the first line and the last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(dict.fromkeys((lines[0].strip(), lines[-1].strip())))


def gpus_each(prefill: Iterable[str], decode: Iterable[str]) -> dict[str, int]:
    """What a worker of each pool takes of a budget of GPUs: all of a GPU at least, also where it takes none."""
    pools = {"prefill": ray_pool(1, prefill, "--prefill-ray"), "decode": ray_pool(1, decode, "--decode-ray")}
    return {f"{name}_gpus": max(1, math.ceil(pool.num_gpus)) for name, pool in pools.items()}


def ray_pool(workers: int, pairs: Iterable[str], option: str, extra_args: tuple[str, ...] = ()) -> RayPool:
    """Raises typer.BadParameter for a value that its key can't have."""
    from segue.cluster.on_ray.settings import RayPool

    own: dict[str, Any] = {}
    labels: dict[str, str] = {}
    resources: dict[str, float] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        label = key.removeprefix(_LABEL)
        known: dict[str, Any] = labels if label != key else own if key in _OWN else resources
        if not (label and equals):
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE; write for example num_gpus=1", param_hint=option)
        if label in known:
            raise typer.BadParameter(f"{key} is given twice; keep one of them", param_hint=option)
        if known is resources and (near := get_close_matches(key, _OWN, n=1, cutoff=0.8)):
            raise typer.BadParameter(f"{key!r} is not known; did you mean {near[0]!r}?", param_hint=option)
        known[label] = value if known is labels or key == "accelerator_type" else _number(key, value, option)
    return RayPool(workers=workers, resources=resources, labels=labels, extra_args=extra_args, **own)


def _number(key: str, value: str, option: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise typer.BadParameter(f"{key} is {value!r}; it must be a number, 0 or more", param_hint=option)
    return number
