"""A dispatcher between sinks and workers' links, without a wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from segue.base.errors import SegueError, Unavailable
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import Register, RequestOutput, Role, RouterFrame, Status, Submit, WorkerState
from segue.router.lifecycle.continuation import ContinuationPolicy
from segue.router.lifecycle.dispatcher import Dispatcher
from segue.router.models import Models
from segue.router.service import Generation, Handle
from segue.router.text.tokenizer import TextCodec
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks
from tests.router.core.scripted import FACTS, PATIENT

LENGTH = FinishReason.FINISH_REASON_LENGTH
PROMPT = (5, 6, 7, 8)
# Of workers that are never measured, predictions say nothing.


class Sink:
    """Remembers what it was told; gives up after ``patience`` responses, from inside the call."""

    def __init__(self, patience: int = 1 << 30) -> None:
        self.responses: list[GenerateResponse] = []
        self.errors: list[SegueError] = []
        self.handle: Handle | None = None
        self.given_up = False
        self._patience = patience

    def on_token(self, index: int, text: str, token_id: int) -> None:
        self.on_delta(GenerateResponse(choices=[ChoiceDelta(index=index, text=text, token_ids=[token_id])]))

    def on_delta(self, response: GenerateResponse) -> None:
        assert not self.over
        self.responses.append(response)
        if len(self.responses) >= self._patience and self.handle is not None and not self.over:
            self.give_up()

    def on_error(self, error: SegueError) -> None:
        assert not self.over
        self.errors.append(error)

    def give_up(self) -> None:
        assert self.handle is not None
        if not self.over:
            self.given_up = True
            self.handle.cancel()

    @property
    def over(self) -> bool:
        finished = bool(self.responses) and self.responses[-1].HasField("usage")
        return finished or bool(self.errors) or self.given_up

    def tokens(self, index: int) -> list[int]:
        choices = [choice for response in self.responses for choice in response.choices if choice.index == index]
        return [token for choice in choices for token in choice.token_ids]


@dataclass
class FakeWorker:
    """One life of one worker: what it was sent, and what it may still hold."""

    link: WorkerLink
    alive: bool = True
    held: dict[str, Submit] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    offered: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    asked_to_move: list[str] = field(default_factory=list)


class World:
    """A dispatcher with two workers in each pool; ``places`` in a step of each decode worker, 0: any number."""

    def __init__(
        self,
        codec: TextCodec,
        max_concurrent_requests: int = 100,
        places: int = 0,
        prompt: tuple[int, ...] = PROMPT,
    ) -> None:
        self.places = places
        self.prompt = prompt
        self.links = WorkerLinks()
        models = Models("tiny", codec, created_unix_s=7)
        # No patience: looking again would need the clock.
        policy = ContinuationPolicy(max_continuations=5, patience_s=0.0)
        self.dispatcher = Dispatcher(self.links, models.__getitem__, max_concurrent_requests, policy, PATIENT)
        self.lives: list[FakeWorker] = []
        self.claimable: set[str] = set()
        self.sinks: list[tuple[Sink, Generation]] = []
        for number in range(2):
            self.attach(f"prefill-{number}", Role.ROLE_PREFILL)
            self.attach(f"decode-{number}", Role.ROLE_DECODE)

    def attach(self, worker_id: str, role: Role) -> FakeWorker:
        self.lose(worker_id)
        link = WorkerLink(Register(worker_id=worker_id, epoch=f"epoch-{len(self.lives)}", role=role))
        link.status = Status(state=WorkerState.WORKER_STATE_READY, facts=FACTS)
        link.status.facts.max_running_requests = self.places
        self.links.add(link)
        self.lives.append(FakeWorker(link))
        return self.lives[-1]

    def lose(self, worker_id: str) -> None:
        known = self.links.get(worker_id)
        if known is not None and self.links.remove(known):
            next(life for life in self.lives if life.link is known).alive = False
            self.dispatcher.news.on_worker_lost(known)

    def start(
        self,
        n: int = 1,
        max_tokens: int = 3,
        *,
        patience: int = 1 << 30,
        slo_class: str = "",
        timeout_s: float = 60.0,
        **sampling: Any,
    ) -> Sink:
        sink = Sink(patience)
        params = SamplingParams(max_tokens=max_tokens, **sampling)
        generation = Generation("tiny", self.prompt, None, params, n, False, None, timeout_s, slo_class, tenant="alice")
        sink.handle = self.dispatcher.start(generation, sink)
        self.sinks.append((sink, generation))
        return sink

    def deliver(self) -> None:
        """Bring each living worker what was sent to it."""
        for life in self.lives:
            if not life.alive:
                continue
            frame, life.link._frame = life.link._frame, RouterFrame()
            for submit in frame.submit:
                life.held[submit.request_id] = submit
                life.given[submit.request_id] = 0
                if submit.HasField("ticket"):
                    self.claimable.add(submit.ticket.ticket_id)
            for request_id in frame.abort_request_ids:
                life.held.pop(request_id, None)
                life.aborted.append(request_id)
            life.released += [release.ticket_id for release in frame.release]
            life.renewed += [name for renew in frame.renew for name in renew.ticket_ids]
            life.asked_to_move += frame.move_request_ids

    def work(self, life: FakeWorker, request_id: str, tokens: int = 1) -> None:
        """The worker's next output for a request."""
        submit = life.held[request_id]
        begun = life.given[request_id]
        offset = len(submit.input_token_ids) - len(self.prompt)
        count = min(tokens, submit.sampling.max_tokens - begun)
        ids = [300 + offset + begun + step for step in range(count)]
        life.given[request_id] = begun + count
        only_kv = submit.offer_kv and offset == 0 and submit.sampling.ignore_eos
        output = RequestOutput(request_id=request_id, token_ids=[7] if only_kv else ids)
        if begun + count == submit.sampling.max_tokens:
            output.finish_reason = LENGTH
            del life.held[request_id]
            if submit.offer_kv:
                worker_id = life.link.worker_id
                ticket = Ticket(
                    ticket_id=f"kv-{request_id}",
                    tokens=len(submit.input_token_ids),
                    producer_id=worker_id,
                    producer_epoch=life.link.register.epoch,
                    lease_s=30,
                )
                output.offer.CopyFrom(ticket)
                life.offered.add(f"kv-{request_id}")
        self.dispatcher.news.on_outputs(life.link, [output])

    def _under_way(self) -> set[str]:
        """Tickets sent to workers that were lost before they got them: their leases must run out."""
        return {submit.ticket.ticket_id for life in self.lives if not life.alive for submit in life.link._frame.submit}

    def finish(self) -> None:
        """Let everything run to its end."""
        self.deliver()
        while busy := [(life, request_id) for life in self.lives if life.alive for request_id in life.held]:
            self.work(*busy[0])
            self.deliver()

    async def finish_all(self) -> None:
        """Those that wait for a worker, too."""
        self.finish()
        while self.dispatcher.running_requests:
            self.dispatcher.waiting.look_soon()
            await asyncio.sleep(0)
            self.finish()

    def assert_nothing_is_left(self) -> None:
        assert all(sink.over for sink, _ in self.sinks)
        assert self.dispatcher.running_requests == 0
        assert not len(self.dispatcher.conductor)
        for life in self.lives:
            assert (life.link.assigned_requests, life.link.assigned_tokens) == (0, 0), life.link.worker_id
            if not life.alive:
                continue
            assert not life.held
            stranded = life.offered - set(life.released) - self.claimable - self._under_way()
            assert not stranded, "a ticket that nobody will claim was not released"


@pytest.fixture
def world(codec: TextCodec) -> World:
    return World(codec)


def step(world: World, operation: str, choice: int, size: int) -> None:
    worker_id = ("prefill-0", "decode-0", "prefill-1", "decode-1")[choice % 4]
    match operation:
        case "start":
            try:
                seed: dict[str, Any] = {"seed": 3} if choice % 3 == 0 else {}
                world.start(size, 1 + choice % 4, patience=2 if choice == 9 else 1 << 30, **seed)
            except Unavailable:
                assert Role.ROLE_DECODE not in {life.link.register.role for life in world.lives if life.alive}
        case "work":
            world.deliver()
            busy = [(life, request_id) for life in world.lives if life.alive for request_id in life.held]
            if busy:
                world.work(*busy[choice % len(busy)], tokens=size)
        case "lose":
            world.lose(worker_id)
        case "attach":
            world.attach(worker_id, Role.ROLE_PREFILL if worker_id.startswith("prefill") else Role.ROLE_DECODE)
        case "cancel" | "expire" if world.sinks:
            sink, _ = world.sinks[choice % len(world.sinks)]
            if operation == "cancel":
                sink.give_up()
            elif not sink.over:
                world.dispatcher.expire(sink.handle)  # type: ignore[arg-type]
