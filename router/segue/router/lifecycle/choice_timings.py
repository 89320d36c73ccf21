"""When what happened to one answer, and what it cost."""

from __future__ import annotations

from segue.proto.inference_pb2 import PATH_LOCAL, Continuation, Path, Timings
from segue.proto.worker_pb2 import EngineUsage, RequestOutput, Transfer
from segue.router.lifecycle.records import FirstToken


class ChoiceTimings:
    """Fed by :class:`~segue.router.lifecycle.choice_run.ChoiceRun`; times are of its clock.

    ``last_s`` is when a worker last said something. Whoever takes plain tokens past the run sets it.
    """

    def __init__(self, path_reason: str, now_s: float) -> None:
        self._prefill_worker = ""
        self._decode_worker = ""
        self._path_reason = path_reason
        self._accepted_s = now_s
        self._local_reason = ""
        self._expected_cached = 0
        self._local_cached: int | None = None  # By the decode worker that computed the prompt, once it has said so.
        self._began_after = 0  # Interruptions.
        self._sent_s: float | None = None
        self._token_1_s: float | None = None
        self._decode_first_s: float | None = None
        self.last_s = now_s
        self._prefill = EngineUsage()
        self._decode = EngineUsage()
        self._transfer = Transfer()
        self._continuations: list[Continuation] = []

    def on_plan(self, local_reason: str, expected_cached: int) -> None:
        """``local_reason``: why decode computes the prompt, if it does; ``expected_cached``: the tokens of it that it
        then probably has in its cache."""
        self._local_reason = local_reason
        if self._token_1_s is None:
            self._expected_cached = expected_cached

    def on_sent(self, now_s: float) -> None:
        """To the first worker; later ones don't count as queueing."""
        if self._sent_s is None:
            self._sent_s = now_s

    def on_interruption(self, continuation: Continuation) -> None:
        self._continuations.append(continuation)

    @property
    def interruptions(self) -> int:
        return len(self._continuations)

    @property
    def pool(self) -> str:
        """Which one computed the prompt, once it is computed: ``prefill``, or ``decode`` by itself."""
        return "prefill" if self._prefill_worker else "decode"

    def first_token(self) -> FirstToken:
        """Once there is one."""
        token_1_s = self._accepted_s if self._token_1_s is None else self._token_1_s
        sent_s = self._accepted_s if self._sent_s is None else self._sent_s
        return FirstToken(
            pool=self.pool,
            ttft_s=token_1_s - self._accepted_s,
            queue_s=sent_s - self._accepted_s,
            prefill_s=max(0.0, token_1_s - sent_s),
        )

    def on_token_1(self, worker_id: str, output: RequestOutput, now_s: float) -> None:
        self.last_s = now_s
        if self._token_1_s is None:
            self._token_1_s = now_s
            self._prefill_worker, self._prefill = worker_id, output.usage

    def on_tokens(self, worker_id: str, output: RequestOutput, now_s: float) -> None:
        if self._token_1_s is None:  # The prompt was computed by decode.
            self._token_1_s, self._began_after = now_s, len(self._continuations)
        if self._decode_first_s is None:
            self._decode_first_s = now_s
        self._decode_worker = worker_id
        self.last_s = now_s
        if output.HasField("usage"):
            self._decode = output.usage
            self.on_usage(output.usage)
            if self._continuations:
                self._continuations[-1].reused_tokens = output.usage.transferred_tokens
        if output.HasField("transfer"):
            self._transfer = output.transfer

    def on_usage(self, usage: EngineUsage) -> None:
        """A decode worker is done with its part. What a second one had is of the answer as well as of the prompt."""
        if self._token_1_s is not None and len(self._continuations) == self._began_after:
            self._local_cached = usage.cached_tokens

    @property
    def cached_prompt_tokens(self) -> int:
        """Of the worker that computed the prompt; what was expected of a decode worker that didn't come to say, since
        the answer was ended before."""
        if self._prefill_worker:
            return self._prefill.cached_tokens
        if self._local_cached is not None:
            return self._local_cached
        return 0 if self._token_1_s is None else self._expected_cached

    def message(self, path: Path, output_tokens: int) -> Timings:
        sent_s = self._accepted_s if self._sent_s is None else self._sent_s
        token_1_s = self._accepted_s if self._token_1_s is None else self._token_1_s
        timings = Timings(
            path=path,
            path_reason=self._transfer.error or self._path_reason or self._local_reason * (path == PATH_LOCAL),
            transport=self._transfer.transport,
            prefill_worker=self._prefill_worker,
            ttft_s=token_1_s - self._accepted_s,
            queue_s=sent_s - self._accepted_s,
            prefill_s=max(0.0, token_1_s - sent_s),
            transfer_s=self._transfer.seconds,
            transfer_bytes=self._transfer.bytes,
            prefill_computed_tokens=self._prefill.computed_tokens,
            decode_computed_tokens=self._decode.computed_tokens,
            continuations=self._continuations,
        )
        if self._decode_first_s is not None:
            timings.decode_worker = self._decode_worker
            timings.handoff_s = self._decode_first_s - token_1_s
            timings.decode_s = self.last_s - self._decode_first_s
        if output_tokens > 1:
            timings.itl_mean_s = (self.last_s - token_1_s) / (output_tokens - 1)
        return timings
