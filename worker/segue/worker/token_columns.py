"""Which outputs go into a frame's columns of tokens, and which as messages of their own. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from segue.proto.worker_pb2 import RequestOutput, WorkerFrame


class TokenColumns:
    """For one router. In a frame the columns come before the messages, so a request that has a message in it gets no
    more columns there."""

    def __init__(self) -> None:
        self._streams: dict[str, int] = {}
        self._with_messages: set[str] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, request_id: str, stream: int) -> None:
        """The router knows this request by a number; 0: it wants messages."""
        if stream:
            self._streams[request_id] = stream

    def close(self, request_id: str) -> None:
        """Nothing more comes of a request. One whose last output has been added is closed already."""
        self._streams.pop(request_id, None)

    def add(self, outputs: Iterable[RequestOutput], frame: WorkerFrame) -> None:
        streams, token_ids = frame.tokens.streams, frame.tokens.token_ids
        for output in outputs:
            request_id = output.request_id
            stream = self._streams.get(request_id)
            if stream is not None and request_id not in self._with_messages and is_plain(output):
                streams.append(stream)
                token_ids.append(output.token_ids[0])
                continue
            frame.outputs.append(output)
            if stream is not None:
                self._with_messages.add(request_id)
            if output.finish_reason:
                self.close(request_id)

    def next_frame(self) -> None:
        """The frame so far has been taken."""
        self._with_messages.clear()


def is_plain(output: RequestOutput) -> bool:
    """Whether an output is one token and nothing else."""
    return (
        len(output.token_ids) == 1
        and not output.finish_reason
        and not output.logprobs
        and not any(map(output.HasField, ("stop_token_id", "error", "offer", "usage", "transfer")))
    )
