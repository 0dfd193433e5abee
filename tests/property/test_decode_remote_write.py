"""Remote write: three ways through one format, and the library's parser as the judge of all three."""

import contextlib
import struct

import numpy as np
import pytest
from google.protobuf.message import DecodeError as ProtobufError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiopsd.config import ServicesConfig
from aiopsd.decode import check_samples, decode_samples, split_samples
from aiopsd.decode import remote_write as rw
from aiopsd.decode.columns import Batch
from aiopsd.decode.series import pack
from aiopsd.errors import DecodeError
from aiopsd.services import ServiceMapper
from aiopsd.testing.decode import WriteRequest, index, records, sample, samples, snappy, write_request

# ------------------------------------------------------------------ messages, byte by byte


def varint(n: int, overlong: int = 0) -> bytes:
    out = bytearray()
    n &= (1 << 64) - 1
    while n > 0x7F or overlong > 0:
        out.append(n & 0x7F | 0x80)
        n >>= 7
        overlong -= 1
    out.append(n)
    return bytes(out)


def field(number: int, payload: bytes, overlong: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload), overlong) + payload


names = st.sampled_from(["__name__", "service", "job", "le", "zone", "x" * 130, "é", ""])
words = st.one_of(
    st.sampled_from(["", "up", "cart", "y" * 200, "\x12\x10\x09", "\x12\x07\x10", "\x10\t", "ü"]), st.text(max_size=8)
)
numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf"), 5e-324]),
    st.floats(),
    st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]),
    st.sampled_from([b"\x12\x10\x09\x00\x00\x12\x10\x09", b"\x12\x07\x10\x12\x10\x09\x12\x07"]).map(
        lambda raw: struct.unpack("<d", raw)[0]
    ),
)
times = st.one_of(
    st.integers(1_700_000_000_000, 1_700_000_009_999),
    st.sampled_from(
        [0, 1, -1, 2**20, 2**27, 2**35 - 1, 2**35, 2**42 - 1, 2**42, 253_402_300_799_999, 253_402_300_800_000, 2**62]
    ),
    st.sampled_from([0x12, 0x10, 0x09, 0x07]).map(lambda b: 1_700_000_000_000 & ~0x7F | b),
)
unknown = st.sampled_from([b"", b"", b"", b"\x50\x05", b"\x5a\x02ab", b"\x5d\x01\x02\x03\x04", b"\x53\x54"])


@st.composite
def label(draw: st.DrawFn, odd: bool) -> bytes:
    name, value = field(1, draw(names).encode()), field(2, draw(words).encode())
    if not odd:
        return field(1, name + value)
    parts = draw(st.sampled_from([[name, value], [value, name], [name], [value], [], [name, name, value]]))
    return field(1, b"".join(parts) + draw(unknown), draw(st.integers(0, 2)))


@st.composite
def point(draw: st.DrawFn, odd: bool) -> bytes:
    value = draw(numbers)
    raw = struct.pack("<d", value)
    ts = draw(times)
    first = b"\x09" + raw if odd or value != 0 else b""
    second = b"\x10" + varint(ts)
    if not odd:
        return field(2, first + second)
    parts = draw(st.sampled_from([[first, second], [second, first], [first], [second], [], [first, first, second]]))
    return field(2, b"".join(parts) + draw(unknown), draw(st.integers(0, 2)))


@st.composite
def time_series(draw: st.DrawFn, odd: bool) -> bytes:
    if not odd:
        chosen = draw(st.dictionaries(names.filter(bool), words.filter(bool), max_size=4))
        chosen = {**chosen, "__name__": draw(st.sampled_from(["up", "queue_depth"]))}
        head = pack(chosen)
        return field(1, head + b"".join(draw(st.lists(point(False), min_size=1, max_size=2))))
    if draw(st.booleans()):
        parts = draw(st.lists(label(True), max_size=4))
    else:  # odd in form only: something to take
        parts = [field(1, field(1, b"__name__") + field(2, b"up"))]
        pair = [field(1, b"job"), field(2, draw(words).encode())]
        parts.append(field(1, b"".join(draw(st.permutations(pair))) + draw(unknown), draw(st.integers(0, 2))))
    parts += draw(st.lists(point(True), max_size=3))
    parts += draw(st.lists(st.sampled_from([field(3, b""), field(4, b""), field(4, b"\x18\x01")]), max_size=1))
    if draw(st.booleans()):
        parts = draw(st.permutations(parts))
    return field(1, b"".join(parts) + draw(unknown), draw(st.integers(0, 2)))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    kinds = draw(st.lists(st.sampled_from([False, False, True]), max_size=5))
    parts = [draw(time_series(odd)) for odd in kinds]
    if draw(st.integers(0, 4)) == 0:
        parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from([field(3, b"\x08\x01"), b"\x50\x05"])))
    return b"".join(parts)


# ------------------------------------------------------------------ the judge


