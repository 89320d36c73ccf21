"""The port that KEDA dials: it is of the mesh, like those of workers."""

from __future__ import annotations

import grpc

from segue.base.identity import ROUTER_DNS
from segue.cluster.ports import choose_ports
from segue.proto.externalscaler_pb2 import ScaledObjectRef
from tests.security.mesh import Authority
from tests.security.peers import grpc_outcome, outsiders, plain_bytes
from tests.security.test_router_listeners import secured

SIGNAL = "/externalscaler.ExternalScaler/GetMetricSpec"


async def test_outsiders_get_nothing_from_the_scalers_port(ours: Authority, strangers: Authority) -> None:
    port = choose_ports("127.0.0.1").http
    asked = ScaledObjectRef(scalerMetadata={"pool": "prefill"})
    async with secured(ours, "--scaler-port", str(port)):
        for who, tls in outsiders(ours, strangers):
            code, _ = await grpc_outcome(f"127.0.0.1:{port}", tls, ROUTER_DNS, SIGNAL, asked)
            assert code == grpc.StatusCode.UNAVAILABLE, who
        assert plain_bytes(port) == b""
        operator = ours.source("operator", "operator")
        code, details = await grpc_outcome(f"127.0.0.1:{port}", operator, ROUTER_DNS, SIGNAL, asked)
        assert code == grpc.StatusCode.OK, details
