"""A prefill and a decode worker without engines: they speak the real frames, answer prompts at once and give every
stream a token at a set cadence, all in one frame.

python -m front.pair --router 127.0.0.1:9100 --model DIR --cadence-ms 5
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence

import grpc.aio
import uvloop

from segue.base.versions import PROTOCOL
from segue.proto.kv_transfer_pb2 import BlockLayout, Ticket
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    EngineUsage,
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
from segue.router.text.tokenizer import TextCodec
from segue.worker.attachment import CHANNEL_OPTIONS

_LOAD_INTERVAL_S = 1.0
_LAYOUT = BlockLayout(model="none", dtype="bfloat16", block_tokens=16, layers=1, block_bytes=1, order="BHNC")


class PacedWorker:
    """One worker, attached to one router. Prefill answers at once, decode with every tick."""

    def __init__(self, role: Role, worker_id: str, vocab_size: int, token_ids: Sequence[int], cadence_s: float) -> None:
        self._role = role
        self._token_ids = token_ids
        self._cadence_s = cadence_s
        self._waiting = WorkerFrame()
        self._filled = asyncio.Event()
        self._streams: dict[str, _Stream] = {}
        self._register = Register(
            worker_id=worker_id, epoch=os.urandom(4).hex(), role=role, address="127.0.0.1:1", protocol=PROTOCOL
        )
        facts = EngineFacts(
            engine="paced",
            model="paced",
            max_model_len_tokens=1 << 17,
            vocab_size=vocab_size,
            layout=_LAYOUT,
            transport="grpc",
            max_running_requests=4096,
        )
        self._status = Status(state=WorkerState.WORKER_STATE_READY, facts=facts)

    async def attach(self, address: str) -> None:
        """Work for one router until it ends the stream."""
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            call = WorkerHubStub(channel).Attach()  # type: ignore[call-arg]
            await call.write(WorkerFrame(register=self._register, status=self._status))
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(work) for work in (self._write(call), self._tick())]
                while isinstance(frame := await call.read(), RouterFrame):
                    self._take(frame)
                for task in others:
                    task.cancel()

    def _take(self, frame: RouterFrame) -> None:
        for submit in frame.submit:
            if self._role == Role.ROLE_PREFILL:
                self._waiting.outputs.append(self._prefilled(submit))
                self._filled.set()
            else:
                self._streams[submit.request_id] = _Stream(submit)
        for request_id in frame.abort_request_ids:
            self._streams.pop(request_id, None)

    def _prefilled(self, submit: Submit) -> RequestOutput:
        tokens = len(submit.input_token_ids)
        output = RequestOutput(
            request_id=submit.request_id,
            token_ids=self._token_ids[:1],
            finish_reason=FinishReason.FINISH_REASON_LENGTH,
            usage=EngineUsage(input_tokens=tokens, computed_tokens=tokens),
        )
        if submit.offer_kv:
            ticket = Ticket(
                ticket_id=f"kv-{submit.request_id}",
                producer_id=self._register.worker_id,
                producer_epoch=self._register.epoch,
                request_id=submit.request_id,
                layout=_LAYOUT,
                tokens=tokens,
                blocks=1,
                lease_s=30.0,
            )
            output.offer.CopyFrom(ticket)
        return output

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        at_s, step = loop.time(), 0
        load_s = 0.0
        while True:
            at_s = max(at_s + self._cadence_s, loop.time())
            await asyncio.sleep(at_s - loop.time())
            step += 1
            token_id = self._token_ids[step % len(self._token_ids)]
            finished = {name for name, stream in self._streams.items() if stream.advance(token_id)}
            for name, stream in self._streams.items():
                if name in finished:
                    self._waiting.outputs.append(stream.output)
                else:
                    self._waiting.tokens.streams.append(stream.number)
                    self._waiting.tokens.token_ids.append(token_id)
            if self._streams or at_s - load_s > _LOAD_INTERVAL_S:
                load_s = at_s
                self._waiting.load.CopyFrom(Load(running_requests=len(self._streams), step_s=self._cadence_s))
                self._filled.set()
            for name in finished:
                del self._streams[name]

    async def _write(self, call: grpc.aio.StreamStreamCall[WorkerFrame, RouterFrame]) -> None:
        while True:
            await self._filled.wait()
            frame, self._waiting = self._waiting, WorkerFrame()
            self._filled.clear()
            await call.write(frame)


class _Stream:
    """One request's decode; ``output`` is what the present tick gives it."""

    __slots__ = ("_left", "number", "output")

    def __init__(self, submit: Submit) -> None:
        self._left = submit.sampling.max_tokens
        self.number = submit.stream
        self.output = RequestOutput(request_id=submit.request_id, token_ids=[0])

    def advance(self, token_id: int) -> bool:
        """Whether that was the last one."""
        self._left -= 1
        self.output.token_ids[0] = token_id
        if self._left > 0:
            return False
        self.output.finish_reason = FinishReason.FINISH_REASON_LENGTH
        self.output.usage.CopyFrom(EngineUsage(computed_tokens=1))
        self.output.transfer.CopyFrom(Transfer(transport="grpc", bytes=4096, seconds=0.001))
        return True


def readable_tokens(codec: TextCodec) -> list[int]:
    """Ids of tokens that are text by themselves, so that each of them is an event: a thousand at most."""
    table = enumerate(codec.output_bytes)
    return [id_ for id_, data in table if data.isascii() and data.decode().strip().isalnum()][:1000]


async def _serve(options: argparse.Namespace) -> None:
    codec = TextCodec.load(options.model)
    token_ids = readable_tokens(codec)
    async with asyncio.TaskGroup() as tasks:
        for router in options.router:
            for role, name in ((Role.ROLE_PREFILL, "prefill-0"), (Role.ROLE_DECODE, "decode-0")):
                worker = PacedWorker(role, name, codec.vocab_size, token_ids, options.cadence_ms / 1e3)
                tasks.create_task(worker.attach(router))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--router", action="append", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cadence-ms", type=float, required=True)
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
