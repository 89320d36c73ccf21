"""vLLM's half of the NIXL connector, stood in for."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata


@dataclass
class FakeNixlWorker:
    """What the connector uses of vLLM's ``NixlPullConnectorWorker``. Reads what the test finishes."""

    started: list[str] = field(default_factory=list)
    _is_hma_required: bool = False
    _reqs_to_send: dict[str, float] = field(default_factory=dict)
    _reqs_to_process: set[str] = field(default_factory=set)

    def start_load_kv(self, metadata: NixlConnectorMetadata) -> None:
        self.started += metadata.reqs_to_recv
