"""OpenTelemetry's metrics (OTLP 1.x): an ExportMetricsServiceRequest as protobuf or as JSON; HTTP and Kafka alike.

One data point is one or, of histograms and summaries, several samples, named as Prometheus names them (`otlp_names`).
A series is known by the bytes of its resource, metric and attributes: only who is new has its labels read. What grew
within a span (delta temporality) is taken as what it is, a rate over that span: there is no total to keep, so none that
a lost or repeated request could spoil. Of an exponential histogram the count and the sum are taken; exemplars are
passed over. Specification: https://opentelemetry.io/docs/specs/otlp/
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from aiopsd.decode.columns import Batch, looked
from aiopsd.decode.otlp_names import label_name, metric_name, resource_labels
from aiopsd.decode.series import NAME, ROUTES, TEMPORALITY, SeriesIndex, checked, route, varint
from aiopsd.decode.times import LATEST
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import STALE_BITS, Checked, Labels, LogRecord
from aiopsd.services import ServiceMapper

STALE: float = struct.unpack("<d", struct.pack("<Q", STALE_BITS))[0]
_NO_VALUE = 1  # DataPointFlags: the series ends here
_DELTA = 1  # AggregationTemporality
_CUMULATE = "have the exporter send cumulative values"

_Bad = list[tuple[DecodeReason, str, int]]


class _Sample(NamedTuple):
    """`suffix` follows the metric's name, `label` (`le`, `quantile`; "" for none) has the text `of`."""

    value: float
    suffix: str = ""
    label: str = ""
    of: str = ""

    @property
    def key(self) -> bytes:
        """What tells its series from others of the same data point; empty where there is one."""
        return b"\xff%b\xff%b" % (self.suffix.encode(), self.of.encode()) if self.suffix or self.label else b""


class _Point(NamedTuple):
    """A data point that can be read."""

    ts: float
    samples: list[_Sample]
    attributes: Sequence[bytes]


# --------------------------------------------------------------------------- the two encodings


def _proto(body: bytes) -> Any:
    from aiopsd.decode import otlp_shapes

    try:
        return otlp_shapes.Request.FromString(body)
    except otlp_shapes.DecodeError as e:
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
    return _proto(request.SerializeToString())


def _without_exemplars(node: Any) -> Any:
    """Without what is passed over anyhow: OTLP writes its trace ids in hexadecimal, which is no JSON of protobuf."""
    if isinstance(node, dict):
        return {k: _without_exemplars(v) for k, v in node.items() if k != "exemplars"}
    return [_without_exemplars(v) for v in node] if isinstance(node, list) else node


def _to_proto(request: Any) -> bytes:
    return bytes(request.SerializeToString())


def _to_json(request: Any) -> bytes:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    whole = ExportMetricsServiceRequest.FromString(request.SerializeToString())
    return json_format.MessageToJson(whole, indent=None).encode()


# --------------------------------------------------------------------------- attributes


def _pairs(given: Sequence[bytes]) -> list[tuple[str, str]]:
    """Keys of attributes and their values as the texts of labels; lists and maps as JSON.

    Raises:
        DecodeError: MALFORMED.
    """
    from google.protobuf.message import DecodeError as Broken
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

    try:
        return [(kv.key, _text(kv.value)) for kv in map(KeyValue.FromString, given)]
    except Broken as e:
        raise DecodeError(DecodeReason.MALFORMED, f"an attribute that cannot be read: {e}") from None


def _text(value: Any) -> str:
    if value.WhichOneof("value") == "string_value":
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


def _attributes(given: Sequence[bytes]) -> Labels:
    """Labels of a data point; attributes whose names become the same are joined by `;`, as in Prometheus."""
    labels: Labels = {}
    for key, text in _pairs(given):
        name = label_name(key)
        labels[name] = f"{labels[name]};{text}" if name in labels else text
    return labels


