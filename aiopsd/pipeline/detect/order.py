"""The order of a step's effects: that of records, and within a record that of samples, however the step was cut."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from aiopsd.detect.bank import F64, Rows
from aiopsd.model import Anomaly, Append, DriftDetected, Effect, LogRecord, Reject, TopologyUpdate

# Within a record: what was refused, then what its watermark made due, then its samples, then the timers it passed.
REFUSED, BOUNDARY, SAMPLE, TIMER = range(4)
LIMIT, JOIN, DRIFT, ERRORS = range(4)  # of one sample, or of timers of the same due
SILENT, EDGE, STUCK = range(3)  # at one boundary

Body = Anomaly | DriftDetected | TopologyUpdate


class Key(NamedTuple):
    """Where an effect stands among those of its step: `at` is a sample's number, or when a timer was due."""

    record: int
    phase: int
    at: float = 0.0
    kind: int = 0
    sequence: int = 0


class Segment(NamedTuple):
    """Samples between two boundaries: those of the records first..stop-1 of a step, `at` the first of them in it.

    `marks` is the watermark after each record of the step; `record` is the record of each sample.
    """

    first: int
    stop: int
    at: int
    rows: Rows
    ts: F64
    values: F64
    record: Rows
    marks: F64

    def key(self, sample: int, kind: int, sequence: int = 0) -> Key:
        """Where an effect of this sample stands among those of the step."""
        return Key(int(self.record[sample]), SAMPLE, float(sample + self.at), kind, sequence)


class Told:
    """What one step has to tell, in whatever order it was found."""

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self._records = records
        self._found: list[tuple[Key, Body | Reject]] = []

    def add(self, key: Key, what: Body | Reject) -> None:
        """`key` says which record it is of."""
        self._found.append((key, what))

    def count(self, kind: type[Body]) -> int:
        """How much of one kind."""
        return sum(isinstance(what, kind) for _, what in self._found)

    def effects(self) -> list[Effect]:
        """In their order; what is appended names the record that it comes from."""
        return [self._effect(self._records[key.record], what) for key, what in sorted(self._found, key=lambda f: f[0])]

    @staticmethod
    def _effect(record: LogRecord, what: Body | Reject) -> Effect:
        if isinstance(what, Reject):
            return what
        if not isinstance(what, TopologyUpdate):
            what = msgspec.structs.replace(what, pos=record.pos)
        return Append(body=what, origin=record.pos)
