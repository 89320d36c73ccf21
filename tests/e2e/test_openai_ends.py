"""Where an answer ends: stop strings, the end of the sequence, ``min_tokens``."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from segue.client import SegueClient
from segue.router.text.tokenizer import TextCodec
from tests.e2e.asking import PROMPT, UNENDING, greedy, greedy_stream
from tests.e2e.running import ONE_CLUSTER, Cluster

pytestmark = [pytest.mark.engine, ONE_CLUSTER]
EOS = 1


def stops_across_tokens(pieces: list[str]) -> list[str]:
    """Strings of the answer that begin inside one token and end inside a later one; and one inside token 1."""
    stops = [pieces[0].strip()[0]]
    for first, last in ((0, 1), (1, 3), (4, 5), (6, 10), (11, 12), (14, 15)):
        stops.append(pieces[first][-1] + "".join(pieces[first + 1 : last]) + pieces[last][:1])
    return stops


async def test_no_part_of_a_stop_string_gets_out(
    cluster: Cluster, sdk: openai.OpenAI, client: SegueClient, codec: TextCodec
) -> None:
    whole = await client.generate(PROMPT, temperature=0.0, max_tokens=24, ignore_eos=True)
    pieces = [codec.decode([token_id]) for token_id in whole.token_ids]
    assert "".join(pieces) == whole.text, "choose another prompt: a character is split between tokens"
    for stop in stops_across_tokens(pieces):
        expected = whole.text[: whole.text.index(stop)]
        unary = greedy(sdk, cluster, stop=stop)
        assert (unary.choices[0].text, unary.choices[0].finish_reason) == (expected, "stop"), repr(stop)
        assert (unary.choices[0].model_extra or {})["stop_reason"] == stop
        chunks = list(greedy_stream(sdk, cluster, max_tokens=24, stop=[stop, "never in the answer"]))
        assert "".join(chunk.choices[0].text for chunk in chunks) == expected, repr(stop)
        assert chunks[-1].choices[0].finish_reason == "stop"
        over_grpc = await client.generate(PROMPT, temperature=0.0, max_tokens=24, ignore_eos=True, stop=[stop])
        assert over_grpc.text == expected
        assert over_grpc.token_ids == whole.token_ids[: len(over_grpc.token_ids)]
        assert stop in codec.decode(over_grpc.token_ids)


async def test_a_stop_string_that_never_completes_is_given_back(
    cluster: Cluster, sdk: openai.OpenAI, client: SegueClient
) -> None:
    text = greedy(sdk, cluster).choices[0].text
    held_to_the_end = text[-3:] + "\x00"
    assert greedy(sdk, cluster, stop=held_to_the_end).choices[0].text == text
    chunks = list(greedy_stream(sdk, cluster, max_tokens=24, stop=held_to_the_end))
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_min_tokens_keeps_stops_from_ending_it(
    cluster: Cluster, sdk: openai.OpenAI, client: SegueClient, codec: TextCodec
) -> None:
    whole = await client.generate(PROMPT, temperature=0.0, max_tokens=24, ignore_eos=True)
    stop = codec.decode(whole.token_ids[:2])[:3]
    assert greedy(sdk, cluster, stop=stop).choices[0].text == ""
    kept = greedy(sdk, cluster, stop=stop, extra_body=UNENDING | {"min_tokens": 6}).choices[0].text
    assert kept.startswith(codec.decode(whole.token_ids[:6]))


def test_end_of_sequence_ignore_eos_and_min_tokens(cluster: Cluster, sdk: openai.OpenAI) -> None:
    """With EOS made certain, each setting shows in the number of tokens."""

    def ask(**extra: Any) -> tuple[str, int, str]:
        answer = sdk.completions.create(
            model=cluster.model,
            prompt=PROMPT,
            temperature=0,
            max_tokens=8,
            logit_bias={str(EOS): 100},
            extra_body=extra,
        )
        assert answer.usage is not None
        return answer.choices[0].finish_reason, answer.usage.completion_tokens, answer.choices[0].text

    assert ask() == ("stop", 1, "")
    assert ask(ignore_eos=True) == ("length", 8, "")
    for min_tokens in (1, 2, 5):
        # It may well be empty: a character that the last token only begins is left out.
        text = greedy(sdk, cluster, max_tokens=min_tokens).choices[0].text
        assert ask(min_tokens=min_tokens) == ("stop", min_tokens + 1, text)
