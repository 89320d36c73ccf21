"""On which terms requests come: classes, priorities, tenants."""

from __future__ import annotations

import contextvars

import pytest

from segue.base.errors import Forbidden, InvalidRequest, SettingsError
from segue.router.access.caller import set_caller
from segue.router.queueing.slo import DEFAULT_CLASSES, parse_slo_classes
from segue.router.queueing.terms import Terms, check_terms


def checked(**asked: object) -> Terms:
    return check_terms(Terms(**({"slo_class": ""} | asked)), DEFAULT_CLASSES)  # type: ignore[arg-type]


def check(**asked: object) -> Terms:
    """As a caller without one."""
    return contextvars.Context().run(lambda: checked(**asked))


def with_key(name: str, **asked: object) -> Terms:
    """As a caller with this key."""

    def run() -> Terms:
        set_caller(name)
        return checked(**asked)

    return contextvars.Context().run(run)


def test_who_names_no_class_gets_the_first_one() -> None:
    assert check() == Terms("chat")


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="'chats' is not a class of this router; it has chat, documents, batch"):
        check(slo_class="chats")


@pytest.mark.parametrize("priority", [-1001, 1001])
def test_a_priority_out_of_range_is_refused(priority: int) -> None:
    with pytest.raises(InvalidRequest, match="must be between -1000 and 1000"):
        check(priority=priority)


@pytest.mark.parametrize("tenant", ["a b", "x" * 65, "é", "a\n"])
def test_a_tenant_must_be_a_name(tenant: str) -> None:
    with pytest.raises(InvalidRequest, match="must be 1 to 64 letters"):
        check(tenant=tenant)


def test_without_keys_the_client_says_who_it_is() -> None:
    assert check(tenant="alice").tenant == "alice"


def test_with_a_key_the_tenant_is_the_keys() -> None:
    assert with_key("alice").tenant == "alice"
    assert with_key("alice", tenant="alice").tenant == "alice"
    with pytest.raises(Forbidden, match="tenant is 'bob', but the API key belongs to 'alice'"):
        with_key("alice", tenant="bob")


def test_classes_are_changed_and_added_by_name() -> None:
    classes = parse_slo_classes(["chat=ttft_s:1.5,tokens_per_s:20", "nightly=yield_s:3600"])
    assert [one.name for one in classes] == ["chat", "documents", "batch", "nightly"]
    assert (classes["chat"].ttft_s, classes["chat"].tokens_per_s) == (1.5, 20.0)
    assert not classes["nightly"].interactive


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chat", "write for example"),
        ("chat=ttfts:1", "did you mean ttft_s"),
        ("chat=ttft_s:soon", "it must be a number"),
        ("chat=ttft_s:-1", "0 or more"),
        ("chat=ttft_s:nan", "0 or more"),
        ("Chat!=ttft_s:1", "a name is"),
        ("chat=ttft_s:1,ttft_s:2", "given twice"),
    ],
)
def test_a_class_that_is_none_stops_the_start(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_slo_classes([text])


def test_a_class_given_twice_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="given twice"):
        parse_slo_classes(["chat=ttft_s:1", "chat=ttft_s:2"])