def judged(message: bytes) -> tuple[list[object], int]:
    """(samples, number refused) by the library's parser and the rules of the specification."""
    good: list[object] = []
    refused = 0
    for series in WriteRequest.FromString(message).timeseries:
        pairs = sorted((x.name, x.value) for x in series.labels)
        labels = {k: v for k, v in pairs if v}
        known = [k for k, _ in pairs]
        if not series.samples and not series.histograms:
            continue
        if "" in known or len(set(known)) != len(known) or "__name__" not in labels:
            refused += len(series.samples) + len(series.histograms)
            continue
        refused += len(series.histograms)
        for s in series.samples:
            if 0 < s.timestamp < 253_402_300_800_000:
                good.append(sample(labels, s.timestamp / 1000, s.value))
            else:
                refused += 1
    return good, refused


def by_walk(message: bytes) -> tuple[list[object], int]:
    ix, out = index(), Batch()
    rw._walk(message, 0, records([b""], "remote-write")[0], ix, out)
    rows, ts, values, _ = out.columns()
    found = [sample(ix.labels(r), t, v) for r, t, v in zip(rows.tolist(), ts.tolist(), values, strict=True)]
    return found, sum(r.items for r in out.rejects)


def by_decode(bodies: list[bytes]) -> tuple[list[object], int]:
    ix = index()
    columns = decode_samples(records(bodies, "remote-write"), ix)
    return list(samples(columns, ix)), sum(r.items for r in columns.rejects)


@given(messages())
@settings(max_examples=150, deadline=None)
def test_every_way_agrees_with_the_library(message: bytes) -> None:
    """Whatever the shape of a request, the samples, their bits and the number refused are those of the full parser."""
    expected = judged(message)

    assert expected == by_walk(message)
    assert expected == by_decode([snappy(message)])


HEAD = pack({"__name__": "up"})
LONG = pack({"__name__": "up", "job": "x" * 110})
VALUE = b"\x12\x10\x09" + struct.pack("<d", 1.5) + b"\x10"
SAMPLE = VALUE + varint(1_700_000_000_000)


@pytest.mark.parametrize(
    "message",
    [
        field(1, HEAD) + SAMPLE,  # the sample stands outside: an unknown field of the request
        field(1, LONG) + SAMPLE,
        field(1, HEAD + SAMPLE) + SAMPLE,
        field(1, HEAD + SAMPLE + SAMPLE)[:-18] + SAMPLE[:-1] + b"\x7f",
        b"\x0a" + varint(len(HEAD + SAMPLE) - 1) + HEAD + SAMPLE,
        b"\x0a" + varint(len(HEAD + SAMPLE) + 1) + HEAD + SAMPLE,
        b"\x12" + varint(len(HEAD + SAMPLE)) + HEAD + SAMPLE,
        field(1, HEAD + VALUE + varint(2**27) + b"\x50\x05"),  # a short timestamp, and a field that we do not know
        field(1, HEAD + b"\x12\x07\x10" + varint(2**20) + b"\x52\x01a"),
        field(1, HEAD + VALUE[:-1] + b"\x50" + varint(1_700_000_000_000)),  # no timestamp at all
        field(1, HEAD + VALUE + b"\xff" * 6),
        field(1, SAMPLE + HEAD),
        field(1, SAMPLE),
        field(1, HEAD + field(4, SAMPLE)),  # a histogram whose bytes look like a sample
        field(1, HEAD + field(3, field(2, b"") + SAMPLE)),
        field(1, HEAD + field(5, SAMPLE) + SAMPLE),
        field(1, field(1, field(1, b"__name__") + field(2, b"up") + b"\x50\x05") + SAMPLE),
        field(1, field(1, field(1, b"__name__") + field(2, b"up") + field(2, b"down")) + SAMPLE),
    ],
)
@pytest.mark.parametrize("neighbour", [b"", field(1, HEAD + SAMPLE), field(1, LONG + SAMPLE)])
def test_what_only_looks_regular_is_read_as_the_library_reads_it(message: bytes, neighbour: bytes) -> None:
    """Shapes made to deceive the framing: alone, and before and after an ordinary series."""
    for text in (message, neighbour + message, message + neighbour):
        try:
            expected = judged(text)
        except ProtobufError:
            assert not set(by_decode([snappy(text)])[0]) - set(judged(neighbour)[0])
        else:
            assert expected == by_decode([snappy(text)])


def test_a_series_does_not_run_over_two_bodies() -> None:
    """A body cut off inside a series is broken, even when the next body begins with what it lacks."""
    whole = field(1, HEAD + SAMPLE)
    broken = field(1, HEAD + SAMPLE + SAMPLE)

    found, refused = by_decode([snappy(broken[:-18]), snappy(SAMPLE), snappy(whole)])

    assert judged(whole)[0] == found
    assert 1 == refused


