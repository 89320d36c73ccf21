"""Messages as plain JSON values for programs: numbers stay numbers, enums become short words."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

# protobuf's own JSON form makes strings of 64-bit integers, which every reader would have to know.


def plain(message: Message) -> dict[str, Any]:
    """Every field by its name in the contract; unset messages and optional fields are left out."""
    values = {}
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            values[field.name] = [_value(field, item) for item in getattr(message, field.name)]
        elif not field.has_presence or message.HasField(field.name):
            values[field.name] = _value(field, getattr(message, field.name))
    return values


def _value(field: Any, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return plain(value)
    if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
        name: str = field.enum_type.values_by_number[value].name
        return name.removeprefix("ROLE_").removeprefix("WORKER_STATE_").lower()
    return value
