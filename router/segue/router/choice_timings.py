"""When what happened to one answer, and what it cost."""

from __future__ import annotations

from segue.proto.inference_pb2 import Path, Timings
from segue.proto.worker_pb2 import EngineUsage, RequestOutput, Transfer
from segue.router.planner import Plan


class ChoiceTimings:
    """Fed by :class:`~segue.router.choice_run.ChoiceRun`; times are of its clock."""

    def __init__(self, plan: Plan, path_reason: str, now_s: float) -> None:
        self._plan = plan
        self._path_reason = path_reason
        self._accepted_s = now_s
        self._token_1_s = now_s
        self._decode_first_s: float | None = None
        self._last_s = now_s
        self._prefill = EngineUsage()
        self._decode = EngineUsage()
        self._transfer = Transfer()

    def on_token_1(self, output: RequestOutput, now_s: float) -> None:
        self._token_1_s = self._last_s = now_s
        self._prefill = output.usage

    def on_tokens(self, output: RequestOutput, now_s: float) -> None:
        if self._decode_first_s is None:
            self._decode_first_s = now_s
        self._last_s = now_s
        if output.HasField("usage"):
            self._decode = output.usage
        if output.HasField("transfer"):
            self._transfer = output.transfer

    @property
    def cached_prompt_tokens(self) -> int:
        return self._prefill.cached_tokens

    def message(self, path: Path, output_tokens: int) -> Timings:
        timings = Timings(
            path=path,
            path_reason=self._transfer.error or self._path_reason,
            transport=self._transfer.transport,
            prefill_worker=self._plan.prefill_id,
            ttft_s=self._token_1_s - self._accepted_s,
            prefill_s=self._token_1_s - self._accepted_s,
            transfer_s=self._transfer.seconds,
            transfer_bytes=self._transfer.bytes,
            prefill_computed_tokens=self._prefill.computed_tokens,
            decode_computed_tokens=self._decode.computed_tokens,
        )
        if self._decode_first_s is not None:
            timings.decode_worker = self._plan.decode_id
            timings.handoff_s = self._decode_first_s - self._token_1_s
            timings.decode_s = self._last_s - self._decode_first_s
        if output_tokens > 1:
            timings.itl_mean_s = (self._last_s - self._token_1_s) / (output_tokens - 1)
        return timings
