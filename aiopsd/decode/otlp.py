"""OpenTelemetry's metrics (OTLP 1.x): an ExportMetricsServiceRequest as protobuf or as JSON; HTTP and Kafka alike.

One data point is one or, of histograms and summaries, several samples, named as Prometheus names them
(`otlp_names`). Sums of delta temporality are refused: what a lost or repeated request would do to their total nobody
could tell. Of an exponential histogram the count and the sum are taken; exemplars are passed over.
Specification: https://opentelemetry.io/docs/specs/otlp/
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from aiopsd.decode.columns import Batch, looked
from aiopsd.decode.otlp_names import label_name, metric_name, resource_labels
from aiopsd.decode.series import NAME, SeriesIndex, checked, route
from aiopsd.decode.times import LATEST
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import STALE_BITS, Checked, Labels, LogRecord
from aiopsd.services import ServiceMapper

STALE: float = struct.unpack("<d", struct.pack("<Q", STALE_BITS))[0]
_NO_VALUE = 1  # DataPointFlags: the series ends here
_DELTA = 1  # AggregationTemporality

_Refusal = tuple[DecodeReason, str]


class _Sample(NamedTuple):
    """`suffix` follows the metric's name, `label` (`le`, `quantile`; "" for none) has the text `of`."""

    value: float
    suffix: str = ""
    label: str = ""
    of: str = ""


class _Shape(NamedTuple):
    """What one kind of metric is made of: its own suffix-free name, and the samples of a data point."""

    name: str
    points: Sequence[Any]
    samples: Callable[[Any], list[_Sample]]
    refusal: str = ""  # why nothing of it can be taken


class Found(NamedTuple):
    """One data point that can be read: label sets still to be checked, beside their values."""

    base: Labels  # without a metric's name
    name: str
    ts: float
    samples: list[_Sample]


# --------------------------------------------------------------------------- the two encodings


def _proto(body: bytes) -> Any:
    from google.protobuf.message import DecodeError as Broken
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    try:
        return ExportMetricsServiceRequest.FromString(body)
    except Broken as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not an OTLP ExportMetricsServiceRequest: {e}") from None


def _json(body: bytes) -> Any:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not JSON: {e}") from None
    request = ExportMetricsServiceRequest()
    try:
        if not isinstance(given, dict):
            raise json_format.ParseError("an object is expected")
        json_format.ParseDict(_without_exemplars(given), request, ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError) as e:
        raise DecodeError(DecodeReason.SCHEMA, f"not an OTLP ExportMetricsServiceRequest: {e}") from None
    return request


def _without_exemplars(node: Any) -> Any:
    """Without what is passed over anyhow: OTLP writes its trace ids in hexadecimal, which is no JSON of protobuf."""
    if isinstance(node, dict):
        return {k: _without_exemplars(v) for k, v in node.items() if k != "exemplars"}
    return [_without_exemplars(v) for v in node] if isinstance(node, list) else node


# --------------------------------------------------------------------------- attributes


def _text(value: Any) -> str:
    """An AnyValue as the text of a label; lists and maps as JSON."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return str(value.string_value)
    plain = _plain(value)
    if isinstance(plain, str):
        return plain
    return msgspec.json.encode(plain).decode()


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(v) for v in value.array_value.values]
    if kind == "kvlist_value":
        return {kv.key: _plain(kv.value) for kv in value.kvlist_value.values}
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return "" if kind is None else getattr(value, kind)


def _attributes(given: Any) -> Labels:
    """Labels of a data point; attributes whose names become the same are joined by `;`, as in Prometheus."""
    labels: Labels = {}
    for kv in given:
        name, text = label_name(kv.key), _text(kv.value)
        labels[name] = f"{labels[name]};{text}" if name in labels else text
    return labels


# --------------------------------------------------------------------------- kinds of metric


def _number(point: Any) -> list[_Sample]:
    kind = point.WhichOneof("value")
    return [_Sample(float(getattr(point, kind)))] if kind else []


def _totals(point: Any) -> list[_Sample]:
    out = [_Sample(float(point.count), "_count")]
    if point.HasField("sum"):
        out.append(_Sample(point.sum, "_sum"))
    return out


def _histogram(point: Any) -> list[_Sample]:
    out = _totals(point)
    bounds, counts = list(point.explicit_bounds), list(point.bucket_counts)
    if len(counts) != len(bounds) + 1:
        return out  # no buckets, which is allowed, or none that mean anything
    for bound, count in zip([*bounds, math.inf], accumulate(counts), strict=True):
        out.append(_Sample(float(count), "_bucket", "le", _bound(bound)))
    return out


def _summary(point: Any) -> list[_Sample]:
    quantiles = [_Sample(q.value, "", "quantile", _bound(q.quantile)) for q in point.quantile_values]
    return [_Sample(float(point.count), "_count"), _Sample(point.sum, "_sum"), *quantiles]


def _bound(value: float) -> str:
    """As Prometheus writes the value of `le`: +Inf, 1, 0.25."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _shape(metric: Any) -> _Shape:
    kind = metric.WhichOneof("data")
    data: Any = getattr(metric, kind) if kind else None
    delta = "" if getattr(data, "aggregation_temporality", 0) != _DELTA else (
        f"metric `{metric.name[:100]}`: delta temporality; have the exporter send cumulative values"
    )  # fmt: skip
    if kind == "gauge":
        return _Shape(metric_name(metric.name, metric.unit, gauge=True), data.data_points, _number)
    if kind == "sum":
        name = metric_name(metric.name, metric.unit, monotonic=data.is_monotonic)
        return _Shape(name, data.data_points, _number, delta)
    plain = metric_name(metric.name, metric.unit)
    if kind == "histogram":
        return _Shape(plain, data.data_points, _histogram, delta)
    if kind == "exponential_histogram":
        return _Shape(plain, data.data_points, _totals, delta)
    if kind == "summary":
        return _Shape(plain, data.data_points, _summary)
    return _Shape(plain, (), _number)


