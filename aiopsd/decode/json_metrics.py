"""Our own JSON metric record: one sample, one series with many points, or a list of either.

    {"name": "latency_seconds", "labels": {"service": "cart"}, "ts": 1767571200.5, "value": 0.25}
    {"name": "latency_seconds", "labels": {"service": "cart"}, "points": [[1767571200, 0.25], [1767571215, 0.26]]}
    {"samples": [..., ...]}    or    [..., ...]

docs/reference/metric-record.schema.json has every field. Three ways: a record whose beginning (the part that names the
series) is known needs only its end read, and the ends of a batch are read together; a record of another shape is read
by itself, the raw text of its name and labels being the key; what names a new series is read in full, once.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from aiopsd.decode.columns import Batch, looked
from aiopsd.decode.series import SeriesIndex, parse_key, route, shown
from aiopsd.decode.times import LATEST, parse_time
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import Checked, LogRecord
from aiopsd.services import ServiceMapper

Number = float | str | None  # null is a gap; a text is "NaN", "Infinity", "-Infinity" or a number
Time = float | str  # seconds since the epoch, or RFC 3339


class Tail(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The end of a record whose beginning named the series."""

    ts: Time
    value: Number


class Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One sample with its fields in any order, the common case of `Item`."""

    name: Raw
    labels: Raw
    ts: float
    value: float


class Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Any record; what names the series stays raw."""

    name: Raw | UnsetType = UNSET
    metric: Raw | UnsetType = UNSET
    service: Raw | UnsetType = UNSET
    labels: Raw | UnsetType = UNSET
    ts: Time | UnsetType = UNSET
    timestamp: Time | UnsetType = UNSET
    value: Number | UnsetType = UNSET
    points: list[tuple[Time, Number]] | UnsetType = UNSET
    samples: list[Raw] | UnsetType = UNSET


_tails = msgspec.json.Decoder(list[Tail])
_tail = msgspec.json.Decoder(Tail)
_plain = msgspec.json.Decoder(Plain)
_item = msgspec.json.Decoder(Item)
_items = msgspec.json.Decoder(list[Item])
_raws = msgspec.json.Decoder(list[Raw])

_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_Bad = list[tuple[DecodeReason, str, int]]
_PLAIN_KEY = b'{"name":%b,"labels":%b,'
_MARKS = (b'"value":', b'"ts":')


def _refusal(e: Exception) -> DecodeError:
    """msgspec's word on what is wrong, with the key."""
    if isinstance(e, msgspec.ValidationError):
        return DecodeError(DecodeReason.SCHEMA, str(e))
    return DecodeError(DecodeReason.MALFORMED, f"not JSON: {e}")


# --------------------------------------------------------------------------- one record


def _time(given: Time) -> float:
    if isinstance(given, str):
        try:
            ts = parse_time(given)
        except ValueError as e:
            raise DecodeError(DecodeReason.TIMESTAMP, str(e)) from None
    else:
        ts = given
    if not 0.0 < ts < LATEST:
        hint = ": `ts` counts seconds, these look like milliseconds" if 1e11 < ts < 1e14 else ""
        raise DecodeError(DecodeReason.TIMESTAMP, f"timestamp {given!r}{hint}")
    return ts


def _value(given: Number) -> float:
    if given is None:
        return math.nan
    if isinstance(given, str):
        try:
            if "_" in given or given != given.strip():
                raise ValueError
            return float(given)
        except ValueError:
            raise DecodeError(DecodeReason.VALUE, f"value {given[:100]!r} is not a number") from None
    return given


def _key(item: Item) -> bytes:
    """The raw key of a record: a JSON object, up to the comma before its first sample field."""
    if item.name is not UNSET and item.labels is not UNSET and item.service is UNSET and item.metric is UNSET:
        return _PLAIN_KEY % (item.name, item.labels)
    given = [
        b'"%b":%b,' % (field, raw)
        for field, raw in (
            (b"name", item.name),
            (b"metric", item.metric),
            (b"labels", item.labels),
            (b"service", item.service),
        )
        if raw is not UNSET
    ]
    return b"{" + b"".join(given)


def _points(item: Item, bad: _Bad) -> list[tuple[float, float]]:
    """(seconds, value) of the record's samples; those with a bad time or value go to `bad`.

    Raises:
        DecodeError: SCHEMA: no samples, or two ways of giving them.
    """
    if item.points is not UNSET:
        if item.ts is not UNSET or item.timestamp is not UNSET or item.value is not UNSET:
            raise DecodeError(DecodeReason.SCHEMA, "`points` beside `ts` or `value`: give one of them")
        given: Iterable[tuple[Time, Number]] = item.points
    else:
        ts = item.ts
        if ts is UNSET:
            ts = item.timestamp
        elif item.timestamp is not UNSET:
            raise DecodeError(DecodeReason.SCHEMA, "`ts` beside `timestamp`: give one of them")
        if ts is UNSET:
            raise DecodeError(DecodeReason.SCHEMA, "Object missing required field `ts`")
        if item.value is UNSET:
            raise DecodeError(DecodeReason.SCHEMA, "Object missing required field `value` (or `points`)")
        given = ((ts, item.value),)
    out = []
    for ts, value in given:
        try:
            out.append((_time(ts), _value(value)))
        except DecodeError as e:
            bad.append((e.reason, e.detail, 1))
    return out


