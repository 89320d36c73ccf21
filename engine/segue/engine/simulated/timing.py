"""How long a step and a transfer take: a roofline. Pure functions of figures.

A step reads all weights and the KV cache of its requests once (memory) while it multiplies (compute); the longer of the
two is its time, and what neither hides is added: the exchange between tensor-parallel devices, and an overhead.
Peaks are never reached: ``compute_utilisation`` and ``memory_utilisation`` are what is left of them in practice.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.engine.simulated.gpus import Gpu
from segue.engine.simulated.models import ModelShape

_EXCHANGES_PER_LAYER = 2  # After attention and after the MLP.
_EXCHANGE_LATENCY_S = 5e-6
_ACTIVATION_BYTES = 2


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What engines get out of the hardware.

    ``overhead_s`` a step and ``overhead_per_request_s`` stand for scheduling, kernel launches and sampling.
    """

    compute_utilisation: float = 0.55
    memory_utilisation: float = 0.8
    link_utilisation: float = 0.8
    overhead_s: float = 0.0015
    overhead_per_request_s: float = 5e-6


@dataclass(slots=True)
class StepWork:
    """What one step computes, summed over its requests.

    ``tokens``: given to the model. ``sampled``: tokens that come out. ``context_tokens``: whose KV is read.
    ``pairs``: of a token with each one that it attends to.
    """

    requests: int = 0
    tokens: int = 0
    sampled: int = 0
    context_tokens: int = 0
    pairs: int = 0

    def add(self, computed_before: int, tokens: int, sampled: bool) -> None:
        """One request computes ``tokens`` behind ``computed_before`` that it has in the cache."""
        self.requests += 1
        self.tokens += tokens
        self.sampled += sampled
        self.context_tokens += computed_before + tokens
        self.pairs += tokens * computed_before + tokens * (tokens + 1) // 2


@dataclass(frozen=True, slots=True)
class Timing:
    """One engine: ``devices`` of a kind, the model split over them (tensor parallelism)."""

    gpu: Gpu
    shape: ModelShape
    devices: int = 1
    weight_bits: int = 16
    kv_element_bytes: int = 2
    efficiency: Efficiency = Efficiency()

    @property
    def weight_bytes(self) -> float:
        """On all devices together."""
        return self.shape.params * self.weight_bits / 8

    @property
    def kv_bytes_per_token(self) -> int:
        """On all devices together."""
        return self.shape.kv_bytes_per_token(self.kv_element_bytes)

    def step_s(self, work: StepWork) -> float:
        exchanged_s = self._exchange_s(work.tokens)
        overhead_s = self.efficiency.overhead_s + self.efficiency.overhead_per_request_s * work.requests
        return max(self.compute_s(work), self.memory_s(work)) + exchanged_s + overhead_s

    def compute_s(self, work: StepWork) -> float:
        shape, usable = self.shape, self.devices * self.efficiency.compute_utilisation
        multiplied = 2 * (shape.layer_params * work.tokens + shape.head_params * work.sampled)
        attended = 4 * shape.layers * shape.heads * shape.head_dim * work.pairs  # Always in 16 bits.
        return (
            multiplied / (self.gpu.flops_per_s(self.weight_bits) * usable)
            + attended / (self.gpu.flops_per_s_16 * usable)
        )  # fmt: skip

    def memory_s(self, work: StepWork) -> float:
        read_bytes = self.weight_bytes + work.context_tokens * self.kv_bytes_per_token
        return read_bytes / (self.gpu.memory_bytes_per_s * self.devices * self.efficiency.memory_utilisation)

    def transfer_bytes_per_s(self, link_bytes_per_s: float | None = None) -> float:
        """Of a KV cache to another engine: each device sends its part over its own link."""
        return (link_bytes_per_s or self.gpu.link_bytes_per_s) * self.devices * self.efficiency.link_utilisation

    def kv_tokens(self, memory_utilisation: float) -> int:
        """How many tokens' KV fits beside the weights, of this part of the memory.

        A twentieth is left for activations, as vLLM's profiling run finds for such batches.
        """
        room_bytes = self.gpu.memory_bytes * self.devices * (memory_utilisation - 0.05) - self.weight_bytes
        return max(0, int(room_bytes // self.kv_bytes_per_token))

    def _exchange_s(self, tokens: int) -> float:
        """Ring all-reduces: each device sends twice what it has, less a share."""
        if self.devices == 1:
            return 0.0
        sent_bytes = 2 * (self.devices - 1) / self.devices * tokens * self.shape.hidden * _ACTIVATION_BYTES
        once_s = _EXCHANGE_LATENCY_S + sent_bytes / self.gpu.peer_bytes_per_s
        return _EXCHANGES_PER_LAYER * self.shape.layers * once_s
