"""Requests from a description: made up, or after a trace."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from segue.loadtest.workload.class_mix import NO_CLASSES, ClassMix
from segue.loadtest.workload.lengths import Lengths
from segue.loadtest.workload.shape import OWN_SEGMENTS, RequestShape, Segment
from segue.loadtest.workload.traces import MOONCAKE_BLOCK_TOKENS, TraceEntry

# A segment says its name in its first tokens; a block of fewer could not be told from another one.
MIN_BLOCK_TOKENS = 4


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """``share`` of the requests begin with one of ``groups`` prefixes of ``tokens``; their own part comes on top."""

    tokens: int = 0
    groups: int = 1
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.groups < 1 or not 0 <= self.share <= 1:
            raise ValueError(
                f"a shared prefix of {self.tokens} tokens, {self.groups} groups and share {self.share}; expected no "
                "negative number of tokens, at least one group and a share between 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Requests by distributions."""

    input_lengths: Lengths
    output_lengths: Lengths
    prefix: SharedPrefix = SharedPrefix()
    classes: ClassMix = NO_CLASSES


def synthetic(what: Synthetic, arrivals: Iterable[float], seed: int) -> Iterator[RequestShape]:
    """As many requests as there are arrivals; request n is the same however many follow."""
    draw = random.Random(f"requests/{seed}")
    for index, at_s in enumerate(arrivals):
        own = Segment(OWN_SEGMENTS + index, what.input_lengths.draw(draw))
        output_tokens = what.output_lengths.draw(draw)
        slo_class = what.classes.draw(draw)
        group = draw.randrange(what.prefix.groups)
        shares = draw.random() < what.prefix.share and what.prefix.tokens > 0
        segments = (Segment(group, what.prefix.tokens), own) if shares else (own,)
        yield RequestShape(index, at_s, segments, output_tokens, slo_class)


@dataclass(frozen=True, slots=True)
class Replay:
    """How a trace is fitted to a cluster: lengths divided by ``length_scale``, pauses multiplied by ``time_scale``.

    ``max_prompt_tokens`` and ``max_output_tokens`` (0: no bound) cut what is longer after scaling.
    """

    length_scale: float = 1.0
    time_scale: float = 1.0
    max_prompt_tokens: int = 0
    max_output_tokens: int = 0
    classes: ClassMix = NO_CLASSES

    def __post_init__(self) -> None:
        if not (self.length_scale > 0 and self.time_scale >= 0):
            raise ValueError(
                f"length scale {self.length_scale} and time scale {self.time_scale}: the first must be above 0, "
                "the second not below"
            )

    @property
    def block_tokens(self) -> int:
        """What a block of a trace becomes. Raises ValueError where it is too small to be told from another one."""
        tokens = round(MOONCAKE_BLOCK_TOKENS / self.length_scale)
        if tokens < MIN_BLOCK_TOKENS:
            raise ValueError(
                f"length scale {self.length_scale:g} makes blocks of {MOONCAKE_BLOCK_TOKENS} tokens {tokens} long; "
                f"they must keep {MIN_BLOCK_TOKENS}, so scale by {MOONCAKE_BLOCK_TOKENS / MIN_BLOCK_TOKENS:g} at most"
            )
        return tokens


def replay(entries: Iterable[TraceEntry], how: Replay, seed: int) -> Iterator[RequestShape]:
    """One request for each entry. Prompts share prefixes exactly where the entries' blocks do."""
    draw = random.Random(f"replay/{seed}")
    for index, entry in enumerate(entries):
        yield RequestShape(
            index,
            entry.at_s * how.time_scale,
            _cut(_segments(index, entry, how), how.max_prompt_tokens),
            _bounded(round(entry.output_tokens / how.length_scale), how.max_output_tokens),
            how.classes.draw(draw),
        )


def _segments(index: int, entry: TraceEntry, how: Replay) -> tuple[Segment, ...]:
    if not entry.blocks:
        return (Segment(OWN_SEGMENTS + index, max(1, round(entry.input_tokens / how.length_scale))),)
    # By blocks, not by the total: a block has the same length in every prompt, or it would not be the same block.
    *full, last = entry.blocks
    rest_tokens = entry.input_tokens - MOONCAKE_BLOCK_TOKENS * len(full)
    last_tokens = max(1, round(rest_tokens * how.block_tokens / MOONCAKE_BLOCK_TOKENS))
    return (*(Segment(block, how.block_tokens) for block in full), Segment(last, last_tokens))


def _cut(segments: tuple[Segment, ...], limit_tokens: int) -> tuple[Segment, ...]:
    if not limit_tokens:
        return segments
    kept: list[Segment] = []
    for segment in segments:
        if limit_tokens <= 0:
            break
        kept.append(Segment(segment.name, min(segment.tokens, limit_tokens)))
        limit_tokens -= segment.tokens
    return tuple(kept)


def _bounded(tokens: int, limit_tokens: int) -> int:
    return max(1, min(tokens, limit_tokens) if limit_tokens else tokens)
