"""Metric records to columns: the words of refusals, the door, and bodies recorded from real senders."""

import json
import math
import struct
import sys
import tomllib
import types
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from aiopsd import plugins
from aiopsd.config import ServicesConfig
from aiopsd.decode import check_samples, decode_samples, split_samples
from aiopsd.decode.columns import Batch
from aiopsd.decode.samples import _BUILT_IN, sample_format
from aiopsd.decode.series import SeriesIndex, checked, pack
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import Checked, LogRecord
from aiopsd.services import ServiceMapper
from aiopsd.testing.decode import WriteRequest, index, records, samples, snappy, write_request

GOLDEN = Path(__file__).parent.parent / "golden" / "decode"
TS = 1_767_571_200.0


def one(body: bytes, format: str = "json") -> tuple[list[object], list[tuple[str, str, int, bool]]]:
    """(samples, refusals) of one record."""
    ix = index()
    columns = decode_samples(records([body], format), ix)
    return list(samples(columns, ix)), [(r.reason, r.detail, r.items, r.whole) for r in columns.rejects]


# ------------------------------------------------------------------ recorded bodies


@pytest.mark.parametrize("name", ["prometheus-2.42-write", "prometheus-2.42-write-stale", "vmagent-1.79-write"])
def test_recorded_bodies(name: str) -> None:
    """What real senders sent is read sample by sample, bits of NaN and stale markers included, nothing refused."""
    found, refused = one((GOLDEN / f"{name}.snappy").read_bytes(), "remote-write")
    lines = [json.dumps([dict(labels), ts, value.hex()]) for labels, ts, value in found]  # type: ignore[misc]  # what `one` gives is loose

    assert (GOLDEN / f"{name}.jsonl").read_text().splitlines() == lines
    assert [] == refused


def test_metadata_alone_is_no_sample_and_no_fault() -> None:
    """Prometheus sends metadata in requests of their own: taken, nothing in them to score."""
    body = (GOLDEN / "prometheus-2.42-write-metadata.snappy").read_bytes()

    assert 0 == check_samples(body, "remote-write").taken
    assert ([], []) == one(body, "remote-write")


# ------------------------------------------------------------------ remote write


def test_a_bad_series_costs_itself() -> None:
    """Of a request with bad series the good ones are taken; one Reject a reason names the first and counts all."""
    nameless = [({"job": f"j{i}"}, [(TS, 1.0), (TS + 1, 2.0)]) for i in range(5)]
    body = snappy(write_request(({"__name__": "up"}, [(TS, 1.0)]), *nameless, ({"__name__": "q"}, [(TS, 0.0)])))

    found, refused = one(body, "remote-write")

    assert 2 == len(found)
    words = "; ".join(f'series {{job="j{i}"}}: no metric name' for i in range(3)) + "; and 2 more"
    assert [("labels", words, 10, False)] == refused


def test_a_record_of_which_nothing_can_be_used_is_a_whole_reject() -> None:
    """A record that gave no sample goes to the dead letter; its place is in the reject."""
    bad = snappy(write_request(({"job": "a"}, [(TS, 1.0)])))
    good = snappy(write_request(({"__name__": "up"}, [(TS, 1.0)])))

    columns = decode_samples(records([good, bad, b"\xff", good], "remote-write"), index())

    assert [(1, True), (2, True)] == [(r.pos.offset, r.whole) for r in columns.rejects]
    assert [0, 3] == columns.record.tolist()


def test_native_histograms_are_refused_by_number_and_samples_kept() -> None:
    """A series with histograms keeps its samples; exemplars are passed over."""
    request = WriteRequest()
    series = request.timeseries.add(histograms=[b"\x18\x01", b""])
    series.labels.add(name="__name__", value="rt")
    series.samples.add(value=1.5, timestamp=int(TS * 1000))
    series.exemplars.add(value=1.0)

    found, refused = one(snappy(request.SerializeToString()), "remote-write")

    assert 1 == len(found)
    assert [("unsupported", 'series {__name__="rt"}: native histograms', 2, False)] == refused


