from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pydoc import HTMLDoc, TextDoc
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from segue.router.text.tokenizer import TextCodec

CORPUS = [
    HTMLDoc.__doc__ or "",
    TextDoc.__doc__ or "",
    json.__doc__ or "",
    "Grüße, 你好, привет, 🙂👍🏽 naïve café " * 4,
]
SPECIAL = ["<s>", "</s>", "<|user|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n"
    "  {% if message['role'] not in ['system', 'user', 'assistant'] %}\n"
    "    {{ raise_exception('unknown role ' + message['role']) }}\n"
    "  {% endif %}\n"
    "{{ '<|user|>' + message['role'] + ': ' + (message['content'] | tojson) + '<|end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant: ' }}{% endif %}"
)

MakeModel = Callable[..., Path]


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool call>", special=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 0)])
    return tokenizer


def sentencepiece_like_tokenizer() -> Tokenizer:
    """Llama 2's kind: words marked by U+2581, unknown characters as bytes."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: id_ for id_, token in enumerate(["<unk>", *SPECIAL[:2], *byte_tokens])}
    for character in sorted(
        {c for text in CORPUS for c in text.replace(" ", "\u2581") if c.isascii() or c == "\u2581"}
    ):
        vocab.setdefault(character, len(vocab))
    merges = [("\u2581", "t"), ("t", "h"), ("\u2581", "a"), ("e", "r")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(["<unk>", *SPECIAL[:2]])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Writes a model's text files to a folder of its own. Keyword arguments go into tokenizer_config.json."""

    def make(kind: str = "byte-level", template_file: str | None = None, **config: Any) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tokenizer = byte_level_tokenizer() if kind == "byte-level" else sentencepiece_like_tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"))
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
            "chat_template": CHAT_TEMPLATE,
        } | config
        files: dict[str, dict[str, Any]] = {
            "tokenizer_config.json": tokenizer_config,
            "config.json": {
                "model_type": "llama",
                "vocab_size": 640,
                "max_position_embeddings": 256,
                "eos_token_id": 1,
            },
            "generation_config.json": {"eos_token_id": [1, 3]},
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        if template_file is not None:
            (folder / "chat_template.jinja").write_text(template_file)
        return folder

    return make


@pytest.fixture(scope="session")
def codec(make_model: MakeModel) -> TextCodec:
    return TextCodec.load(str(make_model()))


@pytest.fixture(scope="session")
def word_codec(make_model: MakeModel) -> TextCodec:
    return TextCodec.load(str(make_model("word")))
