"""Why a worker ended its part of an answer before the answer was over, as an error."""

from __future__ import annotations

from segue.base.errors import DeadlineExceeded, InternalError, InvalidRequest, SegueError, Unavailable
from segue.proto.sampling_pb2 import FINISH_REASON_ABORT, FINISH_REASON_ERROR, FinishReason
from segue.proto.worker_pb2 import RequestError, RequestOutput

_FAILURES = (FINISH_REASON_ABORT, FINISH_REASON_ERROR)
# Another worker would say the same.
_OF_THE_REQUEST = (RequestError.KIND_INVALID, RequestError.KIND_DEADLINE)


def is_failure(output: RequestOutput) -> bool:
    return output.finish_reason in _FAILURES or output.HasField("error")


def is_of_the_request(output: RequestOutput) -> bool:
    """Whether a failure is the request's own, not the worker's."""
    return output.error.kind in _OF_THE_REQUEST


def has_moved(output: RequestOutput) -> bool:
    """Whether the worker only hands the answer over."""
    return output.finish_reason == FINISH_REASON_ABORT and not output.HasField("error")


def error_of(worker_id: str, output: RequestOutput) -> SegueError:
    """For the client, should nobody go on."""
    if has_moved(output):
        return Unavailable(f"worker {worker_id} gave the request back")
    error = output.error
    message = f"worker {worker_id}: {error.message}"
    if not output.HasField("error"):
        message = f"worker {worker_id} ended the request with {FinishReason.Name(output.finish_reason)} and no error"
    if error.kind == RequestError.KIND_INVALID:
        return InvalidRequest(error.message)
    if error.kind == RequestError.KIND_UNAVAILABLE:
        return Unavailable(message)
    if error.kind == RequestError.KIND_DEADLINE:
        return DeadlineExceeded(message)
    return InternalError(message)
