"""What one answer tells of itself, and in which order it acts."""

from __future__ import annotations

import pytest

from segue.proto.inference_pb2 import Path
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FINISH_REASON_ABORT as ABORT
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import EngineUsage, RequestOutput, Transfer
from segue.router.lifecycle.actions import Abort, Emit, Release, Send
from segue.router.lifecycle.choice_run import ChoiceRun, ChoiceSpec
from segue.router.planning.planner import Plan
from segue.router.text.choice import ChoiceText
from tests.router.core.answer_text import LENGTH, PROMPT, tiny_codec

PREFILL, DECODE = "prefill-0", "decode-0"


def new_run(**sampling: float) -> ChoiceRun:
    params = SamplingParams(max_tokens=4)
    for name, value in sampling.items():
        setattr(params, name, value)
    spec = ChoiceSpec("run-0", 0, PROMPT, params, deadline_s=100.0)
    return ChoiceRun(spec, ChoiceText(tiny_codec()), now_s=10.0)


def token_1(token: int = 300) -> RequestOutput:
    usage = EngineUsage(input_tokens=3, cached_tokens=2, computed_tokens=1)
    offer = Ticket(ticket_id="kv-0", tokens=3, producer_id=PREFILL)
    return RequestOutput(request_id="run-0.1", token_ids=[token], finish_reason=LENGTH, offer=offer, usage=usage)


def test_token_1_goes_to_the_client_with_the_same_event_that_sends_decode_to_work() -> None:
    run = new_run()
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    actions = run.on_output(PREFILL, token_1(), 11.0)
    assert {type(action) for action in actions} == {Emit, Send}


def test_decode_is_told_before_the_client_so_that_a_cancel_by_the_client_reaches_it() -> None:
    run = new_run()
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    actions = run.on_output(PREFILL, token_1(), 11.0)
    assert [type(action) for action in actions] == [Send, Emit]
    assert run.cancel() == [Abort(DECODE, "run-0.1"), Release(PREFILL, token_1().offer)]


def test_the_timings_tell_the_legs_apart() -> None:
    run = new_run()
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    run.on_output(PREFILL, token_1(), 10.5)
    run.on_output(DECODE, RequestOutput(request_id="run-0.1", token_ids=[301]), 10.75)
    run.on_output(DECODE, RequestOutput(request_id="run-0.1", token_ids=[302]), 11.0)
    last = RequestOutput(
        request_id="run-0.1",
        token_ids=[303],
        finish_reason=LENGTH,
        usage=EngineUsage(computed_tokens=1),
        transfer=Transfer(transport="nixl", bytes=4096, seconds=0.125),
    )
    run.on_output(DECODE, last, 11.25)
    timings = run.timings.message(run.path, run.output_tokens)
    assert (timings.path, timings.path_reason, timings.transport) == (Path.PATH_SEEDED, "", "nixl")
    assert (timings.prefill_worker, timings.decode_worker) == (PREFILL, DECODE)
    assert (timings.ttft_s, timings.prefill_s, timings.handoff_s, timings.decode_s) == (0.5, 0.5, 0.25, 0.5)
    assert (timings.transfer_s, timings.transfer_bytes) == (0.125, 4096)
    assert timings.itl_mean_s == pytest.approx(0.25)
    assert (timings.prefill_computed_tokens, timings.decode_computed_tokens) == (1, 1)
    assert run.timings.cached_prompt_tokens == 2


def test_of_a_prompt_that_decode_computes_its_own_cache_counts() -> None:
    run = new_run()
    run.go_on(Plan(None, DECODE), 10.0)
    usage = EngineUsage(input_tokens=3, cached_tokens=2, computed_tokens=1)
    last = RequestOutput(request_id="run-0.1", token_ids=[300], finish_reason=LENGTH, usage=usage)
    run.on_output(DECODE, last, 11.0)
    assert run.timings.pool == "decode"
    assert run.timings.cached_prompt_tokens == 2


