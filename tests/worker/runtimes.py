"""A runtime with what stands around it: a fake engine, and attachments that are only looked into."""

from __future__ import annotations

import asyncio

from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    Registered,
    RequestOutput,
    RouterFrame,
    Submit,
    WorkerFrame,
    WorkerState,
)
from segue.worker.attachment import Attachment
from segue.worker.drain import DrainClock
from segue.worker.releases import Releases
from segue.worker.role import WorkerRole
from segue.worker.runtime import WorkerRuntime
from tests.worker.fakes import REGISTER, FakeEngine

READY, DRAINING = WorkerState.WORKER_STATE_READY, WorkerState.WORKER_STATE_DRAINING
LENGTH = FinishReason.FINISH_REASON_LENGTH
GREETING = RouterFrame(registered=Registered(router_id="r-0"))


class Worker:
    """A runtime with what stands around it."""

    def __init__(self, tasks: asyncio.TaskGroup, role: WorkerRole) -> None:
        self.engine = FakeEngine()
        self.releases = Releases(tasks)
        self.runtime = WorkerRuntime(role, REGISTER, self.engine, self.releases)
        self.a, self.b = self.attach("router-a:1"), self.attach("router-b:1")

    def attach(self, address: str) -> Attachment:
        attachment = Attachment(address, self.runtime)
        self.runtime.on_frame(attachment, GREETING)
        return attachment

    def ready(self) -> Worker:
        self.runtime.set_state(READY, "ready", EngineFacts(model="m"))
        return self

    def submit(self, attachment: Attachment, *submits: Submit) -> None:
        self.runtime.on_frame(attachment, RouterFrame(submit=submits))

    def step(self, *outputs: RequestOutput) -> None:
        self.runtime.on_step(outputs, self.engine.load_now)


def taken(attachment: Attachment) -> WorkerFrame:
    frame, attachment.outbox._frame = attachment.outbox._frame, WorkerFrame()
    return frame


def begun(timeout_s: float) -> DrainClock:
    clock = DrainClock(timeout_s)
    clock.begin(0.0, asyncio.get_running_loop().time())
    return clock


def now_s() -> float:
    return asyncio.get_running_loop().time()
