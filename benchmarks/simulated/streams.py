"""A client that keeps thousands of streams open on one router and knows every token that must come.

Runs as a process of its own: ``python benchmarks/simulated/streams.py SETTINGS.json``; writes its counts to stdout, a
line of JSON every few seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import uvloop

from segue.engine.simulated.tokens import TokenStream
from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.sampling_pb2 import SamplingParams

_REPORT_S = 2.0
_KEPT = 20  # Problems told with their story.


@dataclass(frozen=True)
class Load:
    """``streams`` open at all times from ``ramp_s`` on; as one ends another begins, until ``duration_s``.

    ``door``: a call of Generate for each stream, or all of them on a few Sessions.
    """

    address: str
    streams: int
    ramp_s: float
    duration_s: float
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    door: Literal["generate", "session"] = "session"
    prefixes: int = 50
    vocab_size: int = 2048
    timeout_s: float = 900.0
    seed: int = 0


@dataclass
class Counts:
    """Since the start. ``wrong``: streams whose tokens weren't those expected, or not all of them."""

    open: int = 0
    begun: int = 0
    complete: int = 0
    wrong: int = 0
    failed: int = 0
    tokens: int = 0
    messages: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)


class Stream:
    """One answer, compared token by token with the one that it must be."""

    __slots__ = ("_expected", "_got", "_right", "request", "wanted")

    def __init__(self, prompt: list[int], wanted: int, vocab_size: int) -> None:
        self.wanted = wanted
        self.request = GenerateRequest(
            token_ids=TokenIds(ids=prompt),
            sampling=SamplingParams(max_tokens=wanted, ignore_eos=True, temperature=0),
            slo_class="batch",
        )
        self._expected = TokenStream(prompt, vocab_size)
        self._got = 0
        self._right = True

    def take(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._right = self._right and token == self._expected.next()
            self._got += 1

    @property
    def complete(self) -> bool:
        return self._right and self._got == self.wanted

    def __str__(self) -> str:
        return f"{self._got} of {self.wanted} tokens{'' if self._right else ', some of them wrong'}"


class Streams:
    """What all streams share: the prompts they ask for, and what became of them."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.counts = Counts()
        self._random = random.Random(load.seed)
        self._until_s = time.monotonic() + load.duration_s
        longest = load.prompt_tokens[1]
        self._prefixes = [[self._token() for _ in range(longest)] for _ in range(load.prefixes)]

    @property
    def over(self) -> bool:
        """No stream begins any more."""
        return time.monotonic() >= self._until_s

    async def turn(self, number: int) -> None:
        """Until the stream of this number is to begin; who is late hurries."""
        due_s = self._until_s - self.load.duration_s + number * self.load.ramp_s / self.load.streams
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    def begin(self) -> Stream:
        """Half of its prompt is one of a few beginnings, the rest its own."""
        load = self.load
        tokens = self._random.randint(*load.prompt_tokens)
        prefix = self._random.choice(self._prefixes)[: tokens // 2]
        prompt = prefix + [self._token() for _ in range(tokens - len(prefix))]
        self.counts.begun += 1
        self.counts.open += 1
        return Stream(prompt, self._random.randint(*load.output_tokens), load.vocab_size)

    def ended(self, stream: Stream, error: str = "") -> None:
        """``error`` begins with the word that it is counted under."""
        counts = self.counts
        counts.open -= 1
        if not error and stream.complete:
            counts.complete += 1
            return
        if error:
            counts.failed += 1
        else:
            counts.wrong += 1
        word = error.split(" ", 1)[0] or "wrong"
        counts.failures[word] = counts.failures.get(word, 0) + 1
        if len(counts.stories) < _KEPT:
            counts.stories.append(f"after {stream}: {error or 'the end'}")

    def tell(self, over: bool = False) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        line = {"at_s": time.monotonic(), "cpu_s": used.ru_utime + used.ru_stime, "over": over, **asdict(self.counts)}
        print(json.dumps(line), flush=True)

    async def report(self) -> None:
        while True:
            self.tell()
            await asyncio.sleep(_REPORT_S)

    def _token(self) -> int:
        return self._random.randrange(5, self.load.vocab_size)


async def _run(load: Load) -> None:
    from simulated.doors import by_generate, by_session

    streams = Streams(load)
    reporter = asyncio.create_task(streams.report())
    await (by_session if load.door == "session" else by_generate)(streams)
    reporter.cancel()
    streams.tell(over=True)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        given: dict[str, Any] = json.load(file)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(Load(**given)))


if __name__ == "__main__":
    main()
