"""HTTP around the API's handlers: errors in OpenAI's shape, the client's request label, bodies."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import hdrs, web

from segue.base.errors import ClientFault, InternalError, InvalidRequest, Overloaded, SegueError, Unauthenticated
from segue.base.logging import get_logger
from segue.router.limits import Limits, check_body_size, check_depth, too_deep
from segue.router.openai import sse, wire
from segue.router.openai.headers import LABEL_HEADER, read_label

_log = get_logger("openai")

REQUEST_ID_HEADER = "X-Segue-Request-Id"

# Long fields, which are checked to the depth that they may have when they are read.
_SHAPED = frozenset({"prompt", "messages"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def error_response(error: SegueError) -> web.Response:
    headers = None
    if isinstance(error, Overloaded):
        headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
    if isinstance(error, Unauthenticated):
        headers = {"WWW-Authenticate": 'Bearer realm="segue"'}
    return json_response(sse.error_body(error), error.http_status, headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into OpenAI's shape with its right status."""
    try:
        return await handler(request)
    except SegueError as error:
        return error_response(error)
    except web.HTTPException as error:
        return _from_http(request, error)
    except ConnectionError as error:
        # The client went away while we wrote; nobody is there to read an error.
        _log.info("client_gone", path=request.path, error=repr(error))
        raise
    except Exception as error:  # noqa: BLE001 - the edge's last resort: the client gets a 500, the log the fault
        _log.error("request_failed", path=request.path, error=repr(error), exc_info=error)
        return error_response(InternalError("internal error; the router's log has it"))


async def on_expect(request: web.Request) -> web.Response | None:
    """The Expect header. aiohttp's own handler quotes it in its refusal and fails on what isn't UTF-8."""
    if request.headers["Expect"].lower() != "100-continue":
        refusal = InvalidRequest("the Expect header asks for something other than 100-continue; leave it out")
        return json_response(sse.error_body(refusal), web.HTTPExpectationFailed.status_code)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # An interim response is not part of the answer.
    return None


class Anywhere(web.DynamicResource):
    """Matches what is no path, too: the target ``*`` of OPTIONS."""

    def _match(self, path: str) -> dict[str, str]:
        return {}


async def nothing_here(request: web.Request) -> web.StreamResponse:
    """What no other route takes; a route, so that :func:`on_expect` is asked here too."""
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        if methods and hdrs.METH_ANY not in methods:
            raise web.HTTPMethodNotAllowed(request.method, methods)
    raise web.HTTPNotFound


async def echo_label(request: web.Request, response: web.StreamResponse) -> None:
    """Answer with the client's own label for the request, if it is a sane one."""
    label = read_label(request)
    if label is not None:
        response.headers[LABEL_HEADER] = label


async def read_json(request: web.Request, limits: Limits) -> object:
    """The body as JSON. Raises PayloadTooLarge or InvalidRequest."""
    check_body_size(request.content_length or 0, limits)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        # Sent in chunks or compressed, so that its size shows only now.
        check_body_size(limits.max_body_bytes + 1, limits)
        raise
    except web.RequestPayloadError as error:
        raise InvalidRequest(f"the body can't be read: {error}") from error
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise too_deep("the body", limits.max_json_depth, None) from error
    for name, field in value.items() if isinstance(value, dict) else ():
        if name not in _SHAPED and isinstance(field, (dict, list)):
            check_depth(field, limits.max_json_depth, "the body", depth=1)
    return value


def _from_http(request: web.Request, error: web.HTTPException) -> web.Response:
    messages = {
        404: f"there is nothing at {request.method} {request.path[:200]}",
        405: f"{request.path[:200]} doesn't take {request.method}",
    }
    body = wire.encode(
        {
            "error": {
                "message": messages.get(error.status, error.reason),
                "type": ClientFault.kind if error.status < 500 else InternalError.kind,
                "param": None,
                "code": "unknown_url" if error.status == 404 else error.reason.lower().replace(" ", "_"),
            }
        }
    )
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return json_response(body, error.status, headers)
