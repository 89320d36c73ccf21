"""The port that scales and drains: for operators' certificates, or where there are none for who has the token."""

from __future__ import annotations

import stat
from pathlib import Path

import grpc
import pytest

from segue.base.errors import SettingsError
from segue.base.identity import ROUTER_DNS, Kind
from segue.cluster.manager import serve_pools
from segue.cluster.pools_access import PoolsAt, PoolsGuard, new_token
from segue.cluster.run_files import RunFile, find_pools, write_run_file
from segue.proto.pools_pb2 import DrainWorkerRequest, ListPoolsRequest, WatchPoolsRequest
from tests.cluster.autoscaling.fake_pools import FakePools
from tests.security.mesh import Authority
from tests.security.peers import grpc_outcome, outsiders, plain_bytes

DRAIN = "/segue.v1.Pools/Drain"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
ASKED = DrainWorkerRequest(worker_id="decode-1")


async def test_outsiders_get_nothing_and_other_members_of_the_mesh_are_refused(
    ours: Authority, strangers: Authority
) -> None:
    pools = FakePools(1, 2)
    async with serve_pools(pools, guard=PoolsGuard(ours.source("router", "router"))) as address:
        for who, tls in outsiders(ours, strangers):
            code, _ = await grpc_outcome(address, tls, ROUTER_DNS, DRAIN, ASKED)
            assert code == grpc.StatusCode.UNAVAILABLE, who
        assert plain_bytes(int(address.rpartition(":")[2])) == b""
        others: tuple[tuple[Kind, str], ...] = (("decode", "decode-0"), ("router", "router"), ("client", "alice"))
        for kind, name in others:
            code, details = await grpc_outcome(address, ours.source(kind, name), ROUTER_DNS, DRAIN, ASKED)
            assert code == grpc.StatusCode.PERMISSION_DENIED
            assert f"segue://{kind}/{name}" in details
        assert len(pools.view().of("decode").workers) == 2
        async with PoolsAt(address, ours.files("operator", "operator")).stub() as stub:
            assert (await stub.Drain(ASKED)).pools[1].desired == 1


async def test_where_there_are_no_certificates_only_the_token_opens_it() -> None:
    pools, token = FakePools(1, 2), new_token()
    async with serve_pools(pools, guard=PoolsGuard(token=token)) as address:
        for method in (DRAIN, REFLECTION):
            for metadata in ((), (("authorization", "Bearer guess"),), (("authorization", "Bearer "),)):
                code, details = await grpc_outcome(address, None, "", method, ASKED, metadata)
                assert code == grpc.StatusCode.UNAUTHENTICATED
                assert token not in details
        assert len(pools.view().of("decode").workers) == 2
        at = PoolsAt(address, token=token)
        assert token not in repr(at)
        async with at.stub() as stub:
            assert len((await stub.List(ListPoolsRequest())).pools) == 2
            assert len((await anext(aiter(stub.Watch(WatchPoolsRequest())))).pools) == 2


async def test_it_is_not_served_in_plain_text_to_others() -> None:
    with pytest.raises(SettingsError, match=r"the pools' port would listen on 0\.0\.0\.0 in plain text"):
        async with serve_pools(FakePools(1, 1), "0.0.0.0", guard=PoolsGuard(token=new_token())):
            pass


def test_what_opens_it_lies_where_its_owner_alone_reads_it(tmp_path: Path) -> None:
    run = RunFile(pid=1, pools="127.0.0.1:1", http_url="http://h", grpc="h:2", run_dir="/", token="secret")
    (folder := tmp_path / "runs").mkdir(mode=0o700)
    path = write_run_file(run, "1", folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "secret" not in repr(run)
    folder.chmod(0o755)
    with pytest.raises(SettingsError, match="not a folder of yours alone"):
        find_pools("", folder=folder)