class _Resource:
    """Who speaks. `key` stands for its bytes in the keys of series."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.key = blake2b(raw, digest_size=16).digest()

    @cached_property
    def labels(self) -> Labels:
        """
        Raises:
            DecodeError: MALFORMED.
        """
        from aiopsd.decode import otlp_shapes

        try:
            given = otlp_shapes.Resource.FromString(self._raw).attributes
        except otlp_shapes.DecodeError as e:
            raise DecodeError(DecodeReason.MALFORMED, f"a resource that cannot be read: {e}") from None
        return resource_labels(dict(_pairs(given)))


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
    """As Prometheus writes the value of `le`: +Inf, 1, 0.25; NaN for a bound that is none."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


# kind of metric -> (its data points' message in `otlp_shapes`, what samples they are)
_KINDS: dict[str, tuple[str, Callable[[Any], list[_Sample]]]] = {
    "gauge": ("Number", _number),
    "sum": ("Number", _number),
    "histogram": ("Histogram", _histogram),
    "exponential_histogram": ("Exponential", _totals),
    "summary": ("Summary", _summary),
}
_NUMBERS = ("gauge", "sum")
_SPANNED = ("sum", "histogram", "exponential_histogram")  # of which temporality is said


class _Metric:
    """One metric of a resource, and its data points as bytes. `key` begins those of its series."""

    def __init__(self, resource: _Resource, given: Any) -> None:
        self.resource = resource
        self.kind: str = given.WhichOneof("data") or ""
        data: Any = getattr(given, self.kind) if self.kind else None
        self.points: Sequence[bytes] = data.data_points if self.kind else ()
        self.monotonic = self.kind == "sum" and bool(data.is_monotonic)
        self.delta = self.kind in _SPANNED and data.aggregation_temporality == _DELTA
        self._name, self._unit = given.name, given.unit
        told = f"{self.kind} {self.monotonic:d}{self.delta:d}".encode()
        # no byte of UTF-8 is 0xff; what is not UTF-8 has no series, and so no key
        self.key: bytes = b"\xff".join((resource.key + told, self._name, self._unit, b""))
        self.plain = self.kind in _NUMBERS
        self._named: str | None = None

    @property
    def where(self) -> str:
        """The metric, as a refusal names it."""
        return f"metric `{self._name[:100].decode(errors='replace')}`"

    def name(self) -> str:
        """As Prometheus names it, without what its kind of sample adds.

        Raises:
            DecodeError: LABELS, or UNSUPPORTED: nothing of the metric can be taken.
        """
        if self._named is None:
            self._named = self._find_name()
        return self._named

    def _find_name(self) -> str:
        try:
            name, unit = self._name.decode(), self._unit.decode()
        except UnicodeDecodeError:
            raise DecodeError(DecodeReason.LABELS, f"{self.where}: its name or unit is not UTF-8") from None
        if self.delta and self.kind == "sum" and not self.monotonic:
            what = "delta temporality of what may fall: changes of it say nothing without where it began"
            raise DecodeError(DecodeReason.UNSUPPORTED, f"{self.where}: {what}; {_CUMULATE}")
        found = metric_name(name, unit, monotonic=self.monotonic, gauge=self.kind == "gauge")
        if not found:
            raise DecodeError(DecodeReason.LABELS, f"{self.where}: no metric name")
        return found

    def read(self, payload: bytes) -> _Point:
        """A data point of it.

        Raises:
            DecodeError: it cannot be taken.
        """
        from aiopsd.decode import otlp_shapes

        self.name()  # without one nothing of it can be taken
        message, samples_of = _KINDS[self.kind]
        try:
            point = getattr(otlp_shapes, message).FromString(payload)
        except otlp_shapes.DecodeError as e:
            raise DecodeError(DecodeReason.MALFORMED, f"{self.where}: a data point that cannot be read: {e}") from None
        ts = point.time_unix_nano / 1e9
        if not 0.0 < ts < LATEST:
            raise DecodeError(DecodeReason.TIMESTAMP, f"{self.where}: time_unix_nano {point.time_unix_nano}")
        samples = samples_of(point)
        if point.flags & _NO_VALUE:
            samples = [s._replace(value=STALE) for s in samples or [_Sample(STALE)]]
        elif not samples:
            raise DecodeError(DecodeReason.VALUE, f"{self.where}: a data point without a value")
        elif self.delta:
            seconds = _span(point.start_time_unix_nano, point.time_unix_nano)
            if not seconds:
                what = f"a delta that does not say since when (start_time_unix_nano {point.start_time_unix_nano})"
                raise DecodeError(DecodeReason.VALUE, f"{self.where}: {what}; {_CUMULATE}")
            samples = [s._replace(value=s.value / seconds) for s in samples]
        return _Point(ts, samples, point.attributes)

    def quick(self, payload: bytes) -> tuple[float, float, bytes] | None:
        """(time, value, bytes of its attributes) of a number whose fields stand in their order; None: `read` it.

        What follows the value is its attributes, or more: bytes that no series is known by.
        """
        size = len(payload)
        if size > 26 and payload[0] == 0x11 and payload[9] == 0x19:
            tag, end = payload[18], 27
            if tag == 0x21:
                start, nanos, value = _SPAN_DOUBLE(payload)
            elif tag == 0x31:
                start, nanos, value = _SPAN_INT(payload)
            else:
                return None
        elif size > 17 and payload[0] == 0x19 and payload[9] in (0x21, 0x31):
            start, end = 0, 18
            nanos, value = (_AT_DOUBLE if payload[9] == 0x21 else _AT_INT)(payload)
        else:
            return None
        ts = nanos / 1e9
        if not 0.0 < ts < LATEST or (size > end and payload[end] != 0x3A):
            return None
        if self.delta:
            seconds = _span(start, nanos)
            if not seconds:
                return None
            value /= seconds
        return ts, float(value), payload[end:]

    def labels(self, point: _Point, sample: _Sample) -> Labels:
        """The label set of a sample.

        Raises:
            DecodeError: see `series.checked`; MALFORMED: an attribute.
        """
        labels = {**self.resource.labels, **_attributes(point.attributes), NAME: self.name() + sample.suffix}
        if sample.label:
            labels[sample.label] = sample.of
        if self.delta:
            labels[TEMPORALITY] = "delta"
        return checked(labels.items())


