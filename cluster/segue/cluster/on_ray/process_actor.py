"""One process of a cluster inside a Ray actor. The death of one is the death of the other, and Ray starts both again.

A process and not threads of the actor: an engine is ended by a signal and killed if need be, has an interpreter of its
own, and runs exactly as it does without Ray.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from segue.cluster.cert_files import write_private
from segue.cluster.environment import Machine, share_of, worker_environment

HOST = "{host}"
PARENT = "{parent}"
FILES = "{files}"


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """What an actor runs. ``HOST`` in ``argv`` stands for the address of the node it finds itself on, ``PARENT`` for
    the actor's process, ``FILES`` for a folder of its own in which ``files`` lie, by name: its certificate and key.

    ``share`` is the number of its core on that node; None leaves cores and GPUs as Ray has set them.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log_dir: str
    share: int | None = None
    kv_cache_gib: float = 1.0
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs now. ``stopping``: it was told to end, perhaps by a manager that is no more."""

    host: str
    node_id: str
    pid: int
    stopping: bool = False


class ProcessActor:
    """To be made a Ray actor with ``max_concurrency`` above 1, so that it answers while it stops its process."""

    def __init__(self, spec: ActorSpec) -> None:
        import ray

        self._stopping = False
        node_id = ray.get_runtime_context().get_node_id()
        self._host = ray.util.get_node_ip_address()
        started = threading.Event()
        # The kernel kills a child when the thread that started it ends: this one lasts as long as the child.
        self._keeper = threading.Thread(target=self._run, args=(spec, started), name=f"keep {spec.name}", daemon=True)
        self._keeper.start()
        started.wait()
        self._place = Place(self._host, node_id, self._process.pid)

    def place(self) -> Place:
        return self._place

    def stop(self, grace_s: float) -> int:
        """SIGTERM, after ``grace_s`` SIGKILL; the exit status once it has ended. The actor lives on without it."""
        self._stopping = True
        self._place = replace(self._place, stopping=True)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._keeper.join()  # It removes the process's files, before Ray ends the actor.
        return self._process.wait()

    def _run(self, spec: ActorSpec, started: threading.Event) -> None:
        environment = {**os.environ, **spec.environment}
        if spec.share is not None:
            cores = sorted(os.sched_getaffinity(0))
            share = share_of(Machine(tuple(cores)), spec.share, "cpu")
            environment = worker_environment(environment, share, spec.kv_cache_gib)
        with tempfile.TemporaryDirectory(prefix="segue-") as files:
            write_private(Path(files), spec.files)
            status = self._run_with(files, spec, started, environment)
        if not self._stopping:
            sys.stderr.write(f"{spec.name} ended with status {status}; Ray is to start it again\n")
            sys.stderr.flush()
            os._exit(1)

    def _run_with(self, files: str, spec: ActorSpec, started: threading.Event, environment: Mapping[str, str]) -> int:
        words = {HOST: self._host, PARENT: str(os.getpid()), FILES: files}
        argv = [_replaced(word, words) for word in spec.argv]
        log_dir = Path(spec.log_dir)
        log_dir.mkdir(parents=True, exist_ok=True)
        with (log_dir / f"{spec.name}.log").open("ab") as log:
            self._process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started.set()
        return self._process.wait()


def _replaced(word: str, words: Mapping[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word
