"""What the accelerators can do, from their makers' datasheets."""

from __future__ import annotations

from dataclasses import dataclass

_GB = 10**9
_TERA = 10**12


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator, at its datasheet's peak.

    ``flops_per_s`` is dense (no sparsity), by the bits of a weight: 16 (bfloat16) and 8 (FP8 or INT8; the same as 16
    where there are no such units). Fewer bits compute as 16. ``peer_bytes_per_s`` is what one device sends its peers in
    the same machine, one direction; ``link_bytes_per_s`` its share of the network, one direction. Few datasheets have
    the second: it is what such machines are usually sold with.
    """

    name: str
    flops_per_s_16: float
    flops_per_s_8: float
    memory_bytes_per_s: float
    memory_bytes: float
    peer_bytes_per_s: float
    link_bytes_per_s: float
    source: str

    def flops_per_s(self, weight_bits: int) -> float:
        return self.flops_per_s_8 if weight_bits == 8 else self.flops_per_s_16


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "H100",
            flops_per_s_16=989 * _TERA,
            flops_per_s_8=1979 * _TERA,
            memory_bytes_per_s=3350 * _GB,
            memory_bytes=80 * _GB,
            peer_bytes_per_s=450 * _GB,
            link_bytes_per_s=50 * _GB,
            source="NVIDIA H100 Tensor Core GPU datasheet, H100 SXM (its figures with sparsity halved; NVLink 900 GB/s "
            "both directions); network: DGX H100 datasheet, 400 Gb/s ConnectX-7 a GPU",
        ),
        Gpu(
            "H200",
            flops_per_s_16=989 * _TERA,
            flops_per_s_8=1979 * _TERA,
            memory_bytes_per_s=4800 * _GB,
            memory_bytes=141 * _GB,
            peer_bytes_per_s=450 * _GB,
            link_bytes_per_s=50 * _GB,
            source="NVIDIA H200 Tensor Core GPU datasheet, H200 SXM (its figures with sparsity halved); network: DGX "
            "H200 datasheet, 400 Gb/s a GPU",
        ),
        Gpu(
            "A100",
            flops_per_s_16=312 * _TERA,
            flops_per_s_8=624 * _TERA,
            memory_bytes_per_s=2039 * _GB,
            memory_bytes=80 * _GB,
            peer_bytes_per_s=300 * _GB,
            link_bytes_per_s=25 * _GB,
            source="NVIDIA A100 Tensor Core GPU datasheet, A100 80GB SXM (8 bits: INT8; NVLink 600 GB/s both "
            "directions); network: DGX A100 datasheet, 200 Gb/s ConnectX-6 a GPU",
        ),
        Gpu(
            "L40S",
            flops_per_s_16=362.05 * _TERA,
            flops_per_s_8=733 * _TERA,
            memory_bytes_per_s=864 * _GB,
            memory_bytes=48 * _GB,
            peer_bytes_per_s=32 * _GB,
            link_bytes_per_s=12.5 * _GB,
            source="NVIDIA L40S datasheet (dense figures; PCIe Gen4 x16, 64 GB/s both directions); network: assumed "
            "100 Gb/s a GPU",
        ),
        Gpu(
            "RTX4090",
            flops_per_s_16=165.2 * _TERA,
            flops_per_s_8=330.3 * _TERA,
            memory_bytes_per_s=1008 * _GB,
            memory_bytes=24 * _GB,
            peer_bytes_per_s=32 * _GB,
            link_bytes_per_s=3.125 * _GB,
            source="NVIDIA Ada GPU Architecture whitepaper, GeForce RTX 4090 (dense, FP32 accumulation; PCIe Gen4 "
            "x16); network: assumed 25 Gb/s",
        ),
        Gpu(
            "CPU",
            flops_per_s_16=114.7 * _TERA,
            flops_per_s_8=229.4 * _TERA,
            memory_bytes_per_s=307.2 * _GB,
            memory_bytes=256 * _GB,
            peer_bytes_per_s=48 * _GB,
            link_bytes_per_s=3.125 * _GB,
            source="Intel Xeon Platinum 8480+, one socket: ARK (56 cores, 2.0 GHz, 8 channels of DDR5-4800) and the "
            "AMX figure of 1,024 bfloat16 (2,048 INT8) operations a cycle and core; UPI 16 GT/s x 3; memory and "
            "network assumed",
        ),
    )
}
