"""What legs that are over leave behind in a simulated engine: blocks in its prefix cache, and nothing else."""

from __future__ import annotations

import gc
from functools import partial

from segue.engine.simulated.kv_peers import KvPeers
from segue.engine.simulated.request import SimRequest
from tests.engine.simulated.listening import leg, running, until

PROMPT = list(range(100, 164))


def left() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, SimRequest)]


async def test_nothing_of_a_leg_outlives_it_but_its_blocks(model: str) -> None:
    peers = KvPeers("127.0.0.1")
    async with (
        running(model, "prefill", "p", peers, num_gpu_blocks_override=64) as (prefill, offers),
        running(model, "decode", "d", peers, num_gpu_blocks_override=64) as (decode, answers),
    ):
        gc.collect()
        before = len(left())  # Other tests'.
        gc.disable()  # What would wait for it is looked at too seldom: whole processes of workers keep it.
        try:
            for number in range(40):
                name, prompt = f"r{number}", [number, *PROMPT]
                prefill.submit(leg(name, prompt, offer_kv=True))
                offer = (await offers.end_of(name)).offer
                first = offers.tokens[name]
                decode.submit(leg(name, [*prompt, *first], 20, ticket=offer))
                if number % 4:
                    await answers.end_of(name)
                else:
                    await until(partial(answers.tokens.get, name))
                    decode.abort(name)
            await until(lambda: len(left()) <= before)
        finally:
            gc.enable()
        assert decode.load().running_requests == 0
    await peers.close()
