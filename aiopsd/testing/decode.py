"""Fixtures of the decoders' tests: an index, records, and the WriteRequest of prometheus/prompb by google.protobuf."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cramjam
import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from aiopsd.config import ServicesConfig
from aiopsd.decode.samples import Columns
from aiopsd.decode.series import SeriesIndex
from aiopsd.model import LogRecord
from aiopsd.services import ServiceMapper

Sample = tuple[tuple[tuple[str, str], ...], float, bytes]
"""(labels sorted, UTC seconds, the value's eight bytes): NaN and its bits compare as they are."""


def index() -> SeriesIndex:
    """An empty index with the default mapping of services."""
    return SeriesIndex(ServiceMapper(ServicesConfig()))


def records(values: Sequence[bytes], format: str) -> list[LogRecord]:
    """Log records of these payloads, offsets from 0."""
    return [LogRecord(source="test", partition=0, offset=i, value=v, format=format) for i, v in enumerate(values)]


def sample(labels: Mapping[str, str], ts: float, value: float) -> Sample:
    """One sample as `samples` gives it."""
    return tuple(sorted(labels.items())), ts, np.float64(value).tobytes()


def samples(columns: Columns, of: SeriesIndex) -> list[Sample]:
    """The samples of some columns, in their order."""
    return [
        sample(of.labels(row), ts, value)
        for row, ts, value in zip(columns.rows.tolist(), columns.ts.tolist(), columns.values, strict=True)
    ]


def snappy(message: bytes) -> bytes:
    """A remote-write body of a protobuf message."""
    return bytes(cramjam.snappy.compress_raw(message))


def _write_request() -> Any:
    """prompb.WriteRequest with everything nested and texts as strings, as Prometheus declares it.

    Source: https://github.com/prometheus/prometheus/blob/main/prompb/remote.proto and types.proto
    """
    text, number, whole, data = Field.TYPE_STRING, Field.TYPE_DOUBLE, Field.TYPE_INT64, Field.TYPE_BYTES
    shapes: dict[str, Iterable[tuple[str, int, Any, bool]]] = {
        "Label": (("name", 1, text, False), ("value", 2, text, False)),
        "Sample": (("value", 1, number, False), ("timestamp", 2, whole, False)),
        "Exemplar": (("labels", 1, "Label", True), ("value", 2, number, False), ("timestamp", 3, whole, False)),
        "TimeSeries": (
            ("labels", 1, "Label", True),
            ("samples", 2, "Sample", True),
            ("exemplars", 3, "Exemplar", True),
            ("histograms", 4, data, True),
        ),
        "WriteRequest": (("timeseries", 1, "TimeSeries", True), ("metadata", 3, data, True)),
    }
    file = FileDescriptorProto(name="prometheus/remote.proto", package="prometheus", syntax="proto3")
    for name, fields in shapes.items():
        message = file.message_type.add(name=name)
        for field, at, kind, repeated in fields:
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                nested = {"type": Field.TYPE_MESSAGE, "type_name": f".prometheus.{kind}"}
                message.field.add(name=field, number=at, label=label, **nested)
            else:
                message.field.add(name=field, number=at, label=label, type=kind)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("prometheus.WriteRequest"))


WriteRequest = _write_request()


def write_request(*series: tuple[Mapping[str, str], Sequence[tuple[float, float]]]) -> bytes:
    """A WriteRequest of (labels, [(UTC seconds, value)]) by the protobuf library: labels sorted, zeros left out."""
    request = WriteRequest()
    for labels, points in series:
        one = request.timeseries.add()
        for name in sorted(labels):
            one.labels.add(name=name, value=labels[name])
        for ts, value in points:
            one.samples.add(timestamp=round(ts * 1000), value=value)
    return bytes(request.SerializeToString())
