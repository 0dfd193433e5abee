"""The full protobuf parser of remote write 1.0 (upb), for every shape that the fast path does not know.

The descriptors differ from prometheus/prompb's in two ways, neither of them on the wire: texts are declared as bytes,
so that one invalid label costs its series and not the body, and the TimeSeries of a request stay bytes, so that a
broken one costs only itself. Source: https://github.com/prometheus/prometheus/blob/main/prompb/types.proto
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

_SHAPES: dict[str, tuple[tuple[str, int, Any, bool], ...]] = {
    "Label": (("name", 1, Field.TYPE_BYTES, False), ("value", 2, Field.TYPE_BYTES, False)),
    "Sample": (("value", 1, Field.TYPE_DOUBLE, False), ("timestamp", 2, Field.TYPE_INT64, False)),
    "Series": (
        ("labels", 1, "Label", True),
        ("samples", 2, "Sample", True),
        ("exemplars", 3, Field.TYPE_BYTES, True),
        ("histograms", 4, Field.TYPE_BYTES, True),
    ),
    "Request": (("timeseries", 1, Field.TYPE_BYTES, True), ("metadata", 3, Field.TYPE_BYTES, True)),
}


def _classes() -> dict[str, Any]:
    file = FileDescriptorProto(name="aiopsd/remote_write.proto", package="aiopsd.remote_write", syntax="proto3")
    for name, fields in _SHAPES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field, number=number, label=label, type=Field.TYPE_MESSAGE, type_name=f".{file.package}.{kind}"
                )
            else:
                message.field.add(name=field, number=number, label=label, type=kind)
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in _SHAPES}


_MESSAGES = _classes()
Series: Any = _MESSAGES["Series"]
Request: Any = _MESSAGES["Request"]

__all__ = ["DecodeError", "Request", "Series"]
