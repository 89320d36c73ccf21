from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.base.block_hash import block_hashes
from segue.router.prefixes.expected_blocks import ExpectedBlocks

PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=9).map(lambda tokens: block_hashes(tokens, 1))


@given(st.lists(st.tuples(PROMPTS, st.sampled_from("abc")), max_size=20), st.sets(st.integers(0, 19)), PROMPTS)
def test_what_is_on_its_way_counts_until_it_has_arrived(
    sent: list[tuple[list[int], str]], arrived: set[int], asked: list[int]
) -> None:
    expected = ExpectedBlocks()
    for number, (names, worker) in enumerate(sent):
        expected.add(str(number), names, [worker])
    for number in arrived:
        expected.discard(str(number))
    naive: dict[str, int] = {}
    for number, (names, worker) in enumerate(sent):
        shared = 0
        while shared < min(len(names), len(asked)) and names[shared] == asked[shared]:
            shared += 1
        if shared and number not in arrived:
            naive[worker] = max(naive.get(worker, 0), shared)
    assert expected.overlaps(asked) == naive
    assert len(expected) == len(set(range(len(sent))) - arrived)


def test_prompts_without_a_full_block_leave_nothing() -> None:
    expected = ExpectedBlocks()
    expected.add("a", [], ["w"])
    assert len(expected) == 0
    assert expected.overlaps([]) == {}
