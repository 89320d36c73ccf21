from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from segue.base.ids import new_epoch, new_request_id, new_ticket_id


@pytest.mark.parametrize(
    ("mint", "shape"),
    [(new_request_id, r"req-[0-9a-f]{24}"), (new_ticket_id, r"kv-[0-9a-f]{32}"), (new_epoch, r"[0-9a-f]{16}")],
)
def test_ids_tell_what_they_are_of_and_never_repeat(mint: Callable[[], str], shape: str) -> None:
    minted = [mint() for _ in range(1000)]
    assert len(set(minted)) == 1000
    assert all(re.fullmatch(shape, each) for each in minted)
