from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import EngineFacts, Load, Register, RequestOutput, Role, Status, Submit, WorkerState
from segue.router.rates.worker_rates import Rates
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks

SUBMIT = Submit(request_id="r", input_token_ids=[1, 2, 3])


def ready() -> Status:
    return Status(state=WorkerState.WORKER_STATE_READY, facts=EngineFacts(engine="e"))


@pytest.mark.parametrize(
    "change",
    [
        lambda link: setattr(link, "load", Load(running_requests=1)),
        lambda link: setattr(link, "status", Status(state=WorkerState.WORKER_STATE_DRAINING)),
        lambda link: setattr(link, "assigned_requests", 1),
        lambda link: setattr(link, "assigned_tokens", 1),
        lambda link: setattr(link, "assigned_prefill_tokens", 1),
        lambda link: setattr(link, "turn", 1),
        lambda link: link.submit(SUBMIT),
        lambda link: link.meter.stepped(Load(steps=1, step_s=0.01, step_requests=2)),
    ],
)
def test_a_view_is_made_again_whatever_has_changed_and_only_then(change: Callable[[WorkerLink], object]) -> None:
    link, usual = WorkerLink(Register(worker_id="w", role=Role.ROLE_DECODE)), Rates()
    link.status = ready()
    before = link.view(usual=usual)
    assert link.view(usual=usual) is before
    change(link)
    after = link.view(usual=usual)
    assert after is not before
    assert after == link._fresh_view(False, usual, ())
    assert link.view(spared=True, usual=usual).spared
    assert not link.view(usual=usual).spared
    assert link.view(usual=Rates()) is not link.view(usual=Rates(join_s=1.0))


CHANGES = st.sampled_from(
    [
        lambda link, number: setattr(link, "load", Load(running_requests=number)),
        lambda link, number: setattr(link, "status", ready()),
        lambda link, number: setattr(link, "status", Status(state=WorkerState.WORKER_STATE_DRAINING)),
        lambda link, number: setattr(link, "assigned_requests", number),
        lambda link, number: setattr(link, "turn", number),
        lambda link, number: link.submit(Submit(request_id=str(number), input_token_ids=[1] * number)),
        lambda link, number: link.abort(str(number)),
        lambda link, number: link.meter.stepped(Load(steps=number, step_s=0.01, step_requests=1)),
        lambda link, number: link.meter.answered([answer(number)], 1.0 * number),
    ]
)
WORKERS = st.integers(0, 3)


def answer(number: int) -> RequestOutput:
    return RequestOutput(request_id=str(number), token_ids=[1], finish_reason=FinishReason.FINISH_REASON_STOP)


@given(
    st.lists(
        st.one_of(
            st.tuples(WORKERS, CHANGES, st.integers(1, 4)),
            st.tuples(WORKERS, st.sampled_from(["leave", "fail", "succeed", "look", "wait"]), st.just(0)),
        ),
        max_size=40,
    )
)
def test_a_snapshot_shows_what_looking_at_every_worker_would(steps: list[tuple[int, Any, int]]) -> None:
    links = WorkerLinks()
    for index, change, number in steps:
        link = links.get(f"w-{index}")
        if link is None:
            role = (Role.ROLE_PREFILL, Role.ROLE_DECODE)[index % 2]
            links.add(link := WorkerLink(Register(worker_id=f"w-{index}", role=role)))
        match change:
            case "leave":
                links.remove(link)
            case "fail":
                links.circuits.failed(link.worker_id, time.monotonic())
            case "succeed":
                links.circuits.succeeded(link.worker_id)
            case "wait":
                links._pooled_s = -1e9
            case "look":
                links.snapshot()
            case _:
                change(link, number)
        fleet = links.snapshot()
        assert [view.worker_id for view in fleet.workers] == [link.worker_id for link in links]
        for view, link in zip(fleet.workers, links, strict=True):
            spared = links.circuits.spares(link.worker_id, link.assigned_requests, fleet.now_s)
            assert view.ends_s == (link._meter.ends_s(0.0) if link._crowded else ())
            assert view == link._fresh_view(spared, links._usual.get(link.kind, link._meter.rates), view.ends_s)
        for role in (Role.ROLE_PREFILL, Role.ROLE_DECODE):
            assert fleet.ready(role) == tuple(view for view in fleet.workers if view.role == role and view.ready)
