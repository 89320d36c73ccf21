from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.engine.simulated.cache import BlockCache
from segue.engine.simulated.request import Phase, SimRequest
from segue.engine.simulated.scheduler import BatchLimits, Scheduler, Step
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.worker_pb2 import Submit
from tests.engine.simulated.listening import leg

BLOCK_TOKENS = 4


def scheduler(blocks: int = 100, max_requests: int = 10, max_tokens: int = 16) -> Scheduler:
    return Scheduler(BlockCache(blocks), BLOCK_TOKENS, BatchLimits(max_requests, max_tokens))


def request(name: str, tokens: int, max_tokens: int = 5, ticket: Ticket | None = None) -> SimRequest:
    submit: Submit = leg(name, [ord(name[0]) + place for place in range(tokens)], max_tokens, ticket=ticket)
    return SimRequest(submit, vocab_size=2048, eos=(), max_len_tokens=1000)


def take(chosen: Scheduler, step: Step) -> None:
    """The step has been computed."""
    for one, tokens in step.parts:
        chosen.computed(one, tokens)
        if one.computed == len(one.tokens):
            one.sample()
            if one.finish_reason():
                chosen.remove(one)


def parts(step: Step) -> list[tuple[str, int]]:
    return [(one.request_id, tokens) for one, tokens in step.parts]


def test_running_requests_come_first_and_prompts_in_chunks_take_what_is_left() -> None:
    chosen = scheduler(max_tokens=16)
    chosen.add(request("a", 10))
    chosen.add(request("b", 20))
    first = chosen.plan()
    assert parts(first) == [("a", 10), ("b", 6)]
    assert (first.prompt_tokens, first.work.tokens, first.work.sampled) == (16, 16, 1)
    take(chosen, first)
    second = chosen.plan()
    assert parts(second) == [("a", 1), ("b", 14)]
    assert second.prompt_tokens == 14
    take(chosen, second)
    assert chosen.plan().prompt_tokens == 0


def test_no_step_has_more_requests_than_its_limit() -> None:
    chosen = scheduler(max_requests=2)
    for name in "abc":
        chosen.add(request(name, 2))
    assert parts(chosen.plan()) == [("a", 2), ("b", 2)]
    assert chosen.waiting_requests == 1
    assert chosen.waiting_tokens() == 2


def test_the_one_that_came_last_gives_way_and_goes_first_later() -> None:
    chosen = scheduler(blocks=4)
    for name in "abc":
        chosen.add(request(name, 4))
    take(chosen, chosen.plan())
    step = chosen.plan()  # Each needs a second block; there is one.
    assert parts(step) == [("a", 1), ("b", 1)]
    assert step.preempted == 1
    assert [one.request_id for one in chosen.waiting] == ["c"]
    assert chosen.waiting[0].blocks == []


def test_what_a_ticket_is_for_is_fetched_before_it_runs() -> None:
    chosen = scheduler()
    one = request("a", 9, ticket=Ticket(ticket_id="t", tokens=8, blocks=2))
    chosen.add(one)
    step = chosen.plan()
    assert (step.parts, step.claims) == ([], [one])
    assert one.phase is Phase.RECEIVING
    assert len(one.blocks) == 3
    chosen.computed(one, 8)
    one.ticket = None
    chosen.received(one)
    assert parts(chosen.plan()) == [("a", 1)]


def test_a_ticket_over_more_than_the_request_is_left_alone() -> None:
    chosen = scheduler()
    chosen.add(request("a", 9, ticket=Ticket(ticket_id="t", tokens=12, blocks=3)))
    step = chosen.plan()
    assert (parts(step), step.claims) == ([("a", 9)], [])


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=12),
    st.integers(12, 40),
    st.integers(1, 5),
    st.integers(1, 40),
)
def test_everybody_ends_within_the_limits_and_leaves_nothing(
    lengths: list[tuple[int, int]], blocks: int, max_requests: int, max_tokens: int
) -> None:
    chosen = scheduler(blocks, max_requests, max_tokens)
    everyone = [request(f"{chr(97 + n)}", tokens, output) for n, (tokens, output) in enumerate(lengths)]
    for one in everyone:
        chosen.add(one)
    for _ in range(5000):
        step = chosen.plan()
        assert len(step.parts) <= max_requests
        assert step.work.tokens == sum(tokens for _, tokens in step.parts) <= max_tokens
        assert step.parts or chosen.empty
        if chosen.empty:
            break
        take(chosen, step)
    assert chosen.empty
    assert all(one.phase is Phase.OVER for one in everyone)
    assert [one.generated for one in everyone] == [output for _, output in lengths]
    assert chosen.cache.free_blocks == blocks
