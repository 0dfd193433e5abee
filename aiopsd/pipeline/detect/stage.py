"""The stage: samples through everything that looks at samples, and what is due between them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import Config
from aiopsd.decode.samples import decode_samples
from aiopsd.decode.series import SeriesIndex
from aiopsd.detect import edges
from aiopsd.detect.bank import COUNTER, F64, Mask, RangeBank, Rows
from aiopsd.detect.calibrate import ModelDetector
from aiopsd.detect.evidence import from_view
from aiopsd.detect.join import Join, Seen, seen
from aiopsd.detect.online import Online
from aiopsd.detect.signals import Signals
from aiopsd.detect.threshold import Limits
from aiopsd.model import Anomaly, DriftDetected, Effect, Evidence, Labels, LogRecord, Snapshot, Window
from aiopsd.pipeline.detect.drifts import Drifting
from aiopsd.pipeline.detect.order import (
    BOUNDARY,
    EDGE,
    JOIN,
    LIMIT,
    REFUSED,
    SILENT,
    STUCK,
    TIMER,
    Key,
    Segment,
    Told,
)
from aiopsd.pipeline.detect.planned import Planned
from aiopsd.pipeline.detect.policies import Policies
from aiopsd.pipeline.detect.quiet import Quiet
from aiopsd.pipeline.detect.roster import Roster
from aiopsd.pipeline.detect.watermark import Marks, Watermark, refused
from aiopsd.services import ServiceMapper


def build(config: Config, source: str, partition: int, resume: Snapshot | None = None) -> "DetectStage":
    """The stage of one partition, new or as it was when the snapshot was taken.

    Raises:
        ConfigError: a matcher or a model of the configuration cannot be used.
        ValueError: the snapshot is of another kind or version.
    """
    return DetectStage(config, source, partition, resume)


class DetectStage:
    """See `protocols.DetectLike`. Counters for /metrics are plain attributes, totals since the stage was built."""

    KIND, VERSION = "detect", 9

    def __init__(self, config: Config, source: str, partition: int, resume: Snapshot | None = None) -> None:
        self.source, self.partition = source, partition
        self._config = d = config.detect
        self._mapper = ServiceMapper(config.services)
        self._policies = Policies(d)
        self._policy, *others = self._policies.bank
        if resume is None:
            self._index = SeriesIndex(self._mapper)
            self._bank = RangeBank(self._policy, follow=True, others=others)
        else:
            self._check(resume)
            self._index = SeriesIndex.resume(self._mapper, resume.meta["index"])
            self._bank = RangeBank.resume(self._policy, _bank_of(resume), follow=True, others=others)
        self._roster = Roster(self._index, self._bank, Signals(d.signals), d.evict_after)
        self._planned = Planned(d.maintenance, self._roster)
        self._quiet = Quiet(source, self._policies, self._roster, self._planned, self._bank, d.evict_after)
        self._drifting = Drifting(d.drift, self._roster, self._bank)
        self._limits = Limits(d.thresholds, d.resolve_after, self._roster.describe)
        self._online = Online(d.online, self._policy, budget=d.online_budget)
        known = edges.KNOWN if config.topology.known_metrics else ()
        self._edges = edges.Edges((*config.topology.metrics, *known), self._mapper, config.topology.stale_after)
        join = self._policies.joins[0]
        if resume is None:
            self._join = Join(join, self._roster.describe)
        else:
            self._join = Join.resume(join, self._roster.describe, resume.meta["join"])
        if d.adopt_after is not None:
            self._join.adopt_after = float(d.adopt_after)
        self._time = Watermark()
        self._evict_step = max(d.evict_after / 24, 60.0)
        self._dropped: set[int] = set()  # rows evicted in this step, or new
        self.samples = self.late = self.invalid = self.skipped = self.anomalies = self.drifts = 0
        if resume is not None:
            self._load(resume)

    # ------------------------------------------------------------------ the protocol

    @property
    def watermark(self) -> float:
        """Newest sample time that can be believed (UTC seconds); -inf before the first sample."""
        return self._time.at

    @property
    def series(self) -> int:
        """Live series."""
        return len(self._roster)

    @property
    def models(self) -> list[ModelDetector]:
        """The second tier: one of each of its rules."""
        return self._online.detectors

    @property
    def waiting(self) -> int:
        """Series and services that match a rule of the second tier and have no model for want of room."""
        return self._online.waiting

    def step(self, records: Sequence[LogRecord]) -> list[Effect]:
        """Effects of these records, in order of their offsets."""
        if not records:
            return []
        told = Told(records)
        columns = decode_samples(records, self._index)
        if columns.rejects:
            place = {r.offset: i for i, r in enumerate(records)}
            for n, reject in enumerate(columns.rejects):
                told.add(Key(place[reject.pos.offset], REFUSED, sequence=n), reject)
        rows, ts, values = columns.rows, columns.ts, columns.values
        record = columns.record.astype(np.intp)
        believed, marks = self._time.move(np.array([r.stamp for r in records]), ts, record)
        if not believed.all():
            for r, reject in refused(records, self._index, rows, ts, record, believed, marks):
                told.add(Key(r, REFUSED, 1.0), reject)
            rows, ts, values, record = rows[believed], ts[believed], values[believed], record[believed]
        if len(rows):
            self._room(int(rows.max()) + 1)

        begin = np.searchsorted(record, np.arange(len(records) + 1))
        first = 0

        def segment(first: int, stop: int) -> Segment:
            a, b = int(begin[first]), int(begin[stop])
            return Segment(first, stop, a, rows[a:b], ts[a:b], values[a:b], record[a:b], marks.after)

        growing = bool((~self._roster.known[rows]).any())  # a series that is new may name an edge
        for r in self._cuts(marks, growing):
            self._take(segment(first, r), told)
            self._boundary(r, float(marks.before[r]), float(marks.after[r]), told)
            first = r
        self._take(segment(first, len(records)), told)
        self._dropped.update(self._index.take_new())  # those of which nothing could be used
        if self._dropped:
            self._room(len(self._index))
            self._index.evict(sorted(row for row in self._dropped if not self._roster.known[row]))
            self._dropped.clear()
        self.anomalies += told.count(Anomaly)
        self.drifts += told.count(DriftDetected)
        return told.effects()

    def knows(self, services: Sequence[str]) -> bool:
        """Whether `evidence` would have anything to say of these; cheap."""
        return any(s in self._roster for s in services)

    def evidence(self, services: Sequence[str], since: float, others: int = 0) -> list[Evidence]:
        """Evidence of every series of these services that lives, sub-threshold included; before `since` is lead-in.

        `others`: of so many more services, the loudest of those that left their ranges and were not back at `since`.
        """
        if others:
            services = (*services, *self._join.loudest(self.watermark, since, others, besides=services))
        if not self.knows(services):
            return []
        rows = self._roster.rows_of(services, self.watermark)
        return from_view(self._bank.view(rows), self._roster.describe, since)

    def maintain(self, windows: Sequence[Window]) -> None:
        """These are the windows of planned work that operators asked for, from the next sample on.

        They are the journal's, not this log's, and so no part of the snapshot: the owner tells a new stage of them.
        """
        self._planned.ask(windows)

    def snapshot(self) -> Snapshot:
        """Everything, bit for bit; arrays are copies and hold only the rows in use."""
        n = len(self._index)
        self._room(n)
        bank = self._bank.snapshot(n)
        roster, who = self._roster.snapshot(n)
        quiet, still = self._quiet.snapshot(n)
        errors, drift = self._drifting.snapshot(n)
        online, models = self._online.snapshot()
        parts = {"bank": bank.arrays, "drift": drift, "online": models, "flatline": still}
        arrays = {f"{part}.{name}": a for part, found in parts.items() for name, a in found.items()}
        meta: dict[str, Any] = {
            "source": self.source,
            "partition": self.partition,
            "watermark": self._time.at if self._time.at > float("-inf") else None,
            "leap": self._time.leap,
            "bank": bank.meta,
            "index": self._index.snapshot(),
            "join": self._join.snapshot(),
            "limits": self._limits.snapshot(),
            "online": online,
            "errors": errors,
            "edges": self._edges.snapshot(),
            "signals": [msgspec.to_builtins(rule) for rule in self._config.signals],
            **roster,
            **quiet,
        }
        return Snapshot(kind=self.KIND, version=self.VERSION, meta=meta, arrays=arrays | who)

    def _check(self, snapshot: Snapshot) -> None:
        if (snapshot.kind, snapshot.version) != (self.KIND, self.VERSION):
            raise ValueError(
                f"not a {self.KIND} snapshot version {self.VERSION}: {snapshot.kind} version {snapshot.version}"
            )

    def _load(self, snapshot: Snapshot) -> None:
        """The rest of the snapshot, once the index and the bank are as they were.

        What follows from labels and the configuration is made anew: the configuration may be another by now.
        """
        meta, arrays = snapshot.meta, snapshot.arrays
        self._time.at = float("-inf") if meta["watermark"] is None else meta["watermark"]
        self._time.leap = meta["leap"]
        self._roster.load(meta, arrays)
        live = np.flatnonzero(self._roster.known).tolist()
        self._subscribe(live)
        if self._governed:
            for row in live:
                self._govern(row, self._roster.labels(row), self._roster.name(row))
        named = self._edges.rows(meta["edges"])
        for row in live if named is None else named:
            self._edges.appear(row, self._roster.labels(row), self._roster.name(row))
        self._edges.load(meta["edges"])
        self._online.load(meta["online"], _under("online", arrays))
        self._drifting.load(meta["errors"], _under("drift", arrays))
        self._limits.load(meta["limits"])
        self._quiet.load(meta, _under("flatline", arrays))
        if meta["signals"] != [msgspec.to_builtins(rule) for rule in self._config.signals]:
            self._roster.classify(live)

    # ------------------------------------------------------------------ boundaries

    def _cuts(self, marks: Marks, growing: bool) -> list[int]:
        """Records before whose samples the whole bank is looked at: series to evict, silence, edges to tell."""
        moved = np.flatnonzero((marks.after > marks.before) & np.isfinite(marks.before))
        before, after = marks.before[moved], marks.after[moved]
        due = np.zeros(len(moved), bool)
        naming = [edges.STEP] if growing or self._edges else []
        for step in (self._evict_step, *self._quiet.steps, *naming):
            due |= before // step != after // step
        out: list[int] = moved[due].tolist()
        return out

    def _boundary(self, r: int, before: float, now: float, told: Told) -> None:
        if before // self._evict_step != now // self._evict_step:
            # after a hole of the whole source nobody is late until everybody could speak
            self._evict(min(now, before + self._evict_step))
            self._online.balance()
        for n, gone in enumerate(self._quiet.silent(before, now)):
            told.add(Key(r, BOUNDARY, kind=SILENT, sequence=n), gone)
        for n, still in enumerate(self._quiet.stuck(before, now)):
            told.add(Key(r, BOUNDARY, kind=STUCK, sequence=n), still)
        if self._edges.boundary(before, now):
            bank = self._bank
            for n, (found, nodes) in enumerate(self._edges.due(before, bank.last, bank.d[1], bank.flags)):
                update = edges.update(self.source, self.partition, found, nodes)
                told.add(Key(r, BOUNDARY, kind=EDGE, sequence=n), update)

    # ------------------------------------------------------------------ samples

    def _take(self, part: Segment, told: Told) -> None:
        """The samples through everything that looks at samples."""
        if part.first == part.stop:
            return
        rows, ts, values = part.rows, part.ts, part.values
        new = self._meet(rows)
        skip = self._planned.inside(rows, ts)
        self.skipped += 0 if skip is None else int(skip.sum())
        # first the models: a row that one of them finds strange is followed by the bank from its next sample on
        said = self._online.step(rows, ts, values, part.record, skip)
        for one in said:
            if one.alone:
                self._bank.watch(one.seen.row, True)
        scored = self._bank.step(rows, ts, values, skip)
        self.samples += int(scored.used.sum())
        self.late += scored.late
        self.invalid += scored.invalid
        self._quiet.learn(rows, ts, values, scored.used)
        if self._limits:
            self._check_limits(part, scored.used, told)
        for key, drift in self._drifting.take(part, scored.used):
            told.add(key, drift)
        self._decide(part, self._online.confirm(seen(scored.breaks), said), new, told)

    def _check_limits(self, part: Segment, used: Mask, told: Told) -> None:
        """Fixed limits; their timers ring between the records that pass them."""
        cursor = part.first
        for reading in self._limits.select(part.rows, part.ts, np.where(used, part.values, np.nan)):
            cursor = self._advance(self._limits, int(part.record[reading.pos]), cursor, part.marks, told)
            event = self._limits.observe(reading)
            if event is not None:
                told.add(part.key(reading.pos, LIMIT, reading.rule), event)
        self._ring(self._limits, cursor, part.stop, part.marks, told)

    def _decide(self, part: Segment, strange: Iterable[Seen], new: Sequence[tuple[int, int]], told: Told) -> None:
        """The join: samples and new series in their order, timers between the records that pass them."""
        fresh = iter(new)
        upcoming = next(fresh, None)
        cursor = part.first
        for s in strange:
            if self._quiet.tells(s):
                continue
            while upcoming is not None and upcoming[0] <= s.pos:
                cursor = self._appear(part, upcoming, cursor, told)
                upcoming = next(fresh, None)
            cursor = self._advance(self._join, int(part.record[s.pos]), cursor, part.marks, told)
            event = self._join.observe(s)
            if event is not None:
                told.add(part.key(s.pos, JOIN), event)
        while upcoming is not None:
            cursor = self._appear(part, upcoming, cursor, told)
            upcoming = next(fresh, None)
        self._ring(self._join, cursor, part.stop, part.marks, told)
        for row in self._join.touched:
            self._bank.watch(row, row in self._join.members)
        self._join.touched.clear()

    def _appear(self, part: Segment, new: tuple[int, int], cursor: int, told: Told) -> int:
        """The join learns of a new series of a service; returns the record of its first sample."""
        sample, row = new
        cursor = self._advance(self._join, int(part.record[sample]), cursor, part.marks, told)
        if self._roster.harms(row):
            self._join.appear(self._roster.name(row))
        return cursor

    def _advance(self, who: Join | Limits, to: int, cursor: int, marks: F64, told: Told) -> int:
        """Ring the timers that the records cursor..to-1 passed; returns `to`."""
        if to > cursor:
            self._ring(who, cursor, to, marks, told)
        return to

    def _ring(self, who: Join | Limits, first: int, stop: int, marks: F64, told: Told) -> None:
        """Timers that the watermark of the records first..stop-1 has passed, each after the samples of its record."""
        n = 0
        kind = JOIN if who is self._join else LIMIT
        while who.next_due() <= marks[stop - 1]:
            r = first + int(np.searchsorted(marks[first:stop], who.next_due()))
            for event in who.due(float(marks[r])):
                told.add(Key(r, TIMER, event.ts, kind, n), event)
                n += 1

    # ------------------------------------------------------------------ series come and go

    def _room(self, rows: int) -> None:
        self._roster.room(rows)
        self._planned.room()

    def _meet(self, rows: Rows) -> list[tuple[int, int]]:
        """Enrol the series that are new: (first sample, row), in order of their samples."""
        strange = np.flatnonzero(~self._roster.known[rows])
        if not len(strange):
            return []
        unknown, at = np.unique(rows[strange], return_index=True)
        new = sorted(zip(strange[at].tolist(), unknown.tolist(), strict=True))
        self._enrol([row for _, row in new])
        return new

    def _enrol(self, rows: list[int]) -> None:
        for row in rows:
            labels = self._roster.labels(row)
            name = self._mapper.service(labels)
            self._roster.enrol(row, name)
            self._edges.appear(row, labels, name)
            if self._governed:
                self._govern(row, labels, name)
        self._roster.classify(rows)
        self._subscribe(rows)

    @property
    def _governed(self) -> bool:
        """Whether anything holds for some series and not for others."""
        return bool(self._policies or self._planned)

    def _govern(self, row: int, labels: Labels, service: str) -> None:
        """Which policy the series obeys, and which maintenance concerns it."""
        number = self._policies.of(labels, service)
        self._bank.obey(row, number)
        if self._policies.joins[number] != self._join.policy:
            self._join.rules[row] = self._policies.joins[number]
        adopt = self._policies.adopt[number]
        if adopt is not None:
            self._join.adopt[row] = float(adopt)
        self._planned.appear(row, labels, service)

    def _subscribe(self, rows: Iterable[int]) -> None:
        """What else looks at these series, by their labels."""
        if not (self._limits.rules or self._online.rules or self._drifting):
            return
        for row in rows:
            who = self._roster.describe(row)
            self._limits.appear(row, who)
            if self._online.rules:
                self._online.appear(row, who, bool(self._bank.flags[row] & COUNTER))
            self._drifting.appear(row, who.labels)

    def _evict(self, now: float) -> None:
        """Forget the series that have been silent for longer than they are worth, and than there is room for them."""
        self._forget(self._roster.overdue(now))
        self._join.recount(self._roster.living(now))

    def _forget(self, rows: Rows) -> None:
        """These series are gone; who comes back is new."""
        if not len(rows):
            return
        for row in rows.tolist():
            self._join.vanish(row)
            self._limits.vanish(row)
            self._online.vanish(row)
            self._edges.vanish(row)
        self._roster.forget(rows)
        self._planned.forget(rows)
        self._quiet.forget(rows)
        self._bank.reset(rows)
        self._drifting.forget(rows)
        self._dropped.update(rows.tolist())


def _under(part: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A snapshot's arrays of one part, by the names that it gave them."""
    return {name.removeprefix(f"{part}."): a for name, a in arrays.items() if name.startswith(f"{part}.")}


def _bank_of(snapshot: Snapshot) -> Snapshot:
    arrays = _under("bank", snapshot.arrays)
    return Snapshot(kind=RangeBank.KIND, version=RangeBank.VERSION, meta=snapshot.meta["bank"], arrays=arrays)
