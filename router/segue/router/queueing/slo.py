"""Classes of requests: what each is promised, and which there are. Values; parsed once, at start."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from segue.base.errors import InvalidRequest, SettingsError

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class SloClass:
    """What requests of one class are promised. 0: nothing.

    ``ttft_s`` bounds the time from the request's acceptance to its first token: it decides its place in the queue, and
    a request that can't make it is refused. A class without it is *batch*: it takes what the others leave.
    ``tokens_per_s`` is the pace behind the first token, by which goodput is counted. ``yield_s`` is how long a batch
    request lets others pass before it has a claim of its own.
    """

    name: str
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    yield_s: float = 60.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingsError(f"SLO class {self.name!r}: a name is 1 to 32 of a-z, 0-9, - and _, a letter first")
        for figure in ("ttft_s", "tokens_per_s", "yield_s"):
            value = getattr(self, figure)
            if not (value >= 0 and math.isfinite(value)):
                raise SettingsError(f"SLO class {self.name!r}: {figure} is {value}; it must be a number of 0 or more")

    @property
    def interactive(self) -> bool:
        """Whether somebody waits for its first token."""
        return self.ttft_s > 0


CHAT = SloClass("chat", ttft_s=0.5, tokens_per_s=30.0)
DOCUMENTS = SloClass("documents", ttft_s=2.0, tokens_per_s=50.0)
BATCH = SloClass("batch")


class SloClasses:
    """The classes of one router, the default one first."""

    def __init__(self, classes: Iterable[SloClass] = (CHAT, DOCUMENTS, BATCH)) -> None:
        self._classes = {one.name: one for one in classes}

    def __iter__(self) -> Iterator[SloClass]:
        return iter(self._classes.values())

    def __getitem__(self, name: str) -> SloClass:
        return self._classes[name]

    def find(self, name: str, param: str = "slo_class") -> SloClass:
        """The class that a client names; empty: the default one. Raises InvalidRequest."""
        found = self._classes.get(name) if name else next(iter(self._classes.values()))
        if found is None:
            known = ", ".join(self._classes)
            raise InvalidRequest(f"{param} {name[:40]!r} is not a class of this router; it has {known}", param=param)
        return found


DEFAULT_CLASSES = SloClasses()


def parse_slo_classes(texts: Iterable[str]) -> SloClasses:
    """``NAME=ttft_s:0.5,tokens_per_s:30`` each: changes a known class, or adds one. ``NAME=`` promises nothing.

    Raises:
        SettingsError: what is none of these, with what is.
    """
    classes = {one.name: one for one in DEFAULT_CLASSES}
    given: set[str] = set()
    for text in texts:
        one = _parse(text)
        if one.name in given:
            raise SettingsError(f"--slo-class {one.name} is given twice; keep one of them")
        given.add(one.name)
        classes[one.name] = one
    return SloClasses(classes.values())


def _parse(text: str) -> SloClass:
    name, equals, rest = text.partition("=")
    if not equals:
        raise SettingsError(f"--slo-class {text!r} is not NAME=FIGURES; write for example chat=ttft_s:0.5")
    known = ("ttft_s", "tokens_per_s", "yield_s")
    figures: dict[str, float] = {}
    for pair in filter(None, rest.split(",")):
        figure, _, value = pair.strip().partition(":")
        if figure in figures:
            raise SettingsError(f"--slo-class {name}: {figure} is given twice; keep one of them")
        if figure not in known:
            near = get_close_matches(figure, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"--slo-class {name}: {figure!r} is no figure of a class; {hint}")
        try:
            figures[figure] = float(value)
        except ValueError:
            raise SettingsError(f"--slo-class {name}: {figure} is {value!r}; it must be a number") from None
    return SloClass(name.strip(), **figures)
