"""Prometheus remote write 1.0: a WriteRequest in protobuf, compressed by snappy in block format; HTTP and Kafka alike.

Three ways, the first that knows the shape: numpy over the joined bodies of a batch, when every TimeSeries is regular
labels and then regular samples; a walk over the TimeSeries of one body; upb's full parser for a TimeSeries, or a
request, of any other shape. A sample is regular when its timestamp is a varint of six bytes (1971 to 2109) and its
value is there or, being zero, left out. All three give the same answer; what differs is the cost.

Exemplars and metadata are no samples and are passed over; native histograms are refused and counted.
Specification: https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

import struct
from collections.abc import Sequence
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from aiopsd.decode.columns import Batch
from aiopsd.decode.series import (
    ROUTES,
    SeriesIndex,
    checked,
    pack,
    parse_key,
    route,
    shown,
    split_labels,
    texts,
    varint,
)
from aiopsd.decode.times import LATEST
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import Checked, Labels, LogRecord
from aiopsd.services import ServiceMapper

MAX_BODY = 64 * 1024 * 1024  # after decompression, of a record in a log

TOGETHER = 1 << 18  # bytes of messages joined for one pass; from some 0.7 MB on, each pass pays for fresh pages

Pairs = list[tuple[bytes, bytes]]
_Bad = list[tuple[DecodeReason, str, int]]
_LATEST_MS = int(LATEST * 1000)
_PAD = b"\x00" * 8  # so that eight bytes can be read at any place


def decompress(body: bytes, limit: int) -> bytes:
    """The protobuf message in a body.

    Raises:
        DecodeError: COMPRESSION; TOO_LARGE when it declares more than `limit` bytes, before anything is allocated.
    """
    try:
        size = cramjam.snappy.decompress_raw_len(body)
        if size > limit:
            raise DecodeError(DecodeReason.TOO_LARGE, f"{size} bytes after decompression, at most {limit} are taken")
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as e:
        raise DecodeError(DecodeReason.COMPRESSION, f"not snappy in block format: {e}") from None


# --------------------------------------------------------------------------- the regular shape, by numpy


class _Frames:
    """Where everything is in joined messages of the regular shape. One run is one TimeSeries.

    `begin`, `end` intp[runs]: its label bytes; `start` intp[runs]: its first byte, the field's tag; `first`
    intp[runs]: its first sample; `ts` float64[samples] in seconds, `values` float64[samples].
    """

    __slots__ = ("begin", "end", "first", "start", "stop", "ts", "values")

    def __init__(
        self,
        start: NDArray[Any],
        begin: NDArray[Any],
        end: NDArray[Any],
        stop: NDArray[Any],
        first: NDArray[Any],
        ts: NDArray[Any],
        values: NDArray[Any],
    ) -> None:
        self.start, self.begin, self.end, self.stop, self.first = start, begin, end, stop, first
        self.ts, self.values = ts, values


def frames(text: bytes) -> _Frames | None:
    """Frames of a message (or several, joined); None when it is not of the regular shape through and through.

    Candidates for samples are found by their first three bytes. Then everything is held against the lengths: each
    TimeSeries begins where the one before it ended, and ends where its last sample does. So the shape is proven, and
    a candidate that only looked like a sample makes it None. What is left to check is what the label bytes say.
    """
    size = len(text)
    if size < 12:
        return None
    buf = np.frombuffer(text + _PAD, np.uint8)
    body = buf[:size]
    at = np.flatnonzero(body[:-2] == 0x12)
    second, third = buf[at + 1], buf[at + 2]
    at = at[((second == 0x10) & (third == 0x09)) | ((second == 0x07) & (third == 0x10))]
    if not len(at):
        return None
    absent = buf[at + 1] == 0x07  # a value of zero is left out
    after = at + np.where(absent, 9, 18)
    if after[-1] != size or (at[1:] < after[:-1]).any():
        return None
    opens = np.ones(len(at), bool)
    opens[1:] = at[1:] != after[:-1]
    first = np.flatnonzero(opens)
    stop = np.append(after[first[1:] - 1], size)
    start = np.append(0, stop[:-1])
    one, two = buf[start + 1].astype(np.intp), buf[start + 2].astype(np.intp)
    long = one > 127
    begin = start + np.where(long, 3, 2)
    end = at[first]
    if (
        (buf[start] != 0x0A).any()
        or (begin + np.where(long, one & 127 | two << 7, one) != stop).any()
        or (long & (two > 127)).any()
        or (begin > end).any()
    ):
        return None
    eights = np.lib.stride_tricks.sliding_window_view(buf, 8)
    stamp_at = at + np.where(absent, 3, 12)
    if (~absent & (buf[stamp_at - 1] != 0x10)).any():
        return None
    stamp = eights[stamp_at].view("<u8").ravel()
    if ((stamp & 0x8080_8080_8080) != 0x0080_8080_8080).any():
        return None
    ms = stamp & 0x7F
    for k in range(1, 6):
        ms |= (stamp >> np.uint64(k)) & np.uint64(0x7F << 7 * k)
    values = eights[at + 3].view("<f8").ravel()
    if absent.any():
        values[absent] = 0.0
    return _Frames(start, begin, end, stop, first, ms.astype(np.float64) / 1000.0, values)


class _Irregular(Exception):
    """The label bytes of a TimeSeries are of another shape: not for the fast path."""


def _rows(text: bytes, f: _Frames, index: SeriesIndex, whose: NDArray[np.intp], bad: dict[int, _Bad]) -> list[int]:
    """Row of each run, -1 for a refused series, whose refusals go to `bad` under its record's number."""
    get = index.rows.get
    rows = [get(text[a:b]) for a, b in zip(f.begin.tolist(), f.end.tolist(), strict=True)]
    if None in rows:
        counts = np.diff(np.append(f.first, len(f.ts)))
        for i, row in enumerate(rows):
            if row is None:
                key = text[f.begin[i] : f.end[i]]
                row = get(key)  # this batch may have brought it already
                if row is None:
                    try:
                        row = index.add(key)
                    except DecodeError as e:
                        if e.reason is DecodeReason.MALFORMED:
                            raise _Irregular from None
                        row = -1
                        bad.setdefault(int(whose[i]), []).append((e.reason, e.detail, int(counts[i])))
                rows[i] = row
    return rows  # type: ignore[return-value]  # no None is left


