"""Choosing workers, refusing misfits, and saying what there is: decisions over a fleet's snapshot."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.base.errors import Unavailable
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.fleet import FleetSnapshot, WorkerView, mismatch
from segue.router.models import Models
from segue.router.planner import Plan, plan
from segue.router.readiness import readiness
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import FACTS, LAYOUT

READY = WorkerState.WORKER_STATE_READY


def worker(worker_id: str, role: Role, state: WorkerState = READY, **changes: object) -> WorkerView:
    view = WorkerView(worker_id, "e1", role, state, "", "127.0.0.1:1", FACTS, Load(), 0, 0)
    return replace(view, **changes)  # type: ignore[arg-type]


def prefill(number: int, **changes: object) -> WorkerView:
    return worker(f"prefill-{number}", Role.ROLE_PREFILL, **changes)  # type: ignore[arg-type]


def decode(number: int, **changes: object) -> WorkerView:
    return worker(f"decode-{number}", Role.ROLE_DECODE, **changes)  # type: ignore[arg-type]


def fleet(*workers: WorkerView) -> FleetSnapshot:
    return FleetSnapshot(workers)


@pytest.mark.parametrize(
    ("workers", "named", "unnamed"),
    [
        ((), ["no prefill and no decode worker are ready", "attached workers: none"], []),
        ((prefill(0),), ["no decode worker is ready", "prefill-0"], ["no prefill"]),
        (
            (prefill(0), decode(0, state=WorkerState.WORKER_STATE_LOADING, detail="reading weights")),
            ["no decode worker is ready", "decode-0 (reading weights)"],
            ["no prefill"],
        ),
    ],
)
def test_a_decode_pool_without_a_ready_worker_is_named(
    workers: tuple[WorkerView, ...], named: list[str], unnamed: list[str]
) -> None:
    with pytest.raises(Unavailable) as caught:
        plan(fleet(*workers))
    for words in named:
        assert words in caught.value.message
    for words in unnamed:
        assert words not in caught.value.message


@pytest.mark.parametrize("others", [(), (prefill(0, state=WorkerState.WORKER_STATE_DRAINING),)])
def test_without_a_prefill_worker_decode_computes_the_prompt(others: tuple[WorkerView, ...]) -> None:
    assert plan(fleet(decode(0), *others)) == Plan(None, "decode-0")


@pytest.mark.parametrize(
    ("prefills", "avoid", "chosen"),
    [
        ((prefill(0), prefill(1)), {"prefill-0"}, "prefill-1"),
        ((prefill(0, spared=True), prefill(1, assigned_tokens=99)), set[str](), "prefill-1"),
        # Rather one that is spared than the one that has just failed this request; rather that one than none.
        ((prefill(0, spared=True), prefill(1)), {"prefill-1"}, "prefill-0"),
        ((prefill(0),), {"prefill-0"}, "prefill-0"),
        ((prefill(0, spared=True),), set[str](), "prefill-0"),
    ],
)
def test_workers_that_fail_are_left_out_as_long_as_there_are_others(
    prefills: tuple[WorkerView, ...], avoid: set[str], chosen: str
) -> None:
    assert plan(fleet(*prefills, decode(0)), avoid).prefill_id == chosen


@pytest.mark.parametrize(
    ("prefills", "chosen"),
    [
        ((prefill(0, assigned_tokens=10), prefill(1, assigned_tokens=9)), "prefill-1"),
        ((prefill(0, load=Load(waiting_tokens=10)), prefill(1, assigned_tokens=9)), "prefill-1"),
        ((prefill(0, assigned_requests=2), prefill(1, assigned_requests=1)), "prefill-1"),
        # Many short prompts are less than one long one.
        ((prefill(0, assigned_tokens=900, assigned_requests=9), prefill(1, assigned_tokens=4000)), "prefill-0"),
        ((prefill(0, assigned_tokens=5), prefill(1, state=WorkerState.WORKER_STATE_WARMING)), "prefill-0"),
    ],
)
def test_prefill_goes_where_the_fewest_tokens_wait(prefills: tuple[WorkerView, ...], chosen: str) -> None:
    assert plan(fleet(*prefills, decode(0))).prefill_id == chosen


@pytest.mark.parametrize(
    ("decodes", "chosen"),
    [
        ((decode(0, assigned_requests=3), decode(1, assigned_requests=2)), "decode-1"),
        ((decode(0, load=Load(running_requests=1, waiting_requests=2)), decode(1, assigned_requests=2)), "decode-1"),
        ((decode(0, load=Load(free_blocks=5)), decode(1, load=Load(free_blocks=6))), "decode-1"),
        ((decode(0, load=Load(running_requests=1, free_blocks=99)), decode(1)), "decode-1"),
    ],
)
def test_decode_goes_where_the_fewest_requests_run(decodes: tuple[WorkerView, ...], chosen: str) -> None:
    assert plan(fleet(prefill(0), *decodes)).decode_id == chosen


@given(prefills=st.integers(1, 5), decodes=st.integers(1, 5), requests=st.integers(0, 40), tokens=st.integers(1, 99))
def test_equal_workers_share_equally(prefills: int, decodes: int, requests: int, tokens: int) -> None:
    views = {view.worker_id: view for view in [*map(prefill, range(prefills)), *map(decode, range(decodes))]}
    chosen: Counter[str] = Counter()
    for _ in range(requests):
        made = plan(fleet(*views.values()))
        for worker_id in (str(made.prefill_id), made.decode_id):
            view = views[worker_id]
            views[worker_id] = replace(
                view,
                assigned_requests=view.assigned_requests + 1,
                assigned_tokens=view.assigned_tokens + tokens,
            )
            chosen[worker_id] += 1
    for pool, size in (("prefill", prefills), ("decode", decodes)):
        shares = [chosen[f"{pool}-{number}"] for number in range(size)]
        assert sum(shares) == requests
        assert max(shares) - min(shares) <= 1


loads = st.builds(Load, running_requests=st.integers(0, 3), waiting_tokens=st.integers(0, 9))
some_workers = st.lists(
    st.builds(
        WorkerView,
        worker_id=st.uuids().map(str),
        epoch=st.just("e"),
        role=st.sampled_from([Role.ROLE_PREFILL, Role.ROLE_DECODE]),
        state=st.sampled_from(WorkerState.values()),
        detail=st.just(""),
        address=st.just(""),
        facts=st.just(FACTS),
        load=loads,
        assigned_requests=st.integers(0, 3),
        assigned_tokens=st.integers(0, 9),
        spared=st.booleans(),
    ),
    max_size=6,
)


@given(some_workers, st.randoms())
def test_a_plan_names_ready_workers_of_the_right_pool_whatever_their_order(workers: list[WorkerView], random) -> None:  # type: ignore[no-untyped-def]
    ready = {view.worker_id: view.role for view in workers if view.state == READY}
    try:
        made = plan(fleet(*workers))
    except Unavailable:
        assert Role.ROLE_DECODE not in ready.values()
        return
    assert ready[made.decode_id] == Role.ROLE_DECODE
    if made.prefill_id is None:
        assert Role.ROLE_PREFILL not in ready.values()
    else:
        assert ready[made.prefill_id] == Role.ROLE_PREFILL
    random.shuffle(workers)
    assert plan(fleet(*workers)) == made


def facts(**changes: object) -> EngineFacts:
    changed = EngineFacts()
    changed.CopyFrom(FACTS)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def layout(**changes: object) -> EngineFacts:
    changed = facts()
    for name, value in changes.items():
        setattr(changed.layout, name, value)
    return changed


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (layout(model="another"), ["model", "'another'", "'fingerprint'"]),
        (layout(dtype="float32"), ["dtype", "'float32'", "'bfloat16'"]),
        (layout(block_tokens=16), ["block_tokens", "16", "128"]),
        (layout(layers=5), ["layers", "5", "4"]),
        (layout(block_bytes=77), ["block_bytes", "77", str(LAYOUT.block_bytes)]),
        (layout(order="HBNC"), ["order", "'HBNC'", "'BHNC'"]),
        (facts(transport="nixl"), ["transport", "'nixl'", "'grpc'"]),
        (facts(max_model_len_tokens=99), ["max_model_len_tokens", "99", "4096"]),
        (facts(vocab_size=98), ["vocab_size", "98", "2048"]),
    ],
)
def test_a_mismatch_is_told_with_both_values(theirs: EngineFacts, words: list[str]) -> None:
    message = mismatch(theirs, [prefill(3)])
    assert message is not None
    for word in [*words, "prefill-3"]:
        assert word in message


def test_all_differences_are_told_at_once() -> None:
    message = mismatch(EngineFacts(layout=BlockLayout(dtype="float16"), transport="nixl"), [prefill(0)])
    assert message is not None
    assert all(word in message for word in ("dtype", "transport", "vocab_size", "layers"))


@pytest.mark.parametrize("same", [facts(), facts(engine="other", engine_version="9", kv_blocks=5, model="/elsewhere")])
def test_what_may_differ_is_let_in(same: EngineFacts) -> None:
    assert mismatch(same, [prefill(0), decode(0)]) is None


def test_workers_that_are_not_ready_set_no_standard() -> None:
    assert mismatch(facts(transport="nixl"), [prefill(0, state=WorkerState.WORKER_STATE_LOADING)]) is None
    assert mismatch(facts(transport="nixl"), []) is None


def test_the_model_takes_the_engines_figures(codec: TextCodec) -> None:
    models = Models("tiny", codec, created_unix_s=7)
    assert (models["tiny"].max_model_len_tokens, models["tiny"].vocab_size) == (4096, 2048)
    models.learn(facts(max_model_len_tokens=512))
    assert models["tiny"].max_model_len_tokens == 512
    assert (list(models), len(models), models["tiny"].created_unix_s) == (["tiny"], 1, 7)
    with pytest.raises(KeyError):
        models["other"]


def test_an_engine_with_another_vocabulary_is_told_both_sizes(codec: TextCodec) -> None:
    models = Models("tiny", codec, created_unix_s=7)
    assert models.mismatch(FACTS) is None
    message = models.mismatch(facts(vocab_size=32000))
    assert message is not None
    assert "32000" in message
    assert "2048" in message


def test_readiness_needs_a_worker_in_each_pool() -> None:
    loading = decode(0, state=WorkerState.WORKER_STATE_LOADING, detail="reading weights")
    assert readiness(fleet()) == {"ready": False, "workers": []}
    body = readiness(fleet(prefill(0), loading))
    assert body["ready"] is False
    assert body["workers"] == [
        {"worker_id": "prefill-0", "role": "prefill", "state": "ready", "detail": ""},
        {"worker_id": "decode-0", "role": "decode", "state": "loading", "detail": "reading weights"},
    ]
    assert readiness(fleet(prefill(0), loading, decode(1)))["ready"] is True
