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
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import grpc.aio
import uvloop

from segue.engine.simulated.tokens import TokenStream
from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import FINISH_REASON_LENGTH, SamplingParams

_REPORT_S = 2.0
_STREAMS_PER_CHANNEL = 250
_KEPT = 20  # Problems told with their story.


@dataclass(frozen=True)
class Load:
    """``streams`` open at all times from ``ramp_s`` on; as one ends another begins, until ``duration_s``."""

    address: str
    streams: int
    ramp_s: float
    duration_s: float
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    prefixes: int = 50
    vocab_size: int = 2048
    timeout_s: float = 900.0
    seed: int = 0


@dataclass
class Counts:
    """Since the start. ``wrong``: a stream whose tokens aren't those expected, or not all of them."""

    open: int = 0
    begun: int = 0
    complete: int = 0
    wrong: int = 0
    failed: int = 0
    tokens: int = 0
    messages: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)

    def problem(self, kind: str, story: str) -> None:
        self.failures[kind] += 1
        if len(self.stories) < _KEPT:
            self.stories.append(story)


class Streams:
    """Slots, each with one stream after the other."""

    def __init__(self, load: Load) -> None:
        self.counts = Counts()
        self._load = load
        self._random = random.Random(load.seed)
        low, high = load.prompt_tokens
        self._prefixes = [
            [self._random.randrange(5, load.vocab_size) for _ in range(high)] for _ in range(load.prefixes)
        ]
        self._lengths = (low, high)
        self._until_s = time.monotonic() + load.duration_s

    async def run(self) -> None:
        load = self._load
        channels = [
            grpc.aio.insecure_channel(load.address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(-(-load.streams // _STREAMS_PER_CHANNEL))
        ]
        async with asyncio.TaskGroup() as tasks:
            reporter = tasks.create_task(self._report())
            slots = []
            for number in range(load.streams):
                stub = InferenceStub(channels[number % len(channels)])
                slots.append(tasks.create_task(self._slot(stub)))
                await asyncio.sleep(load.ramp_s / load.streams)
            await asyncio.wait(slots)
            reporter.cancel()
        for channel in channels:
            await channel.close(grace=None)
        self._tell(over=True)

    async def _slot(self, stub: Any) -> None:
        while time.monotonic() < self._until_s:
            await self._stream(stub)

    async def _stream(self, stub: Any) -> None:
        """One answer: its tokens compared as they come."""
        counts, load = self.counts, self._load
        # Half of a prompt is one of a few beginnings, the rest its own.
        own = self._random.randint(*self._lengths)
        prefix = self._random.choice(self._prefixes)[: own // 2]
        prompt = prefix + [self._random.randrange(5, load.vocab_size) for _ in range(own - len(prefix))]
        wanted = self._random.randint(*load.output_tokens)
        expected = TokenStream(prompt, load.vocab_size)
        request = GenerateRequest(
            token_ids=TokenIds(ids=prompt),
            sampling=SamplingParams(max_tokens=wanted, ignore_eos=True, temperature=0),
            slo_class="batch",
        )
        counts.begun += 1
        counts.open += 1
        got, right, ended = 0, True, False
        try:
            async for message in stub.Generate(request, timeout=load.timeout_s):
                counts.messages += 1
                for choice in message.choices:
                    for token in choice.token_ids:
                        right = right and token == expected.next()
                        got += 1
                    counts.tokens += len(choice.token_ids)
                    ended = ended or choice.finish_reason == FINISH_REASON_LENGTH
        except grpc.aio.AioRpcError as broken:
            counts.failed += 1
            counts.problem(
                broken.code().name, f"after {got} of {wanted} tokens: {broken.code().name} {broken.details()}"
            )
            await asyncio.sleep(1.0)  # A router that refuses is not to be asked again at once.
        else:
            if right and ended and got == wanted:
                counts.complete += 1
            else:
                counts.wrong += 1
                counts.problem("wrong", f"{got} of {wanted} tokens came, right: {right}, ended: {ended}")
        finally:
            counts.open -= 1

    async def _report(self) -> None:
        while True:
            self._tell()
            await asyncio.sleep(_REPORT_S)

    def _tell(self, over: bool = False) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        line = {"at_s": time.monotonic(), "cpu_s": used.ru_utime + used.ru_stime, "over": over, **asdict(self.counts)}
        print(json.dumps(line), flush=True)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        given: dict[str, Any] = json.load(file)
    load = Load(**given)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Streams(load).run())


if __name__ == "__main__":
    main()
