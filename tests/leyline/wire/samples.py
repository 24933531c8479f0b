"""Messages with a value in every field, and the same kinds as an older schema would have them."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from esper.leyline.wire import messages

KINDS: dict[str, type[Message]] = {
    name: getattr(messages, name) for name in messages.DESCRIPTOR.message_types_by_name
}


def sample(kind: type[Message], depth: int = 3) -> Message:
    """Every field has a value that follows from its number."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        _fill(message, field, depth)
    if "version" in kind.DESCRIPTOR.fields_by_name:
        message.version = 1  # type: ignore[attr-defined]
    return message


def _fill(message: Message, field: Any, depth: int) -> None:
    holder = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is None:
            holder[f"key {field.number}"] = field.number + 0.5
        elif depth:
            holder[f"key {field.number}"].CopyFrom(_nested(field.message_type.fields[1], depth))
    elif field.message_type is not None:
        if depth:
            (holder.add() if field.is_repeated else holder).CopyFrom(_nested(field, depth))
    elif field.is_repeated:
        holder.extend([_value(field), _value(field)])
    else:
        setattr(message, field.name, _value(field))


def _nested(field: Any, depth: int) -> Message:
    return sample(KINDS[field.message_type.name], depth - 1)


def _value(field: Any) -> object:
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    if field.type == Field.TYPE_BYTES:
        return b"\x00\xff"
    values = {
        Field.CPPTYPE_STRING: f"text {field.number}",
        Field.CPPTYPE_BOOL: True,
        Field.CPPTYPE_DOUBLE: field.number + 0.25,
        Field.CPPTYPE_FLOAT: field.number + 0.5,
    }
    return values.get(field.cpp_type, field.number)


def older(name: str) -> type[Message]:
    """The kind of this name in a schema whose messages have only their first field."""
    file = descriptor_pb2.FileDescriptorProto()
    messages.DESCRIPTOR.CopyToProto(file)
    for kind in file.message_type:
        del kind.field[1:]
        del kind.nested_type[:]
        del kind.oneof_decl[:]
        kind.field[0].ClearField("oneof_index")
        kind.field[0].ClearField("proto3_optional")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
