"""The peers from PyPI, each in a virtual environment of its own: their dependencies are not Segue's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_INSTALL_LIMIT_S = 900


class NotInstalledError(RuntimeError):
    """A peer can't be installed here; the message has pip's own words."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A package at a version. ``without_deps`` go in after ``packages``, without what they ask for themselves."""

    name: str
    packages: tuple[str, ...]
    without_deps: tuple[str, ...] = ()

    def ensure(self, venvs: Path, *, install: bool) -> Path:
        """The environment's bin folder, made first where it is absent and ``install`` is set.

        Raises NotInstalledError.
        """
        venv = venvs / (self.without_deps or self.packages)[0].replace("==", "-")
        made = venv / ".made"
        if not made.exists():
            if not install:
                raise NotInstalledError(f"{venv} is not there; --peers makes it")
            if not (venv / "bin" / "python").exists():
                _run([sys.executable, "-m", "venv", str(venv)])
            pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            _run([*pip, *self.packages])
            if self.without_deps:
                _run([*pip, "--no-deps", *self.without_deps])
            made.touch()
        return venv / "bin"


VLLM_ROUTER = Peer("vllm-router", ("vllm-router==0.1.17",))
SMG = Peer("smg", ("smg==1.13.0",))
# ai-dynamo asks for aisimulate, whose wheel is not on PyPI; front end and mocker run without it.
DYNAMO = Peer(
    "dynamo",
    (
        "ai-dynamo-runtime==1.6.1",
        *("aiohttp", "certifi", "kubernetes", "msgspec", "prometheus-client", "pyzmq", "redis", "tqdm"),
        *("transformers", "zstandard"),
    ),
    ("ai-dynamo==1.6.1",),
)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"{' '.join(command)} took longer than {_INSTALL_LIMIT_S} s") from error
    if done.returncode != 0:
        raise NotInstalledError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-500:]}")
