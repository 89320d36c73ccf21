"""Which requests the next step computes, and how much of each: as vLLM's scheduler decides.

Running requests first, in the order they came; what is left of the step's tokens goes to waiting ones, prompts in
chunks. When blocks run out the request that came last gives its own back and computes all again later. No I/O.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from segue.base.block_hash import NO_PARENT
from segue.engine.simulated.cache import BlockCache
from segue.engine.simulated.request import Phase, SimRequest
from segue.engine.simulated.timing import StepWork


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Of one step."""

    max_requests: int
    max_tokens: int


@dataclass(slots=True)
class Step:
    """``parts``: each request with the number of tokens that are computed of it. ``claims``: requests whose KV cache is
    to be fetched now; ``unneeded``: those that have all of what their ticket is for."""

    parts: list[tuple[SimRequest, int]] = field(default_factory=list)
    claims: list[SimRequest] = field(default_factory=list)
    unneeded: list[SimRequest] = field(default_factory=list)
    work: StepWork = field(default_factory=StepWork)
    prompt_tokens: int = 0
    preempted: int = 0


class Scheduler:
    """Requests in the order of their priority, and of their coming."""

    def __init__(self, cache: BlockCache, block_tokens: int, limits: BatchLimits) -> None:
        self.cache = cache
        self.block_tokens = block_tokens
        self.running: list[SimRequest] = []
        self.waiting: list[SimRequest] = []
        self.receiving: set[SimRequest] = set()
        self._limits = limits

    @property
    def empty(self) -> bool:
        return not (self.running or self.waiting)

    @property
    def waiting_requests(self) -> int:
        return len(self.waiting) + len(self.receiving)

    def waiting_tokens(self) -> int:
        """Prompt tokens that are not yet computed."""
        return sum(len(request.tokens) - request.computed for request in self.waiting)

    def add(self, request: SimRequest) -> None:
        insort(self.waiting, request, key=lambda other: other.priority)

    def received(self, request: SimRequest) -> None:
        """Its KV cache has come, or won't: it goes before all that wait."""
        self.receiving.discard(request)
        request.phase = Phase.WAITING
        self.waiting.insert(0, request)

    def remove(self, request: SimRequest, keep_blocks: bool = False) -> None:
        """It is over. ``keep_blocks``: somebody else answers for them from now on."""
        if request.phase is Phase.RUNNING:
            self.running.remove(request)
        elif request.phase is Phase.RECEIVING:
            self.receiving.discard(request)
        elif request.phase is Phase.WAITING:
            self.waiting.remove(request)
        request.phase = Phase.OVER
        if not keep_blocks:
            self._give_back(request)

    def plan(self) -> Step:
        step = Step()
        left = self._continue_running(step)
        if not step.preempted:
            self._admit_waiting(step, left)
        return step

    def computed(self, request: SimRequest, tokens: int) -> None:
        """The KV of that many more tokens is in the request's blocks."""
        request.computed += tokens
        full = request.computed // self.block_tokens
        if full > request.named:
            names = request.names(full, self.block_tokens)
            for place in range(request.named, full):
                parent = names[place - 1] if place else NO_PARENT
                self.cache.fill_whole(request.blocks[place], names[place], parent)
            request.named = full

    def _continue_running(self, step: Step) -> int:
        left = self._limits.max_tokens
        block_tokens = self.block_tokens
        place = 0
        while place < len(self.running) and left:
            request = self.running[place]
            tokens = min(len(request.tokens) - request.computed, left)
            if request.computed + tokens > len(request.blocks) * block_tokens and not self._make_room(
                request, request.computed + tokens, step
            ):
                break  # It was the last one and has given way itself.
            self._compute(step, request, tokens)
            left -= tokens
            place += 1
        return left

    def _make_room(self, request: SimRequest, tokens: int, step: Step) -> bool:
        """Blocks for that many tokens in all, if need be those of whoever came last; False if that was the request."""
        missing = -(-tokens // self.block_tokens) - len(request.blocks)
        while (more := self.cache.extend(missing)) is None:
            victim = self.running.pop()
            self._give_back(victim)
            victim.phase = Phase.WAITING
            self.waiting.insert(0, victim)
            step.preempted += 1
            if victim is request:
                return False
        request.blocks += more
        return True

    def _admit_waiting(self, step: Step, left: int) -> None:
        while self.waiting and left and len(self.running) < self._limits.max_requests:
            request = self.waiting[0]
            if not request.blocks and not self._find_prefix(request):
                return
            if request.ticket is not None and self._claims(request):
                # With room for all its tokens: holding what was fetched while waiting for more could go on for ever.
                if not self._reserve(request, len(request.tokens)):
                    return
                self.waiting.pop(0)
                request.phase = Phase.RECEIVING
                self.receiving.add(request)
                step.claims.append(request)
                continue
            if request.ticket is not None:
                step.unneeded.append(request)
            tokens = min(len(request.tokens) - request.computed, left)
            if not self._reserve(request, request.computed + tokens):
                return
            self.waiting.pop(0)
            request.phase = Phase.RUNNING
            self.running.append(request)
            self._compute(step, request, tokens)
            left -= tokens

    def _find_prefix(self, request: SimRequest) -> bool:
        """Hold what the prefix cache has of the request; its last token is computed in any case."""
        names = request.names((len(request.tokens) - 1) // self.block_tokens, self.block_tokens)
        cached = self.cache.cached_blocks(names)
        taken = self.cache.take(names[:cached], cached)
        if taken is None:
            return False
        request.blocks = taken.block_ids
        request.named = taken.cached
        request.computed = taken.cached * self.block_tokens
        if not request.generated:
            request.cached_tokens = request.computed
        return True

    def _claims(self, request: SimRequest) -> bool:
        """Whether the ticket holds more than the request has. Not if its blocks end behind the request's tokens."""
        assert request.ticket is not None
        return request.computed < request.ticket.tokens <= len(request.tokens)

    def _reserve(self, request: SimRequest, tokens: int) -> bool:
        """Blocks for that many tokens in all. If there are too few it gives back those that it has."""
        missing = -(-tokens // self.block_tokens) - len(request.blocks)
        if missing <= 0:
            return True
        more = self.cache.extend(missing)
        if more is None:
            self._give_back(request)
            return False
        request.blocks += more
        return True

    def _compute(self, step: Step, request: SimRequest, tokens: int) -> None:
        step.parts.append((request, tokens))
        step.work.add(request.computed, tokens, request.computed + tokens == len(request.tokens))
        if request.computed < request.input_tokens:
            step.prompt_tokens += min(tokens, request.input_tokens - request.computed)

    def _give_back(self, request: SimRequest) -> None:
        self.cache.release(request.blocks)
        request.blocks = []
        request.computed = 0
        request.named = 0
