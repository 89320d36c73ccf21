"""gRPC status back to Segue's errors: the inverse of the router's mapping."""

from __future__ import annotations

import grpc.aio

from segue.base.errors import (
    Cancelled,
    ClientFault,
    DeadlineExceeded,
    Forbidden,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    SegueError,
    Unauthenticated,
    Unavailable,
)

_BY_CODE: dict[str, type[SegueError]] = {
    kind.default_code: kind
    for kind in (
        ClientFault, InvalidRequest, Unauthenticated, Forbidden, ModelNotFound, PayloadTooLarge, Overloaded,
        Unavailable, DeadlineExceeded, Cancelled, InternalError,
    )
}  # fmt: skip
_BY_STATUS: dict[grpc.StatusCode, type[SegueError]] = {
    kind.grpc_status: kind
    for kind in (
        InternalError, InvalidRequest, Unauthenticated, Forbidden, ModelNotFound, Overloaded, Unavailable,
        DeadlineExceeded, Cancelled,
    )
}  # fmt: skip


def from_rpc_error(error: grpc.aio.AioRpcError) -> SegueError:
    """The error the router raised, or the nearest one if the call failed before it got there."""
    metadata: dict[str, str | bytes] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    code = metadata.get("segue-error-code")
    kind = _BY_CODE.get(str(code)) or _BY_STATUS.get(error.code(), InternalError)
    raised = kind(error.details() or error.code().name)
    if isinstance(raised, Overloaded) and (retry_after_ms := metadata.get("retry-after-ms")) is not None:
        raised.retry_after_s = int(retry_after_ms) / 1000
    if code is not None:
        raised.code = str(code)
    return raised
