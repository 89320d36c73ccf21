"""Choosing workers, refusing misfits, and saying what there is: decisions over a fleet's snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.models import Models
from segue.router.readiness import readiness
from segue.router.text.tokenizer import TextCodec
from segue.router.workers.fleet import FleetSnapshot, WorkerView, mismatch
from tests.router.core.outputs import LAYOUT
from tests.router.core.scripted import FACTS

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


@pytest.mark.parametrize("same", [facts(), facts(engine="other", kv_blocks=5, model="/elsewhere")])
def test_what_may_differ_is_let_in(same: EngineFacts) -> None:
    assert mismatch(same, [prefill(0), decode(0)]) is None


def test_releases_of_the_engine_are_not_mixed_and_builds_of_one_may_be() -> None:
    old = decode(0, facts=facts(engine_version="0.32.0+cpu"))
    message = mismatch(facts(engine_version="0.33.0"), [old])
    assert message is not None
    for word in ("engine_version", "'0.33.0'", "'0.32.0+cpu'", "release of the engine"):
        assert word in message
    assert mismatch(facts(engine_version="0.32.0"), [old]) is None
    assert mismatch(facts(engine_version="0.2.0", simulated=True), [old]) is None


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
        {"worker_id": "prefill-0", "role": "prefill", "state": "ready", "detail": "", "simulated": False},
        {
            "worker_id": "decode-0",
            "role": "decode",
            "state": "loading",
            "detail": "reading weights",
            "simulated": False,
        },
    ]
    assert readiness(fleet(prefill(0), loading, decode(1)))["ready"] is True
