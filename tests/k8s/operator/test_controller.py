"""When a PDCluster is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from structlog.testing import capture_logs

from segue.operator.api import ApiError
from segue.operator.controller import Controller, Generations, Looker


class Looks:
    """A looker that does as it is told: answers are seconds, None, or an error to raise; the last one repeats."""

    def __init__(self, *answers: float | Exception | None) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, str]] = []
        self.during: Callable[[], None] = lambda: None

    async def look(self, namespace: str, name: str) -> float | None:
        self.seen.append((namespace, name))
        self.during()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class _ByName:
    """Each cluster has its own looks."""

    def __init__(self, looks: dict[str, Looks]) -> None:
        self._looks = looks

    async def look(self, namespace: str, name: str) -> float | None:
        return await self._looks[name].look(namespace, name)


@asynccontextmanager
async def controlled(looks: Looker) -> AsyncIterator[Controller]:
    async with asyncio.TaskGroup() as tasks:
        controller = Controller(lambda: looks, tasks, gather_s=0.0, first_pause_s=0.0)
        yield controller
        controller.stop()


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0)


async def test_looks_when_woken_and_again_after_as_long_as_it_was_told() -> None:
    looks = Looks(0.0, 0.0, 1000.0)
    async with controlled(looks) as controller:
        controller.wake("segue", "chat")
        await until(lambda: len(looks.seen) == 3)
        controller.wake("segue", "chat")
        await until(lambda: len(looks.seen) == 4)
    assert set(looks.seen) == {("segue", "chat")}


async def test_a_wake_during_a_look_makes_another_one_follow() -> None:
    looks = Looks(1000.0)
    async with controlled(looks) as controller:

        def wake_once() -> None:
            looks.during = lambda: None
            controller.wake("segue", "chat")

        looks.during = wake_once
        controller.wake("segue", "chat")
        await until(lambda: len(looks.seen) == 2)


async def test_a_failed_look_is_tried_again() -> None:
    looks = Looks(ApiError(500, "etcd is away"), OSError("no route"), 1000.0)
    async with controlled(looks) as controller:
        controller.wake("segue", "chat")
        await until(lambda: len(looks.seen) == 3)


async def test_a_fault_in_one_clusters_look_is_logged_and_tried_again_and_holds_up_no_other() -> None:
    looks = {"bad": Looks(AttributeError("'str' object has no attribute 'get'")), "good": Looks(0.0)}
    async with controlled(_ByName(looks)) as controller:
        with capture_logs() as logs:
            for name in looks:
                controller.wake("segue", name)
            await until(lambda: len(looks["bad"].seen) > 2)
            seen = len(looks["good"].seen)
            await until(lambda: len(looks["good"].seen) > seen + 2)
    told = next(line for line in logs if line["event"] == "look_failed")
    assert (told["cluster"], told["log_level"]) == ("segue/bad", "error")
    assert "object has no attribute 'get'" in told["error"]
    assert told["exc_info"], "with where it happened: it is a fault of ours"


async def test_however_often_looks_have_failed_there_is_another_one() -> None:
    looks = Looks(*[OSError("no route")] * 1100, 1000.0)
    async with controlled(looks) as controller:
        controller.wake("segue", "chat")
        await until(lambda: len(looks.seen) == 1101)


async def test_one_that_is_gone_is_not_looked_at_again_until_it_comes_back() -> None:
    looks = Looks(None)
    async with controlled(looks) as controller:
        controller.wake("segue", "chat")
        await until(lambda: len(looks.seen) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(looks.seen) == 1
        controller.wake("segue", "chat")
        await until(lambda: len(looks.seen) == 2)


async def test_clusters_do_not_wait_for_each_other() -> None:
    looks = Looks(1000.0)
    async with controlled(looks) as controller:
        for name in ("one", "two"):
            controller.wake("segue", name)
        await until(lambda: len(looks.seen) == 2)


def test_a_status_that_we_wrote_is_no_reason_to_look() -> None:
    generations = Generations()
    made = {"metadata": {"uid": "u", "generation": 1}, "status": {}}
    assert generations.changed(None, made)
    assert not generations.changed("ADDED", made)
    assert not generations.changed("MODIFIED", {**made, "status": {"backlogTokens": 7}})
    assert generations.changed("MODIFIED", {"metadata": {"uid": "u", "generation": 2}})
    going = {"metadata": {"uid": "u", "generation": 2, "deletionTimestamp": "now"}}
    assert generations.changed("MODIFIED", going)
    assert generations.changed("DELETED", going)
    assert generations.changed("ADDED", {"metadata": {"uid": "v", "generation": 1}})
