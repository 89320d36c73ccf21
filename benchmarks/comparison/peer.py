"""vllm-router in a virtual environment of its own: its dependencies are not Segue's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VERSION = "0.1.17"
_INSTALL_LIMIT_S = 600


def ensure_vllm_router(venv: Path) -> Path:
    """The ``vllm-router`` command in ``venv``, made and installed from PyPI first where it is absent.

    Raises ``RuntimeError`` when the environment holds another version or the installation fails.
    """
    python = venv / "bin" / "python"
    command = venv / "bin" / "vllm-router"
    if not command.exists():
        if not python.exists():
            _run([sys.executable, "-m", "venv", str(venv)])
        _run([str(python), "-m", "pip", "install", "--quiet", f"vllm-router=={VERSION}"])
    found = _run([str(python), "-c", "from importlib.metadata import version; print(version('vllm-router'))"])
    if found != VERSION:
        raise RuntimeError(
            f"{venv} holds vllm-router {found}, expected {VERSION}: remove it or give another --peer-venv"
        )
    return command


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(command)} took longer than {_INSTALL_LIMIT_S} s") from error
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout.strip()
