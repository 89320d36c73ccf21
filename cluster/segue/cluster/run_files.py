"""Where the clusters of this machine can be found: one small file for each that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from segue.base.errors import SettingsError


class RunFile(BaseModel):
    """What ``segue up`` says of its cluster; addresses are host:port."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    pools: str
    http_url: str
    grpc: str
    run_dir: str


def run_folder() -> Path:
    """``$XDG_RUNTIME_DIR/segue``, of this user alone; else one of the user's below the temporary folder."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "segue" if base else Path(os.environ.get("TMPDIR", "/tmp")) / f"segue-{os.getuid()}"


@contextmanager
def announced(run: RunFile, folder: Path | None = None) -> Iterator[None]:
    """The file exists while the block runs. Raises OSError if it can't be written."""
    folder = folder or run_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{run.pid}.json"
    scratch = path.with_suffix(".new")
    scratch.write_text(run.model_dump_json())
    scratch.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running(folder: Path | None = None) -> list[RunFile]:
    """The clusters of this user that run now. Files of those that were killed are removed."""
    found = []
    for path in sorted((folder or run_folder()).glob("*.json")):
        try:
            run = RunFile.model_validate(json.loads(path.read_text()))
            os.kill(run.pid, 0)
        except (ProcessLookupError, ValueError, ValidationError):
            path.unlink(missing_ok=True)
        except (FileNotFoundError, PermissionError):  # Gone in this moment, or another user's process by now.
            continue
        else:
            found.append(run)
    return found


def the_running_one(folder: Path | None = None) -> RunFile:
    """The only cluster of this user on this machine. Raises SettingsError if there is none, or more than one."""
    runs = running(folder)
    if not runs:
        raise SettingsError("no cluster of yours runs on this machine; start one with segue up, or name one: --cluster")
    if len(runs) > 1:
        told = "; ".join(f"--cluster {run.pools} ({run.http_url}, pid {run.pid})" for run in runs)
        raise SettingsError(f"{len(runs)} clusters of yours run on this machine; say which one: {told}")
    return runs[0]
