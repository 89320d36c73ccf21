"""vLLM's ``AsyncLLM``: the engine core in a process of its own. The default on GPUs.

The KV connector runs in that other process; nothing here touches blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from segue.base.errors import SettingsError
from segue.base.identity import worker_dns
from segue.base.logging import get_logger
from segue.base.tls import load_mesh
from segue.base.tls_grpc import open_aio_channel
from segue.engine.core_watch import HeldOffers, watch_core
from segue.engine.daemon_thread import on_daemon_thread
from segue.engine.protocol import EngineListener
from segue.engine.settings import EngineRole, EngineSettings
from segue.engine.vllm_config import KvPort, connector_config, engine_arguments
from segue.engine.warm_up import warm_up_submits
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import EngineCounters, EngineFacts, Load, RequestError, RequestOutput, Submit

if TYPE_CHECKING:
    from segue.engine.vllm_counters import Counters
    from segue.engine.vllm_kv_socket import SubscribedEvents

log = get_logger("engine")

_STOP_TIMEOUT_S = 2.0  # For aborts to reach the engine core, which is shut down in any case.


class AsyncEngine:
    """An :class:`~segue.engine.protocol.Engine` around ``vllm.v1.engine.async_llm.AsyncLLM``.

    Each request is a task that reads its stream; what all of them got in one turn of the loop is one step.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._kv_port = KvPort(settings)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # Of requests that may still be aborted.
        self._ending: set[asyncio.Task[None]] = set()  # All of them, those that were aborted too, and moves.
        self._begun: set[str] = set()  # Those of them that have tokens.
        self._step: list[RequestOutput] = []
        self._flush_due = False
        self._counters: Counters | None = None
        self._llm: Any = None
        self._held = HeldOffers()
        self._kv_events: SubscribedEvents | None = None
        self._watching: list[asyncio.Task[None]] = []

    async def start(self, listener: EngineListener) -> EngineFacts:
        from vllm import AsyncEngineArgs
        from vllm.exceptions import VLLMError
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        from segue.engine.vllm_counters import Counters, stat_logger_into
        from segue.engine.vllm_facts import engine_facts
        from segue.engine.vllm_kv_events import KvEventNames
        from segue.engine.vllm_kv_socket import SubscribedEvents
        from segue.engine.vllm_translate import OutputTranslator

        self._listener = listener
        settings = self._settings
        connector = connector_config(settings, self._kv_port)
        self._kv_events = SubscribedEvents()
        self._kv_events.connect()
        arguments = {**engine_arguments(settings, connector), "kv_events_config": self._kv_events.config()}
        try:
            config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
        except (ValueError, TypeError, OSError, VLLMError) as error:  # OSError: there is no such model.
            raise SettingsError(f"vLLM refuses its engine arguments: {error}") from error
        self._counters = Counters(lambda: self._kv_blocks)
        self._kv_blocks = 0
        # Blocks while the engine core starts; on a thread, so that the worker can say that it is loading.
        loggers = [stat_logger_into(self._counters)]
        self._llm = await on_daemon_thread(
            lambda: AsyncLLM.from_vllm_config(config, stat_loggers=loggers), name="vllm-load"
        )
        self._kv_blocks = (config.cache_config.num_gpu_blocks or 1) - 1  # Block 0 is vLLM's null block.
        facts = self._facts = engine_facts(settings, config, connector, self._kv_blocks)
        self._translator = OutputTranslator(connector, facts.layout, facts.transport)
        listener.on_loaded()
        await self._warm_up()
        names = KvEventNames(facts.layout.block_tokens)
        self._watching = [
            asyncio.create_task(self._watch(connector.address), name="engine-core"),
            asyncio.create_task(self._kv_events.read(names, listener.on_kv_events), name="kv-events"),
        ]
        return facts

    def submit(self, submit: Submit) -> None:
        self._tasks[submit.request_id] = self._start(self._run(submit), submit.request_id)

    def abort(self, request_id: str) -> None:
        self._begun.discard(request_id)
        if (task := self._tasks.pop(request_id, None)) is not None:
            task.cancel()  # AsyncLLM aborts a request whose reader is cancelled.

    def move(self, request_id: str) -> None:
        """With an offer if it has begun: what has no token yet has nothing to offer, and would first have to run."""
        if request_id in self._begun:
            self._start(self._move(request_id), f"move {request_id}")
        else:
            self._stop(request_id)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _move(self, request_id: str) -> None:
        from segue.engine.vllm_move import order_move

        try:
            await order_move(self._llm, request_id)
        except Exception:  # Whatever vLLM raises: the request can still be stopped without an offer.
            log.exception("move_failed", request_id=request_id)
            self._stop(request_id)

    def _stop(self, request_id: str) -> None:
        """Without an offer."""
        if request_id in self._tasks:
            self.abort(request_id)
            self._add_output(RequestOutput(request_id=request_id, finish_reason=FinishReason.FINISH_REASON_ABORT))

    async def take_role(self, role: EngineRole) -> EngineFacts:
        """The engine core is told nothing: on GPUs it schedules both roles alike. On CPU it goes on computing several
        prompts at once in the prefill role, which costs the first of them time."""
        return self._facts

    def load(self) -> Load:
        if self._counters is None:
            return Load()
        load = self._counters.load()
        load.held_offers = self._held.at_least(asyncio.get_running_loop().time())
        return load

    def counters(self) -> EngineCounters:
        return self._counters.snapshot() if self._counters is not None else EngineCounters()

    async def stop(self) -> None:
        self._kv_port.close()
        for task in self._watching:
            task.cancel()
        if self._kv_events is not None:
            self._kv_events.close()
        self._tasks.clear()
        self._begun.clear()
        for task in self._ending:
            task.cancel()
        if self._ending:
            await asyncio.wait(self._ending, timeout=_STOP_TIMEOUT_S)
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)

    async def _warm_up(self) -> None:
        for submit in warm_up_submits():
            async for output in self._outputs(submit):
                if output.HasField("error"):
                    raise SettingsError(f"the engine failed its warm-up request: {output.error.message}")
        await self._llm.reset_prefix_cache()
        if self._counters is not None:
            self._counters.reset()

    async def _run(self, submit: Submit) -> None:
        async for output in self._outputs(submit):
            if output.finish_reason:
                self._tasks.pop(submit.request_id, None)
                self._begun.discard(submit.request_id)
            elif output.token_ids:
                self._begun.add(submit.request_id)
            self._add_output(output)

    async def _outputs(self, submit: Submit):  # type: ignore[no-untyped-def]
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        from segue.engine.vllm_translate import to_vllm_sampling

        prompt = {"prompt_token_ids": list(submit.input_token_ids)}
        try:
            sampling = to_vllm_sampling(submit)
            outputs = self._llm.generate(prompt, sampling, submit.request_id, priority=submit.priority)
            async for output in outputs:
                yield self._translator.translate(output, submit)
        except (ValueError, VLLMClientError) as error:  # The request's own fault.
            yield _failed(submit, RequestError.KIND_INVALID, str(error))
        except EngineDeadError as error:
            yield _failed(submit, RequestError.KIND_UNAVAILABLE, "the engine has stopped")
            self._listener.on_failure(error)
        except Exception as error:  # A request that fails alone must still end, whatever vLLM raised.
            log.exception("request_failed", request_id=submit.request_id)
            yield _failed(submit, RequestError.KIND_INTERNAL, f"the engine failed the request: {error!r}")

    async def _watch(self, kv_address: str) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        settings = self._settings
        tls = load_mesh(settings.tls)
        async with AsyncExitStack() as stack:
            channel = None
            if kv_address:
                channel = open_aio_channel(kv_address, tls, worker_dns(settings.worker_id))
                await stack.enter_async_context(channel)
            await watch_core(lambda: self._llm.errored, self._held.on_count, channel, settings.epoch)
        self._listener.on_failure(EngineDeadError())

    def _add_output(self, output: RequestOutput) -> None:
        if output.HasField("offer"):
            self._held.on_offer(asyncio.get_running_loop().time())
        self._step.append(output)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        step, self._step = self._step, []
        self._listener.on_step(step, self.load())


def _failed(submit: Submit, kind: RequestError.Kind, message: str) -> RequestOutput:
    return RequestOutput(
        request_id=submit.request_id,
        finish_reason=FinishReason.FINISH_REASON_ERROR,
        error=RequestError(kind=kind, message=message),
    )
