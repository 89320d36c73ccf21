"""Which SLO class each request says it is of."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClassMix:
    """Names with their shares, in the order given. Empty: requests name no class."""

    shares: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> ClassMix:
        """``chat=8,batch=2`` or just ``chat``. Raises ValueError saying how a mix is written."""
        shares: dict[str, float] = {}
        for part in filter(None, text.split(",")):
            name, _, share = part.partition("=")
            try:
                shares[name] = float(share or 1)
            except ValueError:
                shares[name] = math.nan
            if not name or not shares[name] > 0:
                raise ValueError(f"class mix {text!r}: {part!r} can't be read; write it as chat=8,batch=2")
        return cls(tuple(shares.items()))

    def draw(self, source: random.Random) -> str:
        if not self.shares:
            return ""
        names, weights = zip(*self.shares, strict=True)
        return str(source.choices(names, weights)[0])


NO_CLASSES = ClassMix()
