"""What a worker process gets of the machine: its cores or GPU and the environment that says so. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Machine:
    """What there is to hand out: core numbers this process may use and the GPUs as CUDA_VISIBLE_DEVICES names
    them."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.cores:
            raise ValueError("a machine has at least one core")


@dataclass(frozen=True)
class Share:
    """One worker's part of the machine. ``gpu`` is None on CPU."""

    cores: tuple[int, ...]
    gpu: str | None = None


def share_of(machine: Machine, index: int, device: Device) -> Share:
    """The part of the worker with this number, counted over all workers of the machine, round robin.

    With more workers than cores or GPUs some share one; that is slow on cores, and on GPUs each of them needs
    a ``gpu_memory_utilization`` that leaves room for the other.
    """
    cores = (machine.cores[index % len(machine.cores)],)
    if device == "cpu":
        return Share(cores)
    if not machine.gpus:
        raise ValueError("device cuda was asked for and no GPU is visible; use --device cpu or make one visible")
    return Share(cores, machine.gpus[index % len(machine.gpus)])


def worker_environment(inherited: Mapping[str, str], share: Share, kv_cache_gib: float) -> dict[str, str]:
    """The environment of one worker process: the inherited one with what binds it to its share.

    On CPU one thread on each of its cores: two engines left to themselves bind to the same core, and a token then
    takes twenty times as long. ``kv_cache_gib`` bounds the KV cache on CPU, rounded up because vLLM reads
    whole GiB there; on GPUs it measures for itself.
    """
    environment = dict(inherited)
    if share.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = share.gpu
        return environment
    environment["OMP_NUM_THREADS"] = str(len(share.cores))
    environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, share.cores))
    environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    environment["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil(kv_cache_gib))
    return environment


def choose_device(asked: Literal["auto", "cpu", "cuda"], gpus: Sequence[str], cuda_engine_installed: bool) -> Device:
    """The device of the pools: as asked, or the GPU where there is one together with an engine that can use
    it."""
    if asked != "auto":
        return asked
    return "cuda" if gpus and cuda_engine_installed else "cpu"
