"""kmock's API server with what it leaves out and the operator goes by: server-side apply, label selectors, the scale
and status subresources, and versions. Field ownership is by path; lists belong to one manager as a whole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import aiohttp.web
import kmock
from kmock import KubernetesEmulator, Request, action

from segue.operator.names import API_VERSION, Manifest
from tests.k8s.operator.schemas import defaulted, refusals, schema_of

Path = tuple[str, ...]
_OURS = {"pdclusters": "PDCluster", "pdpools": "PDPool"}


class ApiServer(KubernetesEmulator):
    """``calls`` are what was asked for, as (verb, API group, resource/subresource)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, str]] = []
        self.refused: dict[tuple[str, str], str] = {}
        self._owners: dict[tuple[str, ...], dict[str, set[Path]]] = defaultdict(dict)
        self._version = 0
        self.resources.load_bundled()
        for plural, kind in _OURS.items():
            self.resources[f"{API_VERSION}/{plural}"] = kmock.ResourceInfo(
                kind=kind,
                singular=kind.lower(),
                namespaced=True,
                verbs={"get", "list", "watch", "create", "patch", "delete"},
                shortnames=set(),
                categories=set(),
                subresources={"status", "scale"} if kind == "PDPool" else {"status"},
            )

    # For tests

    def place(self, kind: str, manifest: Manifest) -> None:
        """As it stands; nobody is told of it."""
        self.objects[self.key(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])] = self._stamped(
            deepcopy(manifest)
        )

    def find(self, kind: str, name: str, namespace: str = "segue") -> Manifest | None:
        return self._live(self.key(kind, namespace, name))

    def all(self, kind: str) -> list[Manifest]:
        wanted = self.key(kind, "", "")[0]
        return [deepcopy(one.raw) for key, one in self.objects.items() if key[0] == wanted and not one.deleted]

    async def write(self, kind: str, manifest: Manifest) -> None:
        """As somebody else who has changed it."""
        key = self.key(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        await self._store(key, manifest)

    # The server

    async def _handle(self, request: Request) -> aiohttp.web.StreamResponse:
        if request.resource is None or not isinstance(request.resource.plural, str):
            return await super()._handle(request)  # Discovery.
        sub = f"/{request.subresource}" if request.subresource else ""
        self.calls.append((_verb(request), str(request.resource.group), request.resource.plural + sub))
        if request.action == action.CREATE:
            return await self._create(request)
        if request.action == action.UPDATE:
            return await self._patch(request)
        if request.action == action.LIST and request.params.get("labelSelector"):
            return self._list(request)
        return await super()._handle(request)

    async def _create(self, request: Request) -> aiohttp.web.StreamResponse:
        manifest = json.loads(request.body)
        metadata = manifest["metadata"]
        name = metadata.setdefault("name", f"{metadata.get('generateName', '')}{self._version}")
        await self._store((request.resource, request.namespace, name), manifest)
        return aiohttp.web.json_response(manifest, status=201)

    async def _patch(self, request: Request) -> aiohttp.web.StreamResponse:
        assert request.name is not None
        assert request.resource is not None
        if (said := self.refused.get((str(request.resource.plural), request.name))) is not None:
            return aiohttp.web.json_response({"message": said}, status=422)
        key: Any = (request.resource, request.namespace, request.name)
        live = self._live(key)
        change = json.loads(request.body)
        applied = request.headers["Content-Type"].startswith("application/apply-patch")
        if live is None and (not applied or request.subresource):
            return aiohttp.web.json_response({"message": f"{request.name} not found"}, status=404)
        version = change.get("metadata", {}).get("resourceVersion")
        if live is not None and version not in (None, live["metadata"]["resourceVersion"]):
            return aiohttp.web.json_response({"message": f"{request.name} has been modified"}, status=409)
        if request.subresource:
            # Status and scale each take one field and leave the rest alone.
            part = "status" if request.subresource == "status" else "spec"
            change = {part: change.get(part, {})}
        else:
            change.pop("status", None)
        manager = f"{request.params.get('fieldManager', 'other')} {request.subresource or ''}"
        if applied:
            result = self._applied(key, live or {}, change, manager)
        else:
            assert live is not None
            result = _merged(live, change)
            self._taken(key, change)
        if request.resource.plural in _OURS and (broken := refusals(result, live)):
            return aiohttp.web.json_response({"message": f"{request.name} is invalid: {'; '.join(broken)}"}, status=422)
        if "dryRun" not in request.params:
            await self._store(key, result)
        return aiohttp.web.json_response(result)

    def _applied(self, key: Any, live: Manifest, change: Manifest, manager: str) -> Manifest:
        owners = self._owners[_flat(key)]
        now = set(_leaves(change))
        mine = owners.get(manager, set())
        others = {path for name, paths in owners.items() if name != manager for path in paths}
        for path in mine - now - others:
            _remove(live, path)
        for path in now:
            _set(live, path, _get(change, path))
        owners[manager] = now
        return live

    def _taken(self, key: Any, change: Manifest) -> None:
        """Whoever updates without applying takes what it has changed from all who applied it."""
        for paths in self._owners[_flat(key)].values():
            paths.difference_update(_leaves(change))

    def _list(self, request: Request) -> aiohttp.web.StreamResponse:
        wanted = dict(pair.split("=") for pair in request.params["labelSelector"].split(","))
        items = [
            one.raw
            for (resource, namespace, _), one in self.objects.items()
            if resource == request.resource
            and namespace == request.namespace
            and not one.deleted
            and wanted.items() <= dict(one.raw["metadata"].get("labels") or {}).items()
        ]
        return aiohttp.web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _store(self, key: Any, manifest: Manifest) -> None:
        async with self._lock:
            before = self._live(key)
            after = self._stamped(manifest, before)
            if before == after:
                return
            if key in self.objects:
                self.objects[key].create(after)
            else:
                self.objects[key] = after
            event = "ADDED" if before is None else "MODIFIED"
            await self._buses[key[0]].put({"type": event, "object": deepcopy(after)})

    def _live(self, key: Any) -> Manifest | None:
        if key not in self.objects or self.objects[key].deleted:
            return None
        raw: Manifest = deepcopy(self.objects[key].raw)
        return raw

    def _stamped(self, manifest: Manifest, before: Manifest | None = None) -> Manifest:
        manifest = json.loads(json.dumps(manifest))
        if manifest.get("kind") in _OURS.values():
            manifest["spec"] = defaulted(manifest["spec"], schema_of(manifest["kind"])["properties"]["spec"])
        metadata = manifest["metadata"]
        self._version += 1
        metadata.setdefault("uid", f"uid-{self._version}")
        metadata.setdefault("generation", 1)
        if before is not None:
            metadata["uid"] = before["metadata"]["uid"]
            metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
            metadata["generation"] = before["metadata"]["generation"] + (before.get("spec") != manifest.get("spec"))
            if before == manifest:
                return manifest
        metadata["resourceVersion"] = str(self._version)
        return manifest

    def key(self, kind: str, namespace: str, name: str) -> Any:
        for resource in self.resources:
            if self.resources[resource].kind == kind and resource.group in {"", "apps", "segue.dev"}:
                return (resource, namespace, name)
        raise KeyError(kind)


def _verb(request: Request) -> str:
    names = {action.FETCH: "get", action.UPDATE: "patch"}
    return names.get(request.action, str(request.action.value).lower()) if request.action is not None else ""


def _flat(key: Any) -> tuple[str, ...]:
    return (str(key[0].plural), str(key[1]), str(key[2]))


def _leaves(value: Manifest, above: Path = ()) -> Iterator[Path]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, (*above, name))
        else:
            yield (*above, name)


def _get(value: Manifest, path: Path) -> Any:
    for name in path:
        value = value[name]
    return value


def _set(value: Manifest, path: Path, leaf: Any) -> None:
    for name in path[:-1]:
        value = value.setdefault(name, {})
    value[path[-1]] = deepcopy(leaf)


def _remove(value: Manifest, path: Path) -> None:
    for name in path[:-1]:
        value = value.get(name, {})
    value.pop(path[-1], None)


def _merged(base: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result
