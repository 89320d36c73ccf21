"""Authorization headers and key files that nobody would write on purpose."""

from __future__ import annotations

import random

import pytest

from segue.base.errors import SettingsError, Unauthenticated
from segue.router.access.keys import KeyLimits, KeyRing, mint, parse_keys
from tests.fuzz.inputs import STRINGS, draws, mutated


def header(draw: random.Random, secret: str) -> str:
    """Something like a header with the key in it; as aiohttp gives it, with surrogates for what is no UTF-8."""
    scheme = draw.choice(("Bearer ", "Bearer ", "bearer ", "Bearer", "Basic ", "", *STRINGS))
    whole = (scheme + draw.choice((secret, secret, secret[:-1], *STRINGS))).encode("utf-8", "surrogatepass")
    return (mutated(draw, whole) if draw.random() < 0.7 else whole).decode("utf-8", "surrogateescape")


def test_only_the_key_itself_opens() -> None:
    secret, key = mint("a", KeyLimits())
    ring = KeyRing([key])
    count = opened = 0
    for draw in draws("authorization", quick=2000):
        sent = header(draw, secret)
        count += 1
        if sent.strip().partition(" ")[2].strip() == secret and sent.strip().partition(" ")[0].lower() == "bearer":
            assert ring.authenticate(sent) is key
            opened += 1
            continue
        with pytest.raises(Unauthenticated) as refused:
            ring.authenticate(sent)
        assert secret not in str(refused.value)
    print(f"authorization: {count} inputs, {opened} opened")


def test_a_key_file_is_read_or_refused() -> None:
    secret, key = mint("a", KeyLimits(2, 60))
    count = 0
    for draw in draws("key files", quick=1000):
        text = "\n".join(draw.choice(("", "# b", key.line(), f"a {secret}", secret)) for _ in range(3))
        damaged = mutated(draw, text.encode()).decode("utf-8", "replace")
        count += 1
        try:
            told = repr(parse_keys(damaged, "keys"))
        except SettingsError as error:
            told = str(error)
        assert secret not in told
    print(f"key files: {count} inputs")
