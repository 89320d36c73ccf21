from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc.aio
import pytest
import pytest_asyncio

from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.router.text.tokenizer import TextCodec
from tests.router.core.calls import Pair
from tests.router.core.scripted import Router, running_router

if TYPE_CHECKING:  # A name of the stubs for the type checker only.
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub


@pytest.fixture(scope="session")
def codec() -> TextCodec:
    return TextCodec.load(str(ensure_embedded_model()))


@pytest_asyncio.fixture
async def router(codec: TextCodec) -> AsyncIterator[Router]:
    async with running_router(codec) as running:
        yield running


@pytest_asyncio.fixture
async def stub(router: Router) -> AsyncIterator[InferenceAsyncStub]:
    async with grpc.aio.insecure_channel(router.address) as channel:
        yield InferenceStub(channel)


@pytest_asyncio.fixture
async def pair(router: Router) -> Pair:
    return await router.attach_pair()
