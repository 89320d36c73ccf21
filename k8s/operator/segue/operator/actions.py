"""What a look at a PDCluster may lead to. Each can be done twice without harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from segue.operator.names import MANAGER, Manifest


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of a whole object, or of its status. ``first``: no such object of ours was seen; somebody
    else's of that name is to be left alone."""

    manifest: Manifest
    manager: str = MANAGER
    status: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class Annotate:
    """Set a pod's annotations; None removes one."""

    pod: str
    annotations: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Drain:
    """Tell a worker to finish what it has and to exit."""

    pod: str
    ip: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Of an object that the spec no longer asks for."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Tell:
    """An event on an object, for ``kubectl describe``."""

    about: Manifest
    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Apply | Annotate | Drain | Delete | Tell


@dataclass(frozen=True, slots=True)
class Plan:
    """In this order. ``again_s`` is when to look again, even if nothing is heard of."""

    actions: tuple[Action, ...] = ()
    again_s: float = 10.0
