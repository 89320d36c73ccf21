"""What a router tells operators: its workers, queues and last minute."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc.aio

from segue.client.connection import Connection
from segue.client.errors import from_rpc_error
from segue.proto.fleet_pb2 import FleetState, ListFleetRequest, WatchFleetRequest
from segue.proto.fleet_pb2_grpc import FleetStub


class FleetClient:
    """One router's ``segue.v1.Fleet``. Where API keys are used, the connection's must be one for operations."""

    def __init__(self, connection: Connection, *, timeout_s: float = 5.0) -> None:
        """Raises SettingsError as :class:`segue.client.SegueClient` does."""
        self._channel = connection.open()
        self._metadata = connection.metadata()
        self._stub = FleetStub(self._channel)
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close(grace=None)

    async def state(self) -> FleetState:
        """One look. Raises SegueError: Unavailable, Unauthenticated, Forbidden."""
        try:
            return await self._stub.List(ListFleetRequest(), timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def watch(self, interval_s: float = 1.0) -> AsyncIterator[FleetState]:
        """A look at once and then every ``interval_s``. Raises like :meth:`state`, also when the router goes."""
        call = self._stub.Watch(WatchFleetRequest(interval_s=interval_s), metadata=self._metadata)
        try:
            async for state in call:
                yield state
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()