def _fast(texts_: Sequence[bytes], first: int, records: Sequence[LogRecord], index: SeriesIndex, out: Batch) -> bool:
    """Add these messages if all are regular; False, and nothing added, when one is not."""
    text = b"".join(texts_) if len(texts_) > 1 else texts_[0]
    f = frames(text)
    if f is None:
        return False
    ends = np.cumsum([len(t) for t in texts_])
    whose = np.searchsorted(ends, f.start, "right")
    if (np.searchsorted(ends, f.stop - 1, "right") != whose).any():
        return False  # a TimeSeries across two messages
    bad: dict[int, _Bad] = {}
    try:
        rows = np.array(_rows(text, f, index, whose, bad), np.intp)
    except _Irregular:
        return False
    ts, values = f.ts, f.values
    if len(rows) != len(ts):
        counts = np.diff(np.append(f.first, len(ts)))
        rows, whose = np.repeat(rows, counts), np.repeat(whose, counts)
    if bad:
        good = rows >= 0
        rows, ts, values, whose = rows[good], ts[good], values[good], whose[good]
        taken = np.bincount(whose, minlength=len(texts_))
        for i, found in bad.items():
            out.refuse_items(records[i], found, int(taken[i]))
    out.add(rows, ts, values, (whose + first).astype(np.int32))
    return True


# --------------------------------------------------------------------------- any shape


def payloads(text: bytes) -> list[bytes]:
    """The TimeSeries messages of a WriteRequest, as bytes, in order.

    Raises:
        DecodeError: MALFORMED: not protobuf.
    """
    found = []
    pos, size = 0, len(text)
    try:
        while pos < size:
            tag = text[pos]
            if tag not in (0x0A, 0x1A):
                return _all_payloads(text)
            length = text[pos + 1]
            pos += 2
            if length > 127:
                length &= 127
                shift = 7
                while True:
                    byte = text[pos]
                    pos += 1
                    length |= (byte & 127) << shift
                    if byte < 128:
                        break
                    shift += 7
                    if shift > 28:
                        return _all_payloads(text)
            if pos + length > size:
                return _all_payloads(text)
            if tag == 0x0A:
                found.append(text[pos : pos + length])
            pos += length
    except IndexError:
        return _all_payloads(text)
    return found