@given(st.lists(messages(), max_size=4), st.data())
@settings(max_examples=50, deadline=None)
def test_batches_change_nothing(several: list[bytes], data: st.DataObject) -> None:
    """However records are cut into batches, rows, samples and rejects are the same."""
    whole_index, cut_index = index(), index()
    given_records = records([snappy(m) for m in several], "remote-write")
    whole = decode_samples(given_records, whole_index)
    at = data.draw(st.integers(0, len(several)))
    parts = [decode_samples(given_records[:at], cut_index), decode_samples(given_records[at:], cut_index)]

    assert whole.rows.tolist() == [r for p in parts for r in p.rows.tolist()]
    assert samples(whole, whole_index) == [s for p in parts for s in samples(p, cut_index)]
    assert whole.record.tolist() == parts[0].record.tolist() + [at + r for r in parts[1].record.tolist()]
    assert whole.rejects == parts[0].rejects + parts[1].rejects
    assert whole_index.take_new() == cut_index.take_new()


regular = st.tuples(
    st.dictionaries(st.sampled_from(["service", "job", "x" * 130]), st.text("abcdefé-", min_size=1)),
    st.lists(st.tuples(st.integers(1_700_000_000_000, 1_800_000_000_000), st.integers(-3, 3)), min_size=1, max_size=3),
)


@given(st.lists(regular, min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_the_regular_shape_goes_the_fast_way(series: list[tuple[dict[str, str], list[tuple[int, int]]]]) -> None:
    """What the library writes of ordinary series, zeros left out, is framed by numpy: the cost that we promise."""
    some = [(labels | {"__name__": "up"}, [(ms / 1000, float(v)) for ms, v in points]) for labels, points in series]
    message = write_request(*some)
    marks = sum(message[i : i + 3] in (b"\x12\x10\x09", b"\x12\x07\x10") for i in range(len(message)))
    count = sum(len(points) for _, points in series)
    assume(marks == count)  # a timestamp may look like a sample's beginning

    f = rw.frames(message)

    assert f is not None
    assert count == len(f.ts)
    assert len(series) == check_samples(snappy(message), "remote-write").taken


@given(messages(), st.data())
@settings(max_examples=100, deadline=None)
def test_broken_bytes_are_refused_or_read_as_the_library_reads_them(message: bytes, data: st.DataObject) -> None:
    """A damaged request is a reject or the library's answer, never a crash and never an invented sample."""
    assume(message)
    raw = bytearray(message)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])

    got = by_decode([snappy(damaged)])

    try:
        expected = judged(damaged)
    except ProtobufError:
        return  # what is left of it may be taken: a broken series costs itself
    assert expected == got


@given(messages(), st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_a_split_loses_nothing_and_keeps_services_together(message: bytes, partitions: int) -> None:
    """The parts of a body hold its samples exactly once, and no service is in two of them."""
    services = ServiceMapper(ServicesConfig())
    parts = split_samples(snappy(message), "remote-write", partitions, services)
    where: dict[str, int] = {}
    together: list[object] = []
    for partition, part in parts:
        found, _ = by_decode([part])
        together += found
        for labels, _, _ in found:  # type: ignore[misc]  # what `one` gives is loose
            service = services.service(dict(labels))
            if service:
                assert partition == where.setdefault(service, partition)

    assert sorted(by_decode([snappy(message)])[0]) == sorted(together)  # type: ignore[type-var]  # labels compare
    assert [p for p, _ in parts] == sorted({p for p, _ in parts})
    assert all(0 <= p < partitions for p, _ in parts)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_value(body: bytes) -> None:
    """Arbitrary bytes are refused as a reject of their record, or decoded; the door raises nothing but DecodeError."""
    for value in (body, snappy(body)):
        ix = index()
        columns = decode_samples(records([value], "remote-write"), ix)
        assert len(columns.rows) == len(columns.ts) == len(columns.values) == len(columns.record)
        with contextlib.suppress(DecodeError):
            assert check_samples(value, "remote-write").taken > 0 or not len(columns.rows)
        with contextlib.suppress(DecodeError):
            split_samples(value, "remote-write", 3, ServiceMapper(ServicesConfig()))


def test_stale_markers_keep_their_bits_on_every_way() -> None:
    """A stale marker is told from any other NaN by its bits, so no way may change them."""
    bits = struct.pack("<Q", 0x7FF0_0000_0000_0002)
    head = pack({"__name__": "up"})
    regular = field(1, head + field(2, b"\x09" + bits + b"\x10" + varint(1_700_000_000_000)))
    reversed_ = field(1, head + field(2, b"\x10" + varint(1_700_000_000_000) + b"\x09" + bits))

    columns = decode_samples(records([snappy(regular), snappy(reversed_), snappy(regular)], "remote-write"), index())

    assert [bits] * 3 == [v.tobytes() for v in columns.values]
    assert columns.values.dtype == np.float64
