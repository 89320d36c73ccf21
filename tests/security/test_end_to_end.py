"""``segue certs``, ``segue keys`` and ``segue up`` as the documentation has them, with real engines."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import openai
import pytest

from segue.base.errors import Unauthenticated
from segue.base.identity import worker_dns
from segue.base.tls import TlsFiles, TlsSource
from segue.base.tls_grpc import open_channel
from segue.base.tls_http import client_context
from segue.client import Answer, SegueClient
from segue.proto.worker_pb2 import DescribeRequest, DescribeResponse
from segue.proto.worker_pb2_grpc import WorkerStub
from tests.e2e.running import Cluster, running_cluster, worker_address

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROMPT = "Prefill reads the prompt; decode writes the answer. " * 12


def segue(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "segue.cli", *arguments]
    inherited = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=inherited).stdout


def describe(cluster: Cluster, worker_id: str, tls: TlsSource | None) -> DescribeResponse:
    address = worker_address(cluster.log_dir / f"{worker_id}.log")
    with open_channel(address, tls, worker_dns(worker_id)) as channel:
        return WorkerStub(channel).Describe(DescribeRequest(), timeout=10)


def openai_client(cluster: Cluster, key: str, trust: TlsFiles) -> openai.OpenAI:
    http_client = openai.DefaultHttpxClient(verify=client_context(trust))
    return openai.OpenAI(base_url=f"{cluster.http_url}/v1", api_key=key, max_retries=0, http_client=http_client)


def test_a_cluster_with_tls_and_keys_serves_those_who_have_them(tmp_path: Path) -> None:
    certs, keys = tmp_path / "certs", tmp_path / "keys"
    segue("certs", str(certs))
    key = segue("keys", "new", "alice", "--append", str(keys)).strip()
    trust = TlsFiles(ca=str(certs / "ca.crt"))
    operator = TlsSource(TlsFiles(str(certs / "operator.crt"), str(certs / "operator.key"), trust.ca))
    options = ("--transport", "grpc", "--certs", str(certs), "--api-keys", str(keys))
    with running_cluster(tmp_path, *options) as cluster:
        assert cluster.http_url.startswith("https://")
        with openai_client(cluster, key, trust) as sdk:
            texts = [completion(sdk, cluster)]
            answer = asyncio.run(generate(cluster, key, trust))
            assert (answer.text, answer.timings.transport) == (texts[0], "grpc")

            with openai_client(cluster, "sk-segue-guess", trust) as guessing, pytest.raises(openai.AuthenticationError):
                guessing.models.list()
            with pytest.raises(Unauthenticated):
                asyncio.run(generate(cluster, None, trust))
            asked = ("ask", PROMPT, "--max-tokens", "24", "--address", cluster.grpc_address, "--tls-ca", trust.ca)
            assert segue(*asked, SEGUE_API_KEY=key) == texts[0] + "\n"
            plain = cluster.http_url.replace("https", "http")
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{plain}/healthz")
            for outsider in (None, TlsSource(trust)):
                with pytest.raises(grpc.RpcError):
                    describe(cluster, "prefill-0", outsider)

            segue("certs", str(certs), "--rotate")
            with openai_client(cluster, key, trust) as later:
                texts.append(completion(later, cluster))
            assert texts[0] == texts[1]

        deadline_s = time.monotonic() + 30
        for worker_id in ("prefill-0", "decode-0"):
            while (seen := describe(cluster, worker_id, operator)).load.free_blocks != seen.status.facts.kv_blocks:
                assert time.monotonic() < deadline_s, seen.load
                time.sleep(0.05)
    for log in tmp_path.glob("*.log"):
        text = log.read_text()
        assert key not in text
        assert "PRIVATE KEY" not in text


async def generate(cluster: Cluster, key: str | None, trust: TlsFiles) -> Answer:
    async with SegueClient(cluster.grpc_address, api_key=key, tls=trust) as client:
        return await client.generate(PROMPT, max_tokens=24, temperature=0)


def completion(sdk: openai.OpenAI, cluster: Cluster) -> str:
    answer = sdk.completions.create(model=cluster.model, prompt=PROMPT, max_tokens=24, temperature=0)
    timings = answer.model_dump()["segue"]["timings"]
    assert (timings["path"], timings["transport"]) == ("seeded", "grpc")
    assert timings["transfer_bytes"] > 0
    return answer.choices[0].text
