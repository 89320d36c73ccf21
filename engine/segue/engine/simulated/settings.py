"""What a simulated engine is told: its hardware, its model, and vLLM's own names for what vLLM has too."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segue.base.errors import SettingsError
from segue.engine.simulated.gpus import GPUS
from segue.engine.simulated.models import SHAPES
from segue.engine.simulated.timing import Efficiency, Timing

_Preset = TypeVar("_Preset")


class SimulationSettings(BaseModel):
    """One simulated engine. Given as ``--engine-arg NAME=VALUE``; times are the simulated hardware's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: str = Field("H100", description="A preset's name: what it computes on.")
    model_shape: str = Field("llama-3.1-8b", description="A preset's name: what it computes.")
    speed: float = Field(
        1.0, gt=0, description="Seconds of the hardware's that pass in one of ours; 0.1 is slow motion."
    )
    # As in vLLM's EngineArgs.
    tensor_parallel_size: int = Field(1, ge=1, le=1024, description="Devices that the model is split over.")
    block_size: int = Field(16, ge=1, le=4096, description="Tokens in a block.")
    max_num_seqs: int = Field(256, ge=1)
    max_num_batched_tokens: int = Field(8192, ge=1)
    max_model_len: int | None = Field(None, ge=1)
    num_gpu_blocks_override: int | None = Field(None, ge=1)
    gpu_memory_utilization: float = Field(0.9, gt=0.05, le=1)
    enable_prefix_caching: bool = True
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8"] = "auto"
    # What vLLM has no name for.
    weight_bits: Literal[4, 8, 16] = 16
    link_gbit_per_s: float | None = Field(None, gt=0, description="Network of each device; None is the preset's.")
    link_latency_s: float = Field(0.002, ge=0, description="Of one KV transfer, whatever its size.")
    compute_utilisation: float = Field(0.55, gt=0, le=1)
    memory_utilisation: float = Field(0.8, gt=0, le=1)
    link_utilisation: float = Field(0.8, gt=0, le=1)
    overhead_s: float = Field(0.0015, ge=0, description="Of each step.")
    jitter: float = Field(0.0, ge=0, le=2, description="Sigma of the factor on each step's time, log-normal.")
    seed: int = 0
    fail_after_s: float | None = Field(None, gt=0, description="The engine breaks so long after its start; real time.")
    error_rate: float = Field(0.0, ge=0, le=1, description="Part of the requests that fail, by the engine's fault.")

    @property
    def timing(self) -> Timing:
        efficiency = Efficiency(
            compute_utilisation=self.compute_utilisation,
            memory_utilisation=self.memory_utilisation,
            link_utilisation=self.link_utilisation,
            overhead_s=self.overhead_s,
        )
        return Timing(
            GPUS[self.gpu],
            SHAPES[self.model_shape],
            devices=self.tensor_parallel_size,
            weight_bits=self.weight_bits,
            kv_element_bytes=1 if self.kv_cache_dtype == "fp8" else 2,
            efficiency=efficiency,
        )

    @property
    def link_bytes_per_s(self) -> float:
        """Of a KV transfer, over all devices."""
        given = None if self.link_gbit_per_s is None else self.link_gbit_per_s * 1e9 / 8
        return self.timing.transfer_bytes_per_s(given)

    @property
    def kv_blocks(self) -> int:
        if self.num_gpu_blocks_override is not None:
            return self.num_gpu_blocks_override
        return self.timing.kv_tokens(self.gpu_memory_utilization) // self.block_size


def simulation_settings(engine_args: Mapping[str, Any]) -> SimulationSettings:
    """Parse ``engine_args``.

    Raises:
        SettingsError: a name or a preset that there isn't (with the nearest one), or a value out of range.
    """
    for name in engine_args:
        _known("engine argument of a simulated engine", name, SimulationSettings.model_fields)
    try:
        settings = SimulationSettings(**engine_args)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}, seen {item['input']!r}" for item in error.errors()]
        raise SettingsError("the simulated engine refuses its arguments: " + "; ".join(lines)) from error
    gpu = _known("simulated GPU", settings.gpu, GPUS)
    shape = _known("simulated model", settings.model_shape, SHAPES)
    return settings.model_copy(update={"gpu": gpu, "model_shape": shape})


def _known(what: str, name: str, known: Mapping[str, _Preset]) -> str:
    """The name as it is written among ``known``; case doesn't count."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    hint = f"did you mean {by_lower[near[0]]!r}? " if near else ""
    raise SettingsError(f"there is no {what} {name!r}; {hint}Known are {', '.join(known)}")
