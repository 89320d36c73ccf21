"""What goes from the core to workers: actions on their way, and the leases of KV caches that nobody has claimed."""

from __future__ import annotations

from collections.abc import Iterable

from segue.kv_transfer.held_ticket import HeldTicket
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.worker_pb2 import ROLE_PREFILL, Role, Submit
from segue.router.lifecycle.actions import Abort, Action, Move, Release, Send
from segue.router.workers.links import WorkerLinks


def tell(links: WorkerLinks, action: Action) -> bool:
    """Tell a worker; False if it is gone, takes nothing new, or has turned since it was chosen.

    What is not for workers is none of ours.
    """
    if not isinstance(action, (Send, Abort, Release, Move)):
        return True
    link = links.get(action.worker_id)
    if link is None:
        return False
    match action:
        case Send(submit=submit):
            if not (link.ready and takes(link.register.role, submit)):
                return False
            link.submit(submit)
        case Abort(request_id=request_id):
            link.abort(request_id)
        case Release(ticket=ticket):
            link.release(ticket, "cancelled")
        case Move(request_id=request_id):
            link.move(request_id)
    return True


def takes(role: Role, submit: Submit) -> bool:
    """Whether a leg is for a worker of this role. One that turns may have been chosen for the other."""
    if role == ROLE_PREFILL:
        return not submit.HasField("ticket") and submit.sampling.max_tokens == 1
    return not submit.offer_kv


def renew_leases(links: WorkerLinks, held: Iterable[HeldTicket], now_s: float) -> None:
    """Ask producers to renew those that are due, each producer once."""
    due: dict[str, list[Ticket]] = {}
    for ticket in held:
        if ticket.due_for_renewal(now_s):
            ticket.asked(now_s)
            due.setdefault(ticket.ticket.producer_id, []).append(ticket.ticket)
    for producer_id, tickets in due.items():
        if (link := links.get(producer_id)) is not None:
            link.renew(tickets)
