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
from segue.cluster.environment import Share, worker_environment
from segue.cluster.on_ray.cores import HeldCores
from segue.cluster.ports import free_port

HOST = "{host}"
PARENT = "{parent}"
FILES = "{files}"
PORT = "{port}"
ROLE = "{role}"

_MANAGER_S = 10.0


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """What an actor runs. ``HOST`` in ``argv`` stands for the address of the node it finds itself on, ``PARENT`` for
    the actor's process, ``FILES`` for a folder of its own in which ``files`` lie, by name: its certificate and key, and
    ``PORT`` for a port that is free there, new in each life.

    ``role`` is what a flex worker begins as, ``ROLE`` in ``argv``: in a later life what the manager knows it to be
    instead. Empty: it has one role.

    ``cpus`` is how many cores it is bound to, those that the fewest others on its node have; None leaves cores and GPUs
    as Ray has set them.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log_dir: str
    cpus: float | None = None
    kv_cache_gib: float = 1.0
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    role: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs now, and the ``PORT`` that it was given. ``stopping``: it was told to end, perhaps by a
    manager that is no more."""

    host: str
    node_id: str
    pid: int
    port: int = 0
    stopping: bool = False


class ProcessActor:
    """To be made a Ray actor with ``max_concurrency`` above 1, so that it answers while it stops its process."""

    def __init__(self, spec: ActorSpec) -> None:
        import ray

        self._stopping = False
        node_id = ray.get_runtime_context().get_node_id()
        self._host = ray.util.get_node_ip_address()
        self._port = free_port(self._host)
        self._role = _present_role(spec)
        self._held = None if spec.cpus is None else HeldCores(sorted(os.sched_getaffinity(0)), spec.cpus)
        started = threading.Event()
        # The kernel kills a child when the thread that started it ends: this one lasts as long as the child.
        self._keeper = threading.Thread(target=self._run, args=(spec, started), name=f"keep {spec.name}", daemon=True)
        self._keeper.start()
        started.wait()
        self._place = Place(self._host, node_id, self._process.pid, self._port)

    def place(self) -> Place:
        return self._place

    def stop(self, grace_s: float) -> int:
        """SIGTERM, after ``grace_s`` SIGKILL; the exit status once it has ended. The actor lives on without it.

        Called again, as by a manager that took the place of a lost one, it waits as well: a second signal would end a
        process that drains at once.
        """
        if not self._stopping:
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
        if self._held is not None:
            environment = worker_environment(environment, Share(self._held.cores), spec.kv_cache_gib)
        with tempfile.TemporaryDirectory(prefix="segue-") as files:
            write_private(Path(files), spec.files)
            status = self._run_with(files, spec, started, environment)
        if self._held is not None:
            self._held.release()
        if not self._stopping:
            sys.stderr.write(f"{spec.name} ended with status {status}; Ray is to start it again\n")
            sys.stderr.flush()
            os._exit(1)

    def _run_with(self, files: str, spec: ActorSpec, started: threading.Event, environment: Mapping[str, str]) -> int:
        words = {HOST: self._host, PARENT: str(os.getpid()), FILES: files, PORT: str(self._port), ROLE: self._role}
        argv = [_replaced(word, words) for word in spec.argv]
        log_dir = Path(spec.log_dir)
        log_dir.mkdir(parents=True, exist_ok=True)
        with (log_dir / f"{spec.name}.log").open("ab") as log:
            self._process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started.set()
        return self._process.wait()


def _present_role(spec: ActorSpec) -> str:
    """Which role to begin in. The manager is asked in later lives alone: in the first it may wait for this actor.

    A manager that is being started again, too, doesn't know: then it is the role of the first life.
    """
    import ray
    from ray.exceptions import RayError

    # Settings are made of what is above.
    from segue.cluster.on_ray.settings import MANAGER, NAMESPACE

    if not spec.role or not ray.get_runtime_context().was_current_actor_reconstructed:
        return spec.role
    try:
        manager = ray.get_actor(MANAGER, namespace=NAMESPACE)
        known: str = ray.get(manager.pool_of.remote(spec.name), timeout=_MANAGER_S)
    except (ValueError, RayError) as error:
        sys.stderr.write(f"{spec.name} begins as {spec.role}; the manager doesn't say what it was: {error}\n")
        return spec.role
    return known or spec.role


def _replaced(word: str, words: Mapping[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word
