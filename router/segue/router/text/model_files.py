"""The files of a model that say how its text becomes tokens, from a local folder or the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.base.errors import SettingsError

_OPTIONAL_JSON = ("tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json")
_TOKENIZER = "tokenizer.json"
_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files' contents; an absent optional one is an empty dict or None."""

    model: str
    tokenizer_json: str
    tokenizer_config: dict[str, Any]
    special_tokens_map: dict[str, Any]
    config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None


def read_model_files(model: str) -> ModelFiles:
    """Read them from the folder ``model``, or download them if it is a hub id (``owner/name``).

    Raises SettingsError naming the file and the place when tokenizer.json is missing, the hub can't be
    reached or a file isn't what its name says.
    """
    paths = _local(Path(model)) if Path(model).is_dir() else _from_hub(model)
    tokenizer_path = paths[_TOKENIZER]
    if tokenizer_path is None:
        raise SettingsError(
            f"model {model!r} has no {_TOKENIZER}; the router tokenises with that file. "
            "Save one with transformers' AutoTokenizer(...).save_pretrained(folder) and serve that folder"
        )
    parsed = {name: _read_json(paths[name]) for name in _OPTIONAL_JSON}
    template_path = paths[_TEMPLATE]
    return ModelFiles(
        model=model,
        tokenizer_json=_read_text(tokenizer_path),
        tokenizer_config=parsed["tokenizer_config.json"],
        special_tokens_map=parsed["special_tokens_map.json"],
        config=parsed["config.json"],
        generation_config=parsed["generation_config.json"],
        chat_template=None if template_path is None else _read_text(template_path),
    )


def _local(folder: Path) -> dict[str, Path | None]:
    names = (_TOKENIZER, *_OPTIONAL_JSON, _TEMPLATE)
    return {name: path if (path := folder / name).is_file() else None for name in names}


def _from_hub(model: str) -> dict[str, Path | None]:
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise SettingsError(f"model {model!r} looks like a path, but there is no such folder")
    return {name: _download(model, name) for name in (_TOKENIZER, *_OPTIONAL_JSON, _TEMPLATE)}


def _download(model: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, name))
    except LocalEntryNotFoundError as error:
        # A kind of EntryNotFoundError, but it says that the hub wasn't asked, not that the file doesn't
        # exist.
        raise SettingsError(
            f"can't get {name} of {model!r}: it is not in the local cache and the hub can't be reached. "
            "Check the network or name a local folder"
        ) from error
    except EntryNotFoundError:
        return None
    except HFValidationError as error:
        raise SettingsError(f"model {model!r} is neither a folder nor a hub id of the form owner/name") from error
    except OSError as error:
        # The hub's HTTP errors (unknown or gated repository, no login, no network) are OSErrors.
        raise SettingsError(f"can't get {name} of {model!r} from the hub: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"can't read {path}: {error}") from error


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise SettingsError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content
