"""Sums over one class of requests, to take differences of."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(slots=True)
class Totals:
    """``failed`` are those of ``requests`` that ended by a fault of ours, ``answered`` those that ended well, with
    ``output_tokens``; ``met`` those of ``judged`` that kept their class's SLO, and ``first_met`` and ``pace_met`` of it
    the halves. ``accepted`` requests have ``accepted_tokens`` of prompts; ``busy`` were refused for want of capacity.
    """

    requests: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    transfer_bytes: int = 0
    judged: int = 0
    met: int = 0
    first_judged: int = 0
    first_met: int = 0
    pace_judged: int = 0
    pace_met: int = 0
    accepted: int = 0
    accepted_tokens: int = 0
    busy: int = 0
    answered: int = 0
    output_tokens: int = 0

    def copy(self) -> Totals:
        return Totals(*astuple(self))

    def __sub__(self, other: Totals) -> Totals:
        return Totals(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))
