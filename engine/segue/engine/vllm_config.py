"""How vLLM is configured for one end of a hand-off."""

from __future__ import annotations

import difflib
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from segue.base.errors import SettingsError
from segue.engine.model_fingerprint import model_fingerprint
from segue.engine.settings import EngineRole, EngineSettings
from segue.kv_transfer.connector_config import ConnectorConfig

# Segue sets these; a pool that could change them would break the hand-off.
_OURS = {
    "model",
    "kv_transfer_config",
    "logits_processors",
    "worker_extension_cls",
    "kv_events_config",
    "enable_logging_iteration_details",
}


def vllm_environment(settings: EngineSettings, nixl_port: int) -> Mapping[str, str]:
    """What vLLM reads from the environment only. To be set before vLLM is imported; what is set already wins."""
    common = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_NIXL_SIDE_CHANNEL_HOST": settings.host,
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(nixl_port),
        # On CPU vLLM compiles small sampler functions at their first use, 12 s each, in the middle of serving.
        "TORCHDYNAMO_DISABLE": "1",
    }
    cpu = {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gib))),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "OMP_NUM_THREADS": "1",
    }
    if settings.kind == "inproc":
        common["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return common if has_cuda() else {**common, **cpu}


def apply_environment(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def cpu_computes_bfloat16() -> bool:
    """Whether the CPU has bfloat16 arithmetic. Without it vLLM emulates: measured at half the speed of float32."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return platform.machine() != "x86_64" or "avx512_bf16" in flags or "amx_bf16" in flags


def resolve(settings: EngineSettings) -> EngineSettings:
    """Replace ``auto`` by what suits the platform: on GPUs AsyncLLM and NIXL, on CPU one process and gRPC.

    NIXL runs on CPU too, but its progress thread spins and takes its share of the engine's core.
    """
    cuda = has_cuda()
    kind = settings.kind if settings.kind != "auto" else ("async" if cuda else "inproc")
    transport = settings.transport if settings.transport != "auto" else ("nixl" if cuda else "grpc")
    return settings.model_copy(update={"kind": kind, "transport": transport})


def hold_port(host: str, option: int) -> socket.socket:
    """A socket that has a free port and doesn't listen on it.

    Nobody else gets the port while it is open, except whoever binds it with the same ``option``, ``SO_REUSEPORT`` or
    ``SO_REUSEADDR``.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, option, 1)
    held.bind((host, 0))
    return held


def hold_side_channel(host: str) -> int:
    """A port for NIXL's handshakes, which vLLM takes from the environment and binds (ZeroMQ: ``SO_REUSEADDR``) once the
    model is loaded. Held as long as this process lives, as the environment is."""
    held = hold_port(host, socket.SO_REUSEADDR)
    port: int = held.getsockname()[1]
    held.detach()
    return port


class KvPort:
    """The port of an engine's KvTransfer, from before the model is loaded, which takes a while, until it listens.

    A port that the system chooses is bound here and never listened on: nobody else gets it meanwhile, and the engine,
    in whichever process, shares it (``SO_REUSEPORT``). One that was asked for is left for the engine to bind alone, so
    that a second worker with the same one is told.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.number = settings.kv_port
        self.shared = settings.kv_port == 0
        if self.shared:
            self._held = hold_port(settings.host, socket.SO_REUSEPORT)
            self.number = self._held.getsockname()[1]

    def close(self) -> None:
        if self.shared:
            self._held.close()


def connector_config(settings: EngineSettings, kv_port: KvPort) -> ConnectorConfig:
    return ConnectorConfig(
        worker_id=settings.worker_id,
        epoch=settings.epoch,
        address=f"{settings.host}:{kv_port.number}",
        shared_port=kv_port.shared,
        advertise=settings.advertise_kv,
        tls=settings.tls,
        kv_digest=settings.kv_digest,
        lease_s=settings.lease_s,
        model_fingerprint=model_fingerprint(settings.model, settings.engine_args.get("revision")),
    )


def _kv_role(settings: EngineSettings) -> str:
    """A decode engine offers too, when its running requests are moved. With NIXL vLLM doesn't have to know: there both
    roles hold what a request's parameters say, and vLLM warns of ``kv_both``. So a flex engine is one for decode."""
    if settings.role == "prefill" and not settings.flex:
        return "kv_producer"
    return "kv_consumer" if settings.transport == "nixl" else "kv_both"


def most_running(role: EngineRole, max_num_seqs: int) -> int:
    """How many requests a flex engine, which has places for ``max_num_seqs``, runs at once in a role."""
    return 1 if role == "prefill" and not has_cuda() else max_num_seqs


def engine_arguments(settings: EngineSettings, connector: ConnectorConfig) -> dict[str, Any]:
    """Keyword arguments for vLLM's ``EngineArgs``.

    Raises:
        SettingsError: an unknown argument (with the nearest known name), or one that is Segue's to set.
    """
    from vllm import EngineArgs
    from vllm.config import KVTransferConfig, StructuredOutputsConfig

    known = {field.name for field in fields(EngineArgs)}
    for name in settings.engine_args:
        if name in _OURS:
            raise SettingsError(f"engine argument {name!r} is set by Segue and can't be given; remove it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see vLLM's EngineArgs"
            raise SettingsError(f"vLLM has no engine argument {name!r}; {hint}")
    nixl = settings.transport == "nixl"
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        if not nixl and (seen := settings.engine_args.get(name, 1)) != 1:
            raise SettingsError(f"the gRPC transport needs {name} 1 (seen: {seen}); use --transport nixl")
    # By default vLLM takes the backend that the first constraint asks for. Both pools must mask the same tokens.
    constraints = {"backend": "xgrammar", **settings.engine_args.get("structured_outputs_config", {})}
    ours: dict[str, Any] = {}
    if not has_cuda():
        if settings.engine_args.get("enable_chunked_prefill"):
            raise SettingsError(
                "enable_chunked_prefill can't be had on CPU: vLLM's CPU engine dies of a seeded request whose prompt "
                "it computes in parts; leave it out"
            )
        ours = {"enforce_eager": True, "distributed_executor_backend": "uni", "enable_chunked_prefill": False}
        if settings.role == "prefill" and not settings.flex:
            # A core is busy with one prompt; computing several at once only makes the first ones wait for the last.
            ours["max_num_seqs"] = 1
        if not cpu_computes_bfloat16():
            ours["dtype"] = "float32"
    if not nixl:  # One cache group, whose blocks are the request's.
        ours["disable_hybrid_kv_cache_manager"] = True
    extra = connector.as_extra_config()
    if nixl:
        extra["kv_lease_duration"] = max(6, round(settings.lease_s))
    arguments: dict[str, Any] = {
        **ours,
        **settings.engine_args,
        "structured_outputs_config": StructuredOutputsConfig(**constraints),
        "worker_extension_cls": "segue.kv_transfer.vllm_worker_extension.SegueWorkerExtension",
        "model": settings.model,
        "enable_logging_iteration_details": True,  # How long each step took, and of what; it goes into our counters.
        "kv_transfer_config": KVTransferConfig(
            kv_connector="SegueNixlConnector" if nixl else "SegueGrpcConnector",
            kv_connector_module_path="segue.kv_transfer.vllm_nixl" if nixl else "segue.kv_transfer.vllm_grpc",
            kv_role=_kv_role(settings),
            kv_buffer_device="cuda" if has_cuda() else "cpu",
            kv_load_failure_policy="recompute",
            kv_connector_extra_config=extra,
        ),
    }
    # vLLM allows no custom logits processors beside speculative decoding.
    if (settings.role == "decode" or settings.flex) and not settings.engine_args.get("speculative_config"):
        from segue.engine.forced_tokens import PROCESSOR

        arguments["logits_processors"] = [PROCESSOR]
    return arguments
