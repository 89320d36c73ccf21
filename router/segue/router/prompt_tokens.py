"""A prompt's token ids as they came: as Python integers, 100,000 of them cost milliseconds each time they move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from segue.proto.inference_pb2 import TokenIds


class PromptTokens(Sequence[int]):
    """Held in a message, from which they go into other messages, and into an array, as blocks of memory."""

    __slots__ = ("_array", "message")

    def __init__(self, message: TokenIds) -> None:
        """``message`` is not to be changed afterwards."""
        self.message = message
        self._array: NDArray[np.uint32] | None = None

    @classmethod
    def of(cls, token_ids: Sequence[int]) -> PromptTokens:
        """Of any ids that fit into 32 bits; as they are if they are held like this already."""
        return token_ids if isinstance(token_ids, cls) else cls(TokenIds(ids=token_ids))

    @property
    def array(self) -> NDArray[np.uint32]:
        if self._array is None:
            self._array = np.array(self.message.ids, dtype=np.uint32)
        return self._array

    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest. There must be one."""
        return int(self.array.min()), int(self.array.max())

    def __len__(self) -> int:
        return len(self.message.ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        found = self.message.ids[index]
        return tuple(found) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[int]:
        return iter(self.message.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"PromptTokens({len(self)} tokens)"
