"""Engines are started once and shared: one reference engine for a whole run, one cluster here for each transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from segue.client import SegueClient
from segue.router.text.tokenizer import TextCodec
from tests.e2e.running import Cluster, running_cluster

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with processes of their own come before the shared clusters, which would take their cores."""
    places = [place for place, item in enumerate(items) if _HERE in item.path.parents]
    ours = sorted((items[place] for place in places), key=lambda item: "cluster" in getattr(item, "fixturenames", ()))
    for place, item in zip(places, ours, strict=True):
        items[place] = item


# Of the package: NIXL's progress threads would spin on both cores while all other tests run.
@pytest.fixture(scope="package", params=["grpc", "nixl"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    common = ("--engine-arg", "dtype=float32", "--worker-metrics")
    log_dir = tmp_path_factory.mktemp(f"cluster-{request.param}")
    with running_cluster(log_dir, *common, "--transport", request.param) as running:
        yield running


@pytest_asyncio.fixture
async def client(cluster: Cluster) -> AsyncIterator[SegueClient]:
    async with SegueClient(cluster.grpc_address) as connected:
        yield connected


@pytest.fixture
def sdk(cluster: Cluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.http_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_sdk(cluster: Cluster) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{cluster.http_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def codec(model: str) -> TextCodec:
    return TextCodec.load(model)
