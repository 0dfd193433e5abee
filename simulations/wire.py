"""Columns of a world to bytes on the wire: remote write, our JSON records, Prometheus' alerts, edges and changes."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import cramjam
import msgspec
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
_json = msgspec.json.Encoder()


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def label_bytes(labels: Mapping[str, str]) -> bytes:
    """The labels of a prometheus.TimeSeries message, sorted by name as senders do."""
    return b"".join(_field(1, _field(1, k.encode()) + _field(2, labels[k].encode())) for k in sorted(labels))


def time_series(labels: bytes, ts: Sequence[float], values: Sequence[float]) -> bytes:
    """One TimeSeries of a WriteRequest; proto3 leaves out zero values, as real senders do."""
    samples = []
    for t, v in zip(ts, values, strict=True):
        body = (b"\x09" + struct.pack("<d", v)) if v != 0 or str(v)[0] == "-" else b""
        samples.append(_field(2, body + b"\x10" + _varint(round(t * 1000))))
    return _field(1, labels + b"".join(samples))


def write_request(labels: Sequence[bytes], ts: F64, values: F64) -> bytes:
    """A WriteRequest of values[series, steps], uncompressed; NaN means no sample."""
    parts = []
    stamps = ts.tolist()
    for head, row in zip(labels, values, strict=True):
        kept = [(t, v) for t, v in zip(stamps, row.tolist(), strict=True) if v == v]
        if kept:
            parts.append(time_series(head, [t for t, _ in kept], [v for _, v in kept]))
    return b"".join(parts)


def at_time(request: bytes, old: float, new: float) -> bytes:
    """The same request with every sample of time `old` moved to `new`: much cheaper than to write it again."""
    return request.replace(b"\x10" + _varint(round(old * 1000)), b"\x10" + _varint(round(new * 1000)))


def remote_write(labels: Sequence[bytes], ts: F64, values: F64) -> bytes:
    """A Prometheus remote write 1.0 body (snappy block format) of values[series, steps]; NaN means no sample.

    Specification: https://prometheus.io/docs/specs/prw/remote_write_spec/
    """
    return compressed(write_request(labels, ts, values))


def compressed(body: bytes) -> bytes:
    """Snappy block format, as remote write wants it."""
    return bytes(cramjam.snappy.compress_raw(body))


def alerts(batch: Sequence[Mapping[str, Any]]) -> bytes:
    """The body of POST /api/v2/alerts."""
    return _json.encode(batch)


REMOTE_WRITE, JSON = "remote-write", "json"  # formats of aiopsd.decode


def topology(edges: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """A topology record."""
    return _json.encode({"edges": edges, "nodes": nodes})


def change(record: Mapping[str, Any]) -> bytes:
    """A change record."""
    return _json.encode(record)


def json_sample(labels: Mapping[str, str], ts: float, value: float) -> bytes:
    """Our own JSON record of one sample."""
    rest = {k: v for k, v in labels.items() if k != "__name__"}
    return _json.encode({"name": labels["__name__"], "labels": rest, "ts": ts, "value": value})
