"""What a class of requests is promised, and whether a request got it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from segue.loadtest.measure.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Slo:
    """First token within ``ttft_s`` of the intended time; tokens no more than ``itl_s`` apart in the mean.

    0 promises nothing: an SLO without bounds is met by every answer.
    """

    ttft_s: float = 0.0
    itl_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> tuple[str, Slo]:
        """``chat=ttft_s:0.5,tokens_per_s:30`` or, for requests without a class, ``ttft_s:0.5,itl_s:0.05``.

        Raises ValueError saying how an SLO is written.
        """
        head, _, tail = text.partition("=")
        name, bounds = (head, tail) if tail else ("", head)
        values: dict[str, float] = {}
        try:
            for part in filter(None, bounds.split(",")):
                key, _, value = part.partition(":")
                values[key] = float(value)
        except ValueError:
            values = {"": 0.0}
        if values.keys() - {"ttft_s", "itl_s", "tokens_per_s"} or not all(value > 0 for value in values.values()):
            raise ValueError(
                f"SLO {text!r} can't be read; write NAME=ttft_s:0.5,tokens_per_s:30 (or itl_s:0.033), with numbers "
                "above 0, and leave NAME= out for requests without a class"
            )
        itl_s = values.get("itl_s", 0.0) or (1 / values["tokens_per_s"] if "tokens_per_s" in values else 0.0)
        return name, cls(values.get("ttft_s", 0.0), itl_s)

    def __str__(self) -> str:
        bounds = (("TTFT", self.ttft_s), ("ITL", self.itl_s))
        return ", ".join(f"{name} {_rounded(1000 * bound_s)} ms" for name, bound_s in bounds if bound_s) or "any answer"

    def met(self, outcome: Outcome) -> bool:
        if not outcome.ok:
            return False
        if self.ttft_s and outcome.ttft_s > self.ttft_s:
            return False
        return not (self.itl_s and outcome.itl_s is not None and outcome.itl_s > self.itl_s)


def _rounded(ms: float) -> str:
    """To 0.1 ms below a second, else whole; never with an exponent."""
    return f"{ms:.1f}".removesuffix(".0") if ms < 1000 else f"{ms:.0f}"


# As Segue's router has them.
STANDARD_SLOS: Mapping[str, Slo] = {
    "": Slo(0.5, 1 / 30),
    "chat": Slo(0.5, 1 / 30),
    "documents": Slo(2.0, 1 / 50),
    "batch": Slo(),
}


@dataclass(frozen=True, slots=True)
class SloTable:
    """SLOs by class."""

    by_class: Mapping[str, Slo]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> SloTable:
        """The standard ones, with those given in their place."""
        return cls({**STANDARD_SLOS, **dict(Slo.parse(text) for text in texts)})

    def of(self, slo_class: str) -> Slo:
        """A class that nobody described promises what requests without a class are promised."""
        return self.by_class.get(slo_class) or self.by_class[""]

    def met(self, outcome: Outcome) -> bool:
        return self.of(outcome.slo_class).met(outcome)
