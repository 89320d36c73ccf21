"""Options of whoever scales the pools, and their parsing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli.options import parse_engine_args

if TYPE_CHECKING:
    from segue.cluster.autoscaling.settings import AutoscalerSettings


class ScalingChoice(StrEnum):
    """Who decides how many workers there are."""

    off = "off"
    advise = "advise"
    act = "act"


ScalingOption = Annotated[
    ScalingChoice,
    typer.Option(help="act: the pools grow and shrink with the load; advise: it is only said; see docs/scaling.md."),
]
GpuBudget = Annotated[
    int,
    typer.Option(
        min=0, help="With --scaling: both pools out of so many GPUs (workers on CPUs). 0: each by its own load."
    ),
]
ScalingSetting = Annotated[
    list[str],
    typer.Option(
        "--scaling-setting",
        metavar="NAME=VALUE",
        help="A figure of the scaling policy, such as prefill_max=8 or down_window_s=60; see docs/scaling.md. "
        "Repeatable.",
    ),
]


def scaling_settings(
    mode: ScalingChoice, gpu_budget: int, pairs: Iterable[str], known: Mapping[str, int]
) -> AutoscalerSettings:
    """``known`` are figures that follow from other options.

    Raises SettingsError: an unknown figure (with the nearest one), one that it can't be, or any while it is off.
    """
    from segue.base.errors import SettingsError
    from segue.cluster.autoscaling.settings import autoscaler_settings, scaling_figures

    given = parse_engine_args(pairs, "--scaling-setting")
    if (given or gpu_budget) and mode is ScalingChoice.off:
        raise SettingsError("--scaling-setting and --gpu-budget are for --scaling advise or act, and it is off")
    if "gpu_budget" in given and gpu_budget:
        raise SettingsError("--gpu-budget is given twice; keep one of them")
    if gpu_budget:
        given["gpu_budget"] = gpu_budget
    return autoscaler_settings(mode.value, scaling_figures({**known, **given}, "--scaling-setting"))
