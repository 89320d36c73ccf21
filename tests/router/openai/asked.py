"""What is asked of the server over HTTP."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import ClientSession

from segue.base.errors import SegueError
from segue.proto.inference_pb2 import GenerateResponse

COMPLETION = {"model": "org/tiny", "prompt": "Hello", "max_tokens": 2}
CHAT = {"model": "org/tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}

# The fake core of conftest.py, and what its scripts yield.
FakeService = Any
Step = GenerateResponse | SegueError | float


async def post(http: ClientSession, body: Any, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post(path, data=data, headers=headers) as response:
        return response.status, await response.json()
