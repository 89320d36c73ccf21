"""The page ``docs/handoff.md``, made from the hand-off's table: ``python -m segue.kv_transfer.handoff_diagram``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from segue.kv_transfer import handoff
from segue.kv_transfer.handoff import CAUSES, HEARD_ONLY, OVER, TABLE, Event, Role, State

_ENDINGS = (Event.REVOKE, Event.EXPIRE, Event.FAIL)  # From every state that is not over: drawn once, from all of them.


def page() -> str:
    """The whole page, in Markdown with a Mermaid diagram."""
    theory = (handoff.__doc__ or "").split("-------------------\n", 1)[1].strip()
    return "\n".join(
        [
            "# The hand-off of a KV cache",
            "",
            "Made from `kv_transfer/segue/kv_transfer/handoff.py` by `python -m segue.kv_transfer.handoff_diagram`.",
            "",
            theory.replace("``", "`").replace(":meth:`Handoff.on`", "`Handoff.on`"),
            "",
            "```mermaid",
            *_diagram(),
            "```",
            "",
            "Who causes what; the others hear of it:",
            "",
            "| event | producer | consumer | router |",
            "|---|---|---|---|",
            *(_row(event) for event in Event),
            "",
        ]
    )


def _diagram() -> Iterator[str]:
    yield "stateDiagram-v2"
    yield "    [*] --> reserved"
    yield "    state held {"
    for (state, event), successor in TABLE.items():
        if event not in _ENDINGS and successor not in OVER:
            yield f"        {state.value} --> {successor.value}: {event.value}"
    yield "    }"
    for (state, event), successor in TABLE.items():
        if event not in _ENDINGS and successor in OVER:
            heard = " (heard)" if (state, event) in HEARD_ONLY else ""
            yield f"    {state.value} --> {successor.value}: {event.value}{heard}"
    for event in _ENDINGS:
        successors = {TABLE[state, event] for state in State if state not in OVER}
        (successor,) = successors
        yield f"    held --> {successor.value}: {event.value}"
    for state in State:
        if state in OVER:
            yield f"    {state.value} --> [*]"


def _row(event: Event) -> str:
    cells = ("x" if event in CAUSES[role] else "" for role in (Role.PRODUCER, Role.CONSUMER, Role.ROUTER))
    return f"| {event.value} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(page())
