"""A simulated engine: an :class:`~segue.engine.protocol.Engine` that computes nothing and takes as long as if it did.

Everything happens on the event loop. One timer stands for the step under way; when it ends, all its requests get their
tokens in one call and the next step is planned.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from segue.base.logging import get_logger
from segue.base.tls import load_tls
from segue.engine.protocol import EngineListener
from segue.engine.settings import EngineRole, EngineSettings
from segue.engine.simulated.answers import failed, last_output, refusal_of
from segue.engine.simulated.cache import BlockCache
from segue.engine.simulated.consumer import Consumer
from segue.engine.simulated.facts import engine_facts, read_vocabulary
from segue.engine.simulated.kv_peers import KvPeers
from segue.engine.simulated.link import Link
from segue.engine.simulated.producer import Producer, ProducerIdentity
from segue.engine.simulated.request import Phase, SimRequest
from segue.engine.simulated.scheduler import BatchLimits, Scheduler, Step
from segue.engine.simulated.settings import simulation_settings
from segue.proto.sampling_pb2 import FINISH_REASON_ABORT, FINISH_REASON_LENGTH, FINISH_REASON_STOP, FinishReason
from segue.proto.worker_pb2 import EngineCounters, EngineFacts, Load, RequestError, RequestOutput, Submit, Transfer

log = get_logger("engine")


class SimulationFailed(Exception):
    """What ``fail_after_s`` brings about."""


class SimulatedEngine:
    """``peers`` is shared by the engines of a process; without it the engine has its own."""

    def __init__(self, settings: EngineSettings, peers: KvPeers | None = None) -> None:
        """Raises SettingsError for engine arguments that it doesn't know, or values that they can't have."""
        self._settings = settings
        self._simulation = simulation_settings(settings.engine_args)
        self._timing = self._simulation.timing
        self._own_peers = peers is None
        self._peers = peers or KvPeers(settings.host, settings.kv_port, load_tls(settings.tls))
        self._random = random.Random(f"{self._simulation.seed}/{settings.worker_id}")
        self._requests: dict[str, SimRequest] = {}
        self._answers: list[RequestOutput] = []  # What didn't come of a step, to go out with the next one.
        self._counters = EngineCounters()
        self._timer: asyncio.Handle | None = None
        self._failing: asyncio.TimerHandle | None = None
        self._steps = 0
        self._last_step = (0.0, 0, 0)
        self._started = False
        self._ended = False

    async def start(self, listener: EngineListener) -> EngineFacts:
        settings, simulation = self._settings, self._simulation
        self._vocabulary = read_vocabulary(settings.model)
        facts = engine_facts(settings, simulation, self._vocabulary, "")
        await self._peers.start()
        facts.kv_address = settings.advertise_kv or self._peers.address
        self._facts = facts
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._max_len_tokens = facts.max_model_len_tokens
        self._cache = BlockCache(facts.kv_blocks, simulation.enable_prefix_caching)
        limits = BatchLimits(simulation.max_num_seqs, simulation.max_num_batched_tokens)
        self._scheduler = Scheduler(self._cache, simulation.block_size, limits)
        identity = ProducerIdentity(settings.worker_id, settings.epoch, facts.kv_address, settings.lease_s)
        self._producer = Producer(identity, self._cache, facts.layout, self._new_link(), self._free)
        self._consumer = Consumer(self._peers, facts.layout, self._new_link(), self._on_arrived)
        self._peers.add(settings.epoch, self._producer)
        self._started = True
        if simulation.fail_after_s is not None:
            self._failing = self._loop.call_later(simulation.fail_after_s, self._fail)
        log.info("simulated", gpu=simulation.gpu, model_shape=simulation.model_shape, speed=simulation.speed)
        listener.on_loaded()
        return facts

    def submit(self, submit: Submit) -> None:
        refusal = refusal_of(submit, self._vocabulary.size, self._max_len_tokens)
        if refusal is None and self._random.random() < self._simulation.error_rate:
            refusal = RequestError(
                kind=RequestError.KIND_UNAVAILABLE, message="a simulated failure, as error_rate has it"
            )
        if refusal is not None:
            if submit.HasField("ticket"):
                self._consumer.release(submit.ticket, "refused")
            self._answers.append(failed(submit.request_id, refusal))
        else:
            request = SimRequest(submit, self._vocabulary.size, self._vocabulary.eos, self._max_len_tokens)
            request.taken_s = self._loop.time()
            self._requests[request.request_id] = request
            self._scheduler.add(request)
        self._wake()

    def abort(self, request_id: str) -> None:
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self._let_go(request)
        if request.ticket is not None:
            self._consumer.release(request.ticket, "cancelled")
        self._scheduler.remove(request)
        self._wake()

    def move(self, request_id: str) -> None:
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        output = last_output(request, FINISH_REASON_ABORT)
        # Who moves a request that has yet to claim still has the ticket, and what is on its way is nobody's.
        has_kv = request.computed > 0 and request.phase is not Phase.RECEIVING
        self._let_go(request)
        self._scheduler.remove(request, keep_blocks=has_kv)
        if has_kv:
            output.offer.CopyFrom(self._producer.offer(request))
        self._answers.append(output)
        self._wake()

    async def take_role(self, role: EngineRole) -> EngineFacts:
        return self._facts  # It does what it is asked for, in either role.

    def load(self) -> Load:
        if not self._started:
            return Load()
        step_s, prompt_tokens, requests = self._last_step
        scheduler = self._scheduler
        return Load(
            running_requests=len(scheduler.running),
            waiting_requests=scheduler.waiting_requests,
            waiting_tokens=scheduler.waiting_tokens(),
            free_blocks=self._cache.free_blocks,
            held_offers=len(self._producer),
            step_s=step_s,
            step_prompt_tokens=prompt_tokens,
            step_requests=requests,
            steps=self._steps,
        )

    def counters(self) -> EngineCounters:
        copy = EngineCounters()
        copy.CopyFrom(self._counters)
        return copy

    async def stop(self) -> None:
        self._end()
        if self._started:
            self._peers.remove(self._settings.epoch)
            self._producer.close()
            await self._consumer.close()
        if self._own_peers:
            await self._peers.close()

    def _new_link(self) -> Link:
        simulation = self._simulation
        return Link(simulation.link_bytes_per_s * simulation.speed, simulation.link_latency_s / simulation.speed)

    def _wake(self) -> None:
        """Begin a step once all that came in this turn of the event loop is in, unless one is under way."""
        if self._timer is None and not self._ended:
            self._timer = self._loop.call_soon(self._begin_step)

    def _end(self) -> None:
        """No step begins any more, and the one under way never ends."""
        self._ended = True
        for handle in (self._timer, self._failing):
            if handle is not None:
                handle.cancel()

    def _begin_step(self) -> None:
        step = self._scheduler.plan()
        for request in step.claims:
            self._consumer.claim(request)
        for request in step.unneeded:
            assert request.ticket is not None
            self._consumer.release(request.ticket, "acknowledged")
            request.ticket = None
        if not step.parts:
            self._timer = None
            self._tell([])
            return
        step_s = self._step_s(step)
        self._timer = self._loop.call_later(step_s, self._end_step, step, step_s)

    def _step_s(self, step: Step) -> float:
        """How long it will take."""
        step_s = self._timing.step_s(step.work) / self._simulation.speed
        if self._simulation.jitter:
            step_s *= self._random.lognormvariate(0.0, self._simulation.jitter)
        return step_s

    def _end_step(self, step: Step, step_s: float) -> None:
        self._steps += 1
        self._last_step = (step_s, step.prompt_tokens, len(step.parts))
        outputs = []
        now_s = self._loop.time()
        for request, tokens in step.parts:
            if request.phase is not Phase.RUNNING:
                continue  # Aborted or moved meanwhile.
            if not request.scheduled_s:
                request.scheduled_s = now_s - step_s
            self._scheduler.computed(request, tokens)
            if request.computed < len(request.tokens):
                continue
            if not request.generated:
                request.first_token_s = now_s
            token = request.sample()
            if reason := request.finish_reason():
                outputs.append(self._finish(request, token, reason))
            else:
                outputs.append(RequestOutput(request_id=request.request_id, token_ids=(token,)))
        self._counters.generated_tokens += len(outputs)
        self._tell(outputs)
        self._begin_step()

    def _finish(self, request: SimRequest, token: int, reason: FinishReason) -> RequestOutput:
        output = last_output(request, reason)
        output.token_ids.append(token)
        if reason == FINISH_REASON_STOP and (stop := request.stop_token_id) is not None:
            output.stop_token_id = stop
        offers = request.offer_kv and reason == FINISH_REASON_LENGTH
        del self._requests[request.request_id]
        self._scheduler.remove(request, keep_blocks=offers)
        if offers:
            output.offer.CopyFrom(self._producer.offer(request))
        self._count(request, output)
        return output

    def _count(self, request: SimRequest, output: RequestOutput) -> None:
        counters, usage = self._counters, output.usage
        counters.requests += 1
        counters.input_tokens += usage.input_tokens
        counters.cached_tokens += usage.cached_tokens
        counters.transferred_tokens += usage.transferred_tokens
        counters.computed_tokens += usage.computed_tokens
        counters.max_generated_tokens_per_request = max(counters.max_generated_tokens_per_request, request.generated)
        counters.max_computed_tokens_per_request = max(counters.max_computed_tokens_per_request, usage.computed_tokens)

    def _let_go(self, request: SimRequest) -> None:
        """A request that ends early: what it is fetching is given up, and its ticket with it."""
        if request.phase is Phase.RECEIVING:
            self._consumer.cancel(request)
            request.ticket = None

    def _on_arrived(self, request: SimRequest, transfer: Transfer, loaded: bool) -> None:
        """Its claim has ended; without the KV cache it computes its prompt itself."""
        if request.phase is not Phase.RECEIVING:
            return
        assert request.ticket is not None
        request.transfer = transfer
        if loaded:
            before = request.computed
            last = min(request.ticket.tokens, len(request.tokens) - 1)
            self._scheduler.computed(request, last - before)
            request.transferred_tokens = request.ticket.tokens - before
        request.ticket = None
        self._scheduler.received(request)
        self._wake()

    def _free(self, block_ids: Sequence[int]) -> None:
        """An offer's blocks are nobody's any more: there may be a request that waits for them."""
        self._cache.release(block_ids)
        self._wake()

    def _tell(self, outputs: list[RequestOutput]) -> None:
        if self._answers:
            outputs = self._answers + outputs
            self._answers = []
        if events := self._cache.take_events():
            self._listener.on_kv_events(events)
        self._listener.on_step(outputs, self.load())

    def _fail(self) -> None:
        self._end()
        fail_after_s = self._simulation.fail_after_s
        self._listener.on_failure(SimulationFailed(f"it was to break {fail_after_s:g} s after its start"))
