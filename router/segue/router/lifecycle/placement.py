"""What the planner is given for one request, and what is learned from its plan: the state beside the pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segue.base.block_hash import block_names
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import RoutingDecision
from segue.proto.worker_pb2 import KvEvents, Transfer
from segue.router.planning.decisions import explain
from segue.router.planning.planner import Plan, Policy, decode_instead, plan
from segue.router.planning.prediction import Ask
from segue.router.prefixes.expected_blocks import ExpectedBlocks
from segue.router.prefixes.prefix_index import PrefixIndex
from segue.router.prompt_tokens import PromptTokens
from segue.router.workers.fleet import FleetSnapshot
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks

log = get_logger("router")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as routing sees it: its length, the names of its full blocks, and the most tokens of its answer."""

    tokens: int
    names: Sequence[int] | NDArray[np.uint64]
    output_tokens: int


class Placement:
    """Where requests go: the policy, what the workers' caches hold, and what was decided before."""

    def __init__(self, links: WorkerLinks, policy: Policy | None = None, index: PrefixIndex | None = None) -> None:
        self.policy = policy or Policy()
        self.index = index or PrefixIndex()
        self._links = links
        self._expected = ExpectedBlocks()
        self._block_tokens = 0
        # By the size of the prompt, in powers of two.
        self._leans_local: dict[int, bool] = {}
        self._since_tried: dict[int, int] = {}

    # What workers say

    def on_kv_events(self, link: WorkerLink, events: KvEvents) -> None:
        """Take a frame's worth. A gap in the numbers is a loss: nothing is believed until the whole cache comes."""
        if events.snapshot:
            self.index.forget(link.worker_id)
            link.next_kv_event = events.first_sequence
        if events.first_sequence != link.next_kv_event:
            if link.next_kv_event is not None:
                log.warning(
                    "kv_events_lost",
                    worker_id=link.worker_id,
                    expected=link.next_kv_event,
                    seen=events.first_sequence,
                )
                self.index.forget(link.worker_id)
                link.next_kv_event = None
                link.ask_for_kv_events()
            return
        link.next_kv_event += len(events.events)
        self._block_tokens = link.facts.layout.block_tokens or self._block_tokens
        for event in events.events:
            if event.HasField("stored"):
                self.index.store(link.worker_id, np.array(event.stored.blocks, np.uint64))
            elif event.HasField("removed"):
                self.index.remove(link.worker_id, np.array(event.removed.blocks, np.uint64))
            elif event.cleared:
                self.index.forget(link.worker_id)

    def on_worker_lost(self, link: WorkerLink) -> None:
        self.index.forget(link.worker_id)
        self._links.transfers.forget(link.worker_id)

    def on_transfer(self, producer_id: str, decode_id: str, transfer: Transfer) -> None:
        if not transfer.error:
            self._links.transfers.measured(producer_id, decode_id, transfer.bytes, transfer.seconds)

    # Requests

    def prompt(self, tokens: Sequence[int], output_tokens: int) -> Prompt:
        """To be made once for each request: naming the blocks of a long prompt takes milliseconds."""
        names: Sequence[int] | NDArray[np.uint64] = ()
        if self.policy.routing == "kv" and self._block_tokens and not self.index.empty:
            names = block_names(PromptTokens.of(tokens).array, self._block_tokens)
        return Prompt(len(tokens), names, output_tokens)

    def longer(self, prompt: Prompt, tokens: Sequence[int], output: Sequence[int], output_tokens: int) -> Prompt:
        """``prompt``, which is of ``tokens``, with ``output`` behind it. What is named already isn't named again."""
        if not len(prompt.names):  # It is short, or nobody had told of a cache when it came.
            return self.prompt([*tokens, *output], output_tokens)
        rest = [*tokens[len(prompt.names) * self._block_tokens :], *output]
        more = block_names(rest, self._block_tokens, int(prompt.names[-1]))
        return Prompt(len(tokens) + len(output), np.concatenate([prompt.names, more]), output_tokens)

    def ask(self, prompt: Prompt) -> Ask:
        """With what the workers have of it now, and soon will."""
        tokens = self._cached_tokens(prompt.names) if len(prompt.names) else {}
        number = self._since_tried.get(prompt.tokens.bit_length(), 0)
        return Ask(prompt.tokens, prompt.output_tokens, tokens, number)

    def _cached_tokens(self, names: Sequence[int] | NDArray[np.uint64]) -> dict[str, int]:
        cached = dict(self.index.overlaps(names))
        for worker_id, blocks in self._expected.overlaps(names).items():
            if blocks > cached.get(worker_id, 0) and self.index.knows(worker_id):
                cached[worker_id] = blocks
        return {worker_id: blocks * self._block_tokens for worker_id, blocks in cached.items()}

    def plan(self, fleet: FleetSnapshot, ask: Ask, avoid: Collection[str] = ()) -> Plan:
        """Raises Unavailable."""
        size = ask.prompt_tokens.bit_length()
        made = plan(fleet, ask, avoid, self.policy, self._leans_local.get(size, False))
        self._since_tried[size] = 0 if made.tried else ask.number + 1
        if not made.tried:
            self._leans_local[size] = made.prefill_id is None
        return made

    def on_decode(self, fleet: FleetSnapshot, prompt_tokens: int) -> bool:
        """Whether a prompt of so many tokens would not be sent to a prefill worker now, whatever is cached."""
        leans_local = self._leans_local.get(prompt_tokens.bit_length(), False)
        return decode_instead(fleet, Ask(prompt_tokens), self.policy.disaggregation, leans_local)

    def explain(self, fleet: FleetSnapshot, ask: Ask, made: Plan, avoid: Collection[str] = ()) -> RoutingDecision:
        return explain(fleet, ask, avoid, self.policy, made)

    def sent(self, run_id: str, prompt: Prompt, made: Plan) -> None:
        """Its blocks are expected where it goes."""
        workers = [made.decode_id] if made.prefill_id is None else [made.prefill_id, made.decode_id]
        self._expected.add(run_id, prompt.names, workers)

    def prefilled(self, run_id: str) -> None:
        """Its blocks have been told of, or will not be."""
        self._expected.discard(run_id)