def test_invalid_utf8_costs_its_series() -> None:
    """A label that is not UTF-8 is shown as bytes; its neighbours are taken."""
    message = write_request(({"__name__": "up", "job": "c*rt"}, [(TS, 1.0)]), ({"__name__": "q"}, [(TS, 2.0)]))

    found, refused = one(snappy(message.replace(b"c*rt", b"c\xffrt")), "remote-write")

    assert 1 == len(found)
    assert [("labels", "label b'job=c\\xffrt': not UTF-8", 1, False)] == refused


def test_a_bomb_is_refused_before_it_is_opened() -> None:
    """A body that declares more than the limit is TOO_LARGE, whatever it holds; so is long JSON at the door."""
    declared = b"\xff\xff\xff\xff\x0f"

    for body, format in ((declared, "remote-write"), (b" " * 65, "json")):
        with pytest.raises(DecodeError) as caught:
            check_samples(body, format, limit=64)
        assert DecodeReason.TOO_LARGE is caught.value.reason
    assert "too_large" == one(declared, "remote-write")[1][0][0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"not snappy", "compression"), (snappy(b"\x0a\xff"), "malformed"), (b"", "compression")],
)
def test_what_can_never_be_accepted_is_refused_at_the_door(body: bytes, reason: str) -> None:
    """The door says so itself, and a record that came past it says the same."""
    with pytest.raises(DecodeError) as caught:
        check_samples(body, "remote-write")

    assert reason == caught.value.reason == one(body, "remote-write")[1][0][0]


def test_repeated_and_older_samples_pass_through() -> None:
    """A retried body may hold samples already taken: telling them apart is the detectors' business."""
    body = snappy(write_request(({"__name__": "up"}, [(TS + 9, 1.0), (TS, 2.0), (TS, 2.0)])))

    assert [TS + 9, TS, TS] == [s[1] for s in one(body, "remote-write")[0]]  # type: ignore[index]  # what `one` gives is loose


def test_one_partition_needs_no_reading() -> None:
    """With one partition the body goes through as it is."""
    assert [(0, b"anything")] == split_samples(b"anything", "remote-write", 1, ServiceMapper(ServicesConfig()))


def test_a_split_makes_at_most_one_record_a_partition() -> None:
    """Five hundred series of many services become at most one body for each partition, all of them in use."""
    series = [({"__name__": "up", "service": f"s{i % 50}", "i": str(i)}, [(TS, 1.0)]) for i in range(500)]

    parts = split_samples(snappy(write_request(*series)), "remote-write", 4, ServiceMapper(ServicesConfig()))

    assert [0, 1, 2, 3] == [p for p, _ in parts]
    assert 500 == sum(check_samples(body, "remote-write").taken for _, body in parts)


# ------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1.5),
        ("1", 1.0),
        ("null", math.nan),
        ('"NaN"', math.nan),
        ('"Infinity"', math.inf),
        ('"-Inf"', -math.inf),
    ],
)
def test_values(text: str, value: float) -> None:
    """Numbers, null as a gap, and the texts for what JSON has no number for."""
    ((_, _, raw),), refused = one(f'{{"name":"up","labels":{{}},"ts":{TS},"value":{text}}}'.encode())  # type: ignore[misc]  # what `one` gives is loose

    assert np.float64(value).tobytes() == np.float64(struct.unpack("<d", raw)[0]).tobytes()  # type: ignore[has-type]  # what `one` gives is loose
    assert [] == refused


@pytest.mark.parametrize("ts", [f"{TS}", '"2026-01-05T00:00:00Z"', '"2026-01-05T01:00:00.000+01:00"'])
def test_times(ts: str) -> None:
    """Seconds since the epoch, or RFC 3339."""
    assert TS == one(f'{{"name":"up","ts":{ts},"value":1}}'.encode())[0][0][1]  # type: ignore[index]  # what `one` gives is loose


