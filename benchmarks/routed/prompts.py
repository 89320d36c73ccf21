"""Long prompts with shared beginnings: documents, each followed by a question of its own."""

from __future__ import annotations

import random

import numpy as np

from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.sampling_pb2 import SamplingParams

_VOCAB = 2048


class SharedPrompts:
    """``documents`` documents of ``shared`` tokens, asked for by Zipf's law, and ``own`` tokens behind each."""

    def __init__(self, documents: int, shared: int, own: int, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._generator = np.random.default_rng(seed)
        self._documents = [TokenIds(ids=self._tokens(shared)) for _ in range(documents)]
        self._weights = [1 / rank for rank in range(1, documents + 1)]
        self._own = own

    def next(self, max_tokens: int = 8) -> GenerateRequest:
        (document,) = self._random.choices(self._documents, self._weights)
        request = GenerateRequest(sampling=SamplingParams(max_tokens=max_tokens, ignore_eos=True))
        request.token_ids.ids.MergeFrom(document.ids)
        request.token_ids.ids.extend(self._tokens(self._own))
        return request

    def _tokens(self, count: int) -> list[int]:
        return self._generator.integers(10, _VOCAB, count).tolist()  # type: ignore[no-any-return]
