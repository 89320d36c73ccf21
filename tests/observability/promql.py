"""Which metrics and labels a PromQL query names. Not a parser of PromQL: enough of one for our own queries."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<string>"[^"]*"|'[^']*')|(?P<range>\[[^\]]*\])|(?P<name>[a-zA-Z_:$][\w:$]*)|(?P<number>[\d.]+(e[+-]?\d+)?)"""
    r"|(?P<mark>=~|!~|!=|==|>=|<=|[{}()=,+\-*/<>%^])"
)
_WORDS = frozenset({"and", "or", "unless", "bool", "offset"})
_LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})


@dataclass(frozen=True, slots=True)
class Selector:
    """One metric as a query names it, and the labels that it matches by."""

    name: str
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Query:
    selectors: tuple[Selector, ...]
    grouped_by: frozenset[str]


def read(query: str) -> Query:
    tokens = [match[0] for match in _TOKEN.finditer(query) if match.lastgroup not in {"string", "range"}]
    selectors: list[Selector] = []
    grouped: set[str] = set()
    position = 0
    while position < len(tokens):
        token = tokens[position]
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        position += 1
        if not re.match(r"[a-zA-Z_:]", token) or token in _WORDS:
            continue
        if token in _LABEL_LISTS:
            end = tokens.index(")", position)
            grouped.update(name for name in tokens[position + 1 : end] if name != ",")
            position = end + 1
        elif following == "{":
            end = tokens.index("}", position)
            inside = tokens[position + 1 : end]
            labels = [inside[i] for i in range(len(inside) - 1) if inside[i + 1] in {"=", "!=", "=~", "!~"}]
            selectors.append(Selector(token, frozenset(labels)))
            position = end + 1
        elif following != "(" and following not in _LABEL_LISTS:  # Neither a function nor an aggregation.
            selectors.append(Selector(token, frozenset()))
    return Query(tuple(selectors), frozenset(grouped))
