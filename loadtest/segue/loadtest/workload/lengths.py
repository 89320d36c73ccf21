"""Distributions of prompt and answer lengths, as written on a command line."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["fixed", "uniform", "normal", "lognormal"]
_HELP = "write 512, 100-500 (uniform), normal:MEAN,SD or lognormal:MEDIAN,SIGMA"


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of whole numbers of tokens, all at least 1.

    ``a`` and ``b``: fixed (value, unused), uniform (low, high, both possible), normal (mean, standard deviation),
    lognormal (median, standard deviation of the logarithm).
    """

    kind: Kind
    a: float
    b: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Raises ValueError saying how lengths are written."""
        try:
            lengths = cls._parse(text)
        except ValueError:
            raise ValueError(f"lengths {text!r} can't be read; {_HELP}") from None
        if not (math.isfinite(lengths.a) and math.isfinite(lengths.b) and lengths.a >= 1 and lengths.b >= 0):
            raise ValueError(f"lengths {text!r} must be numbers of at least 1 token; {_HELP}")
        if lengths.kind == "uniform" and lengths.b < lengths.a:
            raise ValueError(f"lengths {text!r} go from high to low; write {text.partition('-')[2]} first")
        return lengths

    @classmethod
    def _parse(cls, text: str) -> Lengths:
        kind, colon, rest = text.partition(":")
        if colon:
            if kind not in ("normal", "lognormal"):
                raise ValueError(kind)
            first, _, second = rest.partition(",")
            return cls("normal" if kind == "normal" else "lognormal", float(first), float(second))
        low, dash, high = text.partition("-")
        return cls("uniform", int(low), int(high)) if dash else cls("fixed", int(text))

    def draw(self, source: random.Random) -> int:
        match self.kind:
            case "fixed":
                value = self.a
            case "uniform":
                return source.randint(int(self.a), int(self.b))
            case "normal":
                value = source.gauss(self.a, self.b)
            case "lognormal":
                value = self.a * math.exp(source.gauss(0.0, self.b))
        return max(1, round(value))
