"""A PDCluster's spec, parsed. The API server has checked it by the CRD's schema; what that can't say is said here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from segue.cluster.pools import PoolName
from segue.operator.merge import check_patch

Mode = Literal["Fixed", "External", "Joint"]

# What the operator sets; given again they would be refused by the command, or mean two things.
_OURS = frozenset(
    [
        "--model",
        "--served-model-name",
        "--router",
        "--worker-id",
        "--host",
        "--port",
        "--grpc-port",
        "--worker-host",
        "--worker-port",
        "--kv-port",
        "--metrics-port",
        "--metrics-host",
        "--drain-timeout",
        "--scaler-port",
        "--slo-class",
    ]
)


class BadSpec(Exception):
    """The spec can't be followed; the message says which field and why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


class Model(_Part):
    path: str = Field(min_length=1)
    served_name: str = Field(min_length=1)
    claim: str = ""


class Images(_Part):
    router: str = Field(min_length=1)
    worker: str = Field(min_length=1)


class _Pods(_Part):
    args: tuple[str, ...] = ()
    pod: dict[str, Any] = {}

    @model_validator(mode="after")
    def _no_option_of_ours(self) -> _Pods:
        if taken := sorted({arg.partition("=")[0] for arg in self.args} & _OURS):
            raise ValueError(f"args has {', '.join(taken)}, which the operator sets; take it out")
        return self

    @field_validator("pod")
    @classmethod
    def _can_be_merged(cls, pod: dict[str, Any]) -> dict[str, Any]:
        check_patch(pod)
        return pod


class RouterPods(_Pods):
    replicas: int = Field(default=2, ge=1)


class PoolPods(_Pods):
    """``gpus`` are those of one worker."""

    replicas: int = Field(default=1, ge=1)
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=64, ge=1)
    gpus: int = Field(default=0, ge=0)
    drain_timeout_seconds: int = Field(default=120, ge=1)

    @model_validator(mode="after")
    def _within_bounds(self) -> PoolPods:
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(
                f"replicas {self.replicas} must lie between minReplicas {self.min_replicas} and maxReplicas "
                f"{self.max_replicas}"
            )
        return self

    @property
    def cost(self) -> int:
        """What one worker takes of a budget; a worker on CPU counts as one GPU."""
        return max(1, self.gpus)


class SloClass(_Part):
    name: str = Field(alias="class")
    ttft_seconds: float | None = None
    tokens_per_second: float | None = None


class Budget(_Part):
    gpus: int = Field(ge=2)


class JointRules(_Part):
    """``grow_step`` workers may start at once in a pool; there is room for the load of the last ``room_starts`` times
    that a worker takes to start."""

    grow_step: int = Field(default=4, ge=1)
    room_starts: int = Field(default=10, ge=0)


class Scaling(_Part):
    mode: Mode = "External"
    joint: JointRules = JointRules()


class ClusterSpec(_Part):
    model: Model
    images: Images
    router: RouterPods = RouterPods()
    prefill: PoolPods = PoolPods()
    decode: PoolPods = PoolPods()
    slo: tuple[SloClass, ...] = ()
    budget: Budget | None = None
    scaling: Scaling = Scaling()

    @model_validator(mode="after")
    def _budget_holds_both(self) -> ClusterSpec:
        if self.scaling.mode == "Joint" and self.budget is None:
            raise ValueError("scaling.mode Joint shares out a budget; give budget.gpus, or choose Fixed or External")
        least = self.prefill.cost * self.prefill.min_replicas + self.decode.cost * self.decode.min_replicas
        if self.budget is not None and self.budget.gpus < least:
            raise ValueError(f"budget.gpus is {self.budget.gpus}, and the least of both pools takes {least}")
        return self

    def pool(self, role: PoolName) -> PoolPods:
        return self.prefill if role == "prefill" else self.decode


def parse_spec(spec: Mapping[str, Any]) -> ClusterSpec:
    """Raises BadSpec, with every fault that was found."""
    try:
        return ClusterSpec.model_validate(spec)
    except ValidationError as error:
        faults = [
            ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, "))))
            for fault in error.errors()
        ]
        raise BadSpec("; ".join(faults)) from None
