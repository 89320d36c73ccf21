"""A model's tokenizer without transformers, giving the ids that transformers' AutoTokenizer gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers

from segue.base.errors import InvalidRequest, SettingsError
from segue.router.text.chat_template import ChatTemplate
from segue.router.text.model_files import ModelFiles, read_model_files

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TextCodec:
    """Text to token ids and back for one model. Safe to use from several threads."""

    model: str
    tokenizer: Tokenizer = field(repr=False)
    chat_template: ChatTemplate | None = field(repr=False)
    eos_token_ids: frozenset[int]
    vocab_size: int  # Of the model, which may be larger than the tokenizer's.
    max_model_len: int | None  # max_position_embeddings, if config.json says.
    special_token_ids: frozenset[int] = field(repr=False)
    _added: Mapping[int, str] = field(repr=False)

    @classmethod
    def load(cls, model: str) -> TextCodec:
        """Load from a folder or a hub id.

        Raises SettingsError saying which file is missing or wrong, and where.
        """
        return cls.from_files(read_model_files(model))

    @classmethod
    def from_files(cls, files: ModelFiles) -> TextCodec:
        tokenizer = _build_tokenizer(files)
        named = _named_tokens(files)
        config = files.config | (files.config.get("text_config") or {})
        template = files.chat_template or _template_of(files.tokenizer_config)
        added = tokenizer.get_added_tokens_decoder()
        return cls(
            model=files.model,
            tokenizer=tokenizer,
            chat_template=ChatTemplate(template, named) if template else None,
            eos_token_ids=_eos_token_ids(tokenizer, named.get("eos_token"), files.generation_config or config),
            vocab_size=max(config.get("vocab_size") or 0, tokenizer.get_vocab_size()),
            max_model_len=config.get("max_position_embeddings"),
            special_token_ids=frozenset(id_ for id_, token in added.items() if token.special),
            _added={id_: token.content for id_, token in added.items()},
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """``text`` as token ids, with what the model wants around a prompt (e.g. BOS) unless told otherwise.

        Takes about a second per MB and lets other threads run meanwhile.
        """
        return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """``token_ids`` as text. Ids outside the vocabulary are nothing; broken UTF-8 is U+FFFD."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt's text for a conversation, by the model's own template.

        It already holds the special tokens: encode it with ``add_special_tokens=False``. Raises
        InvalidRequest when the model has no template or the template refuses.
        """
        if self.chat_template is None:
            raise InvalidRequest(
                f"model {self.model!r} has no chat template; send its prompt to the completions API",
                param="messages",
            )
        return self.chat_template.render(messages)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """``render_chat`` as token ids."""
        return self.encode(self.render_chat(messages), add_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """What the token stands for by itself: a special token for its name, an unknown id for nothing."""
        added = self._added.get(token_id)
        if added is not None:
            return added.encode()
        token = self.tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self.is_byte_level:
            return _byte_level_bytes(token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        return token.replace("\u2581", " ").encode()  # SentencePiece's mark for a space

    def token_text(self, token_id: int) -> str:
        """The token as text for logprobs; bytes that are no UTF-8 by themselves are shown as ``\\xe4``."""
        return self.token_bytes(token_id).decode("utf-8", "backslashreplace")

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether decoding is nothing but joining the tokens' bytes."""
        return isinstance(self.tokenizer.decoder, decoders.ByteLevel)

    @cached_property
    def output_bytes(self) -> tuple[bytes, ...]:
        """What each token adds to an answer's bytes (special tokens: nothing).

        Only for byte-level tokenizers.
        """
        if not self.is_byte_level:
            raise ValueError(f"the tokenizer of {self.model!r} is not byte-level")
        table = [b""] * max(self.vocab_size, max(self.tokenizer.get_vocab().values(), default=-1) + 1)
        for token, id_ in self.tokenizer.get_vocab().items():
            if id_ not in self.special_token_ids:
                table[id_] = _byte_level_bytes(token)
        return tuple(table)

    @cached_property
    def output_texts(self) -> tuple[str | None, ...]:
        """What each token adds to an answer's text where no character is under way; None where it begins one that it
        doesn't end, or is no UTF-8, or where U+FFFD is its end. Only for byte-level tokenizers."""
        return tuple(map(_whole_text, self.output_bytes))

    @cached_property
    def max_bytes_per_token(self) -> int | None:
        """The most UTF-8 bytes of a prompt that one token can stand for; None where that isn't known."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        swallow_spaces = any(token.lstrip or token.rstrip for token in added)
        if not self.is_byte_level or self.tokenizer.normalizer is not None or swallow_spaces:
            return None
        longest_special = max((len(content.encode()) for content in self._added.values()), default=1)
        return max(longest_special, *map(len, self.output_bytes))


def _build_tokenizer(files: ModelFiles) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(files.tokenizer_json)
    except Exception as error:
        # The Rust library raises bare Exception for every fault in the file.
        raise SettingsError(f"tokenizer.json of {files.model!r} can't be loaded: {error}") from error
    # Saved with the file by training code; transformers resets them for each plain call. It also ignores the
    # configuration's add_bos_token and add_eos_token beside a tokenizer.json, whose post-processor decides.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(files.tokenizer_config.get("split_special_tokens", False))
    _add_configured_tokens(tokenizer, files)
    return tokenizer


def _add_configured_tokens(tokenizer: Tokenizer, files: ModelFiles) -> None:
    """Add what tokenizer_config.json names and tokenizer.json lacks, in the order of their ids."""
    known = {_token_key(token) for token in tokenizer.get_added_tokens_decoder().values()}
    configured = files.tokenizer_config.get("added_tokens_decoder") or {}
    wanted = [_added_token(configured[id_]) for id_ in sorted(configured, key=int)]
    tokenizer.add_tokens([token for token in wanted if _token_key(token) not in known])
    names = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    named = _named_tokens(files)
    tokenizer.add_tokens(
        [AddedToken(named[key], special=True, normalized=False) for key in named if named[key] not in names]
    )


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    return AddedToken(str(entry["content"]), **{flag: bool(entry[flag]) for flag in _TOKEN_FLAGS if flag in entry})


def _token_key(token: AddedToken) -> tuple[object, ...]:
    return (token.content, *(getattr(token, flag) for flag in _TOKEN_FLAGS))


def _named_tokens(files: ModelFiles) -> dict[str, str]:
    """``bos_token`` and its kin. Configurations write them as strings or as objects with flags."""
    merged = files.special_tokens_map | files.tokenizer_config
    named: dict[str, str] = {}
    for key in _NAMED_TOKENS:
        value = merged.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            named[key] = content
    return named


def _template_of(tokenizer_config: Mapping[str, Any]) -> str | None:
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _eos_token_ids(tokenizer: Tokenizer, eos_token: str | None, config: Mapping[str, Any]) -> frozenset[int]:
    """The tokenizer's own, and those of the generation config: the two that vLLM stops at."""
    configured = config.get("eos_token_id")
    ids = set(configured if isinstance(configured, list) else [] if configured is None else [configured])
    if eos_token is not None and (own := tokenizer.token_to_id(eos_token)) is not None:
        ids.add(own)
    return frozenset(ids)


def _whole_text(data: bytes) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if text.endswith("\ufffd") else text


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}
    if set(alphabet) != set(pre_tokenizers.ByteLevel.alphabet()):
        raise SettingsError("this version of tokenizers has another byte alphabet; install the one Segue names")
    return alphabet


_BYTE_OF = _byte_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # not from the alphabet, e.g. an added token with a space in it: it stands for itself
        return token.encode()
