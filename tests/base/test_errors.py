"""What each error becomes over HTTP and gRPC."""

from __future__ import annotations

import grpc
import pytest

from segue.base import errors
from segue.base.errors import ClientFault, Overloaded, SegueError, SettingsError

ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SegueError) and kind is not SegueError
]


@pytest.mark.parametrize(
    ("kind", "http_status", "grpc_status", "code"),
    [
        (errors.InvalidRequest, 400, grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        (errors.Unauthenticated, 401, grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key"),
        (errors.ModelNotFound, 404, grpc.StatusCode.NOT_FOUND, "model_not_found"),
        (errors.PayloadTooLarge, 413, grpc.StatusCode.RESOURCE_EXHAUSTED, "payload_too_large"),
        (errors.Overloaded, 429, grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
        (errors.Cancelled, 499, grpc.StatusCode.CANCELLED, "cancelled"),
        (errors.InternalError, 500, grpc.StatusCode.INTERNAL, "internal_error"),
        (errors.Unavailable, 503, grpc.StatusCode.UNAVAILABLE, "service_unavailable"),
        (errors.DeadlineExceeded, 504, grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded"),
    ],
)
def test_each_error_has_its_status(
    kind: type[SegueError], http_status: int, grpc_status: grpc.StatusCode, code: str
) -> None:
    error = kind("seen, expected, what to do")
    assert (error.http_status, error.grpc_status, error.code) == (http_status, grpc_status, code)
    assert error.message == str(error) == "seen, expected, what to do"


@pytest.mark.parametrize("kind", ALL)
def test_whose_fault_it_was_is_in_the_type_and_the_status(kind: type[SegueError]) -> None:
    assert issubclass(kind, ClientFault) == (400 <= kind.http_status < 429)


def test_the_field_at_fault_and_a_code_of_its_own() -> None:
    error = errors.InvalidRequest("no", param="top_p", code="out_of_range")
    assert (error.param, error.code) == ("top_p", "out_of_range")


def test_an_overload_says_when_to_come_back() -> None:
    assert Overloaded("full", retry_after_s=2.5).retry_after_s == 2.5


def test_settings_errors_are_not_for_clients() -> None:
    assert not issubclass(SettingsError, SegueError)
