"""One look at one PDCluster: read what there is, decide, act. All state is in the cluster's objects."""

from __future__ import annotations

import time
from collections.abc import Callable

from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.cluster.pools import POOL_NAMES, PoolsView
from segue.operator.actions import Action, Annotate, Apply, Delete, Drain, Tell
from segue.operator.api import Api, ApiError
from segue.operator.controller import EXPECTED
from segue.operator.desired import desired_state
from segue.operator.joint import JointScaler, pools_as_asked, router_addresses
from segue.operator.names import Manifest, labels_of, pool_name
from segue.operator.observed import JointDecision, Observed, timestamp, workers_of
from segue.operator.quiet import Quiet
from segue.operator.spec import BadSpec, parse_spec
from segue.operator.workers import Workers

log = get_logger("operator")

_OWNED = ("ConfigMap", "Deployment", "PDPool", "Service", "ServiceAccount")


class NameTaken(ApiError):
    """Somebody else's object has the name that one of ours should have."""


class Reconciler:
    """Of one PDCluster. ``mesh`` is our certificate where processes use TLS among each other. ``clock`` is Unix time:
    marks on pods must mean the same to the next operator."""

    def __init__(
        self,
        api: Api,
        workers: Workers,
        mesh: TlsSource | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._workers = workers
        self._scaler = JointScaler(mesh)
        self._clock = clock
        self._quiet = Quiet()
        self._told: list[str] = []

    async def look(self, namespace: str, name: str) -> float | None:
        """In how many seconds to look again; None once there is no such PDCluster.

        Raises:
            ApiError: the API server refused something; everything else is done.
            aiohttp.ClientError, OSError: it wasn't reached.
            Exception: a fault of ours, which an event on the PDCluster tells.
        """
        cluster = await self._api.get("PDCluster", namespace, name)
        if cluster is None:
            return None
        try:
            return await self._follow(cluster)
        except EXPECTED:
            raise
        except Exception as error:  # Nobody else would say so on the object that it is about.
            fault = f"a fault of the operator; nothing more is done about this PDCluster until it passes: {error!r}"
            await self._tell_once(cluster, "Fault", [fault])
            raise

    async def _follow(self, cluster: Manifest) -> float:
        seen = await self._observe(cluster)
        plan = desired_state(cluster, seen, self._clock())
        refusals = []
        objects = {**seen.objects, ("PDCluster", cluster["metadata"]["name"]): cluster}
        for action in plan.actions:
            if self._quiet.holds_back(action, objects, self._clock()):
                continue
            try:
                await self._act(cluster["metadata"]["namespace"], action)
            except ApiError as error:
                # What else there is to do doesn't wait for it: each step is read back before the next is decided.
                refusals.append(error)
        said = [
            error.message if isinstance(error, NameTaken) else f"the API server refuses what should be done: {error}"
            for error in refusals
        ]
        await self._tell_once(cluster, "Refused", said)
        if refusals:
            raise refusals[0]
        return plan.again_s

    async def _tell_once(self, cluster: Manifest, reason: str, messages: list[str]) -> None:
        """Each while it lasts: looks are repeated."""
        for message in messages:
            if message not in self._told:
                await self._tell(cluster["metadata"]["namespace"], Tell(cluster, "Warning", reason, message))
        self._told = messages

    async def _observe(self, cluster: Manifest) -> Observed:
        namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
        labels = labels_of(name)
        objects = {
            (kind, found["metadata"]["name"]): found
            for kind in _OWNED
            for found in await self._api.list(kind, namespace, labels)
        }
        pods = await self._api.list("Pod", namespace, labels)
        without = {role: workers_of(pods, role, {}) for role in POOL_NAMES}
        ips = {one.pod: one.ip for pool in without.values() for one in pool if one.ip and one.started_s is not None}
        loads = await self._workers.loads(ips)
        workers = {role: workers_of(pods, role, loads) for role in POOL_NAMES}
        pools = {role: objects.get(("PDPool", pool_name(name, role))) for role in POOL_NAMES}
        desired = {role: pool["spec"]["replicas"] for role, pool in pools.items() if pool is not None}
        joint = JointDecision()
        if len(desired) == len(POOL_NAMES):
            joint = await self._joint(cluster, pods, pools_as_asked(desired, workers))
        return Observed(objects, workers, joint)

    async def _joint(self, cluster: Manifest, pods: list[Manifest], view: PoolsView) -> JointDecision:
        try:
            spec = parse_spec(cluster["spec"])
        except BadSpec:
            return JointDecision()
        if spec.scaling.mode != "Joint":
            return JointDecision()
        return await self._scaler.decide(spec, router_addresses(pods), view)

    async def _act(self, namespace: str, action: Action) -> None:
        match action:
            case Apply(manifest, manager, status, first):
                if first:
                    await self._check_name_is_free(manifest)
                await self._api.apply(manifest, manager, status=status)
            case Annotate(pod, annotations):
                log.info("worker_marked", worker_id=pod, **annotations)
                await self._annotate(namespace, pod, annotations)
            case Drain(pod, ip):
                await self._workers.drain(pod, ip)
            case Delete(manifest):
                await self._api.delete(manifest)
            case Tell():
                log.info("told", about=action.about["metadata"]["name"], reason=action.reason, message=action.message)
                await self._tell(namespace, action)

    async def _check_name_is_free(self, manifest: Manifest) -> None:
        """An apply would make somebody else's object ours, and have it deleted with the PDCluster. Raises NameTaken."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        live = await self._api.named(kind, metadata["namespace"], metadata["name"])
        if live is None:
            return
        owners = {one["uid"] for one in live["metadata"].get("ownerReferences") or []}
        if owners.isdisjoint(one["uid"] for one in metadata["ownerReferences"]):
            raise NameTaken(
                409,
                f"there is a {kind} {metadata['name']} that isn't this PDCluster's, and it is left alone; delete it, "
                "or give the PDCluster another name",
            )

    async def _annotate(self, namespace: str, pod: str, annotations: dict[str, str | None]) -> None:
        try:
            await self._api.patch("Pod", namespace, pod, {"metadata": {"annotations": annotations}})
        except ApiError as error:
            if error.status != 404:  # It has gone by itself.
                raise

    async def _tell(self, namespace: str, tell: Tell) -> None:
        metadata = tell.about["metadata"]
        now = timestamp(self._clock())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}-", "namespace": namespace},
            "involvedObject": {
                "apiVersion": tell.about["apiVersion"],
                "kind": tell.about["kind"],
                "name": metadata["name"],
                "namespace": namespace,
                "uid": metadata.get("uid", ""),
            },
            "type": tell.kind,
            "reason": tell.reason,
            "message": tell.message[:1024],
            "source": {"component": "segue-operator"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.create(event)
        except ApiError as error:  # What is told must not keep from being done what is.
            log.warning("event_not_written", reason=tell.reason, error=error.message)
