"""Telling a flex worker to turn, and asking one what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from segue.base.errors import SettingsError
from segue.base.identity import worker_dns
from segue.base.logging import get_logger
from segue.base.tls import TlsFiles, load_mesh
from segue.base.tls_grpc import open_aio_channel
from segue.cluster.pools import PoolName
from segue.proto.worker_pb2 import WORKER_STATE_DRAINING, DescribeRequest, Role, TurnRequest
from segue.proto.worker_pb2_grpc import WorkerStub

if TYPE_CHECKING:
    from segue.proto.worker_pb2_grpc import WorkerAsyncStub

log = get_logger("pools")

# Beyond the time that the worker has to get empty: its streams end and begin.
_BEYOND_DRAIN_S = 10.0
_ANSWER_S = 2.0
_ROLES: dict[PoolName, Role] = {"prefill": Role.ROLE_PREFILL, "decode": Role.ROLE_DECODE}
_NAMES = {role: name for name, role in _ROLES.items()}


@dataclass(frozen=True, slots=True)
class FlexWorker:
    """One that may be told to turn at ``address`` (host:port), by whoever shows ``tls``: an operator's certificate,
    None in plain text."""

    name: str
    address: str
    tls: TlsFiles | None = None

    async def turn(self, pool: PoolName, drain_timeout_s: float) -> float | None:
        """Have it take a role; the seconds until it was ready in it, by its own clock. None: it has not, or nobody
        knows. One that is not empty within ``drain_timeout_s`` stays what it is.
        """
        request = TurnRequest(role=_ROLES[pool], timeout_s=drain_timeout_s)
        try:
            async with self._stub() as stub:
                turned = await stub.Turn(request, timeout=drain_timeout_s + _BEYOND_DRAIN_S)
        except grpc.aio.AioRpcError as error:
            log.warning("turn_failed", worker_id=self.name, pool=pool, why=error.details())
            return None
        except SettingsError as error:
            log.warning("turn_failed", worker_id=self.name, pool=pool, why=str(error))
            return None
        log.info("turned", worker_id=self.name, pool=pool, ready_s=round(turned.ready_s, 3))
        return turned.ready_s

    async def pool(self) -> PoolName | None:
        """The one whose role it has now; None: it doesn't say, as while its process starts, or may have the other one
        in a moment, because it turns."""
        try:
            async with self._stub() as stub:
                said = await stub.Describe(DescribeRequest(), timeout=_ANSWER_S)
        except grpc.aio.AioRpcError:
            return None
        return None if said.status.state == WORKER_STATE_DRAINING else _NAMES.get(said.register.role)

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator[WorkerAsyncStub]:
        """Raises SettingsError: the certificate can't be had."""
        tls = None if self.tls is None else load_mesh(self.tls)
        async with open_aio_channel(self.address, tls, worker_dns(self.name)) as channel:
            yield WorkerStub(channel)
