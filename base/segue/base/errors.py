"""The one hierarchy of errors that may reach a client, and the one place that maps them to HTTP and gRPC status.

Whose fault it was is in the type: :class:`ClientFault` and below are the caller's, the others ours. A message says
what was seen, what was expected and what to do; it is shown to clients as it stands.
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class SegueError(Exception):
    """Base of all errors that may reach a client.

    ``http_status`` and ``grpc_status`` are the answer's status; ``kind`` is OpenAI's ``error.type``; ``code`` a
    stable word for programs; ``param`` the field at fault, if one is.
    """

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    kind: ClassVar[str] = "internal_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code


class ClientFault(SegueError):
    """The request can't be served as it is; sending it again changes nothing."""

    http_status = 400
    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    kind = "invalid_request_error"
    default_code = "invalid_request"


class InvalidRequest(ClientFault):
    """A field is missing, of the wrong type or out of range."""


class Unauthenticated(ClientFault):
    """No valid credentials."""

    http_status = 401
    grpc_status = grpc.StatusCode.UNAUTHENTICATED
    default_code = "invalid_api_key"


class Forbidden(ClientFault):
    """Valid credentials, but not for this."""

    http_status = 403
    grpc_status = grpc.StatusCode.PERMISSION_DENIED
    default_code = "forbidden"


class NotFound(ClientFault):
    """What was named does not exist."""

    http_status = 404
    grpc_status = grpc.StatusCode.NOT_FOUND
    default_code = "not_found"


class ModelNotFound(NotFound):
    """The named model is not served here."""

    default_code = "model_not_found"


class Conflict(ClientFault):
    """It can't be done as things stand; it could be once they have changed."""

    http_status = 409
    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    default_code = "conflict"


class PayloadTooLarge(ClientFault):
    """The body is over its limit."""

    http_status = 413
    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_code = "payload_too_large"


class Overloaded(SegueError):
    """A limit on concurrent work is reached; ``retry_after_s`` says when to come back."""

    http_status = 429
    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    kind = "rate_limit_error"
    default_code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(SegueError):
    """Nobody can serve the request now; another try later may work."""

    http_status = 503
    grpc_status = grpc.StatusCode.UNAVAILABLE
    kind = "service_unavailable_error"
    default_code = "service_unavailable"


class DeadlineExceeded(SegueError):
    """The request's deadline passed before it was finished."""

    http_status = 504
    grpc_status = grpc.StatusCode.DEADLINE_EXCEEDED
    kind = "timeout_error"
    default_code = "deadline_exceeded"


class Cancelled(SegueError):
    """The client went away. The status is for logs: nobody is there to read it."""

    http_status = 499
    grpc_status = grpc.StatusCode.CANCELLED
    kind = "cancelled"
    default_code = "cancelled"


class InternalError(SegueError):
    """A fault of ours."""


class SettingsError(Exception):
    """A process can't start as configured. Printed without a traceback; exit status 2."""
