"""Talking to workers: what each has to do, and that it is to leave. Over Segue's own gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import grpc.aio

from segue.base.identity import worker_dns
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from segue.operator.shrink import Load
from segue.proto.worker_pb2 import WORKER_STATE_DRAINING, DescribeRequest, DrainRequest
from segue.proto.worker_pb2_grpc import WorkerStub

log = get_logger("operator")

WORKER_PORT = 9200
_ANSWER_S = 3.0


class Workers(Protocol):
    """Both of pods by name, with their addresses."""

    async def loads(self, ips: Mapping[str, str]) -> dict[str, Load]:
        """Of those that answer."""

    async def drain(self, pod: str, ip: str) -> None:
        """Tell it to leave. That it didn't hear is seen in its load, and it is told again."""


class GrpcWorkers:
    """A connection a call: they are few, and pods come and go."""

    def __init__(self, mesh: TlsSource | None = None, port: int = WORKER_PORT) -> None:
        self._tls = mesh
        self._port = port

    async def loads(self, ips: Mapping[str, str]) -> dict[str, Load]:
        answers = await asyncio.gather(*(self._load(pod, ip) for pod, ip in ips.items()))
        return {pod: load for pod, load in zip(ips, answers, strict=True) if load is not None}

    async def drain(self, pod: str, ip: str) -> None:
        try:
            async with self._channel(pod, ip) as channel:
                # 0: its own setting, which the operator has given it.
                await WorkerStub(channel).Drain(DrainRequest(timeout_s=0), timeout=_ANSWER_S)
        except grpc.aio.AioRpcError as error:
            log.warning("drain_not_told", worker_id=pod, error=error.details())
        else:
            log.info("drain_told", worker_id=pod)

    async def _load(self, pod: str, ip: str) -> Load | None:
        try:
            async with self._channel(pod, ip) as channel:
                said = await WorkerStub(channel).Describe(DescribeRequest(), timeout=_ANSWER_S)
        except grpc.aio.AioRpcError:  # It starts, or has gone: its pod says which.
            return None
        return Load(
            requests=said.load.running_requests + said.load.waiting_requests,
            offers=said.load.held_offers,
            waiting_tokens=said.load.waiting_tokens,
            draining=said.status.state == WORKER_STATE_DRAINING,
        )

    def _channel(self, pod: str, ip: str) -> grpc.aio.Channel:
        host = f"[{ip}]" if ":" in ip else ip
        # By its name, which a pool's shared certificate covers as well as one of its own.
        return open_aio_channel(f"{host}:{self._port}", self._tls, worker_dns(pod))
