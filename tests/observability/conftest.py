from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from segue.engine.embedded_model import ensure_embedded_model
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import Router, running_router


@pytest.fixture(scope="session")
def codec() -> TextCodec:
    return TextCodec.load(str(ensure_embedded_model()))


@pytest_asyncio.fixture
async def router(codec: TextCodec) -> AsyncIterator[Router]:
    async with running_router(codec) as running:
        yield running
