"""A look at a process's /metrics."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from segue.loadtest.diagnose.scrape import Scrape

_TIMEOUT_S = 10.0


def read_metrics(url: str, api_key: str) -> Scrape:
    """``url`` is a router's, with or without ``/metrics``. Raises ValueError saying what came instead."""
    address = url if "://" in url else f"http://{url}"
    address = address.rstrip("/").removesuffix("/v1").removesuffix("/metrics") + "/metrics"
    request = urllib.request.Request(address, headers={"Accept": "text/plain; version=0.0.4"})
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            at_s = time.monotonic()
            return Scrape.parse(response.read().decode(), at_s)
    except urllib.error.HTTPError as error:
        hint = "; it takes an API key for operations (--api-key)" if error.code in (401, 403) else ""
        raise ValueError(f"{address} answered {error.code}{hint}") from None
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(f"{address} can't be read: {error}") from None
