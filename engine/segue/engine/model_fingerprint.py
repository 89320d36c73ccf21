"""A short name for a model's weights and configuration, equal on two machines if the files are equal."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segue.base.errors import SettingsError

_SAMPLE_BYTES = 1 << 20


def model_fingerprint(model: str, revision: str | None) -> str:
    """16 hex digits.

    Of a local directory: its config.json and, of each weights file, name, size, first and last MiB (a fine-tune of
    the same shape differs there; reading all of a 140 GB model at each start would not do). Of a hub id: the id and
    the revision.

    Raises:
        SettingsError: the directory holds no model.
    """
    digest = hashlib.sha256()
    directory = Path(model)
    if not directory.is_dir():
        digest.update(f"{model}@{revision or 'main'}".encode())
        return digest.hexdigest()[:16]
    if not (directory / "config.json").is_file():
        raise SettingsError(f"{model} has no config.json; give the folder of a model or a hub id")
    weights = [path for path in directory.iterdir() if path.suffix in {".safetensors", ".bin", ".gguf"}]
    for path in sorted([directory / "config.json", *weights]):
        size_bytes = path.stat().st_size
        digest.update(f"{path.name}:{size_bytes}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            if size_bytes > _SAMPLE_BYTES:
                file.seek(-_SAMPLE_BYTES, 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]
