"""Token ids, stop strings and templates that no model and no client has any reason for."""

from __future__ import annotations

import random
from contextlib import suppress

import msgspec

from segue.base.errors import ClientFault
from segue.router.openai.schema import ChatCompletionRequest, CompletionRequest, parse
from segue.router.openai.translate import from_chat, from_completion
from segue.router.text.choice import ChoiceText
from segue.router.text.stop import StopMatcher
from segue.router.text.tokenizer import TextCodec
from tests.fuzz.inputs import STRINGS, as_json, draws, nasty, nasty_object
from tests.fuzz.test_http import CHAT, COMPLETION, NAMES


def test_any_token_ids_give_text(codec: TextCodec) -> None:
    """Cut into pieces or not: the same text."""
    count = 0
    for draw in draws("detokenizer", quick=3000):
        ids = [token_id(draw, codec) for _ in range(draw.randrange(12))]
        stops = [one for one in draw.sample(STRINGS, 2) if one] if draw.random() < 0.5 else []
        whole, pieces = ChoiceText(codec, stops=stops), ChoiceText(codec, stops=stops)
        together = whole.push(ids)
        text = together.text + ("" if together.stop is not None else whole.finish())
        parts, stop = "", None
        for id_ in ids:
            piece = pieces.push([id_])
            parts += piece.text
            if (stop := piece.stop) is not None:
                break
        if stop is None:
            parts += pieces.finish()
        assert parts == text, (ids, stops)
        count += 1
    print(f"detokenizer: {count} inputs")


def token_id(draw: random.Random, codec: TextCodec) -> int:
    """Mostly one that the model has; a worker may say any."""
    return (
        draw.randrange(codec.vocab_size) if draw.random() < 0.9 else draw.choice((codec.vocab_size, 2**31, 2**32 - 1))
    )


def test_stop_strings_are_found_where_a_search_finds_them() -> None:
    count = 0
    for draw in draws("stop strings", quick=3000):
        stops = ["".join(draw.choice("ab\u00e9") for _ in range(draw.randrange(1, 5))) for _ in range(3)]
        text = "".join(draw.choice("ab\u00e9") for _ in range(draw.randrange(20)))
        matcher, released = StopMatcher(stops), ""
        for character in text:
            released += matcher.push(character)
            if matcher.match is not None:
                break
        else:
            released += matcher.finish()
        ends = [(text.find(stop) + len(stop), place) for place, stop in enumerate(stops) if stop in text]
        if not ends:
            assert (released, matcher.match) == (text, None), (text, stops)
        else:
            end, place = min(ends)
            assert matcher.match is not None
            assert (released, matcher.match.stop) == (text[: end - len(stops[place])], stops[place]), (text, stops)
        count += 1
    print(f"stop strings: {count} inputs")


def test_any_json_is_a_request_or_refused() -> None:
    count, taken = 0, 0
    for draw in draws("schema", quick=6000):
        completion = draw.random() < 0.5
        path = "/v1/completions" if completion else "/v1/chat/completions"
        sane = COMPLETION if completion else CHAT
        body = nasty_object(draw, sane, NAMES[path]) if draw.random() < 0.9 else nasty(draw)
        # As the edge decodes it: what is no JSON (NaN, half a character) never comes as far as the schema.
        with suppress(ClientFault, msgspec.DecodeError):
            body = msgspec.json.decode(as_json(body))
            if completion:
                from_completion(parse(CompletionRequest, body))
            else:
                from_chat(parse(ChatCompletionRequest, body))
            taken += 1
        count += 1
    print(f"schema: {count} inputs, {taken} taken")
    assert 0 < taken < count


def test_any_chat_is_rendered_or_refused(codec: TextCodec) -> None:
    count = 0
    for draw in draws("chat template", quick=500):
        messages = [
            {"role": draw.choice(("user", "system", "assistant", text(draw))), "content": text(draw)}
            for _ in range(draw.randrange(4))
        ]
        with suppress(ClientFault):
            codec.encode_chat(messages)
        count += 1
    print(f"chat template: {count} inputs")


def text(draw: random.Random) -> str:
    """Without lone surrogates: neither edge lets one in."""
    return "".join(draw.choice(STRINGS) for _ in range(draw.randrange(4))).encode("utf-8", "ignore").decode()
