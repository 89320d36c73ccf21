"""Ten times what a simulated cluster can do, on a virtual clock: who is taken is in time, who is refused would not be.

All answers have one length and begin together: in their steps nothing comes free for a long time, then everything.
"""

from __future__ import annotations

import asyncio
import random

from virtual.clock import run_virtually
from virtual.cluster import Answer, Pools, VirtualCluster, virtual_cluster

from segue.engine.embedded_model import ensure_embedded_model
from segue.router.queueing.admission import Admission
from segue.router.queueing.slo import SloClass, SloClasses

PLACES, OUTPUT_TOKENS, PROMPT_TOKENS = 16, 96, 200
MOST_S = 1.0
POOLS = Pools(decode_args={"gpu": "L40S", "max_num_seqs": PLACES}, prefill_args={"gpu": "L40S"})
ADMISSION = Admission(MOST_S, SloClasses([SloClass("chat", ttft_s=5.0)]))


async def offer(cluster: VirtualCluster, per_s: float, seconds: float, seed: int) -> list[Answer]:
    """At random times, whatever becomes of them."""
    draw, loop = random.Random(seed), asyncio.get_running_loop()
    end_s = loop.time() + seconds
    tasks: list[asyncio.Future[Answer]] = []
    while True:
        await asyncio.sleep(draw.expovariate(per_s))
        if loop.time() > end_s:
            return await asyncio.gather(*tasks)
        prompt = [draw.randrange(10, 2000) for _ in range(PROMPT_TOKENS)]
        tasks.append(asyncio.ensure_future(cluster.ask(prompt, OUTPUT_TOKENS)))


def test_who_is_taken_is_in_time_and_all_are_once_the_load_is_gone() -> None:
    async def run() -> tuple[list[Answer], list[Answer], float]:
        async with virtual_cluster(ensure_embedded_model(), POOLS, ADMISSION) as cluster:
            await offer(cluster, 2.0, 6.0, seed=1)  # Rates are learned.
            stay_s = OUTPUT_TOKENS * (await cluster.ask([5] * PROMPT_TOKENS, OUTPUT_TOKENS)).itl_s
            over = asyncio.ensure_future(offer(cluster, 10 * PLACES / stay_s, 8.0, seed=2))
            await asyncio.sleep(8.0)
            return await over, await offer(cluster, 0.5 * PLACES / stay_s, 6.0, seed=3), stay_s

    overload, behind, stay_s = run_virtually(run)
    taken = [answer for answer in overload if not answer.refused]
    late = [answer.ttft_s for answer in taken[PLACES:] if answer.ttft_s > MOST_S + 0.15]
    assert not late
    assert len(taken) > 0.85 * PLACES * 8.0 / stay_s
    # Whoever comes then and is refused is so because places don't come free before; nobody is once one has.
    refused_s = [answer.sent_s - behind[0].sent_s for answer in behind if answer.refused]
    assert all(seconds < stay_s - MOST_S for seconds in refused_s)
    assert all(answer.ttft_s < MOST_S + 0.15 for answer in behind if not answer.refused)
