"""Prompts that differ from one another and are the same on every run with the same seed."""

from __future__ import annotations

import random

# Mostly words of technical prose, which the embedded model's tokenizer was trained on: it makes 4 tokens of 3 such
# words, as a large model's tokenizer does of ordinary English, and 120 of them pass a block boundary (128 tokens).
_WORD_LIST = """
the is of to in and are be for that an or as by not class with if it can object value function from
method will used on when may this should string attribute same one which all statement at instance
return version name only module code must have sequence also type any using values list objects no
has expression but new following pattern then they number other set called first does more than base
implement current was default support result there section clause names empty syntax two where line
block before after local operation use their those target standard length so parameter you item
found through point case single do part into order comparison left either key different most these
variable equal been both each within between program instead provide body future would field without
least last original about another simple source space how until time end example change text control
still remaining pair water mother school country night business service community president health
morning teacher history research office level story money family week
"""
_WORDS = tuple(_WORD_LIST.split())


def make_prompts(count: int, words: int, seed: str) -> tuple[str, ...]:
    """``count`` prompts of ``words`` words each, no two alike, decided by ``seed`` alone.

    They share no beginning worth caching: every word is drawn anew.
    """
    draw = random.Random(seed)
    prompts: dict[str, None] = {}
    # Bounded: alike prompts are only likely for a word or two, where there may be too few different ones.
    for _ in range(10 * count):
        if len(prompts) == count:
            break
        prompts[" ".join(draw.choices(_WORDS, k=words))] = None
    if len(prompts) < count:
        raise ValueError(f"found {len(prompts)} different prompts of {words} words, wanted {count}: use more words")
    return tuple(prompts)
