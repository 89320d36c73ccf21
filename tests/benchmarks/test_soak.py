"""The soak's own judgement: what counts as wrong, and whether memory grows."""

from __future__ import annotations

import asyncio
import contextlib

from reliability.asks import Ask, Choice, difference, make_asks, with_stop_string
from reliability.link import Link
from reliability.observe import Sample, trends

UNDISTURBED = {0: Choice("abcdef", [1, 2, 3], [-0.1, -0.2, -0.3], "length")}


def seen(
    text: str, tokens: list[int], finish: str = "length", logprobs: list[float] | None = None
) -> dict[int, Choice]:
    return {0: Choice(text, tokens, logprobs or [], finish)}


def test_a_whole_answer_has_to_be_the_same() -> None:
    assert difference(seen("abcdef", [1, 2, 3]), UNDISTURBED, complete=True) is None
    assert difference(seen("abcdef", []), UNDISTURBED, complete=True) is None  # HTTP tells no tokens.
    for wrong in (
        seen("abcde", [1, 2, 3]),
        seen("abcdefg", [1, 2, 3]),
        seen("abcdef", [1, 2]),
        seen("abcdef", [1, 2, 4]),
        seen("abcdef", [1, 2, 3], "stop"),
        seen("abcdef", [1, 2, 3], logprobs=[-0.1, -0.2, -0.4]),
        {},
    ):
        assert difference(wrong, UNDISTURBED, complete=True) is not None


def test_an_answer_that_broke_off_has_to_be_a_beginning() -> None:
    for beginning in ({}, seen("", [], ""), seen("abc", [1, 2], ""), seen("abcdef", [1, 2, 3], "")):
        assert difference(beginning, UNDISTURBED, complete=False) is None
    for wrong in (seen("abd", [], ""), seen("ab", [1, 3], ""), seen("abab", [], "")):
        assert difference(wrong, UNDISTURBED, complete=False) is not None


def test_what_is_asked_is_decided_by_the_seed() -> None:
    assert make_asks(3, 30) == make_asks(3, 30)
    assert make_asks(3, 30) != make_asks(4, 30)
    assert {"greedy", "seed", "penalties", "logprobs", "n", "structured"} == {ask.name for ask in make_asks(1, 100)}


def test_a_stop_string_is_taken_from_the_middle_of_the_answer() -> None:
    ask = with_stop_string(Ask("greedy", "p", {}), {0: Choice("0123456789")})
    assert ask is not None
    assert ask.sampling["stop"] == ["5678"]
    assert with_stop_string(Ask("greedy", "p", {}), {0: Choice("ab")}) is None


def test_a_trend_compares_the_ends_of_one_life() -> None:
    growing = [Sample(float(at), "router", 1, 100.0 + at, 50) for at in range(100)]
    short = [Sample(float(at), "decode-0", 2, 100.0, 50) for at in range(20)]
    (trend,) = trends([*growing, *short], warm_up_s=20.0, at_least_s=60.0)
    assert (trend.name, trend.seconds, trend.descriptors) == ("router", 79.0, (50.0, 50.0))
    assert trend.rss_mib == (129.5, 189.5)


async def test_a_link_passes_stalls_and_is_cut() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Link(server.sockets[0].getsockname()[1]).listening() as link:
        host, port = link.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        link.stall()
        writer.write(b"two")
        answer = asyncio.create_task(reader.read(100))
        await asyncio.sleep(0.05)
        assert not answer.done()
        link.heal()
        assert await answer == b"two"
        link.cut()
        with contextlib.suppress(ConnectionResetError):  # However the system tells of a reset.
            assert await reader.read(100) == b""
        writer.close()
