"""The manager's port: where ``segue scale`` reaches whoever starts the workers of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
from grpc_reflection.v1alpha import reflection

from segue.base.errors import SettingsError
from segue.base.exposure import check_exposure
from segue.base.tls_grpc import add_port
from segue.cluster.pools import Pools
from segue.cluster.pools_access import PoolsGuard
from segue.cluster.pools_service import PoolsService
from segue.proto import pools_pb2
from segue.proto.pools_pb2_grpc import add_PoolsServicer_to_server

_SERVICE = pools_pb2.DESCRIPTOR.services_by_name["Pools"].full_name
_NO_GUARD = PoolsGuard()


@asynccontextmanager
async def serve_pools(
    pools: Pools, host: str = "127.0.0.1", port: int = 0, guard: PoolsGuard = _NO_GUARD, *, insecure: bool = False
) -> AsyncIterator[str]:
    """Serve ``segue.v1.Pools`` while the block runs; yields host:port.

    Raises:
        SettingsError: the port is taken, or others would reach it in plain text and ``insecure`` doesn't say that this
            is meant.
    """
    check_exposure(host, "the pools' port", tls=guard.tls is not None, tls_option="certificates", insecure=insecure)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], interceptors=guard.interceptors())
    add_PoolsServicer_to_server(PoolsService(pools), server)
    reflection.enable_server_reflection((_SERVICE, reflection.SERVICE_NAME), server)
    try:
        bound = add_port(server, f"{host}:{port}", guard.tls)
    except RuntimeError as error:
        raise SettingsError(f"can't listen on {host}:{port}: {error}; choose another --pools-port") from error
    await server.start()
    try:
        yield f"{host}:{bound}"
    finally:
        await server.stop(grace=None)