def test_the_record_of_the_prometheus_kafka_adapter_is_taken() -> None:
    """Its four fields are ours under other spellings: `timestamp` as text, `value` as text."""
    body = b'{"timestamp":"2026-01-05T00:00:00Z","value":"3.5","name":"up","labels":{"__name__":"up","job":"node"}}'

    assert [((("__name__", "up"), ("job", "node")), TS, struct.pack("<d", 3.5))] == one(body)[0]


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (b'{"name":"up","ts":1}', "schema", "missing required field `value`"),
        (b'{"name":"up","value":1}', "schema", "missing required field `ts`"),
        (b'{"name":"up","lables":{},"ts":1,"value":1}', "schema", "unknown field `lables`"),
        (b'{"name":"up","ts":1,"value":true}', "schema", "got `bool` - at `$.value`"),
        (b'{"name":"up","ts":1,"value":"much"}', "value", "series {__name__=\"up\"}: value 'much' is not a number"),
        (b'{"name":"up","ts":1767571200000,"value":1}', "timestamp", "`ts` counts seconds, these look like milli"),
        (b'{"name":"up","ts":"soon","value":1}', "timestamp", "cannot read 'soon'"),
        (b'{"labels":{"job":"a"},"ts":1,"value":1}', "labels", 'series {job="a"}: no metric name'),
        (b'{"name":"up","ts":1,"value":1,"points":[[1,2]]}', "schema", "`points` beside"),
        (b'{"samples":[],"name":"up"}', "schema", "`name` beside `samples`"),
        (b'{"samples":[{"samples":[]}]}', "schema", "sample 0: `samples` inside `samples`"),
        (b'{"name":"up","ts":1,"value":NaN}', "malformed", "not JSON"),
        (b"[" * 100_000, "malformed", "not JSON"),
        (b"", "malformed", "not JSON"),
        (b"5", "schema", "Expected `object`"),
    ],
)
def test_refusals_name_key_and_series(body: bytes, reason: str, words: str) -> None:
    """A refused record says which key, which series and what was wrong; the door says the same."""
    found, refused = one(body)
    with pytest.raises(DecodeError) as caught:
        check_samples(body, "json")

    assert [] == found
    assert [(reason, True)] == [(r[0], r[3]) for r in refused]
    assert words in refused[0][1]
    assert reason == caught.value.reason
    assert words in caught.value.detail


def test_a_bad_sample_of_a_list_costs_itself() -> None:
    """Samples are told apart by their place; points of one series by their number."""
    body = b'[{"name":"a","ts":1,"value":1},{"name":"b","ts":1},7,{"name":"c","points":[[1,1],[-1,2],[3,"x"]]}]'

    found, refused = one(body)

    assert ["a", "c"] == [dict(s[0])["__name__"] for s in found]  # type: ignore[index]  # what `one` gives is loose
    assert [("schema", 2, False), ("timestamp", 1, False), ("value", 1, False)] == [(r[0], *r[2:]) for r in refused]
    assert refused[0][1].startswith("sample 1: Object missing required field `value`")
    assert 'sample 3: series {__name__="c"}: timestamp -1.0' == refused[1][1]
    assert 2 == check_samples(body, "json").taken


# ------------------------------------------------------------------ formats


def test_formats_mix_in_one_batch_in_the_order_of_records() -> None:
    """Columns follow the records whatever their formats; the same series has one row in all of them."""
    ix = index()
    wire = snappy(write_request(({"__name__": "up"}, [(TS, 1.0)])))
    text = b'{"name":"up","labels":{},"ts":1767571201,"value":2}'
    some = [*records([wire], "remote_write"), *records([text], "json"), *records([wire], "remote-write")]

    columns = decode_samples(some, ix)

    assert [0, 0, 0] == columns.rows.tolist()
    assert [1.0, 2.0, 1.0] == columns.values.tolist()
    assert [0, 1, 2] == columns.record.tolist()


def test_an_unknown_format_is_refused_by_name() -> None:
    """A record of a format that nobody decodes is a whole reject; the door raises."""
    assert [("unsupported", "no decoder for the metric format `collectd`", 1, True)] == one(b"x", "collectd")[1]
    with pytest.raises(DecodeError, match="collectd"):
        check_samples(b"x", "collectd")


