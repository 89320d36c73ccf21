"""The models that clients may name; today the one whose workers attach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from segue.proto.worker_pb2 import EngineFacts
from segue.router.text.tokenizer import TextCodec

_UNKNOWN_LEN_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that clients may name.

    ``max_model_len_tokens`` and ``vocab_size`` are the engines' own figures. ``simulated``: they compute nothing.
    """

    id: str
    codec: TextCodec
    max_model_len_tokens: int
    vocab_size: int
    created_unix_s: int
    simulated: bool = False


class Models(Mapping[str, ServedModel]):
    """By the name clients use. Lengths come from the model's configuration until an engine says better."""

    def __init__(self, name: str, codec: TextCodec, created_unix_s: int) -> None:
        self._model = ServedModel(
            id=name,
            codec=codec,
            max_model_len_tokens=codec.max_model_len or _UNKNOWN_LEN_TOKENS,
            vocab_size=codec.vocab_size,
            created_unix_s=created_unix_s,
        )

    def learn(self, facts: EngineFacts) -> None:
        """Take the engine's own figures."""
        self._model = replace(
            self._model,
            max_model_len_tokens=facts.max_model_len_tokens,
            vocab_size=facts.vocab_size,
            simulated=facts.simulated,
        )

    def mismatch(self, facts: EngineFacts) -> str | None:
        """Why this router's tokenizer is not that of an engine with these facts; None if it is."""
        if facts.vocab_size == self._model.codec.vocab_size:
            return None
        return (
            f"has a vocabulary of {facts.vocab_size} tokens; the router's model {self._model.codec.model!r} has "
            f"{self._model.codec.vocab_size}. Start router and workers with the same --model"
        )

    def __getitem__(self, name: str) -> ServedModel:
        if name != self._model.id:
            raise KeyError(name)
        return self._model

    def __iter__(self) -> Iterator[str]:
        return iter((self._model.id,))

    def __len__(self) -> int:
        return 1
