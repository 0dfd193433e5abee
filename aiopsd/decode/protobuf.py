"""Messages for protobuf's own parser (upb), in shapes of our own: what is bytes in them is parsed later, or never.

A descriptor may call any text or message of the wire bytes. So one invalid label costs its series and not the body, a
broken part costs only itself, and what is known by its bytes already costs nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass


class F(NamedTuple):
    """A field: `kind` is a type of `Field`, or the name of a message; `one` the oneof that it is part of."""

    name: str
    number: int
    kind: Any
    many: bool = False
    one: str = ""


def messages(package: str, shapes: Mapping[str, Sequence[F]]) -> dict[str, Any]:
    """Classes of messages of these names and fields, of proto3."""
    file = FileDescriptorProto(name=f"aiopsd/{package}.proto", package=f"aiopsd.{package}", syntax="proto3")
    for name, fields in shapes.items():
        message = file.message_type.add(name=name)
        ones = list(dict.fromkeys(f.one for f in fields if f.one))
        for one in ones:
            message.oneof_decl.add(name=one)
        for f in fields:
            field = message.field.add(name=f.name, number=f.number)
            field.label = Field.LABEL_REPEATED if f.many else Field.LABEL_OPTIONAL
            if isinstance(f.kind, str):
                field.type, field.type_name = Field.TYPE_MESSAGE, f".{file.package}.{f.kind}"
            else:
                field.type = f.kind
            if f.one:
                field.oneof_index = ones.index(f.one)
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in shapes}


__all__ = ["DecodeError", "F", "Field", "messages"]