class Lines:
    """A third-party format: `name value` at one known time, a line each."""

    @staticmethod
    def decode(given: Sequence[LogRecord], first: int, of: SeriesIndex, out: Batch) -> None:
        for number, record in enumerate(given, first):
            for line in record.value.decode().splitlines():
                name, value = line.split()
                out.add([of.row_of(checked([("__name__", name)]))], [TS], [float(value)], [number])

    @staticmethod
    def check(body: bytes, limit: int) -> Checked:
        return Checked(taken=len(body.splitlines()))


def test_a_third_party_format_enters_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in's format stands beside the built-in ones, and its series are the same series."""
    module = types.ModuleType("aiopsd_lines")
    module.__dict__["Lines"] = Lines
    monkeypatch.setitem(sys.modules, "aiopsd_lines", module)
    point = EntryPoint("lines", "aiopsd_lines:Lines", "aiopsd.decoders")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])
    ix = index()
    wire = snappy(write_request(({"__name__": "up"}, [(TS, 1.0)])))

    columns = decode_samples([*records([wire], "remote-write"), *records([b"q 2\nup 3"], "lines")], ix)

    assert [0, 1, 0] == columns.rows.tolist()
    assert [1.0, 2.0, 3.0] == columns.values.tolist()
    assert 2 == check_samples(b"q 2\nup 3", "lines").taken


def test_the_built_in_formats_are_declared_as_plug_ins() -> None:
    """pyproject names each built-in decoder, so that `names` lists it beside the others."""
    declared = tomllib.loads((GOLDEN.parent.parent.parent / "pyproject.toml").read_text())["project"]["entry-points"]

    found = {name: EntryPoint(name, value, "").load() for name, value in declared["aiopsd.decoders"].items()}

    assert {name: sample_format(name) for name in ("json", "remote-write", "otlp_proto", "otlp_json")} == found


def test_nothing_gives_empty_columns() -> None:
    """No records, no samples: columns of the right types."""
    columns = decode_samples([], index())

    assert [np.intp, np.float64, np.float64, np.int32] == [
        a.dtype for a in (columns.rows, columns.ts, columns.values, columns.record)
    ]


def test_rows_of_known_series_survive_a_bad_neighbour_in_the_batch() -> None:
    """A body that needs the slow way leaves the rows and samples of the others as they were."""
    good = snappy(write_request(({"__name__": "up"}, [(TS, 1.0)])))
    odd = snappy(b"\x0a" + bytes([len(pack({"__name__": "q"})) + 2]) + b"\x12\x00" + pack({"__name__": "q"}))
    ix = index()

    columns = decode_samples(records([good, odd, good], "remote-write"), ix)

    assert [0, 0] == columns.rows.tolist()
    assert [("timestamp", 1)] == [(r.reason, r.pos.offset) for r in columns.rejects]


class Fragile:
    """A decoder of somebody else: a record is the name of a metric, and on one name it fails, half done."""

    def decode(self, records: Sequence[LogRecord], first: int, index: SeriesIndex, out: Batch) -> None:
        for number, record in enumerate(records, first):
            out.add([index.row_of({"__name__": record.value.decode()})], [TS], [1.0], [number])
            if record.value == b"boom":
                raise ValueError("cannot convert float NaN to integer")


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 2, 3)])
def test_a_record_on_which_a_decoder_fails_costs_itself(cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as a whole and says what failed; its neighbours are read, and rows are the same in any batch."""
    monkeypatch.setitem(_BUILT_IN, "fragile", Fragile())  # type: ignore[arg-type]  # decoding is all that is asked
    given = records([b"a", b"boom", b"b", b"a"], "fragile")
    ix = index()

    parts = [decode_samples(given[a:b], ix) for a, b in pairwise((0, *cuts, len(given)))]

    assert [0, 2, 0] == [row for part in parts for row in part.rows.tolist()]
    (refused,) = [r for part in parts for r in part.rejects]
    assert ("decoder", 1, True) == (refused.reason, refused.pos.offset, refused.whole)
    assert "cannot convert float NaN" in refused.detail
