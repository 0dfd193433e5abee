"""SeriesIndex: from the bytes that name a series on the wire to its row, without an object per sample.

A raw key is what identifies a series in its own format, as received. It has one of two forms, told apart by the first
byte: the label bytes of a remote-write TimeSeries (0x0A), or the beginning of a JSON record up to the comma before its
first sample field ("{"). Labels are read from the key whenever somebody asks: nothing but the key is kept per series.
"""

import hashlib
import heapq
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import cramjam
import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import Labels, labels_text
from aiopsd.services import ServiceMapper

NAME = "__name__"
TEMPORALITY = "__temporality__"  # label of a series whose samples say how fast it counted: "delta" (as in Prometheus)
MAX_LABELS = 128  # of one series; Grafana Mimir's default is 30
MAX_KEY = 16_384  # bytes of a raw key: what one series may cost in memory
ROUTES = 131_072  # series whose partition is remembered, some 25 MB
MAX_ALIASES = 8  # further spellings of one series that are remembered; beyond, each sample pays the slow way

_CHUNK = 65_536  # keys of one chunk of a snapshot


# --------------------------------------------------------------------------- labels in their two wire forms


def checked(pairs: Iterable[tuple[str, str]]) -> Labels:
    """A label set sorted by name, empty values dropped as Prometheus does.

    Raises:
        DecodeError: LABELS: no metric name, an empty or repeated label name, too many labels.
    """
    labels: Labels = {}
    for name, value in sorted(pairs):
        if not name:
            raise DecodeError(DecodeReason.LABELS, f"series {shown(labels)}: a label without a name")
        if name in labels:
            raise DecodeError(DecodeReason.LABELS, f"series {shown(labels)}: label `{name[:100]}` is given twice")
        labels[name] = value
    labels = {name: value for name, value in labels.items() if value}
    if NAME not in labels:
        raise DecodeError(DecodeReason.LABELS, f"series {shown(labels)}: no metric name")
    if len(labels) > MAX_LABELS:
        raise DecodeError(
            DecodeReason.LABELS, f"series {shown(labels)}: {len(labels)} labels, at most {MAX_LABELS} are taken"
        )
    return labels


