"""The matrix: which fault meets a request in which phase, and how the request has to end. No I/O."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass


class Phase(enum.Enum):
    QUEUED = "queued"  # At the prefill worker, behind other prompts.
    PREFILLING = "prefilling"  # The prompt is being computed.
    OFFERED = "offered"  # The client has token 1; decode has not claimed the ticket.
    TRANSFERRING = "transferring"  # Part of the KV has arrived.
    DECODING = "decoding"  # A quarter of the answer is out.
    FINISHING = "finishing"  # All of the answer but its last token is out.


class Fault(enum.Enum):
    CLIENT_CANCEL = "client_cancel"
    PREFILL_KILL = "prefill_kill"
    DECODE_KILL = "decode_kill"
    ROUTER_KILL = "router_kill"
    LINK_CUT = "link_cut"
    LINK_STALL = "link_stall"
    STALE_TICKET = "stale_ticket"
    CORRUPT_CHUNK = "corrupt_chunk"
    LEASE_EXPIRY = "lease_expiry"
    PREFILL_DRAIN = "prefill_drain"
    DECODE_DRAIN = "decode_drain"
    DEADLINE = "deadline"


class Outcome(enum.Enum):
    WHOLE = "whole"  # Every token of the undisturbed run.
    GIVEN_UP = "given up"  # The client left; nobody looks.
    LATE = "late"  # DeadlineExceeded.
    REFUSED = "refused"  # Overloaded: its deadline would pass in the queue, which admission saw.
    BROKEN = "broken"  # The connection to the router is gone; what came is a part of the undisturbed run.


BEFORE_CLAIM = (Phase.QUEUED, Phase.PREFILLING, Phase.OFFERED)
BEFORE_VERIFIED = (*BEFORE_CLAIM, Phase.TRANSFERRING)

# Of each answer; longer ones are compared as far.
COMPARED_TOKENS = 60
# Prompt tokens, so that each phase lasts long enough to be met.
_PROMPT_TOKENS = {Phase.PREFILLING: 3900, Phase.TRANSFERRING: 2500}


@dataclass(frozen=True)
class Cell:
    transport: str
    fault: Fault
    phase: Phase

    @property
    def name(self) -> str:
        return f"{self.transport}-{self.fault.value}-{self.phase.value}"

    @property
    def ends_a_worker(self) -> bool:
        return self.fault in {Fault.PREFILL_KILL, Fault.DECODE_KILL, Fault.PREFILL_DRAIN, Fault.DECODE_DRAIN}

    @property
    def needs_both_of_each(self) -> bool:
        """Whether one worker of each pool would not do."""
        return self.ends_a_worker or self.fault is Fault.STALE_TICKET

    @property
    def prompt_tokens(self) -> int:
        return _PROMPT_TOKENS.get(self.phase, 300)

    @property
    def answer_tokens(self) -> int:
        """Long enough not to end by itself where it is to be ended."""
        ending = {Fault.CLIENT_CANCEL, Fault.DEADLINE, Fault.ROUTER_KILL}
        ended = self.fault in ending and self.phase is Phase.DECODING
        return 1000 if ended else COMPARED_TOKENS

    @property
    def timeout_s(self) -> float:
        """The client's deadline: far away, except where it is the fault."""
        if self.fault is not Fault.DEADLINE:
            return 40.0
        return {Phase.QUEUED: 0.4, Phase.PREFILLING: 0.25, Phase.OFFERED: 1.5, Phase.TRANSFERRING: 3.0}.get(
            self.phase, 1.5 if self.phase is Phase.DECODING else 0.7
        )

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        if self.fault is Fault.CLIENT_CANCEL:
            return (Outcome.GIVEN_UP,)
        may_be_over = (Outcome.WHOLE,) if self.phase is Phase.FINISHING else ()
        if self.fault is Fault.ROUTER_KILL:
            return (Outcome.BROKEN, *may_be_over)
        if self.fault is Fault.DEADLINE:
            refused = (Outcome.REFUSED,) if self.phase is Phase.QUEUED else ()
            return (Outcome.LATE, *may_be_over, *refused)
        return (Outcome.WHOLE,)

    def prompt(self, seed: int, tokens: int = 0) -> tuple[int, ...]:
        """Tokens no other cell has, so that no prefix cache holds them; by default as many as the phase needs.

        Ids below 3 are the model's special ones.
        """
        tokens = tokens or self.prompt_tokens
        draw = random.Random(f"{seed}/{self.name}/{tokens}")
        return tuple(draw.randrange(3, 1000) for _ in range(tokens))


# Nothing of ours is between the ends of a NIXL transfer: UCX takes what shared memory or sockets it finds.
_GRPC_ONLY = {Fault.CORRUPT_CHUNK: "the digest of a NIXL transfer is tested in tests/kv_transfer"}
_NOT_WITH_NIXL = {Fault.LINK_CUT, Fault.LINK_STALL, Fault.STALE_TICKET}

# What `make test` runs: one cell for each law and each kind of death.
QUICK = frozenset(
    {
        Cell("grpc", Fault.CLIENT_CANCEL, Phase.TRANSFERRING),
        Cell("grpc", Fault.CORRUPT_CHUNK, Phase.TRANSFERRING),
        Cell("grpc", Fault.STALE_TICKET, Phase.OFFERED),
        Cell("grpc", Fault.LINK_STALL, Phase.TRANSFERRING),
        Cell("grpc", Fault.DEADLINE, Phase.OFFERED),
        Cell("grpc", Fault.ROUTER_KILL, Phase.DECODING),
        Cell("grpc", Fault.DECODE_DRAIN, Phase.DECODING),
        Cell("grpc", Fault.DECODE_KILL, Phase.DECODING),
    }
)


def excluded(transport: str, fault: Fault) -> str:
    """Why these cells are left out; empty if they aren't."""
    if transport == "nixl" and fault in _GRPC_ONLY:
        return _GRPC_ONLY[fault]
    if transport == "nixl" and fault in _NOT_WITH_NIXL:
        return "NIXL's bytes pass no proxy of ours"
    return ""


def all_cells() -> list[Cell]:
    return [
        Cell(transport, fault, phase)
        for transport in ("grpc", "nixl")
        for fault in Fault
        for phase in Phase
        if not excluded(transport, fault)
    ]


def interleaved(cells: Sequence[Cell]) -> list[Cell]:
    """An order in which few wait for an engine to start: those that end a worker, and others in between.

    Transport by transport, because each has a cluster of its own.
    """
    ordered = []
    for transport in sorted({cell.transport for cell in cells}):
        ending = [cell for cell in cells if cell.transport == transport and cell.ends_a_worker]
        others = [cell for cell in cells if cell.transport == transport and not cell.ends_a_worker]
        share = -(-len(others) // max(1, len(ending)))
        while ending or others:
            ordered += ending[:1] + others[:share]
            ending, others = ending[1:], others[share:]
    return ordered
