"""What a load test leaves behind: the JSON file, and what report and diagnosis are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from segue.loadtest.measure.lag import GeneratorReport
from segue.loadtest.measure.summary import Summary
from segue.loadtest.measure.windows import Window

FORMAT = 1


class ResultError(ValueError):
    """A file that is no result of a load test."""


@dataclass(frozen=True, slots=True)
class Samples:
    """At most some thousand values of each kind, for plots; sorted."""

    ttft_s: tuple[float, ...]
    itl_s: tuple[float, ...]
    gap_s: tuple[float, ...]
    end_to_end_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """``setup`` is what was asked for, in words, in the order to show it."""

    format: int
    title: str
    started_unix_s: float
    setup: Mapping[str, str]
    summary: Summary
    generator: GeneratorReport
    windows: tuple[Window, ...]
    samples: Samples
    warm_up_s: float = 0.0  # The end of the warm-up in the windows' time.


def write_result(result: Result, path: Path) -> None:
    """Raises OSError."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_result(path: Path) -> Result:
    """Raises ResultError for a file that holds something else, OSError for one that can't be read."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.MsgspecError as error:
        raise ResultError(f"{path} is not the JSON of a `segue loadtest --json`: {error}") from None
    if result.format != FORMAT:
        raise ResultError(f"{path} has format {result.format}; this version reads {FORMAT}")
    return result
