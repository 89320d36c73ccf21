"""A single plain vLLM engine in a process of its own: what the cluster's answers are held against.

Nothing of Segue's engine or transfer code is in it: ``vllm.LLM`` with no KV connector.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple, Self


class Case(NamedTuple):
    prompt: tuple[int, ...]
    # vLLM's SamplingParams; ``structured_outputs`` as StructuredOutputsParams' keyword arguments.
    sampling: dict[str, Any]


class Reference:
    """``answer(cases)`` gives each case's token ids, computed one at a time and remembered."""

    def __init__(self, model: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(model, theirs), daemon=True)
        self._process.start()
        self._known: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.send(None)
        self._process.join(20)
        self._process.kill()

    def answer_together(self, cases: Sequence[Case]) -> list[tuple[int, ...]]:
        """As ``answer``, faster: batched as the engine likes."""
        self._pipe.send((True, [tuple(case) for case in cases]))
        answers: list[tuple[int, ...]] = self._pipe.recv()
        return answers

    def answer(self, cases: Sequence[Case]) -> list[tuple[int, ...]]:
        new = {repr(case): case for case in cases if repr(case) not in self._known}
        if new:
            self._pipe.send((False, [tuple(case) for case in new.values()]))
            self._known.update(zip(new, self._pipe.recv(), strict=True))
        return [self._known[repr(case)] for case in cases]


def _params(sampling: dict[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    constraint = sampling.get("structured_outputs")
    held_to = {"structured_outputs": StructuredOutputsParams(**constraint)} if constraint else {}
    return SamplingParams(**{**sampling, **held_to}, detokenize=False)


def _serve(model: str, pipe: Connection) -> None:
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        OMP_NUM_THREADS="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_NUM_OF_RESERVED_CPU="0",
        VLLM_LOGGING_LEVEL="ERROR",
        TORCHDYNAMO_DISABLE="1",
    )
    from vllm import LLM

    engine = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        distributed_executor_backend="uni",
        enable_prefix_caching=False,
        structured_outputs_config={"backend": "xgrammar"},
    )
    while (asked := pipe.recv()) is not None:
        together, cases = asked
        prompts: list[Any] = [{"prompt_token_ids": list(prompt)} for prompt, _ in cases]
        params = [_params(sampling) for _, sampling in cases]
        if together:
            outputs = engine.generate(prompts, params, use_tqdm=False)
        else:
            outputs = [
                engine.generate(prompt, one, use_tqdm=False)[0] for prompt, one in zip(prompts, params, strict=True)
            ]
        pipe.send([tuple(output.outputs[0].token_ids) for output in outputs])
