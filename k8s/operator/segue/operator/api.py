"""The few calls to the API server that the operator makes itself; kopf watches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

import aiohttp

from segue.operator.names import API_VERSION, Manifest

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_PLURALS: Final = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "Event": "events",
    "PDCluster": "pdclusters",
    "PDPool": "pdpools",
    "Pod": "pods",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}
API_VERSIONS: Final = {"Deployment": "apps/v1", "PDCluster": API_VERSION, "PDPool": API_VERSION}


class ApiError(Exception):
    """The API server refused; ``status`` is HTTP's, the message its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Login(Protocol):
    """How to reach the API server; a ``kopf.ConnectionInfo`` is one."""

    @property
    def server(self) -> str: ...

    def as_http_headers(self) -> dict[str, str]: ...

    def as_ssl_context(self) -> Any: ...


class LoginSource(Protocol):
    """Raises SettingsError if there is no way to log in."""

    def __call__(self) -> Login: ...


class Api:
    """One connection pool. Logs in anew when the server no longer takes the token: those of pods expire."""

    def __init__(self, login: LoginSource) -> None:
        self._source = login
        self._login: Login | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def kinds(self) -> set[str]:
        """Of ours, those that the server has definitions of."""
        try:
            answer = await self._call("GET", f"/apis/{API_VERSION}")
        except ApiError as error:
            if error.status == 404:
                return set()
            raise
        return {one["kind"] for one in answer["resources"]}

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """None: there is no such object."""
        try:
            found: Manifest = await self._call("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        """Those with all of these labels, each with its kind, which lists leave out."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        answer = await self._call("GET", _path(kind, namespace), params={"labelSelector": selector})
        identity = {"apiVersion": API_VERSIONS.get(kind, "v1"), "kind": kind}
        return [{**item, **identity} for item in answer["items"]]

    async def named(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """As :meth:`get`, with the right to list alone."""
        answer = await self._call("GET", _path(kind, namespace), params={"fieldSelector": f"metadata.name={name}"})
        return next((item for item in answer["items"] if item["metadata"]["name"] == name), None)

    async def apply(self, manifest: Manifest, manager: str, *, status: bool = False) -> None:
        """Server-side apply. Fields that it names become ``manager``'s, whoever had them; fields that it had named
        before and doesn't any more are removed, unless another manager has them too."""
        metadata = manifest["metadata"]
        await self._call(
            "PATCH",
            _path(manifest["kind"], metadata["namespace"], metadata["name"], "status" if status else ""),
            body=manifest,
            content="application/apply-patch+yaml",
            params={"fieldManager": manager, "force": "true"},
        )

    async def patch(self, kind: str, namespace: str, name: str, change: Manifest, subresource: str = "") -> None:
        """JSON merge patch."""
        path = _path(kind, namespace, name, subresource)
        await self._call("PATCH", path, body=change, content="application/merge-patch+json")

    async def check_scale(self, namespace: str, name: str, replicas: int) -> None:
        """Raises ApiError as to scale this PDPool to so many would; nothing is changed."""
        path, change = _path("PDPool", namespace, name, "scale"), {"spec": {"replicas": replicas}}
        content, params = "application/merge-patch+json", {"dryRun": "All"}
        await self._call("PATCH", path, body=change, content=content, params=params)

    async def create(self, manifest: Manifest) -> None:
        await self._call("POST", _path(manifest["kind"], manifest["metadata"]["namespace"]), body=manifest)

    async def delete(self, manifest: Manifest) -> None:
        """One that is gone already is no error."""
        metadata = manifest["metadata"]
        try:
            await self._call("DELETE", _path(manifest["kind"], metadata["namespace"], metadata["name"]))
        except ApiError as error:
            if error.status != 404:
                raise

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        content: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Any:
        for last in (False, True):
            session, login = self._opened()
            # JSON is YAML, too: what an apply sends.
            data = None if body is None else json.dumps(body)
            headers = {"Content-Type": content, "Accept": "application/json"}
            url = login.server.rstrip("/") + path
            async with session.request(method, url, data=data, headers=headers, params=params) as answer:
                if answer.status == 401 and not last:
                    await self._close()
                    continue
                if answer.status >= 400:
                    raise ApiError(answer.status, await _reason(answer))
                return await answer.json()
        raise AssertionError("unreachable: the second try returns or raises")

    def _opened(self) -> tuple[aiohttp.ClientSession, Login]:
        if self._session is None or self._login is None:
            self._login = self._source()
            tls = self._login.as_ssl_context() if self._login.server.startswith("https") else False
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls, limit=8),
                headers={**self._login.as_http_headers(), "User-Agent": "segue-operator"},
                timeout=_TIMEOUT,
            )
        return self._session, self._login

    async def _close(self) -> None:
        # Forgotten before it is closed: others go on meanwhile, and are to open one of their own.
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _reason(answer: aiohttp.ClientResponse) -> str:
    text = await answer.text()
    try:
        said = json.loads(text).get("message")
    except (ValueError, AttributeError):  # A proxy's page.
        said = None
    return str(said or text[:500] or answer.reason)


def _path(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    version = API_VERSIONS.get(kind, "v1")
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    parts = [root, "namespaces", namespace, _PLURALS[kind], *filter(None, (name, subresource))]
    return "/".join(parts)
