"""Segue's messages to vLLM's objects and back."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm import CompletionOutput
from vllm import RequestOutput as VllmOutput
from vllm.exceptions import VLLMClientError
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind
from vllm.v1.metrics.stats import RequestStateStats

from segue.engine.forced_tokens import EXTRA_ARG
from segue.engine.vllm_translate import OutputTranslator, to_vllm_sampling
from segue.kv_transfer.connector_config import KEY, ConnectorConfig, TransferReport
from segue.proto.kv_transfer_pb2 import BlockLayout, Ticket
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import RequestError, RequestOutput, Submit

LAYOUT = BlockLayout(model="m", layers=4)
CONFIG = ConnectorConfig("w-0", "e-1", "127.0.0.1:1", 30.0, "m")
TRANSLATOR = OutputTranslator(CONFIG, LAYOUT, "grpc")
SUBMIT = Submit(request_id="req-1", input_token_ids=list(range(40)))


def vllm_output(
    token_ids: list[int],
    *,
    finish_reason: str | None = None,
    stop_reason: int | str | None = None,
    logprobs: list[dict[int, Logprob]] | None = None,
    cached: int | None = None,
    kv: dict[str, Any] | None = None,
) -> VllmOutput:
    completion = CompletionOutput(
        0, "", token_ids, None, logprobs, finish_reason=finish_reason, stop_reason=stop_reason
    )
    done = finish_reason is not None
    return VllmOutput("x", None, [], None, [completion], done, num_cached_tokens=cached, kv_transfer_params=kv)


def translated(output: VllmOutput, submit: Submit = SUBMIT) -> RequestOutput:
    return TRANSLATOR.translate(output, submit)


# To vLLM


def test_what_is_not_set_is_vllms_default() -> None:
    ours = to_vllm_sampling(Submit())
    assert (ours.temperature, ours.top_p, ours.top_k, ours.min_p, ours.seed, ours.max_tokens) == (1, 1, 0, 0, None, 16)
    assert (ours.logprobs, ours.stop_token_ids, ours.logit_bias, ours.ignore_eos) == (None, [], None, False)


def test_everything_that_is_set_arrives() -> None:
    ours = to_vllm_sampling(
        Submit(
            sampling=SamplingParams(
                temperature=0.5,
                top_p=0.25,
                top_k=5,
                min_p=0.125,
                seed=-3,
                max_tokens=7,
                min_tokens=2,
                presence_penalty=-1.5,
                frequency_penalty=1.25,
                repetition_penalty=1.5,
                stop_token_ids=[3, 4],
                ignore_eos=True,
                logprobs=2,
                logit_bias={5: -100.0},
            )
        )
    )
    assert (ours.temperature, ours.top_p, ours.top_k, ours.min_p, ours.seed) == (0.5, 0.25, 5, 0.125, -3)
    assert (ours.max_tokens, ours.min_tokens, ours.logprobs, ours.ignore_eos) == (7, 2, 2, True)
    assert (ours.presence_penalty, ours.frequency_penalty, ours.repetition_penalty) == (-1.5, 1.25, 1.5)
    assert (ours.stop_token_ids, ours.logit_bias) == ([3, 4], {5: -100.0})


def test_zero_is_a_value_where_it_is_set() -> None:
    ours = to_vllm_sampling(Submit(sampling=SamplingParams(temperature=0, seed=0, logprobs=0)))
    assert (ours.temperature, ours.seed, ours.logprobs) == (0, 0, 0)


def test_the_engine_sees_no_text() -> None:
    ours = to_vllm_sampling(Submit(sampling=SamplingParams(stop=["end"])))
    assert ours.stop == []
    assert ours.detokenize is False
    assert ours.output_kind is RequestOutputKind.DELTA


@pytest.mark.parametrize(("field", "value"), [("top_p", 2.0), ("temperature", -1.0), ("max_tokens", 0)])
def test_what_vllm_refuses_is_a_client_error(field: str, value: float) -> None:
    """Which the adapters answer as the request's own fault. It is no ValueError since vLLM 0.32."""
    sampling = SamplingParams()
    setattr(sampling, field, int(value) if field == "max_tokens" else value)
    with pytest.raises(VLLMClientError, match=field):
        to_vllm_sampling(Submit(sampling=sampling))


