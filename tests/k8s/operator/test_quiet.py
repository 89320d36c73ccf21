"""A status is written when it has something to say, and for its figures alone once a minute."""

from __future__ import annotations

from typing import Any

import pytest

from segue.cluster.pools import POOL_NAMES, PoolName
from segue.operator.joint import JointScaler
from segue.operator.names import Manifest
from segue.operator.observed import JointDecision, Recommendation
from segue.operator.reconciler import Reconciler
from tests.k8s.operator.nodes import FakeWorkers
from tests.k8s.operator.objects import cluster

Key = tuple[str, str]


class Objects:
    """What the API server has, and which statuses were written."""

    def __init__(self, *objects: Manifest) -> None:
        self.live: dict[Key, Manifest] = {(one["kind"], one["metadata"]["name"]): one for one in objects}
        self.written: list[Key] = []

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        return self.live.get((kind, name))

    async def named(self, kind: str, namespace: str, name: str) -> Manifest | None:
        return self.live.get((kind, name))

    async def list(self, kind: str, namespace: str, labels: dict[str, str]) -> list[Manifest]:
        return [one for (of, _), one in self.live.items() if of == kind]

    async def apply(self, manifest: Manifest, manager: str, *, status: bool) -> None:
        key = manifest["kind"], manifest["metadata"]["name"]
        if status:
            self.live[key]["status"] = manifest["status"]
            self.written.append(key)
            return
        before = self.live.get(key, {"metadata": {"uid": f"uid-of-{key[1]}", "generation": 1}, "spec": {}})
        metadata, spec = before["metadata"] | manifest["metadata"], before.get("spec", {}) | manifest.get("spec", {})
        self.live[key] = before | manifest | {"metadata": metadata, "spec": spec}

    async def create(self, manifest: Manifest) -> None:
        return


class Joint:
    """A PDCluster in mode Joint whose policy says what the test says; time is the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000_000.0
        self.says = "", ""
        self.objects = Objects(cluster(scaling={"mode": "Joint"}, budget={"gpus": 4}))
        api: Any = self.objects
        self._reconciler = Reconciler(api, FakeWorkers(), clock=lambda: self.now_s)

        async def decide(*_: Any) -> JointDecision:
            split, figures = self.says
            reason = f"{split} serves {figures}"
            now: dict[PoolName, int] = dict(zip(POOL_NAMES, map(int, split.split("+")), strict=True))
            return JointDecision({}, {pool: Recommendation(now[pool], reason) for pool in POOL_NAMES}, reason)

        monkeypatch.setattr(JointScaler, "decide", decide)

    async def look(self, split: str, figures: str, after_s: float = 5.0) -> set[str]:
        """The names of those whose status it has written."""
        self.now_s += after_s
        self.says = split, figures
        before = len(self.objects.written)
        await self._reconciler.look("segue", "chat")
        return {name for _, name in self.objects.written[before:]}

    def reason(self) -> str:
        reason: str = self.objects.live["PDPool", "chat-decode"]["status"]["reason"]
        return reason


async def test_a_joint_decisions_figures_are_written_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    joint = Joint(monkeypatch)
    for _ in range(3):  # All objects are made, and have said so.
        await joint.look("1+1", "98% of 100 prompt tokens/s")
    written = [await joint.look("1+1", f"{90 + number}% of {100.5 + number} prompt tokens/s") for number in range(9)]
    assert written == [set()] * 9
    assert joint.reason() == "1+1 serves 98% of 100 prompt tokens/s"
    assert await joint.look("1+1", "77% of 99 prompt tokens/s", after_s=60.0) == {"chat", "chat-prefill", "chat-decode"}
    assert joint.reason() == "1+1 serves 77% of 99 prompt tokens/s"
    assert await joint.look("1+1", "78% of 98 prompt tokens/s") == set()


async def test_another_decision_or_other_words_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    joint = Joint(monkeypatch)
    for _ in range(3):
        await joint.look("1+1", "98%")
    assert await joint.look("1+1", "98%; nothing else is worth a change") == {"chat", "chat-prefill", "chat-decode"}
    assert await joint.look("1+2", "99%; nothing else is worth a change") == {"chat", "chat-prefill", "chat-decode"}
    assert joint.reason().startswith("1+2 serves 99%")
