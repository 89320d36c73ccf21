"""The client of a simulated fleet tells what has become of its streams."""

import json
import runpy
from pathlib import Path

import pytest

# By its path, as it is run: there are tests under its name.
CLIENT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "simulated" / "streams.py"))


def test_a_stream_that_fails_is_told_of_under_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    streams = CLIENT["Streams"](CLIENT["Load"]("127.0.0.1:1", 1, 0.0, 1.0, (5, 9), (5, 9)))
    for error in ("UNAVAILABLE the worker went", "UNAVAILABLE it too", ""):
        streams.ended(streams.begin(), error)
    streams.tell(over=True)
    line = json.loads(capsys.readouterr().out)
    assert (line["begun"], line["open"], line["failed"], line["wrong"]) == (3, 0, 2, 1)
    assert line["failures"] == {"UNAVAILABLE": 2, "wrong": 1}
