"""OpenTelemetry's metrics to columns: names as Prometheus writes them, what is refused, both encodings alike."""

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from aiopsd.config import ServicesConfig
from aiopsd.decode import check_samples, decode_samples, split_samples
from aiopsd.decode.otlp import STALE
from aiopsd.errors import DecodeError
from aiopsd.services import ServiceMapper
from aiopsd.testing.decode import Sample, index, records, sample, samples

TS = 1_767_571_200.5
NANOS = str(int(TS * 1e9))
CUMULATIVE, DELTA = 2, 1


def attribute(key: str, value: Any) -> dict[str, Any]:
    kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    if isinstance(value, list):
        return {"key": key, "value": {"arrayValue": {"values": [attribute("", v)["value"] for v in value]}}}
    return {"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}


def number(value: float, **attributes: Any) -> dict[str, Any]:
    return {
        "timeUnixNano": NANOS,
        "asDouble": value,
        "attributes": [attribute(k.replace("__", "."), v) for k, v in attributes.items()],
    }


def body(*metrics: dict[str, Any], **resource: Any) -> bytes:
    """An OTLP request in JSON, of one resource."""
    own = [attribute(k.replace("__", "."), v) for k, v in resource.items()]
    return json.dumps(
        {"resourceMetrics": [{"resource": {"attributes": own}, "scopeMetrics": [{"metrics": list(metrics)}]}]}
    ).encode()


def one(value: bytes, format: str = "otlp_json") -> tuple[list[Sample], list[tuple[str, str, int, bool]]]:
    """(samples, refusals) of one record."""
    ix = index()
    columns = decode_samples(records([value], format), ix)
    return samples(columns, ix), [(r.reason, r.detail, r.items, r.whole) for r in columns.rejects]


def wire(value: bytes) -> bytes:
    """The same request as protobuf."""
    request = ExportMetricsServiceRequest()
    json_format.Parse(value, request)
    return bytes(request.SerializeToString())


def test_a_gauge_carries_its_resource() -> None:
    """What a scrape of the target would have as labels comes from the resource; a point's own label wins."""
    given = body(
        {"name": "queue.depth", "gauge": {"dataPoints": [number(3.0, queue="a"), number(4.0, pod="other")]}},
        service__name="cart",
        service__namespace="shop",
        service__instance__id="i-1",
        k8s__pod__name="cart-7",
        telemetry__sdk__name="opentelemetry",
    )
    base = {"__name__": "queue_depth", "job": "shop/cart", "service_name": "cart", "instance": "i-1", "pod": "cart-7"}

    expected = [sample(base | {"queue": "a"}, TS, 3.0), sample(base | {"pod": "other"}, TS, 4.0)]
    assert (expected, []) == one(given)
    assert (expected, []) == one(wire(given), "otlp_proto")


def test_a_histogram_is_what_prometheus_would_have() -> None:
    """Count, sum and cumulative buckets by `le`; the unit is in the name."""
    given = body(
        {
            "name": "http.server.request.duration",
            "unit": "s",
            "histogram": {
                "aggregationTemporality": CUMULATIVE,
                "dataPoints": [
                    {
                        "timeUnixNano": NANOS,
                        "count": "6",
                        "sum": 1.5,
                        "explicitBounds": [0.1, 1],
                        "bucketCounts": ["1", "2", "3"],
                        "exemplars": [{"traceId": "5b8efff798038103d269b633813fc60c", "asDouble": 1.0}],
                    }
                ],
            },
        }
    )
    name = "http_server_request_duration_seconds"

    assert [
        sample({"__name__": name + "_count"}, TS, 6.0),
        sample({"__name__": name + "_sum"}, TS, 1.5),
        sample({"__name__": name + "_bucket", "le": "0.1"}, TS, 1.0),
        sample({"__name__": name + "_bucket", "le": "1"}, TS, 3.0),
        sample({"__name__": name + "_bucket", "le": "+Inf"}, TS, 6.0),
    ] == one(given)[0]


def test_a_bound_that_is_no_number_is_written_as_prometheus_does() -> None:
    """A histogram with NaN or infinity among its bounds is taken like any other: it stops nobody's stage."""
    point = {
        "timeUnixNano": NANOS,
        "count": "3",
        "explicitBounds": ["-Infinity", "NaN"],
        "bucketCounts": ["0", "1", "2"],
    }
    given = body({"name": "h", "histogram": {"aggregationTemporality": CUMULATIVE, "dataPoints": [point]}})

    for value, format in ((given, "otlp_json"), (wire(given), "otlp_proto")):
        found, refused = one(value, format)
        assert [] == refused
        assert ["-Inf", "NaN", "+Inf"] == [dict(labels)["le"] for labels, _, _ in found if "le" in dict(labels)]


def test_counters_summaries_and_exponential_histograms() -> None:
    """A monotonic sum is a counter, another a gauge; of what has no classic buckets count and sum are taken."""
    plain, cumulative = {"timeUnixNano": NANOS, "count": "2", "sum": 5.0}, {"aggregationTemporality": CUMULATIVE}
    given = body(
        {"name": "io", "unit": "By", "sum": cumulative | {"isMonotonic": True, "dataPoints": [number(1.0)]}},
        {"name": "open", "sum": cumulative | {"dataPoints": [number(7.0)]}},
        {"name": "rpc", "summary": {"dataPoints": [plain | {"quantileValues": [{"quantile": 0.5, "value": 2.0}]}]}},
        {"name": "exp", "exponentialHistogram": cumulative | {"dataPoints": [plain | {"scale": 3}]}},
    )

    assert [
        sample({"__name__": "io_bytes_total"}, TS, 1.0),
        sample({"__name__": "open"}, TS, 7.0),
        sample({"__name__": "rpc_count"}, TS, 2.0),
        sample({"__name__": "rpc_sum"}, TS, 5.0),
        sample({"__name__": "rpc", "quantile": "0.5"}, TS, 2.0),
        sample({"__name__": "exp_count"}, TS, 2.0),
        sample({"__name__": "exp_sum"}, TS, 5.0),
    ] == one(given)[0]


def test_a_delta_is_the_rate_of_its_span() -> None:
    """What grew between two times is taken per second, marked as such: counters, counts, sums and buckets alike."""
    since = {"startTimeUnixNano": str(int((TS - 10) * 1e9))}
    delta = {"aggregationTemporality": DELTA}
    bars = {"timeUnixNano": NANOS, "count": "6", "sum": 1.5, "explicitBounds": [1], "bucketCounts": ["2", "4"]}
    given = body(
        {"name": "io", "unit": "By", "sum": delta | {"isMonotonic": True, "dataPoints": [number(50.0, a="b") | since]}},
        {"name": "took", "histogram": delta | {"dataPoints": [bars | since]}},
        {"name": "exp", "exponentialHistogram": delta | {"dataPoints": [bars | since | {"scale": 3}]}},
        {"name": "gone", "sum": delta | {"isMonotonic": True, "dataPoints": [{"timeUnixNano": NANOS, "flags": 1}]}},
    )

    rate = {"__temporality__": "delta"}
    assert [
        sample({"__name__": "io_bytes_total", "a": "b"} | rate, TS, 5.0),
        sample({"__name__": "took_count"} | rate, TS, 0.6),
        sample({"__name__": "took_sum"} | rate, TS, 0.15),
        sample({"__name__": "took_bucket", "le": "1"} | rate, TS, 0.2),
        sample({"__name__": "took_bucket", "le": "+Inf"} | rate, TS, 0.6),
        sample({"__name__": "exp_count"} | rate, TS, 0.6),
        sample({"__name__": "exp_sum"} | rate, TS, 0.15),
        sample({"__name__": "gone_total"} | rate, TS, STALE),
    ] == one(given)[0]


def test_values_of_attributes_become_text() -> None:
    """Numbers, truths and lists are written as JSON; attributes that become one label are joined as Prometheus does."""
    given = body(
        {"name": "a", "gauge": {"dataPoints": [number(1.0, code=200, ok=True, of=["x", 1], a_b="1", a__b="2")]}}
    )

    assert [sample({"__name__": "a", "code": "200", "ok": "true", "of": '["x",1]', "a_b": "1;2"}, TS, 1.0)] == (
        one(given)[0]
    )


def test_a_point_without_a_value_ends_its_series() -> None:
    """The flag `no recorded value` is Prometheus' stale marker."""
    point = {"timeUnixNano": NANOS, "flags": 1}

    assert [sample({"__name__": "a"}, TS, STALE)] == one(body({"name": "a", "gauge": {"dataPoints": [point]}}))[0]
    assert math.isnan(STALE)


@pytest.mark.parametrize(
    ("metric", "reason", "word"),
    [
        ({"name": "n", "sum": {"aggregationTemporality": DELTA, "dataPoints": [number(1.0)]}}, "unsupported", "delta"),
        (
            {"name": "n", "sum": {"aggregationTemporality": DELTA, "isMonotonic": True, "dataPoints": [number(1.0)]}},
            "value",
            "since when",
        ),
        ({"name": "n", "gauge": {"dataPoints": [{"asDouble": 1.0}]}}, "timestamp", "time_unix_nano 0"),
        ({"name": "n", "gauge": {"dataPoints": [{"timeUnixNano": NANOS}]}}, "value", "without a value"),
        ({"name": "", "gauge": {"dataPoints": [number(1.0)]}}, "labels", "no metric name"),
    ],
)
def test_a_bad_point_costs_itself(metric: dict[str, Any], reason: str, word: str) -> None:
    """It is refused with the metric's name, at the door and when read; the good one beside it is taken."""
    good = {"name": "good", "gauge": {"dataPoints": [number(1.0)]}}
    found, refused = one(body(metric, good))
    checked = check_samples(body(metric, good), "otlp_json")

    assert [sample({"__name__": "good"}, TS, 1.0)] == found
    assert [(reason, 1, False)] == [(r, n, whole) for r, _, n, whole in refused]
    assert word in refused[0][1]
    assert (1, 1) == (checked.taken, checked.refused)
    assert word in checked.why[0]
    with pytest.raises(DecodeError, match=word):
        check_samples(body(metric), "otlp_json")


@pytest.mark.parametrize(
    ("value", "format"),
    [
        (b"\xff\xff", "otlp_proto"),
        (b"{", "otlp_json"),
        (b"[]", "otlp_json"),
        (b'{"resourceMetrics": 3}', "otlp_json"),
        (b'{"resourceMetrics": [{"resource": {"attributes": "x"}}]}', "otlp_json"),
        (b"[" * 100_000, "otlp_json"),
    ],
)
def test_what_is_no_request_is_refused_whole(value: bytes, format: str) -> None:
    """At the door and in a record; neither raises anything else."""
    with pytest.raises(DecodeError):
        check_samples(value, format)
    found, refused = one(value, format)
    assert [] == found
    assert [True] == [whole for *_, whole in refused]


def test_unknown_fields_are_passed_over() -> None:
    """A newer sender may say more."""
    given = json.loads(body({"name": "a", "news": 1, "gauge": {"dataPoints": [number(1.0)]}}))

    assert 1 == len(one(json.dumps(given | {"more": [1]}).encode())[0])
    assert 0 == check_samples(b"{}", "otlp_json").taken
    assert 0 == check_samples(b"", "otlp_proto").taken


def _number(value: float, service: str, more: dict[str, Any]) -> dict[str, Any]:
    point = number(value, **({"service": service} if service else {})) | more
    return {k: v for k, v in point.items() if k != "asDouble" or "asInt" not in more}


names = st.sampled_from(["a.b", "c", "9d", "-", "http.server.duration"])
values = st.floats(allow_nan=False, allow_infinity=False, width=32)
since = st.sampled_from([{}, {"startTimeUnixNano": str(int((TS - 10) * 1e9))}, {"startTimeUnixNano": NANOS}])
odd = st.sampled_from([{}, {}, {"asInt": "-7"}, {"flags": 1}, {"flags": 2}, {"exemplars": [{"asDouble": 1.0}]}])
points = st.builds(
    lambda v, s, since, odd: _number(v, s, since | odd), values, st.sampled_from(["", "x", "y", "z"]), since, odd
)
bars = st.builds(
    lambda n, since: {"timeUnixNano": NANOS, "count": str(n), "explicitBounds": [0.5], "bucketCounts": [n, n]} | since,
    st.integers(0, 9),
    since,
)
kinds = st.one_of(
    st.builds(lambda p: {"gauge": {"dataPoints": p}}, st.lists(points, max_size=4)),
    st.builds(
        lambda p, t, m: {"sum": {"dataPoints": p, "aggregationTemporality": t, "isMonotonic": m}},
        st.lists(points, max_size=4),
        st.sampled_from([DELTA, CUMULATIVE]),
        st.booleans(),
    ),
    st.builds(
        lambda p, t: {"histogram": {"dataPoints": p, "aggregationTemporality": t}},
        st.lists(bars, max_size=2),
        st.sampled_from([DELTA, CUMULATIVE]),
    ),
)
metrics = st.builds(lambda n, u, k: {"name": n, "unit": u, **k}, names, st.sampled_from(["", "1", "s", "By/s"]), kinds)


def _resource(metrics: list[dict[str, Any]], service: str) -> Any:
    return json.loads(body(*metrics, service__name=service))["resourceMetrics"][0]


requests = st.lists(
    st.builds(_resource, st.lists(metrics, max_size=3), st.sampled_from(["", "cart", "pay"])), max_size=3
)


@given(requests, st.integers(2, 5))
def test_encodings_and_partitions_agree(resources: list[Any], partitions: int) -> None:
    """JSON and protobuf give the same; a split loses, doubles and changes nothing, and keeps each service together."""
    text = json.dumps({"resourceMetrics": resources}).encode()
    found, refused = one(text)

    assert (found, refused) == one(wire(text), "otlp_proto")
    for value, format in ((text, "otlp_json"), (wire(text), "otlp_proto")):
        try:
            parts = split_samples(value, format, partitions, ServiceMapper(ServicesConfig()))
        except DecodeError:
            continue
        read = [one(part, format) for _, part in parts]
        assert sorted(found) == sorted(s for some, _ in read for s in some)
        assert sum(n for _, _, n, _ in refused) == sum(n for _, bad in read for _, _, n, _ in bad)
        homes: dict[str, set[int]] = {}
        for (p, _), (some, _) in zip(parts, read, strict=True):
            for labels, _, _ in some:
                service = ServiceMapper(ServicesConfig()).service(dict(labels))
                homes.setdefault(service or repr(labels), set()).add(p)
        assert all(len(where) == 1 for where in homes.values())


@given(requests)
def test_who_is_known_is_read_as_who_is_new(resources: list[Any]) -> None:
    """A series that was seen gives the same row and sample again, and after it was evicted a row of its own."""
    value = wire(json.dumps({"resourceMetrics": resources}).encode())
    ix = index()
    first = decode_samples(records([value], "otlp_proto"), ix)
    again = decode_samples(records([value], "otlp_proto"), ix)

    assert first.rows.tolist() == again.rows.tolist()
    assert samples(first, ix) == samples(again, ix) == one(value, "otlp_proto")[0]
    assert first.rejects == again.rejects
    ix.evict(first.rows.tolist()[::2])
    ix.row_of({"__name__": "another"})
    third = decode_samples(records([value], "otlp_proto"), ix)
    assert samples(third, ix) == one(value, "otlp_proto")[0]


def test_what_is_broken_inside_costs_itself() -> None:
    """A data point, a name or a resource that is no protobuf or no UTF-8 is refused; the others are taken."""
    request = ExportMetricsServiceRequest.FromString(
        wire(body(*({"name": n, "gauge": {"dataPoints": [number(1.0, k="v")]}} for n in ("good", "bad"))))
    )
    whole = request.SerializeToString()
    for broken, reason in (
        (whole.replace(b"\x0a\x03bad", b"\x0a\x03b\xffd"), "labels"),
        (whole[: whole.rindex(b"\x0a\x01k")] + b"\x0a\x01\xff" + whole[whole.rindex(b"\x0a\x01k") + 3 :], "malformed"),
    ):
        found, refused = one(broken, "otlp_proto")
        assert [sample({"__name__": "good", "k": "v"}, TS, 1.0)] == found
        assert [(reason, 1, False)] == [(r, n, w) for r, _, n, w in refused]


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(value: bytes) -> None:
    """No input raises anything but DecodeError at the door, and nothing in a record."""
    for format in ("otlp_proto", "otlp_json"):
        with suppress(DecodeError):
            check_samples(value, format)
        one(value, format)
