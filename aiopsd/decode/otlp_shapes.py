"""OTLP's ExportMetricsServiceRequest for protobuf's parser: resources, data points and their attributes stay bytes.

Source: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto
"""

from typing import Any

from aiopsd.decode.protobuf import DecodeError, F, Field, messages

_SPAN = (F("start_time_unix_nano", 2, Field.TYPE_FIXED64), F("time_unix_nano", 3, Field.TYPE_FIXED64))
_TOTALS = (*_SPAN, F("count", 4, Field.TYPE_FIXED64), F("sum", 5, Field.TYPE_DOUBLE, one="has_sum"))

_MESSAGES = messages(
    "otlp",
    {
        "Request": (F("resource_metrics", 1, "Resources", many=True),),
        # a message that is given twice is one of both: its bytes, joined
        "Resources": (F("resource", 1, Field.TYPE_BYTES, many=True), F("scope_metrics", 2, "Scope", many=True)),
        "Scope": (F("scope", 1, Field.TYPE_BYTES, many=True), F("metrics", 2, "Metric", many=True)),
        "Resource": (F("attributes", 1, Field.TYPE_BYTES, many=True),),
        "Metric": (
            F("name", 1, Field.TYPE_BYTES),
            F("unit", 3, Field.TYPE_BYTES),
            F("gauge", 5, "Data", one="data"),
            F("sum", 7, "Data", one="data"),
            F("histogram", 9, "Data", one="data"),
            F("exponential_histogram", 10, "Data", one="data"),
            F("summary", 11, "Data", one="data"),
        ),
        "Data": (
            F("data_points", 1, Field.TYPE_BYTES, many=True),
            F("aggregation_temporality", 2, Field.TYPE_INT32),
            F("is_monotonic", 3, Field.TYPE_BOOL),
        ),
        "Number": (
            *_SPAN,
            F("as_double", 4, Field.TYPE_DOUBLE, one="value"),
            F("as_int", 6, Field.TYPE_SFIXED64, one="value"),
            F("attributes", 7, Field.TYPE_BYTES, many=True),
            F("flags", 8, Field.TYPE_UINT32),
        ),
        "Histogram": (
            *_TOTALS,
            F("bucket_counts", 6, Field.TYPE_FIXED64, many=True),
            F("explicit_bounds", 7, Field.TYPE_DOUBLE, many=True),
            F("attributes", 9, Field.TYPE_BYTES, many=True),
            F("flags", 10, Field.TYPE_UINT32),
        ),
        "Exponential": (
            *_TOTALS,
            F("attributes", 1, Field.TYPE_BYTES, many=True),
            F("flags", 10, Field.TYPE_UINT32),
        ),
        "Summary": (
            *_SPAN,
            F("count", 4, Field.TYPE_FIXED64),
            F("sum", 5, Field.TYPE_DOUBLE),
            F("quantile_values", 6, "Quantile", many=True),
            F("attributes", 7, Field.TYPE_BYTES, many=True),
            F("flags", 8, Field.TYPE_UINT32),
        ),
        "Quantile": (F("quantile", 1, Field.TYPE_DOUBLE), F("value", 2, Field.TYPE_DOUBLE)),
    },
)
Request: Any = _MESSAGES["Request"]
Resource: Any = _MESSAGES["Resource"]
Number: Any = _MESSAGES["Number"]
Histogram: Any = _MESSAGES["Histogram"]
Exponential: Any = _MESSAGES["Exponential"]
Summary: Any = _MESSAGES["Summary"]

__all__ = ["DecodeError", "Exponential", "Histogram", "Number", "Request", "Resource", "Summary"]