def _all_payloads(text: bytes) -> list[bytes]:
    from aiopsd.decode import remote_write_shapes as shapes  # the full parser is loaded by those who need it

    try:
        return list(shapes.Request.FromString(text).timeseries)
    except shapes.DecodeError as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not a protobuf WriteRequest: {e}") from None


class Parsed:
    """One TimeSeries: its label bytes when they are regular, else (None) its labels; samples as (ms, value)."""

    __slots__ = ("histograms", "key", "pairs", "samples")

    def __init__(self, key: bytes | None, pairs: Pairs, samples: list[tuple[int, float]], histograms: int = 0) -> None:
        self.key, self.pairs, self.samples, self.histograms = key, pairs, samples, histograms

    def labels(self) -> Labels:
        """The label set.

        Raises:
            DecodeError: see `series.checked`.
        """
        return checked(texts(self.pairs))

    def row(self, index: SeriesIndex) -> int:
        """The series' row; raises as `labels`."""
        if self.key is None:
            return index.row_of(self.labels())
        row = index.rows.get(self.key)
        return index.add(self.key) if row is None else row


def parse_series(payload: bytes) -> Parsed:
    """Read one TimeSeries.

    Raises:
        DecodeError: MALFORMED: not protobuf.
    """
    pairs, end = split_labels(payload)
    samples = _regular_samples(payload, end)
    if samples is None:
        return full_series(payload)
    return Parsed(payload[:end], pairs, samples)


def full_series(payload: bytes) -> Parsed:
    """Read one TimeSeries by the full parser; raises as `parse_series`."""
    from aiopsd.decode import remote_write_shapes as shapes

    try:
        m = shapes.Series.FromString(payload)
    except shapes.DecodeError as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not a protobuf TimeSeries: {e}") from None
    pairs = [(x.name, x.value) for x in m.labels]
    return Parsed(None, pairs, [(x.timestamp, x.value) for x in m.samples], len(m.histograms))


def _regular_samples(payload: bytes, pos: int) -> list[tuple[int, float]] | None:
    """(ms, value) of samples of the two regular shapes up to the end; None for anything else."""
    samples = []
    size = len(payload)
    while pos < size:
        head = payload[pos : pos + 3]
        if head == b"\x12\x10\x09" and pos + 18 <= size and payload[pos + 11] == 0x10:
            value = struct.unpack_from("<d", payload, pos + 3)[0]
            pos += 18
        elif head == b"\x12\x07\x10" and pos + 9 <= size:
            value = 0.0
            pos += 9
        else:
            return None
        b0, b1, b2, b3, b4, b5 = payload[pos - 6 : pos]
        if not (b0 & b1 & b2 & b3 & b4 & 128) or b5 & 128:
            return None
        ms = b0 & 127 | (b1 & 127) << 7 | (b2 & 127) << 14 | (b3 & 127) << 21 | (b4 & 127) << 28 | b5 << 35
        samples.append((ms, value))
    return samples


def _known(payload: bytes, index: SeriesIndex) -> tuple[int, int, float] | None:
    """(row, ms, value) when the TimeSeries is label bytes that the index knows and one regular sample."""
    for size in (18, 9):
        end = len(payload) - size
        row = index.rows.get(payload[:end]) if end > 0 else None
        if row is not None:
            samples = _regular_samples(payload, end)
            if samples is not None and len(samples) == 1:
                return row, *samples[0]
    return None


def _walk(text: bytes, number: int, record: LogRecord, index: SeriesIndex, out: Batch) -> None:
    rows: list[int] = []
    stamps: list[float] = []
    values: list[float] = []
    bad: _Bad = []
    for i, payload in enumerate(payloads(text)):
        quick = _known(payload, index)
        if quick is not None:
            row, ms, value = quick
            rows.append(row)
            stamps.append(ms / 1000.0)
            values.append(value)
            continue
        try:
            parsed = parse_series(payload)
        except DecodeError as e:
            bad.append((e.reason, f"series {i}: {e.detail}", 1))
            continue
        if not parsed.samples and not parsed.histograms:
            continue  # exemplars alone, or nothing: there is no sample to lose
        try:
            row = parsed.row(index) if parsed.samples else -1
            if parsed.histograms:
                detail = f"series {shown(parsed.labels())}: native histograms"
                bad.append((DecodeReason.UNSUPPORTED, detail, parsed.histograms))
        except DecodeError as e:
            bad.append((e.reason, e.detail, len(parsed.samples) + parsed.histograms))
            continue
        for ms, value in parsed.samples:
            if 0 < ms < _LATEST_MS:
                rows.append(row)
                stamps.append(ms / 1000.0)
                values.append(value)
            else:
                bad.append((DecodeReason.TIMESTAMP, f"series {shown(parsed.labels())}: timestamp {ms} ms", 1))
    out.add(rows, stamps, values, [number] * len(rows))
    if bad:
        out.refuse_items(record, bad, len(rows))


