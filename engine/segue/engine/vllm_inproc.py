"""vLLM in this process, on one thread: the default on CPU, where it starts in seconds and needs no second process.

The thread owns the engine; everybody else sends it commands. It steps while there is work and otherwise sleeps until
a command arrives or a KV transfer ends (:data:`segue.kv_transfer.connector_config.wake_engine`).
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from segue.base.errors import SettingsError
from segue.base.logging import get_logger
from segue.engine.protocol import EngineListener
from segue.engine.settings import EngineRole, EngineSettings
from segue.engine.vllm_config import KvPort, connector_config, engine_arguments, most_running
from segue.engine.warm_up import warm_up_submits
from segue.kv_transfer.connector_config import wake_engine
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import EngineCounters, EngineFacts, Load, RequestError, RequestOutput, Submit

if TYPE_CHECKING:
    from segue.engine.vllm_counters import Counters
    from segue.engine.vllm_kv_events import TakenEvents

log = get_logger("engine")

# How often to look after transfers that can't wake us: NIXL has to be polled; with gRPC only leases need it.
_POLL_S = {"nixl": 0.001, "grpc": 0.05}
_STOP_TIMEOUT_S = 10.0  # For the step under way.


class InprocEngine:
    """An :class:`~segue.engine.protocol.Engine` around ``vllm.LLMEngine``."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._kv_port = KvPort(settings)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = False
        self._loaded = False
        self._counters: Counters | None = None
        self._kv_events: TakenEvents | None = None
        self._submits: dict[str, Submit] = {}
        self._answers: list[RequestOutput] = []  # What commands gave, to go out with the next step.
        self._load = Load()
        self._thread: threading.Thread | None = None

    async def start(self, listener: EngineListener) -> EngineFacts:
        loop = asyncio.get_running_loop()
        started: asyncio.Future[EngineFacts] = loop.create_future()
        wake_engine.set(self._wake.set)
        # Every torch operation gives the interpreter lock up and wants it back. At Python's 5 ms another thread in pure
        # Python holds up the step; at 0.5 ms eight streams came 8 % faster.
        sys.setswitchinterval(0.0005)
        self._thread = threading.Thread(
            target=self._run, args=(loop, started, listener), name="vllm-engine", daemon=True
        )
        self._thread.start()
        return await started

    def submit(self, submit: Submit) -> None:
        self._command(lambda: self._add(submit))

    def abort(self, request_id: str) -> None:
        self._command(lambda: self._abort(request_id))

    def move(self, request_id: str) -> None:
        self._command(lambda: self._move(request_id))

    async def take_role(self, role: EngineRole) -> EngineFacts:
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[EngineFacts] = loop.create_future()
        self._command(lambda: self._post(loop, _set_unless_done, taken, self._take_role(role), None))
        return await taken

    def load(self) -> Load:
        return self._load

    def counters(self) -> EngineCounters:
        return self._counters.snapshot() if self._counters is not None else EngineCounters()

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._kv_port.close()
        if self._thread is not None and self._loaded:
            await asyncio.to_thread(self._thread.join, _STOP_TIMEOUT_S)

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.put(command)
        self._wake.set()

    # Below: on the engine's thread.

    def _run(
        self, loop: asyncio.AbstractEventLoop, started: asyncio.Future[EngineFacts], listener: EngineListener
    ) -> None:
        try:
            facts = self._build()
            self._post(loop, listener.on_loaded)
            self._warm_up()
        except Exception as error:  # noqa: BLE001 - vLLM raises what it likes; the caller gets it as it is.
            self._post(loop, _set_unless_done, started, None, error)
            return
        self._loaded = True
        self._post(loop, _set_unless_done, started, facts, None)
        try:
            told = self._load
            while not self._stopping:
                outputs = self._turn()
                if self._kv_events is not None and (events := self._kv_events.take()):
                    self._post(loop, listener.on_kv_events, events)
                if outputs or self._load != told:
                    told = self._load
                    self._post(loop, listener.on_step, outputs, told)
        except Exception as error:  # A step that raises leaves the engine in an unknown state: it is lost.
            log.exception("engine_failed")
            self._post(loop, listener.on_failure, error)
        finally:
            self._close()

    def _close(self) -> None:
        """End what others see of this engine: the connector, in both its halves.

        vLLM's own shutdown goes through the whole heap for garbage, twice, which takes a second or two of a drained
        worker's leave; what it would free goes with the process.
        """
        from vllm.distributed.kv_transfer import ensure_kv_transfer_shutdown

        ensure_kv_transfer_shutdown()
        self._scheduler.shutdown()

    @staticmethod
    def _post(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, *args)

    def _build(self) -> EngineFacts:
        from vllm import EngineArgs
        from vllm.exceptions import VLLMError
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        from segue.engine.vllm_counters import Counters, stat_logger_into
        from segue.engine.vllm_facts import engine_facts
        from segue.engine.vllm_kv_events import KvEventNames, TakenEvents
        from segue.engine.vllm_translate import OutputTranslator

        settings = self._settings
        connector = connector_config(settings, self._kv_port)
        arguments = {**engine_arguments(settings, connector), "kv_events_config": TakenEvents.config()}
        try:
            config = EngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
        except (ValueError, TypeError, OSError, VLLMError) as error:  # OSError: there is no such model.
            raise SettingsError(f"vLLM refuses its engine arguments: {error}") from error
        self._counters = Counters(lambda: self._kv_blocks)
        self._kv_blocks = 0
        self._engine = LLMEngine.from_vllm_config(config, stat_loggers=[stat_logger_into(self._counters)])
        self._scheduler: Any = self._engine.engine_core.engine_core.scheduler
        self._pool: Any = self._scheduler.kv_cache_manager.block_pool
        self._kv_blocks = self._pool.get_num_free_blocks()
        facts = engine_facts(settings, config, connector, self._kv_blocks)
        self._translator = OutputTranslator(connector, facts.layout, facts.transport)
        self._kv_events = TakenEvents(KvEventNames(facts.layout.block_tokens))
        self._scheduler.kv_event_publisher = self._kv_events
        self._facts = facts
        return self._take_role(settings.role) if settings.flex else facts

    def _take_role(self, role: EngineRole) -> EngineFacts:
        """What vLLM's scheduler admits is a number that it reads at every step; its places stay as many as they are."""
        running = most_running(role, self._scheduler.max_num_running_reqs)
        self._scheduler.max_num_active_reqs = running
        facts = EngineFacts()
        facts.CopyFrom(self._facts)
        facts.max_running_requests = running
        return facts

    def _warm_up(self) -> None:
        """Run what the first requests would otherwise wait for, then forget it."""
        for submit in warm_up_submits():
            self._add(submit)
        while self._submits:
            self._step()
        if self._answers:
            raise SettingsError(f"the engine failed its warm-up request: {self._answers[0].error.message}")
        self._engine.reset_prefix_cache()
        if self._counters is not None:
            self._counters.reset()

    def _turn(self) -> list[RequestOutput]:
        """Commands, then a step if there is anything to do, else sleep."""
        self._wake.clear()
        while not self._commands.empty():
            self._commands.get_nowait()()
        answers, self._answers = self._answers, []
        if not self._scheduler.has_requests():
            if not answers:
                self._wake.wait()
            return answers
        outputs = answers + self._step()
        scheduler = self._scheduler
        if not (outputs or scheduler.running or scheduler.finished_req_ids or scheduler.finished_recving_kv_req_ids):
            self._wake.wait(_POLL_S[self._settings.transport])
        return outputs

    def _step(self) -> list[RequestOutput]:
        outputs = []
        begin_s = time.monotonic()
        stepped = self._engine.step()
        took_s = time.monotonic() - begin_s
        for output in stepped:
            submit = self._submits.get(output.request_id)
            if submit is None:
                continue
            message = self._translator.translate(output, submit)
            if message.finish_reason:
                del self._submits[output.request_id]
            outputs.append(message)
        running, waiting = self._scheduler.get_request_counts()
        last = self._counters.load() if self._counters is not None else Load()
        self._load = Load(
            # A turn in which nothing was computed is no step.
            step_s=took_s if last.steps != self._load.steps else self._load.step_s,
            step_prompt_tokens=last.step_prompt_tokens,
            step_requests=last.step_requests,
            steps=last.steps,
            running_requests=running,
            waiting_requests=waiting,
            waiting_tokens=sum(request.num_tokens for request in self._scheduler.waiting),
            free_blocks=self._pool.get_num_free_blocks(),
            held_offers=len(self._scheduler.requests) - running - waiting,
        )
        return outputs

    def _add(self, submit: Submit) -> None:
        from vllm.exceptions import VLLMClientError

        from segue.engine.vllm_translate import to_vllm_sampling

        try:
            own_id = self._engine.add_request(
                submit.request_id,
                {"prompt_token_ids": list(submit.input_token_ids)},
                to_vllm_sampling(submit),
                priority=submit.priority,  # Without effect unless scheduling_policy is "priority".
            )
        except (ValueError, VLLMClientError) as error:  # The request's own fault; the engine has not taken it in.
            self._answers.append(
                RequestOutput(
                    request_id=submit.request_id,
                    finish_reason=FinishReason.FINISH_REASON_ERROR,
                    error=RequestError(kind=RequestError.KIND_INVALID, message=str(error)),
                )
            )
            return
        self._submits[submit.request_id] = submit
        if submit.sampling.HasField("structured_outputs"):
            self._wake_when_compiled(own_id)

    def _wake_when_compiled(self, own_id: str) -> None:
        """vLLM, whose own id of the request this is, compiles on a thread and tells nobody when it is done."""
        compiling: Any = self._scheduler.requests[own_id].structured_output_request._grammar
        if isinstance(compiling, Future):
            compiling.add_done_callback(lambda _: self._wake.set())

    def _abort(self, request_id: str) -> None:
        if self._submits.pop(request_id, None) is not None:
            self._engine.abort_request([request_id])

    def _move(self, request_id: str) -> None:
        from segue.engine.vllm_move import stop_and_offer

        if (submit := self._submits.pop(request_id, None)) is not None:
            stopped = stop_and_offer(self._engine, request_id)
            self._answers.append(self._translator.stopped(submit, stopped))


def _set_unless_done(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
