"""One leg of a request inside a simulated engine."""

from __future__ import annotations

import enum
from array import array
from collections.abc import Collection

import numpy as np

from segue.base.block_hash import NO_PARENT, block_hashes
from segue.engine.simulated.tokens import TokenStream
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
    FinishReason,
)
from segue.proto.worker_pb2 import Submit, Transfer


class Phase(enum.Enum):
    WAITING = "waiting"
    RECEIVING = "receiving"  # Its KV cache is on its way here; it holds the blocks for it.
    RUNNING = "running"
    OVER = "over"


class SimRequest:
    """``tokens`` are input and output; the KV of the first ``computed`` of them is in ``blocks``.

    ``named`` of the blocks are full and known to the prefix cache.
    """

    __slots__ = (
        "_banned",
        "_eos",
        "_forced",
        "_max_tokens",
        "_min_tokens",
        "_names",
        "_stops",
        "_stream",
        "blocks",
        "cached_tokens",
        "computed",
        "first_token_s",
        "generated",
        "input_tokens",
        "named",
        "offer_kv",
        "phase",
        "priority",
        "request_id",
        "scheduled_s",
        "taken_s",
        "ticket",
        "timeout_s",
        "tokens",
        "transfer",
        "transferred_tokens",
    )

    def __init__(self, submit: Submit, vocab_size: int, eos: Collection[int], max_len_tokens: int) -> None:
        sampling = submit.sampling
        self.request_id = submit.request_id
        # As a block of memory: 100,000 Python integers would take milliseconds.
        self.tokens = array("I", np.array(submit.input_token_ids, dtype=np.uint32).tobytes())
        self.input_tokens = len(self.tokens)
        self.priority = submit.priority
        self.offer_kv = submit.offer_kv
        self.timeout_s = submit.timeout_s
        self.ticket: Ticket | None = None
        if submit.HasField("ticket"):
            self.ticket = submit.ticket
        self.phase = Phase.WAITING
        self.blocks: list[int] = []
        self.computed = 0
        self.named = 0
        self.generated = 0
        # On the engine's clock; 0 until then.
        self.taken_s = self.scheduled_s = self.first_token_s = 0.0
        self.cached_tokens = 0
        self.transferred_tokens = 0
        self.transfer: Transfer | None = None
        self._names: list[int] = []
        self._stream: TokenStream | None = None
        self._forced = tuple(submit.forced_token_ids)
        room = max_len_tokens - self.input_tokens
        self._max_tokens = min(sampling.max_tokens, room) if sampling.HasField("max_tokens") else room
        self._min_tokens = sampling.min_tokens
        self._eos = frozenset(() if sampling.ignore_eos else eos)
        self._stops = self._eos | frozenset(sampling.stop_token_ids)
        self._banned = frozenset(eos) | frozenset(sampling.stop_token_ids)
        self._stream = TokenStream(self.tokens, vocab_size)

    def sample(self) -> int:
        """Add the next token, and return it."""
        assert self._stream is not None
        if self.generated < len(self._forced):
            token = self._forced[self.generated]
            self._stream.push(token)
        else:
            token = self._stream.next(self._banned if self.generated < self._min_tokens else ())
        self.tokens.append(token)
        self.generated += 1
        return token

    def finish_reason(self) -> FinishReason:
        """Whether the token that came last ends the answer, and why."""
        if self.tokens[-1] in self._stops and self.generated > self._min_tokens:
            return FINISH_REASON_STOP
        if self.generated >= self._max_tokens:
            return FINISH_REASON_LENGTH
        return FINISH_REASON_UNSPECIFIED

    @property
    def stop_token_id(self) -> int | None:
        """The token that has ended the answer, if the client named it: not an end of sequence."""
        return None if self.tokens[-1] in self._eos else self.tokens[-1]

    def names(self, blocks: int, block_tokens: int) -> list[int]:
        """Names of the first ``blocks`` blocks, all of them full of tokens."""
        known = len(self._names)
        if blocks > known:
            parent = self._names[-1] if known else NO_PARENT
            self._names += block_hashes(self.tokens[known * block_tokens : blocks * block_tokens], block_tokens, parent)
        return self._names[:blocks]

    def contents(self, tokens: int, block_tokens: int) -> list[int]:
        """What the blocks of the first ``tokens`` tokens hold, the last of them perhaps in part."""
        full = tokens // block_tokens
        names = self.names(full, block_tokens)
        if rest := tokens % block_tokens:
            parent = names[-1] if names else NO_PARENT
            names += block_hashes(self.tokens[full * block_tokens : tokens], rest, parent)
        return names
