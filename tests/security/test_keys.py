"""API keys: lines, hashes, refusals. No secret ever shows."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.base.errors import Overloaded, SettingsError, Unauthenticated
from segue.router.access.keys import ApiKey, KeyLimits, KeyRing, mint, parse_keys
from segue.router.access.usage import Usage

HASH = "ab" * 32


def test_a_minted_key_opens_and_its_line_reads_back() -> None:
    secret, key = mint("alice", KeyLimits(max_concurrent_requests=2, requests_per_minute=60))
    assert parse_keys(key.line(), "file") == [key]
    assert KeyRing([key]).authenticate(f"Bearer {secret}") == key
    assert KeyRing([key]).authenticate(f"bearer  {secret} ") == key
    assert secret not in key.line()
    assert secret not in repr(key)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "sk-segue-x", "Bearer sk-segue-x", "Bearer " + "x" * 100_000]
)
def test_a_caller_without_a_known_key_is_refused_and_not_quoted(header: str | None) -> None:
    _, key = mint("alice", KeyLimits())
    with pytest.raises(Unauthenticated) as refusal:
        KeyRing([key]).authenticate(header)
    assert "sk-segue-x" not in refusal.value.message


@given(st.text())
def test_no_header_raises_anything_else(header: str) -> None:
    _, key = mint("alice", KeyLimits())
    with pytest.raises(Unauthenticated):
        KeyRing([key]).authenticate(header)
    with pytest.raises(Unauthenticated):
        KeyRing([key]).authenticate("Bearer " + header)


def test_two_keys_whose_hashes_begin_alike_are_told_apart() -> None:
    secret, key = mint("alice", KeyLimits())
    twin = ApiKey("bob", key.sha256[:4] + bytes(28))
    assert KeyRing([twin, key]).authenticate(f"Bearer {secret}").name == "alice"


def test_comments_and_empty_lines_are_passed_over() -> None:
    text = f"# keys\n\nalice sha256:{HASH} max_concurrent_requests=3 # until June\nbob sha256:{'cd' * 32}"
    assert [(key.name, key.limits.max_concurrent_requests) for key in parse_keys(text, "f")] == [
        ("alice", 3),
        ("bob", 0),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice", "no hash"),
        ("alice sha256:12", "no hash"),
        ("alice sk-segue-secret", "no hash"),
        ("sk-segue-secret", "begins with no name"),
        (f"alice sha256:{HASH} max_concurent_requests=1", "did you mean max_concurrent_requests"),
        (f"alice sha256:{HASH} requests_per_minute=many", "as a whole number"),
        (f"alice sha256:{HASH} requests_per_minute=1 requests_per_minute=2", "once"),
        (f"alice sha256:{HASH}\nalice sha256:{'cd' * 32}", "line 2: the name 'alice' is there twice"),
        (f"alice sha256:{HASH}\nbob sha256:{HASH}", "same hash"),
    ],
)
def test_a_line_that_is_wrong_is_named_without_quoting_a_secret(line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)) as refusal:
        parse_keys(line, "keys")
    assert "secret" not in str(refusal.value)


def test_requests_at_once_are_bounded_by_key() -> None:
    usage, key = Usage(), ApiKey("alice", b"", KeyLimits(max_concurrent_requests=2))
    usage.begin(key, 0.0)
    usage.begin(key, 0.0)
    with pytest.raises(Overloaded, match="2 requests running, its limit is 2") as refusal:
        usage.begin(key, 0.0)
    assert refusal.value.retry_after_s > 0
    usage.begin(ApiKey("bob", b"", key.limits), 0.0)
    usage.end(key)
    usage.begin(key, 0.0)
    assert usage.running_requests("alice") == 2


def test_requests_a_minute_refill_steadily() -> None:
    usage, key = Usage(), ApiKey("alice", b"", KeyLimits(requests_per_minute=6))
    for _ in range(6):
        usage.begin(key, 0.0)
        usage.end(key)
    with pytest.raises(Overloaded, match="6 requests a minute") as refusal:
        usage.begin(key, 4.0)
    assert refusal.value.retry_after_s == pytest.approx(6.0)
    usage.begin(key, 10.0)
    with pytest.raises(Overloaded):
        usage.begin(key, 10.0)
