from __future__ import annotations

from collections.abc import Callable

import pytest

from segue.proto.worker_pb2 import EngineFacts, Load, Register, Role, Status, Submit, WorkerState
from segue.router.rates import Rates
from segue.router.worker_links import WorkerLink

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
