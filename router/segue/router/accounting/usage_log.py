"""The usage log: a JSON line for each request, written by a thread of its own.

Serving never waits for the disk: lines wait in a bounded queue, and what finds it full is dropped, counted and told in
the log itself by the next line that is written. Whoever rotates the file by renaming it finds a new one at its place
within a second, or at once after SIGHUP.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from segue.base.errors import SettingsError
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import Path as AnswerPath
from segue.router.lifecycle.records import RequestRecord, RouterObserver

log = get_logger("usage")

Line = dict[str, Any]

_MOST_WAITING = 65_536
_BATCH = 1024
_LOOK_INTERVAL_S = 1.0
_TELL_INTERVAL_S = 10.0
_CLOSE_TIMEOUT_S = 10.0

_encode = msgspec.json.Encoder().encode


class UsageLog(RouterObserver):
    """An observer; open until :meth:`close`."""

    def __init__(self, file: Path, most_waiting: int = _MOST_WAITING) -> None:
        """Raises SettingsError: the file can't be written."""
        self._file = file
        self._waiting: queue.Queue[Line | None] = queue.Queue(most_waiting)
        self._reopen = threading.Event()
        self._dropped = 0  # Written by the event loop alone, the next three by the thread.
        self._failed = 0
        self._told = 0
        self._torn = False
        try:
            self._out = self._open()
        except OSError as error:
            raise SettingsError(f"can't write the usage log {file}: {error}") from None
        self._thread = threading.Thread(target=self._write, name="usage log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._dropped + self._failed

    def on_refused(self, tenant: str, slo_class: str, code: str) -> None:
        self._put({"ended_unix_s": round(time.time(), 3), "outcome": code, "tenant": tenant, "slo_class": slo_class})

    def on_finished(self, record: RequestRecord) -> None:
        self._put(line_of(record))

    def reopen(self) -> None:
        """Write to a file newly opened at the path from now on; what was logged before is in the old one."""
        self._reopen.set()

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Write what waits and end. Lines that can't be written in time are lost, and told in the router's log."""
        with contextlib.suppress(queue.Full):  # The thread sees that it is to stop when it has written the rest.
            self._waiting.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("usage_log_not_written", file=str(self._file), lines=self._waiting.qsize())

    def _put(self, line: Line) -> None:
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        looked_s, told_s, over = time.monotonic(), float("-inf"), False
        while not over:
            lines, over = self._take()
            now_s = time.monotonic()
            try:
                if self._reopen.is_set() or now_s - looked_s >= _LOOK_INTERVAL_S:
                    self._reopen.clear()
                    looked_s = now_s
                    self._follow()
                if lines:
                    self._append(lines)
            except OSError as error:  # A full disk must not end the log: the next lines may fit again.
                self._failed += len(lines)
                if now_s - told_s >= _TELL_INTERVAL_S:
                    log.error("usage_log_not_written", file=str(self._file), error=str(error), lines=len(lines))
                    told_s = now_s
        self._out.close()

    def _take(self) -> tuple[list[Line], bool]:
        """What waits, as soon as something does; and whether nothing follows."""
        lines: list[Line] = []
        try:
            line = self._waiting.get(timeout=_LOOK_INTERVAL_S)
            while line is not None:
                lines.append(line)
                if len(lines) == _BATCH:
                    return lines, False
                line = self._waiting.get_nowait()
        except queue.Empty:
            return lines, False
        return lines, True

    def _append(self, lines: list[Line]) -> None:
        dropped = self.dropped
        if dropped > self._told:
            lines = [{"dropped_lines": dropped - self._told}, *lines]
        begin = b"\n" if self._torn else b""  # A line of which only a part could be written stays alone.
        left = memoryview(begin + b"".join(_encode(line) + b"\n" for line in lines))
        self._torn = True
        while left:
            left = left[self._out.write(left) :]
        self._torn, self._told = False, dropped

    def _follow(self) -> None:
        """Open the path again if it isn't the open file any more."""
        try:
            here = os.stat(self._file)
            there = os.fstat(self._out.fileno())
            moved = (here.st_ino, here.st_dev) != (there.st_ino, there.st_dev)
        except FileNotFoundError:
            moved = True
        if moved:
            new = self._open()
            self._out.close()
            self._out = new

    def _open(self) -> FileIO:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return open(self._file, "ab", buffering=0)


def line_of(record: RequestRecord) -> Line:
    """What is logged of one request. The prompt and the answer are not."""
    usage, timings = record.usage, record.timings
    line: Line = {
        "ended_unix_s": round(record.ended_unix_s, 3),
        "request_id": record.request_id,
        "label": record.label,
        "outcome": record.outcome,
        "tenant": record.tenant,
        "slo_class": record.slo_class,
        "model": record.model,
        "prompt_tokens": usage.prompt_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "output_tokens": usage.output_tokens,
        "queue_s": round(timings.queue_s, 6),
        "ttft_s": round(timings.ttft_s, 6),
        "prefill_s": round(timings.prefill_s, 6),
        "transfer_s": round(timings.transfer_s, 6),
        "decode_s": round(timings.decode_s, 6),
        "end_to_end_s": round(record.end_to_end_s, 6),
        "path": AnswerPath.Name(timings.path).removeprefix("PATH_").lower(),
        "prefill_worker": timings.prefill_worker,
        "decode_worker": timings.decode_worker,
        "continuations": len(timings.continuations),
    }
    if timings.trace_id:
        line["trace_id"] = timings.trace_id
    if record.cost is not None:
        cost = record.cost
        line["cost"] = {
            "currency": cost.currency,
            **{name: round(getattr(cost, name), 12) for name in ("input", "cached", "output", "total")},
        }
    return line