def test_a_leg_without_a_transfer_has_no_parameters_for_one() -> None:
    assert not to_vllm_sampling(Submit()).extra_args


def test_each_offer_has_a_ticket_of_its_own() -> None:
    submit = Submit(request_id="req-1", offer_kv=True)
    one, two = ((to_vllm_sampling(submit).extra_args or {})["kv_transfer_params"] for _ in range(2))
    assert (one["do_remote_decode"], one["do_remote_prefill"]) == (True, False)
    assert one[KEY]["offer"]["request_id"] == "req-1"
    assert one[KEY]["offer"]["ticket_id"] != two[KEY]["offer"]["ticket_id"]


def test_a_ticket_arrives_whole_beside_what_nixl_described() -> None:
    described = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "remote_num_tokens": 20}
    ticket = Ticket(ticket_id="kv-1", tokens=20, nixl=msgspec.msgpack.encode(described))
    extra = to_vllm_sampling(Submit(ticket=ticket, timeout_s=4.5)).extra_args or {}
    params = extra["kv_transfer_params"]
    assert {name: params[name] for name in described} == described
    assert Ticket.FromString(params[KEY]["claim"]["ticket"]) == ticket
    assert params[KEY]["claim"]["timeout_s"] == 4.5


def test_forced_tokens_arrive() -> None:
    assert to_vllm_sampling(Submit(forced_token_ids=[7, 8])).extra_args == {EXTRA_ARG: [7, 8]}


# From vLLM


def test_tokens_in_the_middle_are_tokens_alone() -> None:
    assert translated(vllm_output([5, 6])) == RequestOutput(request_id="req-1", token_ids=[5, 6])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", FinishReason.FINISH_REASON_STOP),
        ("length", FinishReason.FINISH_REASON_LENGTH),
        ("abort", FinishReason.FINISH_REASON_ABORT),
        ("repetition", FinishReason.FINISH_REASON_STOP),
    ],
)
def test_the_end_has_its_reason(theirs: str, ours: FinishReason) -> None:
    message = translated(vllm_output([5], finish_reason=theirs))
    assert message.finish_reason == ours
    assert not message.HasField("error")
    assert not message.HasField("stop_token_id")


def test_an_engine_that_gives_up_is_an_error_another_worker_may_mend() -> None:
    message = translated(vllm_output([], finish_reason="error"))
    assert message.finish_reason == FinishReason.FINISH_REASON_ERROR
    assert message.error.kind == RequestError.KIND_UNAVAILABLE


@pytest.mark.parametrize("token_id", [0, 7])
def test_a_stop_token_is_named(token_id: int) -> None:
    message = translated(vllm_output([token_id], finish_reason="stop", stop_reason=token_id))
    assert message.HasField("stop_token_id")
    assert message.stop_token_id == token_id


@given(
    ranks=st.permutations(range(1, 9)),
    top=st.integers(0, 5),
    sampled_rank=st.integers(1, 8),
)
def test_the_best_come_in_order_of_rank_and_the_sampled_one_beside_them(
    ranks: list[int], top: int, sampled_rank: int
) -> None:
    """vLLM's mapping holds the best ``top`` and the sampled one, in any order."""
    by_id = {100 + r: Logprob(-float(r), r) for r in ranks if r <= top or r == sampled_rank}
    submit = Submit(request_id="req-1", sampling=SamplingParams(logprobs=top))
    (position,) = translated(vllm_output([100 + sampled_rank], logprobs=[by_id]), submit).logprobs
    assert (position.sampled.token_id, position.sampled.rank) == (100 + sampled_rank, sampled_rank)
    assert position.sampled.logprob == -float(sampled_rank)
    assert [token.rank for token in position.top] == list(range(1, top + 1))
    assert [token.token_id for token in position.top] == [100 + rank for rank in range(1, top + 1)]


