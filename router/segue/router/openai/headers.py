"""What a request's own headers ask for: its label, its deadline, its terms, whose trace it belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiohttp import web

from segue.base.errors import InvalidRequest
from segue.base.trace_parent import HEADER as TRACE_HEADER
from segue.base.trace_parent import TraceParent, parse_trace_parent
from segue.router.limits import Limits, check_timeout_s
from segue.router.queueing.slo import SloClasses
from segue.router.queueing.terms import Terms, TermsParams, check_terms

LABEL_HEADER = "X-Request-Id"
TIMEOUT_HEADER = "X-Request-Timeout-S"
CLASS_HEADER = "X-Segue-SLO-Class"
PRIORITY_HEADER = "X-Segue-Priority"
TENANT_HEADER = "X-Segue-Tenant"
EXPLAIN_HEADER = "X-Segue-Explain"

_OF_TERMS = (CLASS_HEADER, PRIORITY_HEADER, TENANT_HEADER, EXPLAIN_HEADER)
_TERMS_HEADERS = TermsParams(CLASS_HEADER, PRIORITY_HEADER, TENANT_HEADER)
_USUAL_TERMS = Terms("")
_LABEL = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Plain decimals: float() would take "1_0", "1e3" and "infinity" too.
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_WHOLE = re.compile(r"-?[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """Checked. ``timeout_s`` counts from when the body has been read."""

    terms: Terms
    timeout_s: float
    label: str | None
    trace: TraceParent | None


def read_headers(request: web.Request, limits: Limits, classes: SloClasses) -> RequestHeaders:
    """Raises InvalidRequest or Forbidden."""
    terms = read_terms(request, classes)
    timeout_s = read_timeout_s(request, limits)
    trace = parse_trace_parent(request.headers.get(TRACE_HEADER))
    return RequestHeaders(terms, timeout_s, read_label(request), trace)


def read_label(request: web.Request) -> str | None:
    """The client's label: at most 128 letters, digits and ``._:/+=@-``. Anything else is dropped."""
    label = request.headers.get(LABEL_HEADER)
    return label if label is not None and _LABEL.fullmatch(label) else None


def read_timeout_s(request: web.Request, limits: Limits) -> float:
    """The request's deadline as seconds from now. Raises InvalidRequest."""
    values = request.headers.getall(TIMEOUT_HEADER, [])
    if not values:
        return limits.default_timeout_s
    if len(values) > 1 or not _SECONDS.fullmatch(values[0]):
        raise InvalidRequest(
            f"{TIMEOUT_HEADER} is {', '.join(values)[:40]!r}; it must be one number of seconds, such as 2.5",
            param=TIMEOUT_HEADER,
        )
    return check_timeout_s(float(values[0]), limits, TIMEOUT_HEADER)


def read_terms(request: web.Request, classes: SloClasses) -> Terms:
    """On which terms the request comes. Raises InvalidRequest or Forbidden."""
    if not any(map(request.headers.__contains__, _OF_TERMS)):
        return check_terms(_USUAL_TERMS, classes, _TERMS_HEADERS)
    priority = _one(request, PRIORITY_HEADER) or "0"
    if not _WHOLE.fullmatch(priority):
        raise InvalidRequest(
            f"{PRIORITY_HEADER} is {priority[:40]!r}; it must be a whole number", param=PRIORITY_HEADER
        )
    explain = _one(request, EXPLAIN_HEADER)
    if explain not in ("", "0", "1"):
        raise InvalidRequest(f"{EXPLAIN_HEADER} is {explain[:40]!r}; it must be 1, or left out", param=EXPLAIN_HEADER)
    asked = Terms(_one(request, CLASS_HEADER), int(priority), _one(request, TENANT_HEADER), explain == "1")
    return check_terms(asked, classes, _TERMS_HEADERS)


def _one(request: web.Request, header: str) -> str:
    """The header's value; empty if it isn't there. Raises InvalidRequest."""
    values = request.headers.getall(header, ())
    if len(values) > 1:
        raise InvalidRequest(f"{header} is there {len(values)} times; send it once", param=header)
    return values[0] if values else ""