def texts(pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The labels as text.

    Raises:
        DecodeError: LABELS: not UTF-8; shows the label.
    """
    out = []
    for name, value in pairs:
        try:
            out.append((name.decode(), value.decode()))
        except UnicodeDecodeError:
            pair = b"%b=%b" % (name[:100], value[:100])
            raise DecodeError(DecodeReason.LABELS, f"label {pair!r}: not UTF-8") from None
    return out


def shown(labels: Mapping[str, str]) -> str:
    """A label set as operators read it, cut where it gets long."""
    text = labels_text(labels)
    return f"{{{text if len(text) <= 300 else text[:300] + '...'}}}"


_SHORT = [bytes((n,)) for n in range(128)]  # most are lengths of labels


def varint(n: int) -> bytes:
    """Protobuf's variable-length form of a number that is not negative."""
    if n < 128:
        return _SHORT[n]
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def pack(labels: Mapping[str, str]) -> bytes:
    """The canonical key: label bytes of a TimeSeries, sorted by name, as Prometheus writes them."""
    out = []
    for name in sorted(labels):
        k, v = name.encode(), labels[name].encode()
        pair = b"\x0a%b%b\x12%b%b" % (varint(len(k)), k, varint(len(v)), v)
        out.append(b"\x0a%b%b" % (varint(len(pair)), pair))
    return b"".join(out)


def split_labels(series: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """(labels, where they end) of a TimeSeries message that begins with regular labels.

    Regular: each is a name and a value, in this order, both there, lengths below 16,384. The end is the first byte
    that is not a regular label: everything when there are only labels, 0 when there is none.
    """
    pairs: list[tuple[bytes, bytes]] = []
    pos, size = 0, len(series)
    try:
        while pos < size and series[pos] == 0x0A:
            at = pos + 2
            length = series[pos + 1]
            if length > 127:
                if series[at] > 127:
                    break
                length = length & 127 | series[at] << 7
                at += 1
            end = at + length
            if end > size or series[at] != 0x0A:
                break
            length = series[at + 1]
            at += 2
            if length > 127:
                if series[at] > 127:
                    break
                length = length & 127 | series[at] << 7
                at += 1
            middle = at + length
            if middle + 2 > end or series[middle] != 0x12:
                break
            length = series[middle + 1]
            begin = middle + 2
            if length > 127:
                if series[begin] > 127:
                    break
                length = length & 127 | series[begin] << 7
                begin += 1
            if begin + length != end:
                break
            pairs.append((series[at:middle], series[begin:end]))
            pos = end
    except IndexError:
        pass  # cut off inside a label: the end stays before it
    return pairs, pos


class Head(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What names a series in our JSON record."""

    name: str | UnsetType = UNSET
    metric: str | UnsetType = UNSET
    service: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET


_head = msgspec.json.Decoder(Head)


def head_labels(head: Head) -> Labels:
    """The label set of a JSON record: its labels, with `name` (or `metric`) as __name__ and `service` as a label.

    Raises:
        DecodeError: LABELS, or SCHEMA when two fields contradict each other.
    """
    labels = {} if head.labels is UNSET else head.labels
    for field, given, label in (
        ("name", head.name, NAME),
        ("metric", head.metric, NAME),
        ("service", head.service, "service"),
    ):
        if given is not UNSET and labels.setdefault(label, given) != given:
            raise DecodeError(
                DecodeReason.SCHEMA, f"`{field}` is {given[:100]!r}, but `{label}` is {labels[label][:100]!r}"
            )
    return checked(labels.items())


def parse_key(key: bytes) -> Labels:
    """The label set of a raw key.

    Raises:
        DecodeError: it does not name a series; the detail names it as far as it can be read.
    """
    if len(key) > MAX_KEY:
        raise DecodeError(DecodeReason.LABELS, f"{len(key)} bytes of labels, at most {MAX_KEY} are taken")
    if not key or key[0] == 0x0A:
        pairs, end = split_labels(key)
        if end != len(key):
            raise DecodeError(DecodeReason.MALFORMED, f"label bytes are broken at byte {end}")
        return checked(texts(pairs))
    try:
        head = _head.decode(key.rstrip().removesuffix(b",") + b"}")
    except msgspec.ValidationError as e:
        raise DecodeError(DecodeReason.SCHEMA, str(e)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not JSON: {e}") from None
    return head_labels(head)


def route(labels: Labels, services: ServiceMapper) -> int:
    """A number to choose a partition by: of the service, or of the series without one; the same in every process."""
    service = services.service(labels)
    return zlib.crc32(service.encode() if service else pack(labels))


# --------------------------------------------------------------------------- the index


class _Digests:
    """Label set -> row for the series whose own key is not the canonical one: 12 bytes each, and a young dict.

    `_hash` uint64[n] sorted, `_row` int32[n] beside it. 64 bits of BLAKE2b; the caller verifies what is found.
    """

    def __init__(self) -> None:
        self._hash: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._row: NDArray[np.int32] = np.zeros(0, np.int32)
        self._young: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._hash) + len(self._young)

    @staticmethod
    def of(canonical: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(canonical, digest_size=8).digest(), "little")

    def find(self, digest: int) -> int | None:
        row = self._young.get(digest)
        if row is None and len(self._hash):
            at = int(np.searchsorted(self._hash, np.uint64(digest)))
            if at < len(self._hash) and int(self._hash[at]) == digest:
                row = int(self._row[at])
        return row

    def add(self, digest: int, row: int) -> None:
        self._young[digest] = row
        if len(self._young) > 1024 + len(self._hash) // 8:
            self.merge()

    def merge(self) -> None:
        if self._young:
            hashes = np.concatenate([self._hash, np.fromiter(self._young, np.uint64, len(self._young))])
            rows = np.concatenate([self._row, np.fromiter(self._young.values(), np.int32, len(self._young))])
            order = np.argsort(hashes, kind="stable")
            self._hash, self._row = hashes[order], rows[order]
            self._young = {}

    def drop(self, rows: list[int]) -> None:
        self.merge()
        if len(self._row):
            keep = ~np.isin(self._row, rows)
            self._hash, self._row = self._hash[keep], self._row[keep]

    def snapshot(self) -> list[bytes]:
        self.merge()
        return [self._hash.astype("<u8").tobytes(), self._row.astype("<i4").tobytes()]

    def resume(self, data: list[bytes]) -> None:
        self._hash = np.frombuffer(data[0], "<u8").astype(np.uint64)
        self._row = np.frombuffer(data[1], "<i4").astype(np.int32)


class SeriesIndex:
    """Rows of the series of one partition. One row is one canonical label set, however many ways it is spelled.

    `rows` maps raw keys to rows and is for reading; decoders call `add` for a key that it does not hold. Rows are
    given in order of first sight, the lowest free one first, so they depend on the records and not on their batches.
    """

    VERSION = 1

    def __init__(self, services: ServiceMapper) -> None:
        self.services = services
        self.rows: dict[bytes, int] = {}
        self.spelled: dict[bytes, bytes] = {}  # bytes that a format knows a series by -> a key of `rows`; a cache
        self._keys: list[bytes] = []  # row -> its first key, the same object as in `rows`; b"" for a free row
        self._aliases: dict[int, list[bytes]] = {}
        self._digests = _Digests()
        self._free: list[int] = []  # heap
        self._new: list[int] = []

    def __len__(self) -> int:
        """Rows that arrays beside this index must have: one more than the highest row ever in use."""
        return len(self._keys)

    def labels(self, row: int) -> Labels:
        """The label set, __name__ included, sorted by name.

        Raises:
            KeyError: no series has this row.
        """
        key = self._keys[row] if 0 <= row < len(self._keys) else b""
        if not key:
            raise KeyError(row)
        return parse_key(key)

    def holding(self, rows: Iterable[int], texts: Iterable[str]) -> list[int]:
        """Those of `rows` whose labels may hold one of these texts; cheap, because no label is read.

        A key holds its labels as they are, but for what JSON escapes.
        """
        wanted = [text.encode() for text in texts]
        keys = self._keys
        return [row for row in rows if b"\\" in (key := keys[row]) or any(text in key for text in wanted)]

    def service(self, row: int) -> str:
        """The service that the configuration maps the series to, "" for none."""
        return self.services.service(self.labels(row))

    def metric(self, row: int) -> str:
        """The metric name."""
        return self.labels(row)[NAME]

    def add(self, key: bytes) -> int:
        """Row of a raw key that `rows` does not hold: another spelling of a known series, or a new one.

        Raises:
            DecodeError: see `parse_key`; nothing has changed then. MALFORMED: the key has another shape.
        """
        labels = parse_key(key)
        return self._place(key, labels, pack(labels))

    def row_of(self, labels: Labels, spelling: bytes = b"") -> int:
        """Row of a label set as `checked` returns it, for decoders of formats without a raw key.

        With a `spelling`, bytes that stand for these labels and no others, `spelled` knows the key from now on. What
        was evicted meanwhile has a key there that `rows` does not hold.
        """
        key = pack(labels)
        if len(key) > MAX_KEY:
            raise DecodeError(
                DecodeReason.LABELS, f"series {shown(labels)}: {len(key)} bytes of labels, at most {MAX_KEY} are taken"
            )
        row = self.rows.get(key)
        if row is None:
            row = self._place(key, labels, key)
        if spelling:
            if len(self.spelled) > 1024 + 2 * len(self.rows):  # of series that are gone, mostly
                self.spelled.clear()
            self.spelled[spelling] = self._keys[row] if self._keys[row] == key else key  # the same object: no copy
        return row

    def _place(self, key: bytes, labels: Labels, canonical: bytes) -> int:
        row = self.rows.get(canonical) if canonical != key else None
        digest = -1
        if row is None and (canonical != key or self._digests):
            digest = _Digests.of(canonical)
            row = self._digests.find(digest)
            if row is not None and self.labels(row) != labels:
                row, digest = None, -1  # two sets in one digest: the later one gets no entry, but its own row
        if row is not None:
            spellings = self._aliases.setdefault(row, [])
            if len(spellings) < MAX_ALIASES:
                spellings.append(key)
                self.rows[key] = row
            return row
        if self._free:
            row = heapq.heappop(self._free)
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
        self.rows[key] = row
        if canonical != key and digest >= 0:
            self._digests.add(digest, row)
        self._new.append(row)
        return row

    def take_new(self) -> list[int]:
        """Rows given to series since the last call, in order, those evicted meanwhile left out."""
        new, self._new = self._new, []
        return new

    def evict(self, rows: Iterable[int]) -> None:
        """Forget these series; their rows are given to others. Rows without a series are ignored."""
        gone = sorted({row for row in rows if 0 <= row < len(self._keys) and self._keys[row]})
        if not gone:
            return
        for row in gone:
            del self.rows[self._keys[row]]
            for alias in self._aliases.pop(row, ()):
                del self.rows[alias]
            self._keys[row] = b""
            heapq.heappush(self._free, row)
        self._digests.drop(gone)
        if self._new:
            dropped = set(gone)
            self._new = [row for row in self._new if row not in dropped]

    def snapshot(self) -> dict[str, Any]:
        """Plain data for msgspec: keys in compressed chunks, so that the peak stays far below the index itself."""
        chunks = []
        for first in range(0, len(self._keys), _CHUNK):
            part = self._keys[first : first + _CHUNK]
            lengths = np.fromiter(map(len, part), "<u2", len(part)).tobytes()
            chunks.append([bytes(cramjam.snappy.compress_raw(b)) for b in (lengths, b"".join(part))])
        return {
            "version": self.VERSION,
            "count": len(self._keys),
            "keys": chunks,
            "aliases": sorted([row, list(keys)] for row, keys in self._aliases.items()),
            "digests": self._digests.snapshot(),
            "new": list(self._new),
        }

    @classmethod
    def resume(cls, services: ServiceMapper, data: Mapping[str, Any]) -> "SeriesIndex":
        """The index as it was; rows keep their series, the service mapping is the one given.

        Raises:
            ValueError: a snapshot of another version.
        """
        if data["version"] != cls.VERSION:
            raise ValueError(f"not a series index of version {cls.VERSION}: {data['version']}")
        index = cls(services)
        for lengths, joined in data["keys"]:
            text = bytes(cramjam.snappy.decompress_raw(joined))
            at = 0
            for length in np.frombuffer(bytes(cramjam.snappy.decompress_raw(lengths)), "<u2").tolist():
                index._keys.append(text[at : at + length])
                at += length
        for row, key in enumerate(index._keys):
            if key:
                index.rows[key] = row
            else:
                index._free.append(row)  # ascending, which is a heap
        for row, keys in data["aliases"]:
            index._aliases[row] = list(keys)
            index.rows.update(dict.fromkeys(keys, row))
        index._digests.resume(data["digests"])
        index._new = list(data["new"])
        return index
