"""The manager's port: where ``segue scale`` reaches whoever starts the workers of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
from grpc_reflection.v1alpha import reflection

from segue.base.errors import SettingsError
from segue.cluster.pools import Pools
from segue.cluster.pools_service import PoolsService
from segue.proto import pools_pb2
from segue.proto.pools_pb2_grpc import add_PoolsServicer_to_server

_SERVICE = pools_pb2.DESCRIPTOR.services_by_name["Pools"].full_name


@asynccontextmanager
async def serve_pools(pools: Pools, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve ``segue.v1.Pools`` while the block runs; yields host:port.

    In plain text and to everybody who reaches ``host``: give it an address that only those who run the cluster reach.

    Raises:
        SettingsError: the port is taken.
    """
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_PoolsServicer_to_server(PoolsService(pools), server)
    reflection.enable_server_reflection((_SERVICE, reflection.SERVICE_NAME), server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise SettingsError(f"can't listen on {host}:{port}: {error}; choose another --pools-port") from error
    await server.start()
    try:
        yield f"{host}:{bound}"
    finally:
        await server.stop(grace=None)
