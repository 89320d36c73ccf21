"""One request of a client's, followed to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc.aio

from segue.base.errors import DeadlineExceeded, Overloaded, SegueError
from segue.client.errors import from_rpc_error
from segue.proto.inference_pb2 import GenerateRequest, Timings, TokenIds
from segue.proto.sampling_pb2 import SamplingParams
from tests.faults.cells import Outcome

if TYPE_CHECKING:
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub


# Law 1: how long after its deadline a request may still be open.
OVERTIME_S = 1.0


class Ask:
    """Begun when made. ``tokens`` grows while it runs; ``error`` is what ended it, if it didn't end well."""

    def __init__(self, stub: InferenceAsyncStub, prompt: Sequence[int], max_tokens: int, timeout_s: float) -> None:
        self.tokens: list[int] = []
        self.error: SegueError | None = None
        self.timings = Timings()
        self.timeout_s = timeout_s
        self._started_s = time.monotonic()
        self._ended_s = 0.0
        self._more = asyncio.Event()
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        self._call = stub.Generate(
            GenerateRequest(token_ids=TokenIds(ids=prompt), sampling=sampling), timeout=timeout_s
        )
        self._given_up = False
        self._task = asyncio.create_task(self._read())

    @property
    def over(self) -> bool:
        return self._task.done()

    async def seen(self, tokens: int) -> None:
        """Until the client has so many, or the request is over."""
        while len(self.tokens) < tokens and not self.over:
            self._more.clear()
            await self._more.wait()

    def give_up(self) -> None:
        """What a client does that leaves."""
        self._given_up = True
        self._call.cancel()

    async def end(self) -> None:
        """Wait for its end, which must come before the deadline or soon after it."""
        left_s = self._started_s + self.timeout_s + OVERTIME_S - time.monotonic()
        await asyncio.wait([self._task], timeout=max(left_s, OVERTIME_S))
        if not self.over:
            self._call.cancel()
            raise AssertionError(f"open {OVERTIME_S:g} s after its deadline, with {len(self.tokens)} tokens")
        self._task.result()
        overtime_s = self._ended_s - self._started_s - self.timeout_s
        assert overtime_s < OVERTIME_S, f"ended {overtime_s:.2f} s after its deadline"

    def outcome(self, undisturbed: Sequence[int]) -> Outcome:
        """How it ended. What the client has seen is always a part of the undisturbed answer, and from its start."""
        compared = min(len(self.tokens), len(undisturbed))
        assert self.tokens[:compared] == list(undisturbed[:compared]), (
            f"wrong tokens: {self.tokens[:compared]}, undisturbed {list(undisturbed[:compared])}"
        )
        if self._given_up:
            return Outcome.GIVEN_UP
        if isinstance(self.error, DeadlineExceeded):
            return Outcome.LATE
        if isinstance(self.error, Overloaded):
            return Outcome.REFUSED
        if self.error is not None:
            return Outcome.BROKEN
        assert len(self.tokens) == len(undisturbed), f"{len(self.tokens)} tokens, not {len(undisturbed)}, and no error"
        return Outcome.WHOLE

    def history(self) -> str:
        """For messages: how far it came and what became of it."""
        error = f", {type(self.error).__name__}: {self.error}" if self.error else ""
        moved = "".join(f", left {step.worker} ({step.reason})" for step in self.timings.continuations)
        return f"{len(self.tokens)} tokens{error}{moved}"

    async def _read(self) -> None:
        try:
            async for response in self._call:
                for choice in response.choices:
                    self.tokens += choice.token_ids
                if response.HasField("timings"):
                    self.timings = response.timings
                self._more.set()
        except grpc.aio.AioRpcError as broken:
            self.error = from_rpc_error(broken)
        except asyncio.CancelledError:
            if not self._given_up:
                raise
        finally:
            self._ended_s = time.monotonic()
            self._more.set()
