"""Telling a flex worker of this machine to turn."""

from __future__ import annotations

import grpc.aio

from segue.base.errors import SettingsError
from segue.base.identity import worker_dns
from segue.base.logging import get_logger
from segue.base.tls import load_mesh
from segue.base.tls_grpc import open_aio_channel
from segue.cluster.cert_files import files_of
from segue.cluster.local import LocalCluster, LocalWorker
from segue.proto.worker_pb2 import Role, TurnRequest
from segue.proto.worker_pb2_grpc import WorkerStub

log = get_logger("pools")

# Beyond the time that the worker has to get empty: its streams end and begin.
_BEYOND_DRAIN_S = 10.0
_ROLES = {"prefill": Role.ROLE_PREFILL, "decode": Role.ROLE_DECODE}


async def turn_worker(cluster: LocalCluster, worker: LocalWorker) -> bool:
    """Have it take its role; whether it has. One that is not empty within the cluster's drain timeout stays what it is.

    Told as an operator, by the certificate of that name where there are certificates.
    """
    request = TurnRequest(role=_ROLES[worker.role], timeout_s=cluster.drain_timeout_s)
    try:
        tls = None if cluster.certs is None else load_mesh(files_of(cluster.certs, "operator"))
        async with open_aio_channel(f"127.0.0.1:{worker.port}", tls, worker_dns(worker.name)) as channel:
            timeout_s = cluster.drain_timeout_s + _BEYOND_DRAIN_S
            turned = await WorkerStub(channel).Turn(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        log.warning("turn_failed", worker_id=worker.name, pool=worker.role, why=error.details())
        return False
    except SettingsError as error:
        log.warning("turn_failed", worker_id=worker.name, pool=worker.role, why=str(error))
        return False
    log.info("turned", worker_id=worker.name, pool=worker.role, ready_s=round(turned.ready_s, 3))
    return True