_SPAN_DOUBLE = struct.Struct("<xQxQxd").unpack_from
_SPAN_INT = struct.Struct("<xQxQxq").unpack_from
_AT_DOUBLE = struct.Struct("<xQxd").unpack_from
_AT_INT = struct.Struct("<xQxq").unpack_from


def _span(start: int, end: int) -> float:
    """Seconds between two times in nanoseconds; 0 where it is none."""
    return (end - start) / 1e9 if 0 < start < end else 0.0


def _spelled(metric: _Metric, point: _Point) -> bytes:
    """What begins the keys of a data point's series: those of a number end with it (`_Metric.quick`)."""
    return metric.key + b"".join([b"\x3a%b%b" % (varint(len(a)), a) for a in point.attributes])


def _metrics(request: Any) -> Iterator[tuple[Any, Any, Any, _Metric]]:
    """(ResourceMetrics, ScopeMetrics, Metric, what is known of it), in order."""
    for resource in request.resource_metrics:
        own = _Resource(b"".join(resource.resource))
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield resource, scope, metric, _Metric(own, metric)


# --------------------------------------------------------------------------- the verbs of a format


class _Taken:
    """Samples of one record, in their order, and what of it is refused."""

    def __init__(self, index: SeriesIndex) -> None:
        self._index = index
        self.rows: list[int] = []
        self.stamps: list[float] = []
        self.values: list[float] = []
        self.bad: _Bad = []

    def take(self, metric: _Metric) -> None:
        """All data points of this metric."""
        known, rows = self._index.spelled.get, self._index.rows.get
        for payload in metric.points:
            quick = metric.quick(payload) if metric.plain else None
            if quick is not None:
                ts, value, attributes = quick
                row = rows(known(metric.key + attributes, b""))
                if row is not None:
                    self.rows.append(row)
                    self.stamps.append(ts)
                    self.values.append(value)
                    continue
            try:
                self._read(metric, metric.read(payload))
            except DecodeError as e:
                self.bad.append((e.reason, e.detail, 1))

    def _read(self, metric: _Metric, point: _Point) -> None:
        index, spelling, placed = self._index, _spelled(metric, point), []
        for sample in point.samples:
            key = spelling + sample.key
            row = index.rows.get(index.spelled.get(key, b""))
            placed.append(index.row_of(metric.labels(point, sample), key) if row is None else row)
        self.rows += placed
        self.stamps += [point.ts] * len(placed)
        self.values += [sample.value for sample in point.samples]


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
            taken = _Taken(index)
            for *_, metric in _metrics(request):
                taken.take(metric)
            out.add(taken.rows, taken.stamps, taken.values, [number] * len(taken.rows))
            if taken.bad:
                out.refuse_items(record, taken.bad, len(taken.rows))

    def check(self, body: bytes, limit: int) -> Checked:
        """Data points that can be taken and that cannot; see `samples.SampleFormat`."""
        if len(body) > limit:
            raise DecodeError(DecodeReason.TOO_LARGE, f"{len(body)} bytes, at most {limit} are taken")
        taken = 0
        bad: _Bad = []
        for *_, metric in _metrics(self._parse(body)):
            for payload in metric.points:
                try:
                    metric.name()
                    if not (metric.plain and metric.quick(payload)):
                        metric.read(payload)
                    taken += 1
                except DecodeError as e:
                    bad.append((e.reason, e.detail, 1))
        return looked(taken, bad)

    def split(self, body: bytes, partitions: int, services: ServiceMapper) -> list[tuple[int, bytes]]:
        """One body for each partition, of the data points whose service is there; see `samples.SampleFormat`."""
        request = self._parse(body)
        parts: dict[int, Any] = {}
        for resource, scope, given, metric in _metrics(request):
            homes: dict[int, Any] = {}
            for payload in metric.points:
                home = _home(metric, payload, services) % partitions
                if home not in homes:
                    homes[home] = _room(parts, home, request, resource, scope, given)
                homes[home].append(payload)
        return [(p, self._write(parts[p])) for p in sorted(parts)]


