"""The name of the model that a server serves."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence

from segue.loadtest.target.http import Origin

_TIMEOUT_S = 10.0


def served_model(url: str, api: str, api_key: str, headers: Sequence[tuple[str, str]]) -> str:
    """The first of ``/v1/models``. Over gRPC the empty name means the served one, and nobody is asked.

    Raises ValueError saying what came instead.
    """
    if api in ("grpc", "session"):
        return ""
    origin = Origin.parse(url)
    address = f"{'https' if origin.tls else 'http'}://{origin.authority}{origin.base_path}/v1/models"
    request = urllib.request.Request(address, headers=dict(headers))
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return str(json.load(response)["data"][0]["id"])
    except (urllib.error.URLError, OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{address} names no model ({type(error).__name__}: {error}); name it with --model") from None
