"""Merging a patch into a pod's spec as Kustomize does: named lists by item, other values whole, null removes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

# By which field the items of a list are told apart; the items of other lists have no identity and are replaced whole.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "topologySpreadConstraints": "topologyKey",
}


def check_patch(patch: Any, path: str = "") -> None:
    """Whether it can be merged: the items of lists that are merged by item must say which they are.

    Raises ValueError, with where in the patch, what is there and what should be.
    """
    for name, value in patch.items() if isinstance(patch, dict) else ():
        at = f"{path}.{name}".removeprefix(".")
        if not isinstance(value, list):
            check_patch(value, at)
            continue
        key = _KEYS.get(name)
        for index, item in enumerate(value):
            if key is not None and not (isinstance(item, dict) and key in item):
                raise ValueError(f"{at}[{index}] is {item!r:.80}; each of {name} is an object with a {key}")
            check_patch(item, f"{at}[{index}]")


def merged(base: Any, patch: Any, field: str = "") -> Any:
    """``base`` with ``patch`` on top; neither is changed. :func:`check_patch` has let the patch pass."""
    if isinstance(base, dict) and isinstance(patch, dict):
        result = deepcopy(base)
        for name, value in patch.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merged(result.get(name), value, name)
        return result
    key = _KEYS.get(field)
    if key is not None and isinstance(base, list) and isinstance(patch, list):
        return _merged_lists(base, patch, key)
    if isinstance(patch, dict):
        return {name: merged(None, value, name) for name, value in patch.items() if value is not None}
    return deepcopy(patch)


def _merged_lists(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    result = list(base)
    for item in patch:
        at = next((index for index, known in enumerate(result) if known.get(key) == item.get(key)), None)
        if at is None:
            result.append(merged(None, item))
        else:
            result[at] = merged(result[at], item)
    return result


def covers(live: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there. What a server has filled in besides doesn't matter."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(name in live and covers(live[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(one, other) for one, other in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)
