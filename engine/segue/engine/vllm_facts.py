"""What a running vLLM engine turned out to be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from segue.engine.settings import EngineSettings
from segue.kv_transfer.connector_config import ConnectorConfig
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def engine_facts(
    settings: EngineSettings, config: VllmConfig, connector: ConnectorConfig, kv_blocks: int
) -> EngineFacts:
    """Facts from vLLM's resolved configuration; ``kv_blocks`` are the usable blocks of the paged cache."""
    import vllm

    model = config.model_config
    return EngineFacts(
        engine=f"vllm-{settings.kind}",
        engine_version=vllm.__version__,
        model=settings.model,
        max_model_len_tokens=model.max_model_len,
        vocab_size=model.get_vocab_size(),
        layout=block_layout(config, connector),
        kv_blocks=kv_blocks,
        transport=settings.transport,
        kv_address=connector.address,
        kv_digest=settings.kv_digest if settings.transport == "nixl" else "full",
        max_running_requests=config.scheduler_config.max_num_seqs,
    )


def block_layout(config: VllmConfig, connector: ConnectorConfig) -> BlockLayout:
    """The layout both ends compare, from vLLM's configuration (the cache itself may be in another process)."""
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    dtype = model.dtype if cache.cache_dtype == "auto" else cache.cache_dtype
    layers = model.get_num_layers(parallel)
    kv_heads, head_size = model.get_total_num_kv_heads(), model.get_head_size()
    element_bytes = 1 if "8" in str(cache.cache_dtype) else getattr(model.dtype, "itemsize", 2)
    return BlockLayout(
        model=connector.model_fingerprint,
        dtype=str(dtype).removeprefix("torch."),
        block_tokens=cache.block_size,
        layers=layers,
        block_bytes=math.prod((layers, 2, cache.block_size, kv_heads, head_size, element_bytes)),
        order="LBHNC",
        tensor_parallel=parallel.tensor_parallel_size,
    )
