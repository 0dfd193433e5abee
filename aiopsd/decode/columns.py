"""Batch: what decoders write samples and refusals into."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import Checked, LogRecord, Reject

TOLD = 3  # refusals whose reason an answer gives; the rest is counted


class Batch:
    """Columns in the making. Parts are kept as they come and joined once."""

    def __init__(self) -> None:
        self.rejects: list[Reject] = []
        self._rows: list[NDArray[np.intp]] = []
        self._ts: list[NDArray[np.float64]] = []
        self._values: list[NDArray[np.float64]] = []
        self._record: list[NDArray[np.int32]] = []

    def add(
        self,
        rows: Sequence[int] | NDArray[np.intp],
        ts: Sequence[float] | NDArray[np.float64],
        values: Sequence[float] | NDArray[np.float64],
        record: Sequence[int] | NDArray[np.int32],
    ) -> None:
        """Samples, behind those that are there: four columns of equal length, `ts` in UTC seconds."""
        if len(rows):
            self._rows.append(np.asarray(rows, np.intp))
            self._ts.append(np.asarray(ts, np.float64))
            self._values.append(np.asarray(values, np.float64))
            self._record.append(np.asarray(record, np.int32))

    def join(self, other: "Batch") -> None:
        """Add what another one holds behind what is there."""
        self.rejects += other.rejects
        self._rows += other._rows
        self._ts += other._ts
        self._values += other._values
        self._record += other._record

    def refuse(self, record: LogRecord, reason: DecodeReason, detail: str, items: int = 1, whole: bool = True) -> None:
        """Refuse a record, or some samples of it."""
        self.rejects.append(Reject(pos=record.pos, reason=reason, detail=detail, items=items, whole=whole))

    def refuse_items(self, record: LogRecord, bad: Sequence[tuple[DecodeReason, str, int]], taken: int) -> None:
        """Refuse (reason, detail, number of samples) of one record: one Reject for each reason, naming the first few.

        When nothing of the record was taken, the first of them is the whole record's.
        """
        by_reason: dict[DecodeReason, list[tuple[str, int]]] = {}
        for reason, detail, items in bad:
            by_reason.setdefault(reason, []).append((detail, items))
        whole = taken == 0
        for reason, found in by_reason.items():
            detail = "; ".join(d for d, _ in found[:3])
            if len(found) > 3:
                detail += f"; and {len(found) - 3} more"
            self.refuse(record, reason, detail, sum(items for _, items in found), whole)
            whole = False

    def columns(
        self,
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
        """(rows, ts, values, record), joined."""
        if not self._rows:
            return np.zeros(0, np.intp), np.zeros(0), np.zeros(0), np.zeros(0, np.int32)
        return (
            np.concatenate(self._rows),
            np.concatenate(self._ts),
            np.concatenate(self._values),
            np.concatenate(self._record),
        )


def looked(taken: int, bad: Sequence[tuple[DecodeReason, str, int]]) -> Checked:
    """What a look at the door found: so many to take, and (reason, detail, number) of what is refused.

    Raises:
        DecodeError: nothing can be taken: the first refusal.
    """
    if bad and not taken:
        raise DecodeError(bad[0][0], bad[0][1])
    told = tuple(f"{reason}: {detail}" for reason, detail, _ in bad[:TOLD])
    return Checked(taken=taken, refused=sum(n for *_, n in bad), why=told)
