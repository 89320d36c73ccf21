"""Plain tokens travel as columns, everything else as messages, and no request's tokens change their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs
from segue.proto.worker_pb2 import EngineUsage, RequestOutput, StepTokens, Transfer, WorkerFrame
from segue.worker.token_columns import TokenColumns
from tests.worker.fakes import tokens

NAMES = {"a": 7, "b": 8, "c": 0}


def columns() -> TokenColumns:
    made = TokenColumns()
    for request_id, stream in NAMES.items():
        made.open(request_id, stream)
    return made


def test_a_token_and_nothing_else_is_a_column() -> None:
    frame = WorkerFrame()
    columns().add([tokens("a", 1), tokens("b", 2), tokens("c", 3)], frame)
    assert frame.tokens == StepTokens(streams=[7, 8], token_ids=[1, 2])
    assert list(frame.outputs) == [tokens("c", 3)]


def test_whatever_is_more_than_a_token_is_a_message() -> None:
    more = (
        RequestOutput(request_id="a", token_ids=[1, 2]),
        RequestOutput(request_id="a"),
        RequestOutput(request_id="a", token_ids=[1], logprobs=[PositionLogprobs()]),
        RequestOutput(request_id="a", token_ids=[1], finish_reason=FinishReason.FINISH_REASON_LENGTH),
        RequestOutput(request_id="a", token_ids=[1], usage=EngineUsage()),
        RequestOutput(request_id="a", token_ids=[1], transfer=Transfer()),
    )
    for output in more:
        frame = WorkerFrame()
        columns().add([output], frame)
        assert list(frame.outputs) == [output]
        assert not frame.tokens.streams


def test_nothing_is_kept_of_a_request_that_is_over() -> None:
    kept, frame = columns(), WorkerFrame()
    kept.add([RequestOutput(request_id="a", token_ids=[1], finish_reason=FinishReason.FINISH_REASON_STOP)], frame)
    kept.close("b")
    kept.close("b")
    assert len(kept) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans()), max_size=30))
def test_reading_columns_first_gives_each_request_its_tokens_in_order(script: list[tuple[str, int, bool]]) -> None:
    """Each step is a request, how many tokens it gives it, and whether the frame is sent after it."""
    made, frames, said = columns(), [WorkerFrame()], {name: list[int]() for name in NAMES}
    for number, (request_id, count, sent) in enumerate(script):
        ids = [100 * number + index for index in range(count)]
        said[request_id] += ids
        made.add([RequestOutput(request_id=request_id, token_ids=ids)], frames[-1])
        if sent:
            frames.append(WorkerFrame())
            made.next_frame()
    read = {name: list[int]() for name in NAMES}
    names = {stream: name for name, stream in NAMES.items()}
    for frame in frames:
        for stream, token_id in zip(frame.tokens.streams, frame.tokens.token_ids, strict=True):
            read[names[stream]].append(token_id)
        for output in frame.outputs:
            read[output.request_id] += output.token_ids
    assert read == said