def _home(metric: _Metric, payload: bytes, services: ServiceMapper) -> int:
    """A number that stands for the service of a data point; the samples of one metric stay together without one."""
    quick = metric.quick(payload) if metric.plain else None
    code = services.routes.get(metric.key + quick[2]) if quick is not None else None
    if code is not None:
        return code
    try:
        point = metric.read(payload)
        code = route(metric.labels(point, _Sample(0.0)), services)
    except DecodeError:
        return 0  # it will be refused where it is decoded
    if len(services.routes) >= ROUTES:
        services.routes.clear()
    services.routes[_spelled(metric, point)] = code
    return code


def _room(parts: dict[int, Any], home: int, request: Any, resource: Any, scope: Any, metric: Any) -> Any:
    """The data points, none so far, of a copy of the metric in the request of that partition."""
    if home not in parts:
        parts[home] = type(request)()
    under = parts[home].resource_metrics.add(resource=resource.resource)
    copy = under.scope_metrics.add(scope=scope.scope).metrics.add(name=metric.name, unit=metric.unit)
    kind = metric.WhichOneof("data")
    data, given = getattr(copy, kind), getattr(metric, kind)
    data.aggregation_temporality, data.is_monotonic = given.aggregation_temporality, given.is_monotonic
    data.SetInParent()
    return data.data_points


PROTO = Otlp(_proto, _to_proto)
JSON = Otlp(_json, _to_json)
