"""Which cores a thread may run on, against what vLLM does to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_cores() -> Iterator[None]:
    """Undo what is done to this thread's cores meanwhile.

    On CPU the connector of vLLM binds the thread that makes it, which is the one that runs the model, to the last core
    of its NUMA node: every engine of a machine to the same one.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
