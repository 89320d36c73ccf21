"""Which cores of a node the engines there have. Ray counts CPUs and binds nobody to any; an engine has to be bound.

Every actor has its cores in a file that it holds locked. The kernel takes the lock away with the process, however that
ends: nothing has to be given back by somebody who is no more, and nobody has to know who else is on the node.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from segue.cluster.run_files import private_folder


def least_held(cores: Sequence[int], held: Iterable[Sequence[int]], wanted: float) -> tuple[int, ...]:
    """As many whole cores as ``wanted`` CPUs are, at least one and at most all: those that the fewest others hold."""
    holders = Counter(chain.from_iterable(held))
    fewest_first = sorted(cores, key=lambda core: (holders[core], core))
    return tuple(sorted(fewest_first[: max(1, int(wanted))]))


class HeldCores:
    """``cores`` are this process's until :meth:`release`, or its end. ``folder`` is where this user's processes on this
    node have their files. Raises SettingsError: others can write there."""

    def __init__(self, cores: Sequence[int], wanted: float, folder: Path | None = None) -> None:
        self._folder = private_folder(folder or Path(tempfile.gettempdir()) / f"segue-cores-{os.getuid()}")
        with self._alone():
            self.cores = least_held(cores, list(self._others()), wanted)
            # Kept open, and closed to child processes: the engine's must not outlive this one's.
            self._file = tempfile.NamedTemporaryFile("w", prefix="held-", dir=self._folder)  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._file.write(" ".join(map(str, self.cores)))
            self._file.flush()

    def release(self) -> None:
        with self._alone():
            self._file.close()

    def _others(self) -> Iterator[tuple[int, ...]]:
        """What living processes hold. The files of others are removed."""
        for path in self._folder.glob("held-*"):
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield tuple(map(int, file.read().split()))
                else:
                    path.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else looks or takes meanwhile."""
        with (self._folder / "lock").open("w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            yield
