"""Requests as vLLM's scheduler shows them to the gRPC connector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm.v1.request import RequestStatus

from segue.kv_transfer.connector_config import KEY, ConnectorConfig
from segue.proto.kv_transfer_pb2 import Ticket
from tests.kv_transfer.ends import BLOCK_TOKENS

CONFIG = ConnectorConfig("w-0", "e-1", "127.0.0.1:1", lease_s=30.0, model_fingerprint="m")


@dataclass
class FakeRequest:
    """What the connector reads of ``vllm.v1.request.Request``."""

    request_id: str = "engine-a"
    num_tokens: int = 20
    num_computed_tokens: int = 20
    num_in_flight_tokens: int = 0
    num_output_tokens: int = 1
    max_tokens: int = 100
    status: RequestStatus = RequestStatus.FINISHED_LENGTH_CAPPED
    kv_transfer_params: dict[str, Any] | None = field(default_factory=dict)


def ticket_of(tokens: int, **fields: Any) -> Ticket:
    blocks = -(-tokens // BLOCK_TOKENS)
    return Ticket(
        ticket_id="kv-a", producer_epoch="e-1", request_id="req-a", tokens=tokens, blocks=blocks, lease_s=30, **fields
    )


def claiming(ticket: Ticket, num_tokens: int, timeout_s: float = 5.0, name: str = "engine-a") -> Any:
    claim = {"ticket": ticket.SerializeToString(), "timeout_s": timeout_s}
    return FakeRequest(name, num_tokens, kv_transfer_params={KEY: {"claim": claim}})


def offering(**fields: Any) -> Any:
    offer = {"ticket_id": "kv-a", "request_id": "req-a"}
    return FakeRequest(kv_transfer_params={KEY: {"offer": offer}}, **fields)
