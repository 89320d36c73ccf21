"""How the owner of a cluster on Ray finds it again from this machine: a run file, and the operator's certificate."""

from __future__ import annotations

import shutil
from pathlib import Path

from segue.cluster.cert_files import write_private
from segue.cluster.on_ray.manager import Addresses
from segue.cluster.run_files import RunFile, private_folder, write_run_file


def announce(found: Addresses, log_dir: str, folder: Path | None = None) -> RunFile:
    """For ``segue scale`` and the like. Raises SettingsError or OSError where that can't be written."""
    name = _name(found)
    certs = private_folder(folder) / name
    if found.operator:
        write_private(certs, found.operator)
    run = RunFile(
        pid=0,
        pools=found.pools,
        http_url=found.http_url,
        grpc=found.grpc,
        run_dir=log_dir,
        certs=str(certs) if found.operator else "",
        token=found.token,
    )
    write_run_file(run, name, folder)
    return run


def forget(found: Addresses, folder: Path | None = None) -> None:
    """It has been stopped."""
    kept = private_folder(folder)
    (kept / f"{_name(found)}.json").unlink(missing_ok=True)
    shutil.rmtree(kept / _name(found), ignore_errors=True)


def _name(found: Addresses) -> str:
    return "ray-" + "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in found.pools)
