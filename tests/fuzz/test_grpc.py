"""Whatever is sent to the public gRPC port: an answer or a status that says whose fault it was, never INTERNAL."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import grpc.aio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from segue.proto.inference_pb2 import ChatMessages, GenerateRequest, TokenIds, TokenizeRequest
from segue.proto.sampling_pb2 import SamplingParams
from tests.fuzz.conftest import Front
from tests.fuzz.inputs import FLOATS, NUMBERS, STRINGS, draws, mutated

METHODS = ("Generate", "GenerateUnary", "Tokenize", "ListModels")
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
AT_ONCE = 16
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def fill(draw: random.Random, message: Message, fields: int = 3) -> None:
    """Set some of a message's fields, of the messages in it too, to extreme or ordinary values of their types."""
    described: list[Any] = list(message.DESCRIPTOR.fields)
    for field in draw.sample(described, min(len(described), draw.randrange(fields + 1))):
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[draw.randrange(3000)] = draw.choice((-1.0, 0.5, 101.0))
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            inner = getattr(message, field.name)
            fill(draw, inner.add() if field.is_repeated else inner, fields)
        elif field.is_repeated:
            getattr(message, field.name).extend(value(draw, field) for _ in range(draw.choice((1, 2, 9, 200))))
        else:
            setattr(message, field.name, value(draw, field))


def value(draw: random.Random, field: FieldDescriptor) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return draw.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_STRING:
            data = draw.choice(STRINGS).encode("utf-8", "ignore")
            return draw.randbytes(5) if field.type == FieldDescriptor.TYPE_BYTES else data.decode()
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return draw.choice([value.number for value in field.enum_type.values])
        case _:
            least, most = _INTEGERS[field.cpp_type]
            return min(max(draw.choice((draw.choice(NUMBERS), draw.randrange(0, 2100))), least), most)


def request(draw: random.Random, method: str) -> Message:
    if method == "Tokenize":
        tokenize = TokenizeRequest(text="hi")
        fill(draw, tokenize)
        return tokenize
    made = GenerateRequest(token_ids=TokenIds(ids=[5, 6, 7]), sampling=SamplingParams(max_tokens=3))
    if draw.random() < 0.2:
        made.chat.CopyFrom(ChatMessages())
    fill(draw, made if draw.random() < 0.3 else made.sampling)
    return made


async def test_messages_and_bytes(front: Front) -> None:
    seen: Counter[str] = Counter()
    sources = iter(draws("grpc", quick=800))

    async def send(channel: grpc.aio.Channel) -> None:
        for draw in sources:
            method = draw.choice(METHODS)
            data = request(draw, method).SerializeToString()
            if draw.random() < 0.3:
                data = mutated(draw, data)
            invoke: Any = channel.unary_stream(f"/segue.v1.Inference/{method}")  # type: ignore[call-arg]
            call = invoke(data, timeout=20)
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError:
                pass
            code = await call.code()
            seen[code.name] += 1
            assert code in EXPECTED, (method, data, code, await call.details())

    async with grpc.aio.insecure_channel(front.router.address) as channel, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(send(channel))
    print(f"grpc: {sum(seen.values())} inputs, {dict(seen)}")
    assert {"OK", "INVALID_ARGUMENT"} <= set(seen)