def test_each_token_has_its_position() -> None:
    positions = [{5: Logprob(-0.5, 1)}, {6: Logprob(-1.5, 1)}]
    submit = Submit(request_id="req-1", sampling=SamplingParams(logprobs=1))
    message = translated(vllm_output([5, 6], logprobs=positions), submit)
    assert [position.sampled.token_id for position in message.logprobs] == [5, 6]


@pytest.mark.parametrize(("cached", "computed", "cached_here"), [(None, 40, 0), (0, 40, 0), (32, 8, 32), (40, 1, 40)])
def test_usage_adds_up(cached: int | None, computed: int, cached_here: int) -> None:
    """A prompt that is cached whole has its last token computed all the same."""
    usage = translated(vllm_output([5], finish_reason="length", cached=cached)).usage
    assert (usage.input_tokens, usage.computed_tokens) == (40, computed)
    assert (usage.cached_tokens, usage.transferred_tokens) == (cached_here, 0)


def test_what_was_transferred_is_not_counted_as_cached() -> None:
    report = asdict(TransferReport("grpc", tokens=23, bytes=4096, seconds=0.5, digest_seconds=0.125))
    message = translated(vllm_output([5], finish_reason="length", cached=39, kv={KEY: {"report": report}}))
    usage = message.usage
    assert (usage.cached_tokens, usage.transferred_tokens, usage.computed_tokens) == (16, 23, 1)
    assert (message.transfer.transport, message.transfer.bytes, message.transfer.seconds) == ("grpc", 4096, 0.5)
    assert message.transfer.error == ""
    assert message.transfer.digest_seconds == 0.125
    assert not message.transfer.corrupt


def test_a_transfer_that_failed_counts_nothing_and_says_why() -> None:
    report = asdict(TransferReport("grpc", tokens=23, bytes=0, seconds=0.5, error="digests differ", corrupt=True))
    message = translated(vllm_output([5], finish_reason="length", cached=16, kv={KEY: {"report": report}}))
    usage = message.usage
    assert (usage.cached_tokens, usage.transferred_tokens, usage.computed_tokens) == (16, 0, 24)
    assert message.transfer.error == "digests differ"
    assert message.transfer.corrupt


def test_an_offer_becomes_a_ticket_in_this_engines_name() -> None:
    described = {"remote_block_ids": [[1]], "remote_prefill_cached_tokens": 16}
    offer = {"ticket_id": "kv-1", "tokens": 40, "blocks": 3, "address": "127.0.0.1:9"}
    submit = Submit(request_id="req-1", input_token_ids=range(40), offer_kv=True)
    ticket = translated(vllm_output([5], finish_reason="length", kv={**described, KEY: offer}), submit).offer
    assert (ticket.ticket_id, ticket.producer_id, ticket.producer_epoch) == ("kv-1", "w-0", "e-1")
    assert (ticket.request_id, ticket.tokens, ticket.blocks, ticket.address) == ("req-1", 40, 3, "127.0.0.1:9")
    assert (ticket.layout, ticket.transport, ticket.lease_s) == (LAYOUT, "grpc", 30.0)
    assert 0 < ticket.expires_unix_s - time.time() <= 30.0
    assert msgspec.msgpack.decode(ticket.nixl) == {"remote_block_ids": [[1]]}


def test_no_ticket_for_who_asked_for_none_nor_where_the_engine_holds_nothing() -> None:
    offer = {"ticket_id": "kv-1", "tokens": 40, "blocks": 3, "address": "127.0.0.1:9"}
    asked = Submit(request_id="req-1", offer_kv=True)
    assert not translated(vllm_output([5], finish_reason="length", kv={KEY: offer})).HasField("offer")
    assert not translated(vllm_output([5], finish_reason="stop"), asked).HasField("offer")


def test_usage_says_how_long_a_request_waited_and_how_long_its_first_token_took() -> None:
    output = vllm_output([1], finish_reason="stop")
    output.metrics = RequestStateStats(queued_ts=10.0, scheduled_ts=10.25, first_token_ts=10.75)
    usage = translated(output).usage
    assert (usage.queue_s, usage.compute_s) == (0.25, 0.5)
    output.metrics = None  # vLLM's statistics can be turned off.
    assert translated(output).usage.compute_s == 0