# --------------------------------------------------------------------------- the verbs of a format


def decode(records: Sequence[LogRecord], first: int, index: SeriesIndex, out: Batch) -> None:
    """Add the samples of these records; see `samples.SampleFormat`."""
    some: list[bytes] = []
    size = begin = 0
    for i, record in enumerate(records):
        try:
            some.append(decompress(record.value, MAX_BODY))
        except DecodeError as e:
            _messages(some, records[begin:i], first + begin, index, out)
            out.refuse(record, e.reason, e.detail)
            some, size, begin = [], 0, i + 1
            continue
        size += len(some[-1])
        if size >= TOGETHER:
            _messages(some, records[begin : i + 1], first + begin, index, out)
            some, size, begin = [], 0, i + 1
    _messages(some, records[begin:], first + begin, index, out)


def _messages(some: Sequence[bytes], records: Sequence[LogRecord], first: int, index: SeriesIndex, out: Batch) -> None:
    """Together when all are regular, else one by one, in order."""
    if not some or _fast(some, first, records, index, out):
        return
    for i, (record, text) in enumerate(zip(records, some, strict=True)):
        if len(some) > 1 and _fast([text], first + i, [record], index, out):
            continue
        try:
            _walk(text, first + i, record, index, out)
        except DecodeError as e:
            out.refuse(record, e.reason, e.detail)


def check(body: bytes, limit: int) -> Checked:
    """Number of TimeSeries, 0 when none has a sample or a histogram; see `samples.SampleFormat`.

    The full parser only frames the TimeSeries, in a twentieth of the time that reading them takes: what is wrong inside
    one is refused with its name when it is decoded.
    """
    series = _all_payloads(decompress(body, limit))
    return Checked(taken=len(series) if any(map(_speaks, series)) else 0)


def _speaks(payload: bytes) -> bool:
    """Whether a TimeSeries brings anything to take or to refuse."""
    try:
        parsed = parse_series(payload)
    except DecodeError:
        return True
    return bool(parsed.samples or parsed.histograms)


def split(body: bytes, partitions: int, services: ServiceMapper) -> list[tuple[int, bytes]]:
    """One body for each partition: the raw bytes of its TimeSeries, joined; see `samples.SampleFormat`."""
    text = decompress(body, MAX_BODY)
    parts: dict[int, list[bytes]] = {}
    f = frames(text)
    if f is not None:
        known = services.routes.get
        spans = zip(f.start.tolist(), f.begin.tolist(), f.end.tolist(), f.stop.tolist(), strict=True)
        for start, begin, end, stop in spans:
            code = known(text[begin:end])
            if code is None:
                code = _route(text[begin:end], services)
            parts.setdefault(code % partitions, []).append(text[start:stop])
    else:
        for payload in payloads(text):
            try:
                parsed = parse_series(payload)
                key = pack(parsed.labels()) if parsed.key is None else parsed.key
            except DecodeError:
                key = b""  # it will be refused where it is decoded
            p = _route(key, services) % partitions
            parts.setdefault(p, []).append(b"\x0a%b%b" % (varint(len(payload)), payload))
    return [(p, bytes(cramjam.snappy.compress_raw(b"".join(parts[p])))) for p in sorted(parts)]


def _route(key: bytes, services: ServiceMapper) -> int:
    """A number that stands for the service of these label bytes; the same in every process."""
    code = services.routes.get(key)
    if code is None:
        try:
            code = route(parse_key(key), services)
        except DecodeError:
            code = 0
        if len(services.routes) >= ROUTES:
            services.routes.clear()
        services.routes[key] = code
    return code
