"""From KV events to a plan: what workers say, what is lost on the way, what was sent a moment ago."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from segue.base.block_hash import block_hashes
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, KvEvent, KvEvents, Register, Role, Status, WorkerState
from segue.router.lifecycle.placement import Placement
from segue.router.planning.disaggregation import Disaggregation
from segue.router.planning.planner import Policy
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks

BLOCK = 4
PROMPT = tuple(range(100, 121))  # Five blocks and a bit.
NAMES = block_hashes(PROMPT, BLOCK)
FACTS = EngineFacts(layout=BlockLayout(block_tokens=BLOCK, block_bytes=1000))


class World:
    def __init__(self) -> None:
        self.links = WorkerLinks()
        self.placement = Placement(self.links, Policy(disaggregation=Disaggregation("always")))
        for role, name in ((Role.ROLE_PREFILL, "prefill"), (Role.ROLE_DECODE, "decode")):
            for number in range(2):
                link = WorkerLink(Register(worker_id=f"{name}-{number}", role=role, epoch="e"))
                link.status = Status(state=WorkerState.WORKER_STATE_READY, facts=FACTS)
                self.links.add(link)
                self.tell(link.worker_id, 0, snapshot=True)

    def link(self, worker_id: str) -> WorkerLink:
        link = self.links.get(worker_id)
        assert link is not None
        return link

    def tell(self, worker_id: str, first: int, *events: KvEvent, snapshot: bool = False) -> None:
        said = KvEvents(first_sequence=first, snapshot=snapshot, events=events)
        self.placement.on_kv_events(self.link(worker_id), said)

    def cached(self, tokens: Sequence[int] = PROMPT) -> dict[str, int]:
        return dict(self.placement.ask(self.placement.prompt(tokens, 10)).cached)

    def asked_to_resend(self, worker_id: str) -> bool:
        return self.link(worker_id)._frame.resend_kv_events


def stored(names: Sequence[int], parent: int = 0) -> KvEvent:
    return KvEvent(stored=KvEvent.Stored(parent=parent, blocks=names))


@pytest.fixture
def world() -> World:
    return World()


def test_a_request_follows_its_prefix(world: World) -> None:
    world.tell("prefill-1", 0, stored(NAMES[:3]))
    world.tell("decode-1", 0, stored(NAMES[:2]))
    assert world.cached() == {"prefill-1": 12, "decode-1": 8}
    ask = world.placement.ask(world.placement.prompt(PROMPT, 10))
    for _ in range(3):
        assert world.placement.plan(world.links.snapshot(), ask).prefill_id == "prefill-1"
    world.tell("prefill-1", 1, KvEvent(removed=KvEvent.Removed(blocks=NAMES[1:3])))
    assert world.cached() == {"prefill-1": 4, "decode-1": 8}
    world.tell("prefill-1", 2, KvEvent(cleared=True))
    assert world.cached() == {"decode-1": 8}


def test_a_gap_is_a_loss_until_the_whole_cache_has_come_again(world: World) -> None:
    world.tell("prefill-0", 0, stored(NAMES[:1]))
    world.tell("prefill-0", 2, stored(NAMES[2:3], NAMES[1]))
    assert world.cached() == {}
    assert world.asked_to_resend("prefill-0")
    world.tell("prefill-0", 3, stored(NAMES[3:4], NAMES[2]))
    assert world.cached() == {}
    world.tell("prefill-0", 4, stored(NAMES[:2]), snapshot=True)
    world.tell("prefill-0", 5, stored(NAMES[2:4], NAMES[1]))
    assert world.cached() == {"prefill-0": 16}
    assert not world.asked_to_resend("prefill-1")


def test_a_snapshot_replaces_what_was_known(world: World) -> None:
    world.tell("prefill-0", 0, stored(NAMES))
    world.tell("prefill-0", 1, stored(NAMES[:1]), snapshot=True)
    assert world.cached() == {"prefill-0": 4}


def test_a_lost_worker_is_forgotten_with_its_links(world: World) -> None:
    world.tell("decode-0", 0, stored(NAMES))
    world.links.transfers.measured("prefill-0", "decode-0", 1000, 0.1)
    world.placement.on_worker_lost(world.link("decode-0"))
    assert world.cached() == {}


def test_what_was_just_sent_counts_as_if_it_were_there(world: World) -> None:
    """A second request with the same long beginning, before the first one's blocks have been told of."""
    for worker_id in ("prefill-0", "prefill-1", "decode-0", "decode-1"):
        world.tell(worker_id, 0, stored([1]))
    prompt = world.placement.prompt(PROMPT, 10)
    made = world.placement.plan(world.links.snapshot(), world.placement.ask(prompt))
    world.placement.sent("run-1", prompt, made)
    assert world.cached() == {str(made.prefill_id): 20, made.decode_id: 20}
    assert world.cached(PROMPT[:10]) == {str(made.prefill_id): 8, made.decode_id: 8}
    world.placement.prefilled("run-1")
    assert world.cached() == {}


@pytest.mark.parametrize("answered", [0, 1, 3, 30])
def test_an_answer_that_goes_on_is_named_with_what_it_has(world: World, answered: int) -> None:
    world.tell("prefill-0", 0, stored([1]))
    output = list(range(500, 500 + answered))
    for tokens in (PROMPT, PROMPT[:3]):
        routed = world.placement.prompt(tokens, 40)
        longer = world.placement.longer(routed, tokens, output, 40 - answered)
        assert list(longer.names) == block_hashes([*tokens, *output], BLOCK)
        assert (longer.tokens, longer.output_tokens) == (len(tokens) + answered, 40 - answered)


def test_caches_that_are_not_told_of_are_not_expected_to_hold_anything(world: World) -> None:
    world.tell("prefill-0", 0, stored([1]))
    prompt = world.placement.prompt(PROMPT, 10)
    made = world.placement.plan(world.links.snapshot(), world.placement.ask(prompt))
    world.placement.sent("run-1", prompt, made)
    assert set(world.cached()) <= {"prefill-0"}


def test_the_decision_can_be_explained(world: World) -> None:
    world.tell("prefill-1", 0, stored(NAMES[:3]))
    world.link("decode-1").status = Status(state=WorkerState.WORKER_STATE_DRAINING, facts=FACTS)
    fleet, ask = world.links.snapshot(), world.placement.ask(world.placement.prompt(PROMPT, 10))
    made = world.placement.plan(fleet, ask)
    decision = world.placement.explain(fleet, ask, made)
    by_id = {candidate.worker_id: candidate for candidate in decision.candidates}
    assert {name for name, candidate in by_id.items() if candidate.chosen} == {"prefill-1", "decode-0"}
    assert by_id["prefill-1"].cached_tokens == 12
    assert by_id["prefill-1"].scores_s["total"] < by_id["prefill-0"].scores_s["total"]
    assert set(by_id["decode-0"].scores_s) == {"wait", "decode", "transfer", "total"}
    assert by_id["decode-1"].excluded == "draining"
    assert not decision.local_prefill
    assert decision.reason == "--disaggregation always"


@pytest.mark.parametrize("routing", ["load", "round-robin"])
def test_other_policies_don_t_look_at_caches(world: World, routing: str) -> None:
    world.placement.policy = Policy(routing)  # type: ignore[arg-type]
    world.tell("prefill-1", 0, stored(NAMES))
    assert world.cached() == {}
