"""What vLLM's worker half of a connector tells its scheduler half at the end of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorWorkerMetadata

from segue.kv_transfer.connector_config import TransferReport
from segue.kv_transfer.moves import MoveOrder


@dataclass
class Reports(KVConnectorWorkerMetadata):
    """Both by the engine's request id: transfers that ended in this step, and orders that came for a request."""

    by_request: dict[str, TransferReport] = field(default_factory=dict)
    orders: dict[str, MoveOrder] = field(default_factory=dict)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> Reports:
        assert isinstance(other, Reports)
        return Reports({**self.by_request, **other.by_request}, {**self.orders, **other.orders})


class Outgoing:
    """Collects the next step's reports, on the engine's thread."""

    def __init__(self) -> None:
        self._reports: dict[str, TransferReport] = {}
        self._orders: dict[str, MoveOrder] = {}

    def add_reports(self, reports: Mapping[str, TransferReport]) -> None:
        self._reports.update(reports)

    def add_order(self, engine_request_id: str, order: MoveOrder) -> None:
        self._orders[engine_request_id] = order

    def take(self) -> Reports | None:
        if not self._reports and not self._orders:
            return None
        taken = Reports(self._reports, self._orders)
        self._reports, self._orders = {}, {}
        return taken
