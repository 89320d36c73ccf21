"""The gate: keys from the file, read again when it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from segue.base.errors import Overloaded, SettingsError, Unauthenticated
from segue.router.access.edges import grpc_gate, session_gate
from segue.router.access.gate import AccessGate, make_gate
from segue.router.access.keys import KeyLimits, mint


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_changed_file_changes_who_may_come_in(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    (first, first_key), (second, second_key) = mint("first", KeyLimits()), mint("second", KeyLimits())
    file.write_text(first_key.line())
    gate = AccessGate("", file, clock)
    assert gate.authenticate(f"Bearer {first}").name == "first"
    file.write_text(second_key.line() + "\n")
    clock.now_s = 2.0
    assert gate.authenticate(f"Bearer {second}").name == "second"
    with pytest.raises(Unauthenticated):
        gate.authenticate(f"Bearer {first}")


def test_a_broken_edit_keeps_the_keys_that_were_there_and_is_told(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    secret, key = mint("first", KeyLimits())
    file.write_text(key.line())
    gate = AccessGate("", file, clock)
    for number, broken in enumerate(("nonsense " * 3, None), start=1):
        if broken is None:
            file.unlink()
        else:
            file.write_text(broken)
        clock.now_s = 2.0 * number
        with capture_logs() as logs:
            assert gate.authenticate(f"Bearer {secret}").name == "first"
        assert [entry["event"] for entry in logs] == ["api_keys_not_reloaded"]


def test_without_keys_there_is_no_gate(tmp_path: Path) -> None:
    assert make_gate("", None) is None


def test_keys_that_cant_be_read_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't read the API keys"):
        make_gate("", tmp_path / "none")
    _, key = mint("alice", KeyLimits())
    (tmp_path / "keys").write_text(key.line())
    with pytest.raises(SettingsError, match="both in SEGUE_API_KEYS"):
        make_gate(mint("alice", KeyLimits())[1].line(), tmp_path / "keys")


def test_the_environment_may_hold_several() -> None:
    minted = [mint(name, KeyLimits()) for name in ("a", "b")]
    gate = make_gate("; ".join(key.line() for _, key in minted), None)
    assert gate is not None
    assert [gate.authenticate(f"Bearer {secret}").name for secret, _ in minted] == ["a", "b"]


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# nobody yet\n")
    gate = make_gate("", tmp_path / "keys")
    assert gate is not None
    with pytest.raises(Unauthenticated):
        gate.authenticate("Bearer anything")


def test_refusals_are_counted_rather_than_told_one_by_one(tmp_path: Path) -> None:
    clock = Clock()
    gate = AccessGate(mint("a", KeyLimits())[1].line(), None, clock)
    with capture_logs() as logs:
        for now_s in (0.0, 0.1, 0.2, 5.0):
            clock.now_s = now_s
            gate.log_refusal(Unauthenticated("no"), "http", "10.0.0.9")
    assert [(entry["event"], entry["refusals"]) for entry in logs] == [("caller_refused", 1), ("caller_refused", 3)]


class Call:
    """A gRPC call's context, as far as gates look at it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._secret}"),)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def test_a_sessions_requests_count_one_by_one_and_the_session_itself_does_not() -> None:
    secret, key = mint("alice", KeyLimits(max_concurrent_requests=2))
    gate = AccessGate(key.line(), None)
    grpc_gate(gate)("/segue.v1.Inference/Session", Call(secret))
    enter = session_gate(gate)
    releases = [enter(Call(secret)), enter(Call(secret))]
    with pytest.raises(Overloaded, match="its limit is 2"):
        enter(Call(secret))
    with pytest.raises(Overloaded):
        grpc_gate(gate)("/segue.v1.Inference/Generate", Call(secret))
    releases[0]()
    enter(Call(secret))


def test_a_key_that_is_revoked_begins_nothing_more_in_its_session(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    (secret, key), (_, other) = mint("alice", KeyLimits()), mint("bob", KeyLimits())
    file.write_text(key.line())
    gate = AccessGate("", file, clock)
    enter = session_gate(gate)
    enter(Call(secret))
    file.write_text(other.line() + "\n")
    clock.now_s = 2.0
    with pytest.raises(Unauthenticated):
        enter(Call(secret))