@pytest.mark.parametrize("seeded", [True, False])
def test_a_transfer_that_failed_is_told_and_changes_no_token(seeded: bool) -> None:
    """The ticket is given back here too: decode may have no way to the producer."""
    run = new_run() if seeded else new_run(seed=4)
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    run.on_output(PREFILL, token_1(), 10.5)
    tokens = [301, 302, 303] if seeded else [300, 301, 302, 303]
    output = RequestOutput(
        request_id="run-0.1", token_ids=tokens, finish_reason=LENGTH, transfer=Transfer(error="pull failed")
    )
    release, emit = run.on_output(DECODE, output, 11.0)
    assert release == Release(PREFILL, token_1().offer)
    assert isinstance(emit, Emit)
    assert list(emit.delta.token_ids) == [301, 302, 303]
    timings = run.timings.message(run.path, run.output_tokens)
    assert (timings.path, timings.path_reason) == (Path.PATH_RECOMPUTED, "pull failed")


def test_the_exact_path_says_why() -> None:
    run = new_run(seed=4, presence_penalty=1)
    assert run.path == Path.PATH_EXACT
    assert run.timings.message(run.path, 0).path_reason == "seed+presence_penalty"


def test_a_path_of_prefill_alone_names_no_decode_worker() -> None:
    run = new_run(max_tokens=1)
    (send,) = run.go_on(Plan(PREFILL, DECODE), 10.0)
    assert isinstance(send, Send)
    assert not send.submit.offer_kv
    run.on_output(PREFILL, RequestOutput(request_id="run-0.1", token_ids=[300], finish_reason=LENGTH), 10.5)
    timings = run.timings.message(run.path, run.output_tokens)
    assert (timings.path, timings.decode_worker, timings.itl_mean_s) == (Path.PATH_PREFILL_ONLY, "", 0)


LOCAL = Plan(None, DECODE, prefill_tokens=1)  # Of a prompt of three tokens.


def test_of_an_answer_that_we_end_ourselves_counts_what_was_expected_to_be_cached() -> None:
    """By a stop string or a cancel: the engine, which is stopped, doesn't say what it had."""
    run = new_run()
    run.go_on(LOCAL, 10.0)
    assert run.timings.cached_prompt_tokens == 0  # Nothing has come yet.
    run.on_output(DECODE, RequestOutput(request_id="run-0.1", token_ids=[300]), 10.5)
    run.cancel()
    assert run.timings.cached_prompt_tokens == 2


def test_what_the_engine_says_of_its_cache_counts_more_than_what_was_expected() -> None:
    run = new_run()
    run.go_on(LOCAL, 10.0)
    usage = EngineUsage(input_tokens=3, cached_tokens=1, computed_tokens=2)
    run.on_output(DECODE, RequestOutput(request_id="run-0.1", token_ids=[300], finish_reason=LENGTH, usage=usage), 10.5)
    assert run.timings.cached_prompt_tokens == 1


@pytest.mark.parametrize("moved", [True, False])
def test_what_was_cached_of_a_prompt_is_kept_when_the_answer_goes_on_elsewhere(moved: bool) -> None:
    run = new_run()
    run.go_on(LOCAL, 10.0)
    run.on_output(DECODE, RequestOutput(request_id="run-0.1", token_ids=[300]), 10.5)
    if moved:
        usage = EngineUsage(input_tokens=3, cached_tokens=1, computed_tokens=2)
        run.on_output(DECODE, RequestOutput(request_id="run-0.1", finish_reason=ABORT, usage=usage), 10.6)
    else:
        run.on_worker_lost(DECODE)
    run.go_on(Plan(None, "decode-1", prefill_tokens=4), 10.7)
    usage = EngineUsage(input_tokens=4, cached_tokens=0, computed_tokens=4)
    last = RequestOutput(request_id="run-0.2", token_ids=[301], finish_reason=LENGTH, usage=usage)
    run.on_output("decode-1", last, 11.0)
    assert run.timings.cached_prompt_tokens == (1 if moved else 2)


def test_of_a_worker_that_was_lost_before_its_first_token_nothing_counts() -> None:
    run = new_run()
    run.go_on(LOCAL, 10.0)
    run.on_worker_lost(DECODE)
    run.go_on(Plan(None, "decode-1", prefill_tokens=3), 10.7)
    run.on_output("decode-1", RequestOutput(request_id="run-0.2", token_ids=[300]), 11.0)
    run.cancel()
    assert run.timings.cached_prompt_tokens == 0
