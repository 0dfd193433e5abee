"""Remote write 1.0 for protobuf's parser, for every shape that the fast path does not know.

The descriptors differ from prometheus/prompb's in two ways, neither of them on the wire: texts are declared as bytes,
and the TimeSeries of a request stay bytes. Source: https://github.com/prometheus/prometheus/blob/main/prompb/types.proto
"""

from typing import Any

from aiopsd.decode.protobuf import DecodeError, F, Field, messages

_MESSAGES = messages(
    "remote_write",
    {
        "Label": (F("name", 1, Field.TYPE_BYTES), F("value", 2, Field.TYPE_BYTES)),
        "Sample": (F("value", 1, Field.TYPE_DOUBLE), F("timestamp", 2, Field.TYPE_INT64)),
        "Series": (
            F("labels", 1, "Label", many=True),
            F("samples", 2, "Sample", many=True),
            F("exemplars", 3, Field.TYPE_BYTES, many=True),
            F("histograms", 4, Field.TYPE_BYTES, many=True),
        ),
        "Request": (F("timeseries", 1, Field.TYPE_BYTES, many=True), F("metadata", 3, Field.TYPE_BYTES, many=True)),
    },
)
Series: Any = _MESSAGES["Series"]
Request: Any = _MESSAGES["Request"]

__all__ = ["DecodeError", "Request", "Series"]
