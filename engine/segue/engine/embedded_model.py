"""A tiny Llama that is made, not downloaded, so that a machine without a model hub can run the whole cluster.

Random weights from a fixed seed and a byte-level BPE tokenizer trained on the Python reference's own prose.
It says nothing sensible; it exercises everything a real model does (grouped-query attention, bfloat16, a chat
template) in a few megabytes. Making it needs neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Raise when this file makes another model from the same inputs.
_RECIPE = 1
_SEED = 20_261_121

_HIDDEN = 256
_INTERMEDIATE = 704
_LAYERS = 4
_HEADS = 4
_KV_HEADS = 2
_HEAD_DIM = 64  # vLLM's CPU attention takes 32, 64, 80, 96, ...
_VOCAB_SIZE = 2048
_MAX_MODEL_LEN_TOKENS = 4096

_BOS, _EOS = "<s>", "</s>"
_SPECIAL_TOKENS = (_BOS, _EOS, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_BOS_ID, _EOS_ID = 0, 1

_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# Standard deviations, and the power applied to the output rows. Chosen so that greedy output keeps varying
# and depends on the whole prompt (a wrong KV block shows), while the best token leads by more than bfloat16
# rounding: the cubed output rows have heavy tails, so near-ties are rare.
_EMBEDDING_STD = 0.2
_WEIGHT_STD = 0.06
_OUTPUT_POWER = 3


def ensure_embedded_model(cache_dir: Path | None = None) -> Path:
    """The folder of the embedded model, made first if it isn't there.

    ``cache_dir`` defaults to ``$XDG_CACHE_HOME/segue/models`` (``~/.cache/segue/models``). The folder's name
    ends in a digest of all that shaped it, so another version never meets old files. It appears by one
    rename: processes that race for it all succeed. Takes a few seconds the first time. Raises OSError if the
    folder can't be written.
    """
    root = cache_dir or default_cache_dir()
    corpus = list(_corpus())
    target = root / f"segue-tiny-{_content_version(corpus)}"
    if (target / "config.json").is_file():
        return target
    root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".segue-tiny-", dir=root))
    try:
        _write_tokenizer(scratch, corpus)
        _write_weights(scratch / "model.safetensors")
        _write_configs(scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            # Another process was first: rename refuses to replace a folder that has files in it.
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/segue/models``, or below ``~/.cache`` where that isn't set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "segue" / "models"


def _corpus() -> Iterator[str]:
    """The Python reference as text: in every Python, some 700 kB of plain English."""
    from pydoc_data.topics import topics

    return (text for _, text in sorted(topics.items()))


def _content_version(corpus: list[str]) -> str:
    # The prose differs between Python versions and so, then, does the tokenizer.
    recipe = json.dumps([_RECIPE, _SEED, _model_config(), _CHAT_TEMPLATE, _EMBEDDING_STD, _WEIGHT_STD, _OUTPUT_POWER])
    digest = hashlib.sha256(recipe.encode())
    for text in corpus:
        digest.update(text.encode())
    return digest.hexdigest()[:10]


def _write_tokenizer(folder: Path, corpus: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if tokenizer.get_vocab_size() != _VOCAB_SIZE:
        raise RuntimeError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, expected {_VOCAB_SIZE}: "
            "this Python's pydoc_data is too short to train on; install its full standard library"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", pair=f"{_BOS} $A $B", special_tokens=[(_BOS, _BOS_ID)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _write_configs(folder: Path) -> None:
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _BOS,
        "eos_token": _EOS,
        "chat_template": _CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _MAX_MODEL_LEN_TOKENS,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    generation_config = {"bos_token_id": _BOS_ID, "eos_token_id": _EOS_ID, "do_sample": False}
    for name, content in (
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation_config),
        ("config.json", _model_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _model_config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCAB_SIZE,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": _MAX_MODEL_LEN_TOKENS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": _BOS_ID,
        "eos_token_id": _EOS_ID,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _write_weights(path: Path) -> None:
    """Write all weights in the safetensors format: the header's length (u64, little-endian), a JSON header,
    the data.

    Format: https://github.com/huggingface/safetensors. Written by hand because the data are bfloat16, which
    numpy lacks, and torch is not in the base install.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    offset = 0
    for name, weight in _weights():
        blob = _bfloat16_bytes(weight)
        header[name] = {
            "dtype": "BF16",
            "shape": list(weight.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.writelines(blobs)


def _weights() -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor by its name in a Llama checkpoint, shape (out, in)."""
    # RandomState, not Generator: numpy promises that its stream never changes.
    random = np.random.RandomState(_SEED)

    def normal(rows: int, columns: int, std: float = _WEIGHT_STD) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * std).astype(np.float32)

    ones = np.ones(_HIDDEN, dtype=np.float32)
    yield "model.embed_tokens.weight", normal(_VOCAB_SIZE, _HIDDEN, _EMBEDDING_STD)
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", ones
        yield prefix + "self_attn.q_proj.weight", normal(_HEADS * _HEAD_DIM, _HIDDEN)
        yield prefix + "self_attn.k_proj.weight", normal(_KV_HEADS * _HEAD_DIM, _HIDDEN)
        yield prefix + "self_attn.v_proj.weight", normal(_KV_HEADS * _HEAD_DIM, _HIDDEN)
        yield prefix + "self_attn.o_proj.weight", normal(_HIDDEN, _HEADS * _HEAD_DIM)
        yield prefix + "post_attention_layernorm.weight", ones
        yield prefix + "mlp.gate_proj.weight", normal(_INTERMEDIATE, _HIDDEN)
        yield prefix + "mlp.up_proj.weight", normal(_INTERMEDIATE, _HIDDEN)
        yield prefix + "mlp.down_proj.weight", normal(_HIDDEN, _INTERMEDIATE)
    yield "model.norm.weight", ones
    output = normal(_VOCAB_SIZE, _HIDDEN, 1.0) ** _OUTPUT_POWER
    output *= _WEIGHT_STD / output.std()
    # Zero logits for the special tokens: the end of sequence is possible, but far behind the best tokens.
    output[: len(_SPECIAL_TOKENS)] = 0.0
    yield "lm_head.weight", output


def _bfloat16_bytes(values: NDArray[np.float32]) -> bytes:
    """Round to nearest even and keep the upper half of each float32."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").tobytes()