# --------------------------------------------------------------------------- data points


def _points(request: Any) -> Iterator[tuple[Any, Any, Any, list[tuple[Any, Found | _Refusal]]]]:
    """(ResourceMetrics, ScopeMetrics, Metric, its data points and what each of them is), in order."""
    for resource in request.resource_metrics:
        own = resource_labels({kv.key: _text(kv.value) for kv in resource.resource.attributes})
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                shape = _shape(metric)
                yield resource, scope, metric, [(point, _point(own, metric, shape, point)) for point in shape.points]


def _point(own: Labels, metric: Any, shape: _Shape, point: Any) -> Found | _Refusal:
    where = f"metric `{metric.name[:100]}`"
    if shape.refusal:
        return DecodeReason.UNSUPPORTED, shape.refusal
    if not shape.name:
        return DecodeReason.LABELS, f"{where}: no metric name"
    ts = point.time_unix_nano / 1e9
    if not 0.0 < ts < LATEST:
        return DecodeReason.TIMESTAMP, f"{where}: time_unix_nano {point.time_unix_nano}"
    samples = shape.samples(point)
    if point.flags & _NO_VALUE:
        samples = [s._replace(value=STALE) for s in samples or [_Sample(STALE)]]
    if not samples:
        return DecodeReason.VALUE, f"{where}: a data point without a value"
    return Found({**own, **_attributes(point.attributes)}, shape.name, ts, samples)


class Otlp:
    """The verbs of a format (`samples.SampleFormat`) over one of the encodings, of which `parse` makes a message."""

    def __init__(self, parse: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> None:
        self._parse, self._write = parse, write

    def decode(self, records: Sequence[LogRecord], first: int, index: SeriesIndex, out: Batch) -> None:
        """Add the samples of these records; see `samples.SampleFormat`."""
        for number, record in enumerate(records, first):
            try:
                request = self._parse(record.value)
            except DecodeError as e:
                out.refuse(record, e.reason, e.detail)
                continue
            rows: list[int] = []
            stamps: list[float] = []
            values: list[float] = []
            bad: list[tuple[DecodeReason, str, int]] = []
            for *_, points in _points(request):
                for _, found in points:
                    if not isinstance(found, Found):
                        bad.append((*found, 1))
                        continue
                    try:
                        placed = [index.row_of(_labels(found, sample)) for sample in found.samples]
                    except DecodeError as e:
                        bad.append((e.reason, e.detail, 1))
                        continue
                    rows += placed
                    stamps += [found.ts] * len(placed)
                    values += [sample.value for sample in found.samples]
            out.add(rows, stamps, values, [number] * len(rows))
            if bad:
                out.refuse_items(record, bad, len(rows))

    def check(self, body: bytes, limit: int) -> Checked:
        """Data points that can be taken and that cannot; see `samples.SampleFormat`."""
        if len(body) > limit:
            raise DecodeError(DecodeReason.TOO_LARGE, f"{len(body)} bytes, at most {limit} are taken")
        taken = 0
        bad: list[tuple[DecodeReason, str, int]] = []
        for *_, points in _points(self._parse(body)):
            for _, found in points:
                if isinstance(found, Found):
                    taken += 1
                else:
                    bad.append((*found, 1))
        return looked(taken, bad)

    def split(self, body: bytes, partitions: int, services: ServiceMapper) -> list[tuple[int, bytes]]:
        """One body for each partition, of the data points whose service is there; see `samples.SampleFormat`."""
        request = self._parse(body)
        parts: dict[int, Any] = {}
        for resource, scope, metric, points in _points(request):
            kind = metric.WhichOneof("data")
            homes: dict[int, Any] = {}
            for point, found in points:
                home = _home(found, services) % partitions
                if home not in homes:
                    homes[home] = _room(parts, home, request, resource, scope, metric)
                getattr(homes[home], kind).data_points.append(point)
        return [(p, self._write(parts[p])) for p in sorted(parts)]


def _labels(found: Found, sample: _Sample) -> Labels:
    """The label set of a sample.

    Raises:
        DecodeError: see `series.checked`.
    """
    labels = {**found.base, NAME: found.name + sample.suffix}
    if sample.label:
        labels[sample.label] = sample.of
    return checked(labels.items())


def _home(found: "Found | _Refusal", services: ServiceMapper) -> int:
    """A number that stands for the service of a data point; the samples of one metric stay together without one."""
    if not isinstance(found, Found):
        return 0  # it will be refused where it is decoded
    return route({**found.base, NAME: found.name}, services)


def _room(parts: dict[int, Any], home: int, request: Any, resource: Any, scope: Any, metric: Any) -> Any:
    """An empty copy of the metric in the request of that partition, under its own resource and scope."""
    if home not in parts:
        parts[home] = type(request)()
    under = parts[home].resource_metrics.add()
    under.resource.CopyFrom(resource.resource)
    inner = under.scope_metrics.add()
    inner.scope.CopyFrom(scope.scope)
    copy = inner.metrics.add(name=metric.name, unit=metric.unit)
    kind = metric.WhichOneof("data")
    data = getattr(copy, kind)
    data.SetInParent()
    for setting in ("aggregation_temporality", "is_monotonic"):
        if hasattr(data, setting):
            setattr(data, setting, getattr(getattr(metric, kind), setting))
    return copy


def _to_json(request: Any) -> bytes:
    from google.protobuf import json_format

    return json_format.MessageToJson(request, indent=None).encode()


PROTO = Otlp(_proto, lambda request: bytes(request.SerializeToString()))
JSON = Otlp(_json, _to_json)
