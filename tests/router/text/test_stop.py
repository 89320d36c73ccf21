"""Stop strings: found wherever they are, cut before, nothing of them let out."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from segue.router.text.choice import ChoiceText
from segue.router.text.stop import StopMatch, StopMatcher
from segue.router.text.tokenizer import TextCodec

PIECES = st.lists(st.text("ab", max_size=6), max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4)


def naive(text: str, stops: Sequence[str], exempt_chars: int) -> tuple[str, str | None, int]:
    """The text before the stop that ends first beyond ``exempt_chars``, that stop, and where it ends."""
    best: tuple[int, int, str] | None = None
    for order, stop in enumerate(stops):
        for end in range(max(len(stop), exempt_chars + 1), len(text) + 1):
            if text[end - len(stop) : end] == stop:
                best = min(best or (end, order, stop), (end, order, stop))
                break
    return (text, None, len(text)) if best is None else (text[: best[0] - len(best[2])], best[2], best[0])


@given(PIECES, STOPS, st.integers(0, 20))
def test_matching_piece_by_piece_equals_matching_the_whole(
    pieces: list[str], stops: list[str], exempt_chars: int
) -> None:
    matcher = StopMatcher(stops)
    released, seen = "", 0
    whole, stop, end = naive("".join(pieces), stops, exempt_chars)
    for piece in pieces:
        released += matcher.push(piece, max(exempt_chars - seen, 0))
        assert whole.startswith(released), "let out what it must not"
        if matcher.match is not None:
            assert (matcher.match, seen + matcher.match.end) == (StopMatch(stop or "", end - seen), end)
            break
        seen += len(piece)
    else:
        assert stop is None
        released += matcher.finish()
    assert released == whole


def test_only_what_may_still_become_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.push("Hello\n") == "Hello"
    assert matcher.push("there") == "\nthere"
    assert matcher.push("\n\nUse") == ""
    assert matcher.push("ful") == "\n\nUseful"
    assert matcher.push("x\n\nUser: y") == "x"
    assert matcher.match == StopMatch("\n\nUser:", 8)


def test_a_stop_string_inside_one_piece_cuts_there(codec: TextCodec) -> None:
    ids = codec.encode("one STOP two", add_special_tokens=False)
    text = ChoiceText(codec, stops=["STOP"])
    piece = text.push(ids)
    assert (piece.text, piece.stop) == ("one ", "STOP")
    assert codec.decode(ids[: piece.kept_tokens]).startswith("one STOP")
    assert "STOP" not in codec.decode(ids[: piece.kept_tokens - 1])


@given(
    st.text("abé🙂", min_size=1, max_size=30),
    st.lists(st.text("abé🙂", min_size=1, max_size=4), max_size=3),
    st.integers(0, 12),
    st.integers(1, 7),
)
def test_a_choice_equals_one_token_at_a_time(
    codec: TextCodec, text: str, stops: list[str], min_tokens: int, step: int
) -> None:
    ids = codec.encode(text, add_special_tokens=False)

    def run(step: int) -> tuple[str, str | None, int]:
        choice, shown, kept = ChoiceText(codec, stops=stops, min_tokens=min_tokens), "", 0
        for start in range(0, len(ids), step):
            piece = choice.push(ids[start : start + step])
            shown, kept = shown + piece.text, kept + piece.kept_tokens
            if piece.stop is not None:
                return shown, piece.stop, kept
        return shown + choice.finish(), None, kept

    assert run(step) == run(1)
    exempt = ChoiceText(codec).push(ids[:min_tokens]).text
    expected, stop, _ = naive(text, stops, len(exempt))
    if len(ids) > min_tokens:
        assert run(step)[:2] == (expected, stop)
    else:
        assert run(step)[:2] == (text, None)


def test_a_stop_token_is_counted_but_is_no_text(codec: TextCodec) -> None:
    ids = codec.encode("ab!", add_special_tokens=False)
    for stops in ([], ["never"]):
        choice = ChoiceText(codec, stops=stops)
        piece = choice.push(ids, ends_with_stop_token=True)
        assert (piece.text + choice.finish(), piece.kept_tokens) == (codec.decode(ids[:-1]), len(ids))


def test_a_character_that_is_cut_off_is_no_text_and_completes_no_stop_string(codec: TextCodec) -> None:
    broken = codec.encode("🙂", add_special_tokens=False)[:1]
    choice = ChoiceText(codec, stops=["\ufffd"])
    assert choice.push(broken) == ("", None, 1)
    assert choice.finish() == ""
