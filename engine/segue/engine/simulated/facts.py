"""What a simulated engine says of itself, and what it takes from the model's own files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from segue.base.errors import SettingsError
from segue.engine.model_fingerprint import model_fingerprint
from segue.engine.settings import EngineSettings
from segue.engine.simulated.models import SHAPES
from segue.engine.simulated.settings import SimulationSettings
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Of the model whose tokens travel: its size, and the tokens that end an answer."""

    size: int
    eos: frozenset[int]


def read_vocabulary(model: str) -> Vocabulary:
    """From ``config.json`` and ``generation_config.json`` of a local folder or a hub id; no weights are needed.

    Raises:
        SettingsError: there is no such model, or its configuration names no ``vocab_size``.
    """
    config = _read_json(model, "config.json")
    if config is None:
        raise SettingsError(f"{model} has no config.json; give the folder of a model or a hub id")
    size = config.get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise SettingsError(f"config.json of {model} has vocab_size {size!r}, expected a positive number")
    eos = set[int]()
    for source in (config, _read_json(model, "generation_config.json") or {}):
        ids = source.get("eos_token_id")
        eos.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return Vocabulary(size, frozenset(eos))


def max_len_tokens(simulation: SimulationSettings) -> int:
    """The longest request: the model's length or what the cache holds, unless another one is asked for.

    Raises:
        SettingsError: the cache can't hold a request of the length asked for, or none at all.
    """
    holds = simulation.kv_blocks * simulation.block_size
    where = f"{simulation.tensor_parallel_size} x {simulation.gpu} beside the weights of {simulation.model_shape}"
    if holds < 2:
        raise SettingsError(f"no KV cache fits into {where}; use a larger tensor_parallel_size or fewer weight_bits")
    if simulation.max_model_len is None:
        return min(SHAPES[simulation.model_shape].max_len_tokens, holds)
    if simulation.max_model_len > holds:
        raise SettingsError(
            f"max_model_len is {simulation.max_model_len}, but the KV cache of {where} holds {holds} tokens; "
            "use a larger tensor_parallel_size, fewer weight_bits or a smaller max_model_len"
        )
    return simulation.max_model_len


def engine_facts(
    settings: EngineSettings, simulation: SimulationSettings, vocabulary: Vocabulary, kv_address: str
) -> EngineFacts:
    return EngineFacts(
        engine="simulated",
        engine_version=metadata.version("segue"),
        model=settings.model,
        max_model_len_tokens=max_len_tokens(simulation),
        vocab_size=vocabulary.size,
        layout=block_layout(settings, simulation),
        kv_blocks=simulation.kv_blocks,
        transport="simulated",
        simulated=True,
        kv_address=kv_address,
        max_running_requests=simulation.max_num_seqs,
        kv_digest="full",
        accelerator=simulation.gpu,
    )


def block_layout(settings: EngineSettings, simulation: SimulationSettings) -> BlockLayout:
    """Named so that a simulated engine never exchanges blocks with a real one."""
    shape, timing = SHAPES[simulation.model_shape], simulation.timing
    fingerprint = _fingerprint(settings.model)
    return BlockLayout(
        model=f"simulated-{shape.name}-{fingerprint}",
        dtype="bfloat16" if timing.kv_element_bytes == 2 else "fp8",
        block_tokens=simulation.block_size,
        layers=shape.layers,
        block_bytes=simulation.block_size * timing.kv_bytes_per_token,
        order="simulated",
        tensor_parallel=1,
    )


@cache
def _fingerprint(model: str) -> str:
    """Once for all engines of a process: it reads megabytes."""
    return model_fingerprint(model, None)


def _read_json(model: str, name: str) -> dict[str, Any] | None:
    path = Path(model) / name
    if not Path(model).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

        try:
            path = Path(hf_hub_download(model, name))
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise SettingsError(f"{name} of {model} can't be had: {error}; give the folder of a model") from error
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
