"""What goes out with the status of a failed call, beyond its code and message."""

from __future__ import annotations

import math

from segue.base.errors import Overloaded, SegueError


def status_metadata(error: SegueError) -> tuple[tuple[str, str], ...]:
    """The error's own code, and when to come back where that would help."""
    metadata: tuple[tuple[str, str], ...] = (("segue-error-code", error.code),)
    if isinstance(error, Overloaded):
        milliseconds = str(math.ceil(1000 * error.retry_after_s))
        # For people's programs, and for gRPC's own retries in clients that have them switched on.
        metadata += (("retry-after-ms", milliseconds), ("grpc-retry-pushback-ms", milliseconds))
    return metadata
