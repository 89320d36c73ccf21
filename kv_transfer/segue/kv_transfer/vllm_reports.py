"""Transfer reports on their way from vLLM's worker half of a connector to its scheduler half."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorWorkerMetadata

from segue.kv_transfer.connector_config import TransferReport


@dataclass
class Reports(KVConnectorWorkerMetadata):
    """Transfers that ended in this step, by the engine's request id."""

    by_request: dict[str, TransferReport]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> Reports:
        assert isinstance(other, Reports)
        return Reports({**self.by_request, **other.by_request})
