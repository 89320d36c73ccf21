"""The command line's own parts: parsing, the demo's streaming client and what it prints."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import typer
from aiohttp import web
from rich.console import Console
from typer.testing import CliRunner

from segue.cli.completion import Completion, CompletionError, Ending, stream_completion
from segue.cli.display import StartupDisplay
from segue.cli.main import app
from segue.cli.options import parse_engine_args, parse_limits
from segue.cluster.readiness import Readiness, WorkerStatus


def test_engine_args_are_json_or_words() -> None:
    parsed = parse_engine_args(["max-num-seqs=8", "dtype=bfloat16", 'hf_overrides={"a": 1}', "enforce_eager=true"])
    assert parsed == {"max_num_seqs": 8, "dtype": "bfloat16", "hf_overrides": {"a": 1}, "enforce_eager": True}


@pytest.mark.parametrize("pairs", [["max_num_seqs"], ["=8"], ["a=1", "a=2"]])
def test_engine_args_that_make_no_sense_are_refused(pairs: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        parse_engine_args(pairs)


def test_limits_are_over_the_default_ones() -> None:
    limits = parse_limits(["max-n=2", "max_body_bytes=1000", "max_timeout_s=0.5"])
    assert (limits.max_n, limits.max_body_bytes, limits.max_timeout_s) == (2, 1000, 0.5)
    assert limits.max_prompts == parse_limits([]).max_prompts


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("max_bdy_bytes=1", "did you mean 'max_body_bytes'"),
        ("default_timeout_s=1", "not a limit"),
        ("max_n=0", "max_n is 0"),
        ("max_n=1.5", "a whole number"),
        ("max_n=true", "a whole number"),
        ("max_timeout_s=soon", "a number"),
        ("max_timeout_s=NaN", "more than 0"),
        ("max_n", "KEY=VALUE"),
    ],
)
def test_limits_that_make_no_sense_are_refused(pair: str, says: str) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        parse_limits([pair])


@pytest.mark.parametrize("command", [["prefill-worker"], ["decode-worker"], ["flex-worker", "--start-as", "decode"]])
@pytest.mark.parametrize("router", ["x", "x:", ":7000", "x:port", "x:70000"])
def test_a_router_that_is_no_address_is_refused_with_a_clear_text(command: list[str], router: str) -> None:
    result = CliRunner().invoke(app, [*command, "--router", router])
    assert result.exit_code == 2
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "host:port" in result.stderr
    assert repr(router) in result.stderr


def test_an_unknown_option_names_the_nearest() -> None:
    result = CliRunner().invoke(app, ["up", "--prefil", "2"])
    assert result.exit_code == 2
    assert "--prefill" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scaling", "act", "--scaling-setting", "decode_mx=3"], "did you mean 'decode_max'"),
        (["--scaling", "act", "--gpu-budget", "1"], "a budget of 1 GPUs"),
        (["--gpu-budget", "4"], "it is off"),
    ],
)
def test_scaling_that_makes_no_sense_is_refused_before_anything_starts(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["up", *arguments])
    assert result.exit_code == 2
    assert says in result.output


def test_more_router_processes_than_ray_runs_are_refused_before_anything_starts() -> None:
    result = CliRunner().invoke(app, ["up", "--ray", "--processes", "2", "--insecure"])
    assert result.exit_code == 2
    assert "on Ray the router is one process" in result.output


def test_the_command_line_needs_no_engine_to_show_its_help() -> None:
    code = (
        "import sys; from segue.cli.main import app\n"
        "import segue.cli.running, segue.router.settings\n"
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_timings_are_one_line_of_what_was_sent() -> None:
    timings = {"ttft_s": 0.05, "transfer_s": 0.0123, "transfer_bytes": 131072, "transport": "nixl"}
    line = str(Ending({"prompt_tokens": 20, "completion_tokens": 10}, timings, total_s=0.5))
    assert line == "20 + 10 tokens | TTFT 50 ms | KV transfer 12.3 ms, 131,072 bytes by nixl | total 500 ms"
    assert str(Ending({}, {}, total_s=0.5)) == "total 500 ms"


def test_without_a_terminal_each_change_is_one_plain_line() -> None:
    out = io.StringIO()
    worker = WorkerStatus(worker_id="prefill-0", role="prefill", state="loading", detail="reading weights")
    with StartupDisplay(Console(file=out), ["router", "prefill-0"]) as display:
        display.update(Readiness(ready=False, workers=(worker,)))
        display.update(Readiness(ready=False, workers=(worker,)))
        display.update(Readiness(ready=True, workers=(worker.model_copy(update={"state": "ready"}),)))
    lines = [line.split(maxsplit=2)[2] for line in out.getvalue().splitlines()]
    assert [line.split() for line in lines] == [
        ["router", "ready"],
        ["prefill-0", "loading:", "reading", "weights"],
        ["prefill-0", "ready"],
    ]


async def answer_with(port: int, events: list[dict[str, object]], status: int = 200) -> web.AppRunner:
    async def completions(_: web.Request) -> web.Response:
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return web.Response(text=body, status=status)

    application = web.Application()
    application.router.add_post("/v1/completions", completions)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


def text_event(text: str, finish_reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]}


async def test_a_stream_gives_its_text_its_usage_and_its_timings(unused_tcp_port: int) -> None:
    last: dict[str, object] = {"choices": [], "usage": {"completion_tokens": 2}, "segue": {"timings": {"ttft_s": 0.1}}}
    events = [text_event("a"), text_event("b", "length"), last]
    runner = await answer_with(unused_tcp_port, events)
    pieces: list[str] = []
    try:
        request = Completion(f"http://127.0.0.1:{unused_tcp_port}", "m", "p", 2)
        ending = await stream_completion(request, pieces.append)
    finally:
        await runner.cleanup()
    assert pieces == ["a", "b"]
    assert (ending.usage, ending.timings) == ({"completion_tokens": 2}, {"ttft_s": 0.1})


@pytest.mark.parametrize(
    ("events", "status", "words"),
    [
        ([], 503, "answered 503"),
        ([text_event("a")], 200, "without a finish reason"),
        ([text_event("a"), {"error": {"message": "lost"}}], 200, "lost"),
    ],
)
async def test_a_stream_that_fails_says_how(
    unused_tcp_port: int, events: list[dict[str, object]], status: int, words: str
) -> None:
    runner = await answer_with(unused_tcp_port, events, status)
    try:
        with pytest.raises(CompletionError, match=words):
            request = Completion(f"http://127.0.0.1:{unused_tcp_port}", "m", "p", 2)
            await stream_completion(request, lambda _: None)
    finally:
        await runner.cleanup()
