"""What the tests of a whole simulated engine share: someone who listens, and prompts to submit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from segue.base.tls import TlsFiles
from segue.engine.settings import EngineRole, EngineSettings
from segue.engine.simulated.engine import SimulatedEngine
from segue.engine.simulated.kv_peers import KvPeers
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import EngineFacts, KvEvent, Load, RequestOutput, Submit

# Hours of the hardware's time in seconds: only the order of things is left.
FAST = {"speed": 1000.0}


@dataclass
class Listener:
    facts: EngineFacts = field(default_factory=EngineFacts)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    last: dict[str, RequestOutput] = field(default_factory=dict)
    events: list[KvEvent] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    on_tokens: Callable[[RequestOutput], None] = lambda output: None

    def on_loaded(self) -> None:
        return

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        for output in outputs:
            assert output.request_id not in self.last, "an output behind the last one"
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason:
                self.last[output.request_id] = output
            self.on_tokens(output)

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        self.events.extend(events)

    def on_failure(self, error: BaseException) -> None:
        self.failures.append(error)

    async def end_of(self, request_id: str) -> RequestOutput:
        await until(lambda: request_id in self.last)
        return self.last[request_id]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(
    model: str,
    role: EngineRole = "decode",
    name: str = "w",
    peers: KvPeers | None = None,
    tls: TlsFiles | None = None,
    **args: object,
) -> AsyncIterator[tuple[SimulatedEngine, Listener]]:
    settings = EngineSettings(
        model=model,
        role=role,
        kind="simulated",
        worker_id=name,
        epoch=f"epoch-of-{name}",
        lease_s=float(str(args.pop("lease_s", 30.0))),
        engine_args={**FAST, **args},
        tls=tls,
    )
    engine, listener = SimulatedEngine(settings, peers), Listener()
    try:
        listener.facts = await engine.start(listener)
        yield engine, listener
        assert listener.failures == [] or "fail_after_s" in args
    finally:
        await engine.stop()


def leg(
    request_id: str,
    prompt: Sequence[int],
    max_tokens: int = 1,
    *,
    ticket: Ticket | None = None,
    offer_kv: bool = False,
    forced: Sequence[int] = (),
    priority: int = 0,
    **sampling: object,
) -> Submit:
    return Submit(
        request_id=request_id,
        input_token_ids=prompt,
        sampling=SamplingParams(max_tokens=max_tokens, **{"ignore_eos": True, **sampling}),  # type: ignore[arg-type]
        timeout_s=30,
        ticket=ticket,
        offer_kv=offer_kv,
        forced_token_ids=forced,
        priority=priority,
    )
