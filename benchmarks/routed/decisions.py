"""How long one decision takes, in the process: naming a prompt's blocks, looking them up, weighing every worker.

CPU time of the thread, so that what else a machine does shows less.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from routed.prompts import SharedPrompts
from routed.stub_fleet import BLOCK_TOKENS, LAYOUT

from segue.base.block_hash import block_hashes
from segue.proto.worker_pb2 import EngineFacts, KvEvent, KvEvents, Load, Register, Role, Status, WorkerState
from segue.router.lifecycle.placement import Placement
from segue.router.planning.disaggregation import Disaggregation
from segue.router.planning.planner import Policy
from segue.router.prompt_tokens import PromptTokens
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks


def measure_decisions(workers: int, requests: int, tokens: int) -> dict[str, Any]:
    links = WorkerLinks()
    placement = Placement(links, Policy(disaggregation=Disaggregation("auto")))
    facts = EngineFacts(engine="stub", layout=LAYOUT, kv_blocks=40_000, max_running_requests=256)
    for number in range(workers):
        role, name = ((Role.ROLE_PREFILL, "prefill"), (Role.ROLE_DECODE, "decode"))[number % 2]
        link = WorkerLink(Register(worker_id=f"{name}-{number}", role=role, epoch="1"))
        link.status = Status(state=WorkerState.WORKER_STATE_READY, facts=facts)
        link.load = Load(free_blocks=40_000)
        links.add(link)
        placement.on_kv_events(link, KvEvents(snapshot=True))
    own = tokens // 10
    prompts = SharedPrompts(documents=50, shared=tokens - own, own=own)
    times = []
    for number in range(requests):
        prompt = PromptTokens(prompts.next().token_ids)
        begin_s = time.thread_time()
        named = placement.prompt(prompt, 256)
        ask = placement.ask(named)
        made = placement.plan(links.snapshot(), ask)
        times.append(time.thread_time() - begin_s)
        # Each has another load, so that no two snapshots are alike.
        chosen = [link for link in links if link.worker_id in {made.prefill_id, made.decode_id}]
        for link in chosen:
            link.assigned_requests = 1 + number % 5
            link.turn = number + 1
            stored = KvEvent(stored=KvEvent.Stored(blocks=block_hashes(prompt.array, BLOCK_TOKENS)))
            placement.on_kv_events(link, KvEvents(first_sequence=link.next_kv_event or 0, events=[stored]))
    return {
        "workers": workers,
        "prompt_tokens": tokens,
        "index_blocks": len(placement.index),
        "decision_p50_ms": 1000 * float(np.quantile(times, 0.5)),
        "decision_p99_ms": 1000 * float(np.quantile(times, 0.99)),
    }
