"""The usage log: every request a line, none lost at the end, and serving never waits for it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segue.base.errors import SettingsError
from segue.proto.inference_pb2 import Cost, Timings, Usage
from segue.router.accounting.usage_log import UsageLog
from segue.router.lifecycle.records import RequestRecord


def record(number: int = 0, **changes: Any) -> RequestRecord:
    given: dict[str, Any] = {
        "request_id": f"req-{number}",
        "label": "",
        "model": "tiny",
        "tenant": "alice",
        "slo_class": "chat",
        "outcome": "ok",
        "usage": Usage(prompt_tokens=10, cached_prompt_tokens=4, output_tokens=3),
        "timings": Timings(queue_s=0.25, ttft_s=0.5, decode_worker="decode-0"),
        "end_to_end_s": 1.5,
        "ended_unix_s": 1_700_000_000.1234,
        "cost": Cost(currency="EUR", input=6e-6, cached=4e-7, output=9e-6, total=1.54e-5),
    }
    return RequestRecord(**(given | changes))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_request_is_a_line(tmp_path: Path) -> None:
    log = UsageLog(tmp_path / "new" / "usage.jsonl")
    log.on_finished(record())
    log.on_refused("bob", "batch", "overloaded")
    log.close()
    ok, refused = lines(tmp_path / "new" / "usage.jsonl")
    assert ok["cost"] == {"currency": "EUR", "input": 6e-6, "cached": 4e-7, "output": 9e-6, "total": 1.54e-5}
    assert ok["ended_unix_s"] == 1_700_000_000.123
    assert (ok["prompt_tokens"], ok["cached_prompt_tokens"], ok["output_tokens"]) == (10, 4, 3)
    assert (ok["queue_s"], ok["ttft_s"], ok["decode_worker"]) == (0.25, 0.5, "decode-0")
    assert (refused["outcome"], refused["tenant"], refused["slo_class"]) == ("overloaded", "bob", "batch")


def test_closing_writes_all_that_was_logged(tmp_path: Path) -> None:
    log = UsageLog(tmp_path / "usage.jsonl")
    for number in range(5_000):
        log.on_finished(record(number))
    log.close()
    assert [line["request_id"] for line in lines(tmp_path / "usage.jsonl")] == [f"req-{one}" for one in range(5_000)]
    assert log.dropped == 0


def test_a_renamed_file_is_followed(tmp_path: Path) -> None:
    file, old = tmp_path / "usage.jsonl", tmp_path / "usage.jsonl.1"
    log = UsageLog(file)
    log.on_finished(record(1))
    until(lambda: bool(lines(file)))
    os.rename(file, old)
    log.reopen()
    until(file.exists)
    log.on_finished(record(2))
    log.close()
    assert [line["request_id"] for line in lines(old)] == ["req-1"]
    assert [line["request_id"] for line in lines(file)] == ["req-2"]


def test_a_disk_that_hangs_costs_lines_not_time_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    append = UsageLog._append

    def hanging(log: UsageLog, batch: list[dict[str, Any]]) -> None:
        hangs.set()
        assert goes_on.wait(30)
        append(log, batch)

    monkeypatch.setattr(UsageLog, "_append", hanging)
    log = UsageLog(tmp_path / "usage.jsonl", most_waiting=10)
    log.on_finished(record(0))
    assert hangs.wait(30)
    for number in range(1, 31):
        log.on_finished(record(number))
    assert log.dropped == 20
    goes_on.set()
    log.close()
    seen = lines(tmp_path / "usage.jsonl")
    assert [line["dropped_lines"] for line in seen if "dropped_lines" in line] == [20]
    assert [line["request_id"] for line in seen if "request_id" in line] == [f"req-{one}" for one in range(11)]


def test_a_full_disk_loses_lines_until_there_is_room_again(tmp_path: Path) -> None:
    log = UsageLog(tmp_path / "usage.jsonl")
    out = log._out

    class Full:
        def write(self, data: memoryview) -> int:
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            return out.fileno()

    log._out = Full()  # type: ignore[assignment]
    log.on_finished(record(1))
    until(lambda: log.dropped == 1)
    log._out = out
    log.on_finished(record(2))
    log.close()
    text = (tmp_path / "usage.jsonl").read_text().strip().splitlines()
    assert json.loads(text[0]) == {"dropped_lines": 1}
    assert json.loads(text[1])["request_id"] == "req-2"


def test_a_log_that_cant_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="can't write the usage log"):
        UsageLog(tmp_path / "file" / "usage.jsonl")
