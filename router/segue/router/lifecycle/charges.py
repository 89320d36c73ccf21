"""Which workers' load figures an answer counts in, while it is theirs."""

from __future__ import annotations

from segue.proto.worker_pb2 import ROLE_PREFILL
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.planning.planner import Plan
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks


class Charges:
    """By run and worker. A link of its own, not an id: a worker that attaches again begins with none of its earlier
    life's requests."""

    def __init__(self, links: WorkerLinks) -> None:
        self._links = links
        self._charged: dict[str, dict[str, WorkerLink]] = {}
        self._prefill_tokens: dict[str, int] = {}
        self._turn = 0

    def charge(self, run: ChoiceRun, plan: Plan) -> None:
        """Count a run in its plan's workers, and in no others."""
        self.settle(run)
        charged = self._charged[run.run_id] = {}
        self._turn += 1
        for worker_id in (plan.prefill_id, plan.decode_id):
            if worker_id is not None and (link := self._links.get(worker_id)) is not None:
                link.assigned_requests += 1
                link.assigned_tokens += run.prompt_tokens
                link.turn = self._turn
                if worker_id == plan.prefill_id:
                    tokens = self._prefill_tokens[run.run_id] = plan.prefill_tokens or run.prompt_tokens
                    link.assigned_prefill_tokens += tokens
                charged[worker_id] = link

    def prefilled(self, run: ChoiceRun) -> None:
        """Prefill is done with a run."""
        link = self._charged.get(run.run_id, {}).pop(run.plan.prefill_id or "", None)
        if link is not None:
            self._discharge(run, link)

    def settle(self, run: ChoiceRun) -> None:
        """Take a run off all figures."""
        for link in self._charged.pop(run.run_id, {}).values():
            self._discharge(run, link)

    def _discharge(self, run: ChoiceRun, link: WorkerLink) -> None:
        link.assigned_requests -= 1
        link.assigned_tokens -= run.prompt_tokens
        if link.register.role == ROLE_PREFILL:
            link.assigned_prefill_tokens -= self._prefill_tokens.pop(run.run_id, 0)
