"""Which blocks of a vLLM engine are offered and which are claimed, with the gRPC transport: the half of the connector
that lives in vLLM's scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from segue.kv_transfer.connector_config import KEY, ConnectorConfig, TransferReport
from segue.kv_transfer.moves import MOVED, MoveOrder, Moves, movable_tokens, ours
from segue.proto.kv_transfer_pb2 import Ticket

if TYPE_CHECKING:
    from vllm.v1.request import Request


@dataclass
class StepPlan(KVConnectorMetadata):
    """What the worker half has to begin with this step. Times are seconds from now: clocks differ by process."""

    offers: list[tuple[str, str, str, tuple[int, ...], int, float]] = field(default_factory=list)
    claims: list[tuple[str, bytes, tuple[int, ...], int, float]] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    releases: list[tuple[bytes, str]] = field(default_factory=list)


class SchedulerHalf:
    """Reads ``kv_transfer_params`` of each request: ``{"segue": {"offer": ...}}`` or ``{"segue": {"claim": ...}}``.

    A running request of either kind, or of none, may get ``"move"`` (a :class:`MoveOrder`).
    """

    def __init__(self, config: ConnectorConfig, block_tokens: int) -> None:
        self._config = config
        self._block_tokens = block_tokens
        self._plan = StepPlan()
        self._moves = Moves()
        self._unclaimed: dict[str, Ticket] = {}
        self._claimed: set[str] = set()
        self._reports: dict[str, TransferReport] = {}

    def on_new_request(self, request: Request) -> None:
        self._moves.on_new_request(request)
        claim = ours(request).get("claim")
        if claim is not None:
            self._unclaimed[request.request_id] = Ticket.FromString(claim["ticket"])

    def matched_tokens(self, request: Request, computed_tokens: int) -> int:
        """Tokens that the ticket holds beyond those in the local prefix cache (both counted from the start).

        None of a ticket over more tokens than the request has: its blocks don't end where the request's do.
        """
        ticket = self._unclaimed.get(request.request_id)
        if ticket is None or ticket.tokens > request.num_tokens:
            return 0
        tokens: int = max(0, ticket.tokens - computed_tokens)
        return tokens

    def after_alloc(self, request: Request, block_ids: list[int], external_tokens: int) -> None:
        ticket = self._unclaimed.pop(request.request_id, None)
        if ticket is None:
            return
        if external_tokens == 0:
            self._plan.releases.append((ticket.SerializeToString(), "acknowledged"))
            return
        first_block = (ticket.tokens - external_tokens) // self._block_tokens
        # Not bounded by the lease, which the router renews meanwhile: a producer that takes its blocks back says so,
        # and one that is gone is noticed by its silence (see ProducerLinks).
        timeout_s = ours(request)["claim"]["timeout_s"]
        self._claimed.add(request.request_id)
        self._plan.claims.append(
            (
                request.request_id,
                ticket.SerializeToString(),
                tuple(block_ids[: ticket.blocks]),
                first_block,
                timeout_s,
            )
        )

    def finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Of a request that ends: whether its blocks stay held, and what goes out with its last output."""
        move = self._moves.finished(request)
        ticket = self._unclaimed.pop(request.request_id, None)
        if ticket is not None and move is None:  # Who moves a request that has yet to claim still has the ticket.
            self._plan.releases.append((ticket.SerializeToString(), "cancelled"))
        report = self._reports.pop(request.request_id, None)
        if transferring := request.request_id in self._claimed and report is None:
            self._plan.cancels.append(request.request_id)
        self._claimed.discard(request.request_id)
        told: dict[str, Any] = {} if report is None else {"report": asdict(report)}
        described = None if transferring else self._offer(request, block_ids, move)
        if move is not None and move.max_tokens is not None:  # Else who aborted it knows.
            told[MOVED] = True
        answer = {KEY: {**told, **(described or {})}} if told or described else None
        if move is not None:
            move.answer = answer
        return described is not None, answer

    def _offer(self, request: Request, block_ids: list[int], move: MoveOrder | None) -> dict[str, Any] | None:
        """Offer what is computed of a request that someone goes on with; None if nobody does or nothing is."""
        from vllm.v1.request import RequestStatus

        offer = ours(request).get("offer")
        if move is not None:
            ticket_id, request_id, tokens = move.ticket_id, move.request_id, movable_tokens(request)
        elif offer is not None and request.status == RequestStatus.FINISHED_LENGTH_CAPPED:
            ticket_id, request_id, tokens = offer["ticket_id"], offer["request_id"], request.num_computed_tokens
        else:
            return None
        block_ids = block_ids[: -(-tokens // self._block_tokens)]
        if tokens <= 0 or not block_ids:
            return None
        self._plan.offers.append(
            (ticket_id, request_id, request.request_id, tuple(block_ids), tokens, self._config.lease_s)
        )
        return {
            "ticket_id": ticket_id,
            "tokens": tokens,
            "blocks": len(block_ids),
            "address": self._config.ticket_address,
        }

    def on_orders(self, orders: Mapping[str, MoveOrder]) -> None:
        self._moves.on_orders(orders)

    def on_reports(self, reports: Mapping[str, TransferReport]) -> None:
        # Of a request that has ended meanwhile nobody would ask for the report.
        self._reports.update({name: report for name, report in reports.items() if name in self._claimed})

    def take_plan(self) -> StepPlan:
        plan, self._plan = self._plan, StepPlan()
        return plan
