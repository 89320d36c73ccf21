"""Where the clusters of this machine can be found, and with what their owner reaches them: one small file for each that
runs, which nobody else can read."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segue.base.errors import SettingsError
from segue.cluster.cert_files import OPERATOR, files_of, write_private
from segue.cluster.pools_access import PoolsAt

_ANSWER_S = 1.0


class RunFile(BaseModel):
    """What ``segue up`` says of its cluster; addresses are host:port.

    ``pid`` 0 is a cluster that no process of this machine stands for: it runs while its pools' port answers. ``certs``
    is the folder with the operator's certificate, ``token`` what its pools' port asks for where there are none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    pools: str
    http_url: str
    grpc: str
    run_dir: str
    certs: str = ""
    token: str = Field(default="", repr=False)

    @property
    def pools_at(self) -> PoolsAt:
        return PoolsAt(self.pools, files_of(Path(self.certs), OPERATOR) if self.certs else None, self.token)


def run_folder() -> Path:
    """``$XDG_RUNTIME_DIR/segue``, of this user alone; else one of the user's below the temporary folder."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "segue" if base else Path(os.environ.get("TMPDIR", "/tmp")) / f"segue-{os.getuid()}"


def private_folder(folder: Path | None = None) -> Path:
    """The folder, made if need be. Raises SettingsError if it is not this user's alone."""
    folder = folder or run_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (problem := _not_private(folder)) is not None:
        raise SettingsError(problem)
    return folder


def _not_private(folder: Path) -> str | None:
    """Below the temporary folder anybody may have made a folder of that name, to read our tokens or to send us
    elsewhere."""
    seen = folder.lstat()
    if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() and not stat.S_IMODE(seen.st_mode) & 0o077:
        return None
    return (
        f"{folder} is not a folder of yours alone (owner {seen.st_uid}, mode {stat.S_IMODE(seen.st_mode):o}); remove "
        "it or chmod it to 700, or set XDG_RUNTIME_DIR"
    )


def write_run_file(run: RunFile, name: str, folder: Path | None = None) -> Path:
    """For its owner's eyes only. Raises OSError if it can't be written, SettingsError if the folder isn't ours."""
    path = private_folder(folder) / f"{name}.json"
    scratch = path.with_suffix(".new")
    write_private(path.parent, {scratch.name: run.model_dump_json()})
    scratch.rename(path)
    return path


@contextmanager
def announced(run: RunFile, folder: Path | None = None) -> Iterator[None]:
    """The file exists while the block runs. Raises as :func:`write_run_file`."""
    path = write_run_file(run, str(run.pid), folder)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running(folder: Path | None = None) -> list[RunFile]:
    """The clusters of this user that run now. Files of those that were killed are removed.

    Raises:
        SettingsError: others could have written what is there.
    """
    folder = folder or run_folder()
    if not folder.exists():
        return []
    found = []
    for path in sorted(private_folder(folder).glob("*.json")):
        try:
            run = RunFile.model_validate(json.loads(path.read_text()))
            if run.pid:
                os.kill(run.pid, 0)
            elif not _answers(run.pools):  # Perhaps later again: its machine is another one.
                continue
        except (ProcessLookupError, ValueError, ValidationError):
            path.unlink(missing_ok=True)
        except (FileNotFoundError, PermissionError):  # Gone in this moment, or another user's process by now.
            continue
        else:
            found.append(run)
    return found


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except OSError:
        return False
    return True


def find_pools(cluster: str, certs: Path | None = None, folder: Path | None = None) -> PoolsAt:
    """Where pools are managed: at ``cluster`` (host:port), or of the only cluster that runs here if that is empty.

    ``certs`` is a folder with an operator's certificate; without it the run file says what is to be shown, if the
    cluster has one here.

    Raises:
        SettingsError: nothing or more than one cluster runs here.
    """
    if not cluster:
        known = the_running_one(folder).pools_at
    else:
        here = (run.pools_at for run in running(folder) if run.pools == cluster)
        known = next(here, PoolsAt(cluster))
    return known if certs is None else PoolsAt(known.address, files_of(certs, OPERATOR))


def the_running_one(folder: Path | None = None) -> RunFile:
    """The only cluster of this user on this machine. Raises SettingsError if there is none, or more than one."""
    runs = running(folder)
    if not runs:
        raise SettingsError(
            "no cluster of yours runs on this machine; start one with segue up (segue up --ray finds one that runs on "
            "Ray already), or name one: --cluster"
        )
    if len(runs) > 1:
        told = "; ".join(f"--cluster {run.pools} ({run.http_url}, pid {run.pid})" for run in runs)
        raise SettingsError(f"{len(runs)} clusters of yours run on this machine; say which one: {told}")
    return runs[0]
