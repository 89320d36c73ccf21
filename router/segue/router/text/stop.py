"""Finding stop strings in text that comes in pieces, without letting any part of one out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string was completed; ``end`` is where, in characters of the piece that was pushed last."""

    stop: str
    end: int


class StopMatcher:
    """Runs one Knuth-Morris-Pratt automaton per stop string, so the cost per character is bounded.

    The stop that is completed first wins, ties going to the one named first: vLLM's order
    (check_stop_strings in vllm/v1/engine/detokenizer.py).
    """

    __slots__ = ("_failures", "_held", "_states", "_stops", "match")

    def __init__(self, stops: Sequence[str]) -> None:
        """``stops`` must not contain an empty string."""
        self._stops = tuple(stops)
        self._failures = [_failure_links(stop) for stop in stops]
        self._states = [0] * len(self._stops)  # how much of each stop the text so far ends in
        self._held = ""
        self.match: StopMatch | None = None

    def push(self, text: str, exempt_chars: int = 0) -> str:
        """Take the next piece; return the text that can no longer be part of a stop string.

        A stop string that is completed within the first ``exempt_chars`` characters of the piece doesn't
        count. When one is completed, ``match`` is set, the text before it is returned and nothing more
        may be pushed.
        """
        text_held = self._held + text
        best: StopMatch | None = None
        for index, stop in enumerate(self._stops):
            end = self._advance(index, text, exempt_chars)
            if end is not None and (best is None or end < best.end):
                best = StopMatch(stop, end)
        if best is not None:
            cut = len(self._held) + best.end - len(best.stop)
            self._held = ""
            self.match = best
            return text_held[:cut]
        held_chars = max(self._states, default=0)
        if not held_chars:
            self._held = ""
            return text_held
        self._held = text_held[-held_chars:]
        return text_held[:-held_chars]

    def finish(self) -> str:
        """What is still held back: the answer is over, so it was no stop string."""
        held, self._held = self._held, ""
        return held

    def _advance(self, index: int, text: str, exempt_chars: int) -> int | None:
        """Run one automaton over ``text``; where the first counting match ends, or None."""
        stop, failure, state = self._stops[index], self._failures[index], self._states[index]
        position = 0
        while position < len(text):
            if state == 0:
                position = text.find(stop[0], position)
                if position < 0:
                    break
            character = text[position]
            while state and stop[state] != character:
                state = failure[state]
            if stop[state] == character:
                state += 1
            position += 1
            if state == len(stop):
                if position > exempt_chars:
                    return position
                state = failure[state]
        self._states[index] = state
        return None


def _failure_links(stop: str) -> tuple[int, ...]:
    """For each length of a prefix of ``stop``, the longest proper prefix that is also its suffix."""
    links = [0, 0]
    length = 0
    for character in stop[1:]:
        while length and stop[length] != character:
            length = links[length]
        if stop[length] == character:
            length += 1
        links.append(length)
    return tuple(links)
