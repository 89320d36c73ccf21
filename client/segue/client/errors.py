"""gRPC status back to Segue's errors: the inverse of the router's mapping."""

from __future__ import annotations

import grpc.aio

from segue.base.errors import (
    Cancelled,
    ClientFault,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    SegueError,
    Unauthenticated,
    Unavailable,
)

_BY_CODE: dict[str, type[SegueError]] = {
    kind.default_code: kind
    for kind in (
        ClientFault, InvalidRequest, Unauthenticated, Forbidden, NotFound, ModelNotFound, Conflict, PayloadTooLarge,
        Overloaded, Unavailable, DeadlineExceeded, Cancelled, InternalError,
    )
}  # fmt: skip
_BY_STATUS: dict[grpc.StatusCode, type[SegueError]] = {
    kind.grpc_status: kind
    for kind in (
        InternalError, InvalidRequest, Unauthenticated, Forbidden, ModelNotFound, Conflict, Overloaded, Unavailable,
        DeadlineExceeded, Cancelled,
    )
}  # fmt: skip


def from_rpc_error(error: grpc.aio.AioRpcError) -> SegueError:
    """The error the router raised, or the nearest one if the call failed before it got there."""
    metadata: dict[str, str | bytes] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    code = str(metadata.get("segue-error-code") or "")
    if error.code() is grpc.StatusCode.CANCELLED and not code:
        # Our own cancellation never comes as a status. gRPC's server answers so while it stops, for a call that it has
        # received and not begun; a proxy, for one whose upstream went away.
        return Unavailable(
            f"the other end dropped the call without an answer (gRPC CANCELLED: {error.details() or 'no details'}); a "
            "router that stops does so to what comes in that moment: ask again"
        )
    retry_after_ms = metadata.get("retry-after-ms")
    retry_after_s = None if retry_after_ms is None else int(retry_after_ms) / 1000
    return from_code(code, error.code().value[0], error.details() or error.code().name, retry_after_s)


def from_code(code: str, status: int, message: str, retry_after_s: float | None) -> SegueError:
    """The error with this word; ``status``, gRPC's number, decides where the word is unknown or empty."""
    kind = _BY_CODE.get(code) or next((kind for known, kind in _BY_STATUS.items() if known.value[0] == status), None)
    raised = (kind or InternalError)(message)
    if isinstance(raised, Overloaded) and retry_after_s is not None:
        raised.retry_after_s = retry_after_s
    if code:
        raised.code = code
    return raised
