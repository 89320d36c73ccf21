"""vLLM's events in Segue's names, and what is left out of them."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored

from segue.base.block_hash import block_hashes
from segue.engine.vllm_kv_events import KvEventNames
from segue.proto.worker_pb2 import KvEvent

BLOCK = 4
PROMPT = list(range(100, 116))
NAMES = block_hashes(PROMPT, BLOCK)


def block_stored(theirs: list[int], tokens: list[int], parent: int | None = None, **fields: Any) -> BlockStored:
    known: dict[str, Any] = {"block_size": BLOCK, "lora_id": None, "medium": "GPU", "lora_name": None, **fields}
    return BlockStored(block_hashes=theirs, parent_block_hash=parent, token_ids=tokens, **known)


def block_removed(*theirs: int) -> BlockRemoved:
    return BlockRemoved(block_hashes=list(theirs), medium="GPU")


def stored(*blocks: int, parent: int = 0) -> KvEvent:
    return KvEvent(stored=KvEvent.Stored(parent=parent, blocks=blocks))


def removed(*blocks: int) -> KvEvent:
    return KvEvent(removed=KvEvent.Removed(blocks=blocks))


def test_blocks_are_named_by_all_tokens_up_to_their_end() -> None:
    names = KvEventNames(BLOCK)
    assert names.translate([block_stored([1, 2], PROMPT[:8])]) == [stored(*NAMES[:2])]
    assert names.translate([block_stored([3, 4], PROMPT[8:], parent=2)]) == [stored(*NAMES[2:], parent=NAMES[1])]


def test_one_removal_tells_of_all_that_were_removed_together() -> None:
    names = KvEventNames(BLOCK)
    names.translate([block_stored([1, 2, 3, 4], PROMPT)])
    assert names.translate([block_removed(4), block_removed(3), block_removed(99)]) == [removed(NAMES[3], NAMES[2])]


def test_a_name_goes_with_its_last_copy() -> None:
    names = KvEventNames(BLOCK)
    told = names.translate([block_stored([1, 2], PROMPT[:8]), block_stored([1, 2], PROMPT[:8])])
    assert told == [stored(*NAMES[:2])]
    assert names.translate([block_removed(2)]) == []
    assert names.translate([block_removed(2)]) == [removed(NAMES[1])]
    assert names.translate([block_removed(1), block_removed(1)]) == [removed(NAMES[0])]


def test_after_a_clear_nothing_is_known() -> None:
    names = KvEventNames(BLOCK)
    told = names.translate([block_stored([1], PROMPT[:4]), AllBlocksCleared(), block_removed(1)])
    assert told == [stored(NAMES[0]), KvEvent(cleared=True)]
    assert names.translate([block_stored([2], PROMPT[4:8], parent=1)]) == []


def test_blocks_that_depend_on_more_than_the_tokens_are_left_out() -> None:
    names = KvEventNames(BLOCK)
    events = [
        block_stored([1], PROMPT[:4], extra_keys=[("salt",)]),
        block_stored([2], PROMPT[4:8], parent=1),
        block_stored([3], PROMPT[:2], block_size=2),
        block_stored([4], PROMPT[:4], group_idx=1),
        block_removed(1, 2, 3, 4),
    ]
    assert names.translate(events) == []
    assert names.translate([block_stored([5], PROMPT[:4], extra_keys=[None], group_idx=0)]) == [stored(NAMES[0])]
