"""What an autoscaler is told at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import get_args

from segue.base.errors import SettingsError
from segue.cluster.autoscaling.with_pools import Mode
from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.demand import Targets
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.pace import Bounds, Direction, Pace
from segue.cluster.scaling.policy import ScalingPolicy

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class ScalingFigures:
    """The numbers of a policy, each with a name of its own. Times in seconds; docs/scaling.md says what each does.

    ``gpu_budget`` 0: each pool by its own signal; else both out of so many GPUs, of which a worker takes
    ``prefill_gpus`` or ``decode_gpus``.
    """

    prefill_min: int = 1
    prefill_max: int = 64
    decode_min: int = 1
    decode_max: int = 64
    gpu_budget: int = 0
    prefill_gpus: int = 1
    decode_gpus: int = 1
    interval_s: float = 5.0
    window_s: float = 30.0
    backlog_s: float = 1.5
    prefill_use: float = 0.7
    decode_use: float = 0.8
    joint_use: float = 0.8
    joint_gain: float = 0.1
    joint_patience_s: float = 15.0
    joint_pause_s: float = 15.0
    joint_grow_step: int = 4
    joint_room_starts: float = 10.0
    joint_start_s: float = 60.0
    ttft_attainment: float = 0.95
    itl_attainment: float = 0.95
    warm_after_s: float = 30.0
    up_window_s: float = 0.0
    up_step: int = 4
    up_period_s: float = 60.0
    down_window_s: float = 300.0
    down_step: int = 1
    down_period_s: float = 60.0


@dataclass(frozen=True, slots=True)
class AutoscalerSettings:
    """``interval_s`` passes between two looks, of which each covers the last ``window_s``."""

    mode: Mode = "off"
    policy: ScalingPolicy = field(default_factory=ScalingPolicy)
    interval_s: float = 5.0
    window_s: float = 30.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            near = get_close_matches(self.mode, MODES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(MODES)}"
            raise SettingsError(f"scaling mode {self.mode!r} is not known; {hint}")
        if not 0.2 <= self.interval_s <= 60:
            raise SettingsError(f"interval_s is {self.interval_s:g}; it must be 0.2 to 60")
        if not 1 <= self.window_s <= 60:
            raise SettingsError(f"window_s is {self.window_s:g}; it must be 1 to 60, which routers remember")

    @property
    def budget(self) -> Budget | None:
        return None if self.policy.joint is None else self.policy.joint.budget


def scaling_figures(given: Mapping[str, object], option: str = "") -> ScalingFigures:
    """Raises SettingsError: no figure of that name (with the nearest one), or not a number that it may be."""
    known = {one.name: one.default for one in fields(ScalingFigures)}
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise SettingsError(f"{option} {name!r} is no figure of scaling; {hint}".lstrip())
        whole = isinstance(known[name], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise SettingsError(
                f"{option} {name} is {value!r}; it must be {'a whole' if whole else 'a'} number".lstrip()
            )
    return ScalingFigures(**given)  # type: ignore[arg-type]  # Checked above.


def autoscaler_settings(mode: Mode, figures: ScalingFigures) -> AutoscalerSettings:
    """Raises SettingsError for figures that don't fit each other."""
    try:
        return AutoscalerSettings(mode, _policy(figures), figures.interval_s, figures.window_s)
    except ValueError as error:
        raise SettingsError(f"scaling: {error}") from error


def _policy(given: ScalingFigures) -> ScalingPolicy:
    up = Direction(given.up_window_s, given.up_step, given.up_period_s)
    down = Direction(given.down_window_s, given.down_step, given.down_period_s)
    for name in ("backlog_s", "prefill_use", "decode_use", "joint_use"):
        if getattr(given, name) <= 0:
            raise SettingsError(f"scaling: {name} is {getattr(given, name):g}; it must be above 0")
    joint = None
    if given.gpu_budget:
        joint = Joint(
            Budget(given.gpu_budget, given.prefill_gpus, given.decode_gpus),
            use=given.joint_use,
            gain=given.joint_gain,
            patience_s=given.joint_patience_s,
            pause_s=given.joint_pause_s,
            grow_step=given.joint_grow_step,
            room_starts=given.joint_room_starts,
            start_s=given.joint_start_s,
        )
    return ScalingPolicy(
        targets=Targets(
            backlog_s=given.backlog_s,
            decode_use=given.decode_use,
            prefill_utilisation=given.prefill_use,
            ttft_attainment=given.ttft_attainment,
            itl_attainment=given.itl_attainment,
            warm_after_s=given.warm_after_s,
        ),
        prefill=Pace(up, down, Bounds(given.prefill_min, given.prefill_max)),
        decode=Pace(up, down, Bounds(given.decode_min, given.decode_max)),
        joint=joint,
    )
