"""Classes, prices and the usage log of a whole router process, over both APIs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest

from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.access.keys import KeyLimits, mint
from tests.router.core.scripted import until
from tests.router.core.test_main import ENDS_S, router_process, workers_of

PRICES = 'currency = "EUR"\n[default]\ninput = 1000000\ncached = 100000\noutput = 2000000\n'


async def test_what_a_request_costs_is_told_and_logged_to_the_last_one(tmp_path: Path) -> None:
    log, rotated = tmp_path / "usage.jsonl", tmp_path / "usage.jsonl.1"
    (tmp_path / "prices.toml").write_text(PRICES)
    options = ("--prices", str(tmp_path / "prices.toml"), "--usage-log", str(log), "--disaggregation", "always")
    async with router_process(*options) as process, workers_of(process):
        request = GenerateRequest(
            token_ids=TokenIds(ids=[5, 6, 7, 8]),
            sampling=SamplingParams(max_tokens=3),
            slo_class="documents",
            tenant="alice",
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.ports['grpc']}") as channel:
            stub = InferenceStub(channel)
            answer = await stub.GenerateUnary(request, timeout=30)
            request.slo_class = "chats"
            with pytest.raises(grpc.aio.AioRpcError, match="it has chat, documents, batch"):
                await stub.GenerateUnary(request, timeout=30)
        # Scripted prefill workers have half of each prompt cached: 2 + 2 tokens, and 3 of the answer.
        cost = answer.cost
        assert (cost.currency, cost.input, cost.output) == ("EUR", 2.0, 6.0)
        assert (cost.cached, cost.total) == pytest.approx((0.2, 8.2))
        assert answer.timings.slo_class == "documents"
        os.rename(log, rotated)
        process.child.send_signal(signal.SIGHUP)
        await until(log.exists)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{process.ports['http']}") as http:
            body = {"model": "tiny", "prompt": [5, 6, 7, 8], "max_tokens": 3}
            headers = {"X-Segue-SLO-Class": "batch", "X-Segue-Tenant": "bob", "X-Segue-Priority": "-3"}
            async with http.post("/v1/completions", json=body, headers=headers) as response:
                segue = (await response.json())["segue"]
            assert segue["cost"]["total"] == pytest.approx(8.2)
            assert segue["timings"]["slo_class"] == "batch"
            async with http.post("/v1/completions", json=body, headers={"X-Segue-Priority": "1e3"}) as response:
                assert response.status == 400
        process.child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 0
    entries = [json.loads(line) for file in (rotated, log) for line in file.read_text().splitlines()]
    seen = [(one["tenant"], one["slo_class"], one["outcome"], one["cost"]["total"]) for one in entries]
    assert seen == [("alice", "documents", "ok", 8.2), ("bob", "batch", "ok", 8.2)]
    assert process.faults == [], "".join(process.noise)


async def test_with_keys_the_tenant_is_the_keys_over_both_apis(tmp_path: Path) -> None:
    log = tmp_path / "usage.jsonl"
    secret, key = mint("alice", KeyLimits())
    options = ("--usage-log", str(log))
    async with router_process(*options, environment={"SEGUE_API_KEYS": key.line()}) as process, workers_of(process):
        request = GenerateRequest(token_ids=TokenIds(ids=[5, 6]), sampling=SamplingParams(max_tokens=2))
        metadata = (("authorization", f"Bearer {secret}"),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.ports['grpc']}") as channel:
            stub = InferenceStub(channel)
            await stub.GenerateUnary(request, timeout=30, metadata=metadata)
            request.tenant = "bob"
            with pytest.raises(grpc.aio.AioRpcError, match="the API key belongs to 'alice'") as refused:
                await stub.GenerateUnary(request, timeout=30, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        headers = {"Authorization": f"Bearer {secret}"}
        body = {"model": "tiny", "prompt": [5, 6], "max_tokens": 2}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{process.ports['http']}", headers=headers) as http:
            async with http.post("/v1/completions", json=body) as response:
                assert response.status == 200
            async with http.post("/v1/completions", json=body, headers={"X-Segue-Tenant": "bob"}) as response:
                assert response.status == 403
        process.child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 0
    assert [json.loads(line)["tenant"] for line in log.read_text().splitlines()] == ["alice", "alice"]