def _series(item: Item) -> str:
    """The series of a record for a message, as far as it can be read."""
    try:
        return f"series {shown(parse_key(_key(item)))}: "
    except DecodeError:
        return ""


# --------------------------------------------------------------------------- a batch


class _Reader:
    """Reads records into columns; one call of `decode` has one."""

    def __init__(self, first: int, index: SeriesIndex, out: Batch) -> None:
        self.index, self.out = index, out
        self.first = first  # number of the first record in the batch
        self.rows: list[int] = []
        self.ts: list[float] = []
        self.values: list[float] = []
        self.numbers: list[int] = []

    def flush(self) -> None:
        self.out.add(self.rows, self.ts, self.values, self.numbers)
        self.rows, self.ts, self.values, self.numbers = [], [], [], []

    def tails(self, rows: list[int], tails: list[bytes], numbers: list[int], records: Sequence[LogRecord]) -> None:
        """Add records whose series are known, by their ends; they are read together.

        That the ends are joined cannot mislead: each begins with a quote and a field's name, so no text runs over a
        joint; a field takes no list or object, so no nesting does; and there must be as many objects as ends.
        """
        try:
            read = _tails.decode(b"[{%b]" % b",{".join(tails))
        except _BROKEN:
            read = []
        if len(read) == len(tails):
            ts = np.array([t.ts for t in read])
            values = np.array([t.value for t in read])
            # a text among them makes an array of texts, a null one of objects
            if ts.dtype == values.dtype == np.float64 and ts.min() > 0.0 and ts.max() < LATEST:
                self.flush()
                self.out.add(rows, ts, values, numbers)
                return
        for number in numbers:  # one of them is special: each by itself, which finds the same rows
            self.record(records[number - self.first], number)

    def plain(self, value: bytes, number: int) -> bool:
        """Add one plain sample of a series known by its name and labels; False, and nothing added, for any other."""
        try:
            item = _plain.decode(value)
        except _BROKEN:
            return False
        row = self.index.rows.get(_PLAIN_KEY % (item.name, item.labels))
        if row is None or not 0.0 < item.ts < LATEST:
            return False
        self.rows.append(row)
        self.ts.append(item.ts)
        self.values.append(item.value)
        self.numbers.append(number)
        return True

    def record(self, record: LogRecord, number: int) -> None:
        """Add one record of any shape, or refuse it."""
        bad: _Bad = []
        before = len(self.rows)
        try:
            self._read(record.value, number, bad)
        except DecodeError as e:
            bad.append((e.reason, e.detail, 1))
        if bad:
            self.out.refuse_items(record, bad, len(self.rows) - before)

    def _read(self, value: bytes, number: int, bad: _Bad) -> None:
        try:
            if value.lstrip()[:1] != b"[":
                item = _item.decode(value)
                if item.samples is UNSET:
                    self._item(item, value, "", number, bad)
                else:
                    self._list(_nested(item), number, bad)
                return
        except _BROKEN as e:
            raise _refusal(e) from None
        try:
            for i, item in enumerate(_items.decode(value)):
                self._element(i, item, number, bad)
        except _BROKEN:
            try:
                raws = _raws.decode(value)
            except _BROKEN as e:
                raise _refusal(e) from None
            self._list(raws, number, bad)

    def _list(self, raws: Sequence[Raw], number: int, bad: _Bad) -> None:
        for i, raw in enumerate(raws):
            try:
                item = _item.decode(raw)
            except _BROKEN as e:
                refusal = _refusal(e)
                bad.append((refusal.reason, f"sample {i}: {refusal.detail}", 1))
            else:
                self._element(i, item, number, bad)

    def _element(self, i: int, item: Item, number: int, bad: _Bad) -> None:
        where = f"sample {i}: "
        if item.samples is not UNSET:
            bad.append((DecodeReason.SCHEMA, f"{where}`samples` inside `samples`", 1))
        else:
            self._item(item, b"", where, number, bad)

    def _item(self, item: Item, value: bytes, where: str, number: int, bad: _Bad) -> None:
        if type(item.ts) is float and type(item.value) is float and item.points is item.timestamp is UNSET:
            points = [(item.ts, item.value)] if 0.0 < item.ts < LATEST else None
        else:
            points = None
        try:
            if points is None:
                found: _Bad = []
                points = _points(item, found)
                if found:
                    series = where + _series(item)
                    bad += [(reason, series + detail, n) for reason, detail, n in found]
            if not points:
                return
            key = _key(item)
            row = self.index.rows.get(key)
            if row is None:
                row = self._new(key, value)
        except DecodeError as e:
            bad.append((e.reason, where + e.detail, len(points or (1,))))
            return
        self.rows += [row] * len(points)
        for ts, x in points:
            self.ts.append(ts)
            self.values.append(x)
        self.numbers += [number] * len(points)

    def _new(self, key: bytes, value: bytes) -> int:
        """Row of a series whose key is not known, remembered by the record's own beginning where it has one."""
        at = min((p for p in map(value.rfind, _MARKS) if p >= 0), default=-1)
        if at > 0 and value[:1] == b"{":
            head = value[:at]
            try:
                _tail.decode(b"{" + value[at:])  # nothing but the sample stands there, so the head names the series
                row = self.index.rows.get(head)
                return self.index.add(head) if row is None else row
            except (*_BROKEN, DecodeError):
                pass
        return self.index.add(key)


