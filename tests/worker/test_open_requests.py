from __future__ import annotations

from segue.worker.open_requests import DEADLINE_GRACE_S, OpenRequests


def test_requests_are_due_when_deadline_and_grace_have_passed() -> None:
    requests: OpenRequests[str] = OpenRequests()
    requests.add("a", "router", timeout_s=2.0, now_s=10.0)
    requests.add("b", "router", timeout_s=3.0, now_s=10.0)
    requests.add("no deadline", "router", timeout_s=0.0, now_s=10.0)
    assert requests.due(12.0) == []
    assert requests.due(12.0 + DEADLINE_GRACE_S) == ["a"]
    assert requests.due(10**9) == ["a", "b"]


def test_a_closed_request_is_nobodys_and_never_due() -> None:
    requests: OpenRequests[str] = OpenRequests()
    requests.add("a", "router", timeout_s=2.0, now_s=10.0)
    assert requests.owner_of("a") == "router"
    assert requests.close("a")
    assert not requests.close("a")
    assert requests.owner_of("a") is None
    assert requests.due(100.0) == []
    assert len(requests) == 0


def test_requests_are_found_by_owner() -> None:
    requests: OpenRequests[str] = OpenRequests()
    for name, owner in (("a", "one"), ("b", "two"), ("c", "one")):
        requests.add(name, owner, timeout_s=1.0, now_s=0.0)
    assert requests.of("one") == ["a", "c"]
    assert requests.all() == ["a", "b", "c"]
