"""``segue up --ray`` and ``segue down``: a cluster on Ray, which goes on when the command has ended."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.failures import settings_errors
from segue.cli.options import parse_engine_args

if TYPE_CHECKING:
    from segue.cluster.on_ray.settings import RayCluster, RayPool

Address = Annotated[
    str,
    typer.Option(help="With Ray. auto: the cluster of this machine; host:port; ray://host:10001 from outside."),
]
RayPoolOption = Annotated[
    list[str],
    typer.Option(
        metavar="KEY=VALUE",
        help="With Ray: num_cpus, num_gpus, accelerator_type or a resource of each worker. Repeatable.",
    ),
]


def up_on_ray(cluster: RayCluster, address: str, name: str) -> None:
    """Start a cluster on Ray, or find the one that runs there, and say where it is. Raises SettingsError."""
    _connect(address)
    from segue.cluster.on_ray.manager import start_manager

    found = start_manager(cluster)
    print(
        f"model {cluster.model} (name {name}); engines are loading: http://{found.http}/readyz says when they are ready"
    )
    print(f"http://{found.http}/v1, gRPC {found.grpc}")
    print(f"segue scale --cluster {found.pools} prefill=2 decode=2 changes how many workers there are")
    print("segue down stops it")


def down(address: Address = "auto") -> None:
    """End a cluster that segue up --ray has started, once its workers have finished what they have."""
    with settings_errors():
        _connect(address)
        from segue.cluster.on_ray.manager import stop_manager

        stop_manager()
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
    except ConnectionError as error:
        raise SettingsError(f"no Ray cluster at {address!r}: {error}; start one with ray start --head") from None


def gpus_each(prefill: Iterable[str], decode: Iterable[str]) -> dict[str, int]:
    """What a worker of each pool takes of a budget of GPUs: all of a GPU at least, also where it takes none."""
    pools = {"prefill": ray_pool(1, prefill, "--prefill-ray"), "decode": ray_pool(1, decode, "--decode-ray")}
    return {f"{name}_gpus": max(1, math.ceil(pool.num_gpus)) for name, pool in pools.items()}


def ray_pool(workers: int, pairs: Iterable[str], option: str, extra_args: tuple[str, ...] = ()) -> RayPool:
    """Raises typer.BadParameter for a value that its key can't have."""
    from segue.cluster.on_ray.settings import RayPool

    own = {field.name for field in fields(RayPool)} - {"workers", "resources", "extra_args"}
    given: dict[str, Any] = {}
    resources: dict[str, float] = {}
    for key, value in parse_engine_args(pairs, option).items():
        if key == "accelerator_type":
            given[key] = str(value)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise typer.BadParameter(f"{key} is {value!r}; it must be a number", param_hint=option)
        elif key in own:
            given[key] = float(value)
        elif near := get_close_matches(key, own, n=1, cutoff=0.8):
            raise typer.BadParameter(f"{key!r} is not known; did you mean {near[0]!r}?", param_hint=option)
        else:
            resources[key] = float(value)
    return RayPool(workers=workers, resources=resources, extra_args=extra_args, **given)
