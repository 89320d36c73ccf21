"""What a scripted worker says of a leg."""

from __future__ import annotations

from segue.proto.kv_transfer_pb2 import BlockLayout, Ticket
from segue.proto.sampling_pb2 import PositionLogprobs, TokenLogprob
from segue.proto.worker_pb2 import (
    Register,
    RequestOutput,
    Submit,
)

LAYOUT = BlockLayout(
    model="fingerprint", dtype="bfloat16", block_tokens=128, layers=4, block_bytes=1 << 17, order="BHNC"
)


def one_token(submit: Submit, token: int) -> RequestOutput:
    output = RequestOutput(request_id=submit.request_id, token_ids=[token])
    if submit.sampling.HasField("logprobs"):
        top = [TokenLogprob(token_id=token + rank, logprob=-rank, rank=rank + 1) for rank in range(1, 3)]
        sampled = TokenLogprob(token_id=token, logprob=-0.5, rank=1)
        output.logprobs.append(PositionLogprobs(sampled=sampled, top=top[: submit.sampling.logprobs]))
    return output


def ticket_for(submit: Submit, producer: Register) -> Ticket:
    tokens = len(submit.input_token_ids)
    return Ticket(
        ticket_id=f"kv-{submit.request_id}",
        producer_id=producer.worker_id,
        producer_epoch=producer.epoch,
        request_id=submit.request_id,
        layout=LAYOUT,
        tokens=tokens,
        blocks=-(-tokens // LAYOUT.block_tokens),
    )
