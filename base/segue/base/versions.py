"""Which versions of Segue work together while a cluster is upgraded."""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("segue")

# Of what routers and workers say to each other: the frames of worker.proto and KvTransfer. It grows with a change that
# somebody who doesn't know it can't leave aside; fields that are only added don't count. Routers are upgraded first, so
# a router speaks with workers from OLDEST_PROTOCOL on, and two workers that one router takes understand each other.
PROTOCOL = 2  # Since 2 the tokens of a prompt are fixed32 and blocks have other names.
OLDEST_PROTOCOL = 2


def protocol_problem(workers: int, version: str, newest: int = PROTOCOL, oldest: int = OLDEST_PROTOCOL) -> str | None:
    """Why a router that speaks protocols ``oldest`` to ``newest`` refuses a worker; None if it takes it.

    ``workers`` is the worker's protocol and ``version`` its Segue, empty from one that doesn't say.
    """
    if oldest <= workers <= newest:
        return None
    speaks = str(newest) if oldest == newest else f"{oldest} to {newest}"
    worker = f"the worker speaks protocol {workers} (Segue {version or 'unknown'})"
    what = "all routers before workers" if workers > newest else "the worker"
    return f"{worker}, this router {speaks} (Segue {VERSION}); upgrade {what}"
