"""A decode worker is lost or drained in the middle of every kind of answer: each goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from segue.proto.inference_pb2 import GenerateRequest, GenerateResponse, Timings, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from tests.faults.cluster import Cluster
from tests.faults.member import Member

if TYPE_CHECKING:
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]

# Their progress threads spin: four engines of this kind on few cores take their time.
NIXL = pytest.param("nixl", marks=[pytest.mark.variant, pytest.mark.timeout(540)])
ANSWER_TOKENS = 160
STRUCK_AT_TOKENS = 40
BLOCK_TOKENS = 128
PROMPT = tuple(range(100, 240))

KINDS: Mapping[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "greedy, another prompt": {"temperature": 0.0},
    "stop string": {"temperature": 0.0},
    "logprobs": {"temperature": 0.0, "logprobs": 3},
    "repetition penalty": {"temperature": 0.0, "repetition_penalty": 1.3},
    "presence and frequency penalties": {"temperature": 0.0, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "seed": {"temperature": 0.9, "top_p": 0.95, "seed": 11},
    "seed and penalties, n = 3": {"temperature": 1.0, "seed": 5, "frequency_penalty": 0.5},
    "structured outputs": {"temperature": 0.0, "structured_outputs": {"regex": "([a-z]{3,9} ){40,}[.]"}},
    "structured outputs and seed": {
        "temperature": 1.0,
        "seed": 8,
        "structured_outputs": {"json_schema": '{"type": "array", "items": {"type": "integer"}, "minItems": 90}'},
    },
    "logit bias and min_tokens": {"temperature": 0.0, "logit_bias": {300: 4.0}, "min_tokens": ANSWER_TOKENS // 2},
}


@dataclass
class Choice:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    end: tuple[int, str] = (0, "")


@dataclass
class Answer:
    choices: dict[int, Choice] = field(default_factory=dict)
    timings: Timings = field(default_factory=Timings)

    def take(self, response: GenerateResponse) -> None:
        for delta in response.choices:
            choice = self.choices.setdefault(delta.index, Choice())
            assert not choice.end[0], "more came after the end"
            choice.tokens += delta.token_ids
            choice.logprobs += [position.sampled.logprob for position in delta.logprobs]
            choice.text += delta.text
            choice.end = (delta.finish_reason, delta.stop_string)
        if response.HasField("timings"):
            self.timings = response.timings

    def differences(self, other: Answer) -> list[str]:
        found = []
        for index, choice in self.choices.items():
            theirs = other.choices[index]
            found += [
                f"choice {index}: {name}: {getattr(choice, name)} instead of {getattr(theirs, name)}"
                for name in ("tokens", "text", "end")
                if getattr(choice, name) != getattr(theirs, name)
            ]
            # Computed anew, in another batch: equal but for the last digits.
            if choice.logprobs != pytest.approx(theirs.logprobs, abs=1e-3):
                found.append(f"choice {index}: logprobs")
        return found + [f"choices {set(other.choices) ^ set(self.choices)}"] * (set(self.choices) != set(other.choices))


def request(kind: str, sampling: Mapping[str, Any], stop: Sequence[str]) -> GenerateRequest:
    params = SamplingParams(max_tokens=ANSWER_TOKENS, ignore_eos=True, stop=stop, **sampling)
    prompt = PROMPT if kind != "greedy, another prompt" else PROMPT[::-1]
    return GenerateRequest(token_ids=TokenIds(ids=prompt), sampling=params, n=3 if "n = 3" in kind else 1)


class Reader:
    """Follows one answer."""

    def __init__(self, stub: InferenceAsyncStub, asked: GenerateRequest) -> None:
        self.answer = Answer()
        self.begun = asyncio.Event()
        self._call = stub.Generate(asked, timeout=60)

    async def read(self) -> Answer:
        async for response in self._call:
            self.answer.take(response)
            if all(len(choice.tokens) >= STRUCK_AT_TOKENS for choice in self.answer.choices.values()):
                self.begun.set()
        return self.answer


async def answers(stub: InferenceAsyncStub, asked: Sequence[GenerateRequest], strike: Any = None) -> list[Answer]:
    """All at once; ``strike`` is called when each is well under way."""
    readers = [Reader(stub, one) for one in asked]
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(reader.read()) for reader in readers]
        if strike is not None:
            for reader in readers:
                await reader.begun.wait()
            strike()
    return [task.result() for task in reading]


_ALONE: list[tuple[list[GenerateRequest], list[Answer]]] = []


async def alone(stub: InferenceAsyncStub) -> tuple[list[GenerateRequest], list[Answer]]:
    """One request of each kind, and its answer with nothing beside it and nothing happening; asked for once."""
    if not _ALONE:
        (plain,) = await answers(stub, [request("stop string", {"temperature": 0.0}, ())])
        stop = plain.choices[0].text[-30:-20]
        asked = [request(kind, sampling, [stop] * (kind == "stop string")) for kind, sampling in KINDS.items()]
        _ALONE.append((asked, [(await answers(stub, [one]))[0] for one in asked]))
    return _ALONE[0]


@pytest.mark.parametrize("cluster", ["grpc", NIXL], indirect=True)
@pytest.mark.parametrize("how", ["kill", "drain"])
async def test_every_kind_of_answer_goes_on(cluster: Cluster, how: str) -> None:
    cluster.restart_ended()
    await asyncio.to_thread(cluster.wait_whole)
    async with grpc.aio.insecure_channel(cluster.grpc_address()) as channel:
        stub = InferenceStub(channel)
        asked, undisturbed = await alone(stub)
        victims: list[Member] = []

        def strike() -> None:
            victims.append(victim := cluster.busiest("decode"))
            if how == "kill":
                victim.kill()
            else:
                victim.signal(signal.SIGTERM)

        struck = await answers(stub, asked, strike)
    wrong = {
        kind: found
        for kind, seen, expected in zip(KINDS, struck, undisturbed, strict=True)
        if (found := seen.differences(expected))
    }
    assert not wrong
    left = {
        kind: (one.after_output_tokens, one.reused_tokens)
        for kind, answer in zip(KINDS, struck, strict=True)
        for one in answer.timings.continuations
    }
    print(f"{how}: went on elsewhere, after and with so many tokens: {left}")
    assert len(left) >= 3, "too few were on the worker that was struck"
    assert all(after >= STRUCK_AT_TOKENS for after, _ in left.values())
    if how == "drain":
        # All but the last token's KV came along, whole blocks aside that the other worker had from this prompt itself.
        # Computed again by prefill, the last token's would have come too.
        moved = [reused for after, reused in left.values() if (len(PROMPT) + after - 1 - reused) % BLOCK_TOKENS == 0]
        assert moved, "no live KV cache was moved"
        await asyncio.to_thread(cluster.wait_left, victims[0].name)
    await asyncio.to_thread(cluster.wait_baseline, cluster.lease_s + 9)
