"""On which terms a request comes: its class, its priority within the class, and whose share it counts in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from segue.base.errors import Forbidden, InvalidRequest
from segue.router.access.caller import caller_name
from segue.router.queueing.slo import SloClasses

MAX_PRIORITY = 1000
_TENANT = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True, slots=True)
class TermsParams:
    """What a surface calls the fields, for errors."""

    slo_class: str = "slo_class"
    priority: str = "priority"
    tenant: str = "tenant"


FIELDS = TermsParams()


@dataclass(frozen=True, slots=True)
class Terms:
    """Checked. ``tenant`` is empty where nobody said who asks."""

    slo_class: str
    priority: int = 0
    tenant: str = ""
    explain: bool = False


def check_terms(asked: Terms, classes: SloClasses, params: TermsParams = FIELDS) -> Terms:
    """Terms as asked for, with the class's name filled in and the tenant that the caller's API key names.

    Raises:
        InvalidRequest: an unknown class, a priority out of range, a tenant that is no name.
        Forbidden: another tenant than the key's.
    """
    if not -MAX_PRIORITY <= asked.priority <= MAX_PRIORITY:
        raise InvalidRequest(
            f"{params.priority} is {asked.priority}; it must be between -{MAX_PRIORITY} and {MAX_PRIORITY}, "
            "lower is sooner",
            param=params.priority,
        )
    if asked.tenant and not _TENANT.fullmatch(asked.tenant):
        raise InvalidRequest(
            f"{params.tenant} is {asked.tenant[:70]!r}; it must be 1 to 64 letters, digits or ._@-", param=params.tenant
        )
    key = caller_name()
    if key is not None and asked.tenant not in ("", key):
        raise Forbidden(
            f"{params.tenant} is {asked.tenant!r}, but the API key belongs to {key!r}; leave it out or send {key!r}",
            param=params.tenant,
        )
    slo_class = classes.find(asked.slo_class, params.slo_class).name
    return Terms(slo_class, asked.priority, key or asked.tenant, asked.explain)
