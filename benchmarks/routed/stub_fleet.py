"""Workers without an engine: they attach as real ones do, tell of the blocks that they would have, and answer at once.

Run as a process of its own: ``python stub_fleet.py ROUTER PREFILL DECODE BLOCKS``. Each worker's cache holds BLOCKS
blocks of 16 tokens; the oldest go first.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict

import grpc.aio
import numpy as np

from segue.base.block_hash import block_hashes
from segue.base.versions import PROTOCOL
from segue.proto.kv_transfer_pb2 import BlockLayout, Ticket
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    EngineUsage,
    KvEvent,
    Load,
    Register,
    RequestOutput,
    Role,
    RouterFrame,
    Status,
    Submit,
    Transfer,
    WorkerFrame,
    WorkerState,
)
from segue.proto.worker_pb2_grpc import WorkerHubStub
from segue.worker.outbox import Outbox

BLOCK_TOKENS = 16
LAYOUT = BlockLayout(
    model="stub", dtype="bfloat16", block_tokens=BLOCK_TOKENS, layers=32, block_bytes=2 << 20, order="LBHNC"
)
_LENGTH = FinishReason.FINISH_REASON_LENGTH
_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]
# What it would take; only the planner sees it.
_PREFILL_TOKENS_PER_S, _LINK_BYTES_PER_S = 50_000.0, 25e9


class StubWorker:
    def __init__(self, worker_id: str, role: Role, blocks: int, vocab_size: int) -> None:
        self._register = Register(worker_id=worker_id, epoch="1", role=role, address="127.0.0.1:1", protocol=PROTOCOL)
        facts = EngineFacts(
            engine="stub",
            model="stub",
            max_model_len_tokens=1 << 17,
            vocab_size=vocab_size,
            layout=LAYOUT,
            kv_blocks=blocks,
            transport="grpc",
            max_running_requests=256,
        )
        self._status = Status(state=WorkerState.WORKER_STATE_READY, facts=facts)
        self._blocks = blocks
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._outbox = Outbox()
        self._steps = 0

    async def run(self, router: str) -> None:
        async with grpc.aio.insecure_channel(router, _OPTIONS) as channel:
            call = WorkerHubStub(channel).Attach()  # type: ignore[call-arg]
            await call.write(WorkerFrame(register=self._register, status=self._status))
            self._outbox.start_kv_events(list)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(call))
                tasks.create_task(self._keep_lease())
                while isinstance(frame := await call.read(), RouterFrame):
                    for submit in frame.submit:
                        self._answer(submit)

    async def _write(self, call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        while True:
            await call.write(await self._outbox.take())

    async def _keep_lease(self) -> None:
        while True:
            self._outbox.put_load(self._load(0))
            await asyncio.sleep(1.0)

    def _load(self, prompt_tokens: int) -> Load:
        return Load(
            free_blocks=self._blocks,
            steps=self._steps,
            step_requests=1,
            step_prompt_tokens=prompt_tokens,
            step_s=0.01 + prompt_tokens / _PREFILL_TOKENS_PER_S,
        )

    def _answer(self, submit: Submit) -> None:
        tokens = len(submit.input_token_ids)
        names = block_hashes(np.array(submit.input_token_ids, dtype=np.uint32), BLOCK_TOKENS)
        cached = next((number for number, name in enumerate(names) if name not in self._cache), len(names))
        self._store(names, cached)
        computed = tokens - cached * BLOCK_TOKENS
        output = RequestOutput(request_id=submit.request_id, token_ids=[7], finish_reason=_LENGTH)
        if self._register.role == Role.ROLE_PREFILL:
            output.usage.CopyFrom(EngineUsage(input_tokens=tokens, cached_tokens=tokens - computed))
            output.usage.computed_tokens = computed
            output.offer.CopyFrom(
                Ticket(
                    ticket_id=f"kv-{submit.request_id}",
                    producer_id=self._register.worker_id,
                    producer_epoch="1",
                    request_id=submit.request_id,
                    layout=LAYOUT,
                    tokens=tokens,
                    blocks=len(names),
                )
            )
        else:
            output.token_ids.extend([8] * (submit.sampling.max_tokens - 1))
            output.usage.CopyFrom(EngineUsage(input_tokens=tokens, computed_tokens=1, transferred_tokens=computed))
            moved = computed // BLOCK_TOKENS * LAYOUT.block_bytes
            output.transfer.CopyFrom(Transfer(transport="grpc", bytes=moved, seconds=0.001 + moved / _LINK_BYTES_PER_S))
        self._steps += 1
        self._outbox.put_load(self._load(1 if submit.HasField("ticket") else computed))
        self._outbox.put_outputs([output])

    def _store(self, names: list[int], cached: int) -> None:
        for name in names[:cached]:
            self._cache.move_to_end(name)
        new = names[cached:]
        events = []
        removed = []
        while self._cache and len(self._cache) + len(new) > self._blocks:
            removed.append(self._cache.popitem(last=False)[0])
        if removed:
            events.append(KvEvent(removed=KvEvent.Removed(blocks=removed)))
        if new:
            parent = names[cached - 1] if cached else 0
            events.append(KvEvent(stored=KvEvent.Stored(parent=parent, blocks=new)))
            self._cache.update(dict.fromkeys(new))
        self._outbox.put_kv_events(events)


async def main(router: str, prefill: int, decode: int, blocks: int) -> None:
    vocab_size = 2048  # The embedded model's.
    async with asyncio.TaskGroup() as tasks:
        for role, name, count in ((Role.ROLE_PREFILL, "prefill", prefill), (Role.ROLE_DECODE, "decode", decode)):
            for number in range(count):
                worker = StubWorker(f"{name}-{number}", role, blocks, vocab_size)
                tasks.create_task(worker.run(router))


if __name__ == "__main__":
    import uvloop

    router, prefill, decode, blocks = sys.argv[1:]
    uvloop.run(main(router, int(prefill), int(decode), int(blocks)))