def _nested(item: Item) -> list[Raw]:
    given = [n for n in Item.__struct_fields__ if n != "samples" and getattr(item, n) is not UNSET]
    if given:
        raise DecodeError(DecodeReason.SCHEMA, f"`{given[0]}` beside `samples`: each sample names its own series")
    samples: Any = item.samples
    return list(samples)


def decode(records: Sequence[LogRecord], first: int, index: SeriesIndex, out: Batch) -> None:
    """Add the samples of these records; see `samples.SampleFormat`."""
    reader = _Reader(first, index, out)
    get = index.rows.get
    mark, other = _MARKS
    rows: list[int] = []
    tails: list[bytes] = []
    numbers: list[int] = []
    for number, record in enumerate(records, first):
        value = record.value
        at = value.rfind(mark)
        row = get(value[:at])
        if row is None or at < 0:
            at = value.rfind(other)
            row = get(value[:at]) if at > 0 else None
            if row is None:
                if tails:
                    reader.tails(rows, tails, numbers, records)
                    rows, tails, numbers = [], [], []
                if not reader.plain(value, number):
                    reader.record(record, number)
                continue
            mark, other = other, mark
        rows.append(row)
        tails.append(value[at:])
        numbers.append(number)
    if tails:
        reader.tails(rows, tails, numbers, records)
    reader.flush()


def _elements(body: bytes) -> tuple[list[Raw], bool]:
    """The records in a body, and whether it was a list of them."""
    try:
        if body.lstrip()[:1] == b"[":
            return _raws.decode(body), True
        item = _item.decode(body)
        return (_nested(item), True) if item.samples is not UNSET else ([Raw(body)], False)
    except _BROKEN as e:
        raise _refusal(e) from None


def check(body: bytes, limit: int) -> Checked:
    """Samples that can be taken and that cannot; see `samples.SampleFormat`."""
    if len(body) > limit:
        raise DecodeError(DecodeReason.TOO_LARGE, f"{len(body)} bytes, at most {limit} are taken")
    raws, listed = _elements(body)
    count = 0
    bad: _Bad = []
    for i, raw in enumerate(raws):
        where = f"sample {i}: " if listed else ""
        try:
            item = _item.decode(raw)
            if item.samples is not UNSET:
                raise DecodeError(DecodeReason.SCHEMA, "`samples` inside `samples`")
            found: _Bad = []
            points = _points(item, found)
            if points:
                parse_key(_key(item))
            count += len(points)
            bad += [(reason, where + _series(item) + detail, n) for reason, detail, n in found]
        except DecodeError as e:
            bad.append((e.reason, where + e.detail, 1))
        except _BROKEN as e:
            refusal = _refusal(e)
            bad.append((refusal.reason, where + refusal.detail, 1))
    return looked(count, bad)


def split(body: bytes, partitions: int, services: ServiceMapper) -> list[tuple[int, bytes]]:
    """One list of records for each partition; see `samples.SampleFormat`."""
    raws, listed = _elements(body)
    parts: dict[int, list[bytes]] = {}
    for raw in raws:
        try:
            partition = route(parse_key(_key(_item.decode(raw))), services) % partitions
        except (*_BROKEN, DecodeError):
            partition = 0  # it will be refused where it is decoded
        parts.setdefault(partition, []).append(bytes(raw))
    if not listed:
        return [(p, parts[p][0]) for p in parts]
    return [(p, b"[%b]" % b",".join(parts[p])) for p in sorted(parts)]
