"""Metric records to columns, whatever their format.

Records enter in order of their offsets; rows, times and values leave in the order of the samples in them, with what was
refused beside them. Nothing here depends on how records are cut into batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from aiopsd import plugins
from aiopsd.decode import json_metrics, otlp, remote_write
from aiopsd.decode.columns import Batch
from aiopsd.decode.series import SeriesIndex
from aiopsd.errors import ConfigError, DecodeError, DecodeReason
from aiopsd.model import Checked, LogRecord, Reject
from aiopsd.services import ServiceMapper


@dataclass(frozen=True, slots=True)
class Columns:
    """Samples, structure of arrays: one element is one sample, in order of records and of samples in a record."""

    rows: NDArray[np.intp]  # of the series index
    ts: NDArray[np.float64]  # UTC seconds
    values: NDArray[np.float64]  # a stale marker keeps its bits (model.STALE_BITS)
    record: NDArray[np.int32]  # index into the batch's records
    rejects: list[Reject]


class SampleFormat(Protocol):
    """What a wire format is: a module or an object with these verbs; entry point `aiopsd.decoders`."""

    def decode(self, records: Sequence[LogRecord], first: int, index: SeriesIndex, out: Batch) -> None:
        """Add the samples of these records, the first of which has this index, to `out`; what is bad is refused there.

        Raises nothing for bad data.
        """
        ...

    def check(self, body: bytes, limit: int) -> Checked:
        """How much a body brings, as far as a cheap look can tell; nothing taken: nothing, and nothing to refuse.

        Raises:
            DecodeError: nothing of it can ever be taken, or it is larger than `limit` bytes.
        """
        ...

    def split(self, body: bytes, partitions: int, services: ServiceMapper) -> list[tuple[int, bytes]]:
        """The body as at most one body for each partition, by service; a series is always in the same one.

        Raises:
            DecodeError: as `check`.
        """
        ...


MAX_BYTES = 64 * 1024 * 1024  # of one body after decompression: what a record in a log may make us allocate

_BUILT_IN: dict[str, SampleFormat] = {  # also entry points; named here they need no look at what is installed
    "json": cast(SampleFormat, json_metrics),
    "remote-write": cast(SampleFormat, remote_write),
    "remote_write": cast(SampleFormat, remote_write),
    "otlp_proto": otlp.PROTO,
    "otlp_json": otlp.JSON,
}


@lru_cache(maxsize=64)
def _format(name: str) -> SampleFormat | None:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    try:
        return cast(SampleFormat, plugins.load("decoders", name))
    except ConfigError:
        return None


def sample_format(name: str) -> SampleFormat:
    """The wire format of that name.

    Raises:
        DecodeError: UNSUPPORTED: neither built in nor a plug-in.
    """
    found = _format(name)
    if found is None:
        raise DecodeError(DecodeReason.UNSUPPORTED, f"no decoder for the metric format `{name[:100]}`")
    return found


def decode_samples(records: Sequence[LogRecord], index: SeriesIndex) -> Columns:
    """Columns of these records; rows come from the index, which learns the series that it does not know.

    Every reject names its record's place and the series. A record of an unknown format is a whole reject.
    """
    out = Batch()
    first = 0
    for name, group in groupby(records, key=_format_of):
        part = list(group)
        try:
            out.join(_decoded(sample_format(name), part, first, index))
        except DecodeError as e:
            for record in part:
                out.refuse(record, e.reason, e.detail)
        first += len(part)
    return Columns(*out.columns(), out.rejects)


def _decoded(decoder: SampleFormat, part: Sequence[LogRecord], first: int, index: SeriesIndex) -> Batch:
    """What these records hold. One on which the decoder fails costs itself: a log cannot be passed around a record.

    Rows do not depend on how often the decoder was asked: series get theirs in the order of their first sight.
    """
    out = Batch()
    try:
        decoder.decode(part, first, index, out)
    except DecodeError:
        raise
    except Exception as e:  # decoders may be plug-ins; loud: a refused record is logged, counted and a dead letter
        out = Batch()
        if len(part) == 1:
            out.refuse(part[0], DecodeReason.DECODER, f"the decoder failed, which is a bug: {e!r:.300}")
            return out
        for i, record in enumerate(part):
            out.join(_decoded(decoder, [record], first + i, index))
    return out


def _format_of(record: LogRecord) -> str:
    return record.format


def check_samples(body: bytes, format: str, limit: int = MAX_BYTES) -> Checked:
    """At the door: what a body brings, cheaply (`SampleFormat.check`); bad series are found when they are decoded.

    Raises:
        DecodeError: it can never be accepted; TOO_LARGE when it has more than `limit` bytes after decompression.
    """
    return sample_format(format).check(body, limit)


def split_samples(body: bytes, format: str, partitions: int, services: ServiceMapper) -> list[tuple[int, bytes]]:
    """(partition, body in the same format) for each partition that has a part of this body, in order of partitions.

    The service decides, so that what is joined later stays together; without one, the series itself.

    Raises:
        DecodeError: as `check_samples`.
    """
    if partitions == 1:
        return [(0, body)]
    return sample_format(format).split(body, partitions, services)
