"""The stage of one partition of a metric log: records in, anomalies and drifts out, as `Append` effects.

Decoded columns go through the bank in rounds; the few samples that left their envelope, the hours that ended and the
breaches of fixed limits go, in the order of the log, through small state machines. The only time is that of the
samples: the watermark is the newest sample time that can be believed (none later than its record was received), and
every timer is due when a record moves it past.

Batch invariance, bit for bit: what concerns one series is elementwise in its samples; what crosses series happens in
the order of (record, sample), or at a record that moves the watermark past a boundary. Row numbers differ with the way
records were cut once series have been evicted, so no output depends on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import Config, PolicyRule
from aiopsd.decode.samples import decode_samples
from aiopsd.decode.series import SeriesIndex
from aiopsd.detect import edges
from aiopsd.detect.bank import COUNTER, ENDED, F64, HARM_BOTH, HARM_HIGH, HARM_LOW, LAST_TIME, Policy, RangeBank, Rows
from aiopsd.detect.drift import KINDS, LEVEL, SEASON, Drifts, ErrorDrift, Rise, SeriesDrift
from aiopsd.detect.evidence import Series, clock, from_view
from aiopsd.detect.flatline import Flatline
from aiopsd.detect.join import Join, JoinPolicy, Seen, seen
from aiopsd.detect.maintenance import Maintenance
from aiopsd.detect.online import Online
from aiopsd.detect.signals import NAME, Signal, Signals
from aiopsd.detect.silence import Change, Silence
from aiopsd.detect.threshold import Limits
from aiopsd.errors import ConfigError, DecodeReason
from aiopsd.matchers import Match, Matchers, needles
from aiopsd.model import (
    Anomaly,
    Append,
    DriftDetected,
    Effect,
    Evidence,
    LogRecord,
    Reject,
    Snapshot,
    TopologyUpdate,
    Window,
    content_id,
    fingerprint,
)
from aiopsd.services import ServiceMapper

AHEAD = 3600.0  # s; a sample further ahead of its record's receipt is a broken clock, not news
LEAP = 86400.0  # s; without receipt times, a leap of the watermark by more has to be seen in ...
MOST_POLICIES = 255  # a row keeps the number of its policy in a byte
MOST_AWAY = 30 * 86400.0  # s; who is silent for longer is forgotten, and no maintenance excuses it
SPARE = 0.25  # of those that live; so many more may be remembered than have earned it
CONFIRM = 3  # ... so many records in a row before it is believed

_KINDS = ("other", "latency", "errors", "availability", "traffic", "saturation", "resource")
_HARM = {"high": HARM_HIGH, "low": HARM_LOW, "both": HARM_BOTH, "none": 0}
_HARM_NAME = {v: k for k, v in _HARM.items()}

# Within a record: what was refused, then what its watermark made due, then its samples, then the timers it passed.
_REFUSED, _BOUNDARY, _SAMPLE, _TIMER = range(4)
_Key = tuple[int, int, float, int, int]  # (record, phase, sample or time, kind, sequence)


class _Segment(NamedTuple):
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

    def key(self, sample: int, kind: int, sequence: int = 0) -> _Key:
        """Where an effect of this sample stands among those of the step."""
        return int(self.record[sample]), _SAMPLE, float(sample + self.at), kind, sequence


def build(config: Config, source: str, partition: int, resume: Snapshot | None = None) -> "DetectStage":
    """The stage of one partition, new or as it was when the snapshot was taken.

    Raises:
        ConfigError: a matcher or a model of the configuration cannot be used.
        ValueError: the snapshot is of another kind or version.
    """
    return DetectStage(config, source, partition, resume)


class DetectStage:
    """See `protocols.DetectLike`. Counters for /metrics are plain attributes, totals since the stage was built.

    Per-row arrays beside the bank's: `_known` bool, `_service` int32 (index into `_names`), `_kind` int8, `_windows`
    int32 (which maintenance concerns it; follows from the labels).
    """

    KIND, VERSION = "detect", 8

    def __init__(self, config: Config, source: str, partition: int, resume: Snapshot | None = None) -> None:
        self.source, self.partition = source, partition
        self._config = d = config.detect
        self._mapper = ServiceMapper(config.services)
        self._signals = Signals(d.signals)
        self._policy = Policy(memory=d.memory, growth=d.growth, warm_seconds=d.warmup)
        join = JoinPolicy(
            threshold=d.threshold,
            min_duration=d.min_duration,
            resolve_after=d.resolve_after,
            theta=self._policy.theta,
            by_series=d.join == "series",
        )
        self._evict_step = max(d.evict_after / 24, 60.0)
        self._limits = Limits(d.thresholds, d.resolve_after, self._describe)
        rules = d.policies
        self._others = [self._policy_of(rule) for rule in rules]
        self._policies = [Match(rule.match, f"$.detect.policies[{i}].match") for i, rule in enumerate(rules)]
        no_data = [d.no_data if rule.no_data is None else rule.no_data for rule in rules]
        self._no_data = np.array([d.no_data, *no_data], np.float64)
        flatline = [d.flatline if rule.flatline is None else rule.flatline for rule in rules]
        self._still = np.array([d.flatline, *flatline], np.float64)
        self._flatline = Flatline(d.flatline, flatline)
        self._adopt = [rule.adopt_after for rule in rules]
        self._joins = [self._join_policy_of(rule, join) for rule in rules]
        self._silence = Silence(d.no_data, no_data)
        self._maintenance = Maintenance(d.maintenance)
        if len(rules) > MOST_POLICIES:
            raise ConfigError(f"at most {MOST_POLICIES} policies", "$.detect.policies")
        self._online = Online(d.online, self._policy, budget=d.online_budget)
        known = edges.KNOWN if config.topology.known_metrics else ()
        self._edges = edges.Edges((*config.topology.metrics, *known), self._mapper, config.topology.stale_after)
        models = [(i, m) for i, m in enumerate(d.drift.models) if d.drift.enabled]
        path = "$.detect.drift.models"
        self._models = [
            (
                m.name,
                Match(m.inputs, f"{path}[{i}].inputs") if m.inputs else None,
                Match(m.errors, f"{path}[{i}].errors") if m.errors else None,
            )
            for i, m in models
        ]
        self._inputs: dict[int, tuple[int, ...]] = {}  # row -> models that read it
        self._errors: dict[int, int] = {}  # row -> model whose error bits it carries
        self._governed = bool(rules or self._maintenance)
        self._subscribers = bool(d.thresholds or d.online or self._models)
        self._drift = SeriesDrift()
        self._error_drift = ErrorDrift(d.drift.error_limit)
        self._watermark = float("-inf")
        self._leap = 0  # consecutive records without receipt time that were all far ahead
        self._names: list[str] = []
        self._ids: dict[str, int] = {}
        self._sizes: list[int] = []  # rows of each service, by id
        self._free: list[int] = []  # ids without rows
        self._dropped: set[int] = set()  # rows evicted in this step, or new
        self.samples = self.late = self.invalid = self.skipped = self.anomalies = self.drifts = 0
        if resume is None:
            self._index = SeriesIndex(self._mapper)
            self._bank = RangeBank(self._policy, follow=True, others=self._others)
            self._join = Join(join, self._describe)
            self._known = np.zeros(self._bank.capacity, bool)
            self._service = np.zeros(self._bank.capacity, np.int32)
            self._kind = np.zeros(self._bank.capacity, np.int8)
            self._windows = np.zeros(self._bank.capacity, np.int32)
        else:
            self._load(resume, join)
        if d.adopt_after is not None:
            self._join.adopt_after = float(d.adopt_after)
        if d.drift.enabled:
            self._bank.on_hours = self._drift

    # ------------------------------------------------------------------ the protocol

    @property
    def watermark(self) -> float:
        """Newest sample time that can be believed (UTC seconds); -inf before the first sample."""
        return self._watermark

    @property
    def series(self) -> int:
        """Live series."""
        return int(self._known.sum())

    def step(self, records: Sequence[LogRecord]) -> list[Effect]:
        """Effects of these records, in order of their offsets."""
        if not records:
            return []
        columns = decode_samples(records, self._index)
        out: list[tuple[_Key, Effect]] = []
        if columns.rejects:
            place = {r.offset: i for i, r in enumerate(records)}
            for n, reject in enumerate(columns.rejects):
                out.append(((place[reject.pos.offset], _REFUSED, 0.0, 0, n), reject))
        rows, ts, values = columns.rows, columns.ts, columns.values
        record = columns.record.astype(np.intp)
        believed, marks = self._believe(records, rows, ts, record, out)
        if not believed.all():
            rows, ts, values, record = rows[believed], ts[believed], values[believed], record[believed]
        if len(rows):
            self._room(int(rows.max()) + 1)

        begin = np.searchsorted(record, np.arange(len(records) + 1))
        first = 0
        mark = self._watermark

        def segment(first: int, stop: int) -> _Segment:
            a, b = int(begin[first]), int(begin[stop])
            return _Segment(first, stop, a, rows[a:b], ts[a:b], values[a:b], record[a:b], marks)

        growing = bool((~self._known[rows]).any())  # a series that is new may name an edge
        for r in self._cuts(marks, growing):
            self._take(segment(first, r), out)
            before = float(marks[r - 1]) if r else mark
            self._boundary(r, before, float(marks[r]), out)
            first = r
        self._take(segment(first, len(records)), out)
        self._watermark = float(marks[-1])
        self._dropped.update(self._index.take_new())  # those of which nothing could be used
        if self._dropped:
            self._room(len(self._index))
            self._index.evict(sorted(row for row in self._dropped if not self._known[row]))
            self._dropped.clear()
        out.sort(key=lambda pair: pair[0])
        return [self._stamped(effect, records[key[0]]) for key, effect in out]

    def knows(self, services: Sequence[str]) -> bool:
        """Whether `evidence` would have anything to say of these; cheap."""
        return any(s in self._ids for s in services)

    def evidence(self, services: Sequence[str], since: float) -> list[Evidence]:
        """Evidence of every series of these services that lives, sub-threshold included; before `since` is lead-in."""
        ids = [self._ids[s] for s in dict.fromkeys(services) if s in self._ids]
        if not ids:
            return []
        lives = self._known & (self._bank.last >= self._watermark - self._config.evict_after)
        rows = np.flatnonzero(np.isin(self._service, ids) & lives)
        return from_view(self._bank.view(rows), self._describe, since)

    def maintain(self, windows: Sequence[Window]) -> None:
        """These are the windows of planned work that operators asked for, from the next sample on.

        They are the journal's, not this log's, and so no part of the snapshot: the owner tells a new stage of them.
        """
        if tuple(windows) == self._maintenance.asked:
            return
        before, self._maintenance = self._maintenance, Maintenance(self._config.maintenance, windows)
        self._governed = bool(self._policies or self._maintenance)
        self._windows = self._maintenance.carried(before, self._windows)
        first = len(self._config.maintenance)  # the configuration's windows have the numbers before
        for window in self._maintenance.fresh(before):
            rows = self._concerned(window, windows[window - first])
            self._windows[rows] = self._maintenance.joined(self._windows[rows], window)

    def _concerned(self, number: int, window: Window) -> Rows:
        """The series that a window is about: first by their service, then by what their labels may hold.

        Most windows are about few series, and to read the labels of a million takes seconds.
        """
        by_service = Matchers(m for m in window.matchers if m.name == "service")
        by_label = [m for m in window.matchers if m.name != "service"]
        fits = np.array([by_service.matches({"service": name}) for name in self._names], bool)
        unmapped = np.array([not name for name in self._names], bool)  # may have a label of that name even so
        rows = np.flatnonzero(self._known)
        rows = rows[(fits | unmapped)[self._service[rows]]]
        open_ = unmapped[self._service[rows]] | bool(by_label)  # by their service alone it is not decided
        asked: list[int] = rows[open_].tolist()
        for texts in filter(None, map(needles, by_label)):
            asked = self._index.holding(asked, texts)
        concerns, name_of = self._maintenance.concerns, self._names
        found = [r for r in asked if concerns(number, self._index.labels(r), name_of[self._service[r]])]
        return np.concatenate((rows[~open_], np.array(found, np.intp)))

    def snapshot(self) -> Snapshot:
        """Everything, bit for bit; arrays are copies and hold only the rows in use."""
        n = len(self._index)
        self._room(n)
        bank = self._bank.snapshot(n)
        arrays = {f"bank.{name}": a for name, a in bank.arrays.items()}
        arrays |= {"known": self._known[:n].copy(), "service": self._service[:n].copy(), "kind": self._kind[:n].copy()}
        arrays |= {f"drift.{name}": a for name, a in self._drift.arrays(n).items()}
        online, models = self._online.snapshot()
        arrays |= {f"online.{name}": a for name, a in models.items()}
        flatline, still = self._flatline.snapshot(n)
        arrays |= {f"flatline.{name}": a for name, a in still.items()}
        meta: dict[str, Any] = {
            "source": self.source,
            "partition": self.partition,
            "watermark": self._watermark if self._watermark > float("-inf") else None,
            "leap": self._leap,
            "bank": bank.meta,
            "index": self._index.snapshot(),
            "names": self._names,
            "free": self._free,
            "join": self._join.snapshot(),
            "limits": self._limits.snapshot(),
            "silence": self._silence.snapshot(),
            "flatline": flatline,
            "online": online,
            "errors": self._error_drift.snapshot(),
            "edges": self._edges.snapshot(),
            "signals": msgspec.to_builtins(self._config.signals),
        }
        return Snapshot(kind=self.KIND, version=self.VERSION, meta=meta, arrays=arrays)

    def _load(self, snapshot: Snapshot, join: JoinPolicy) -> None:
        if (snapshot.kind, snapshot.version) != (self.KIND, self.VERSION):
            raise ValueError(
                f"not a {self.KIND} snapshot version {self.VERSION}: {snapshot.kind} version {snapshot.version}"
            )
        meta, arrays = snapshot.meta, snapshot.arrays
        self._watermark = float("-inf") if meta["watermark"] is None else meta["watermark"]
        self._leap = meta["leap"]
        self._index = SeriesIndex.resume(self._mapper, meta["index"])
        inner = {name.removeprefix("bank."): a for name, a in arrays.items() if name.startswith("bank.")}
        bank = Snapshot(kind=RangeBank.KIND, version=RangeBank.VERSION, meta=meta["bank"], arrays=inner)
        self._bank = RangeBank.resume(self._policy, bank, follow=True, others=self._others)
        n = len(arrays["known"])
        capacity = self._bank.capacity
        self._known = np.zeros(capacity, bool)
        self._service = np.zeros(capacity, np.int32)
        self._kind = np.zeros(capacity, np.int8)
        self._known[:n], self._service[:n] = arrays["known"], arrays["service"]
        self._kind[:n] = arrays["kind"]
        self._windows = np.zeros(capacity, np.int32)
        self._names = list(meta["names"])
        self._free = list(meta["free"])
        free = set(self._free)
        self._ids = {name: i for i, name in enumerate(self._names) if i not in free}
        self._sizes = np.bincount(self._service[self._known], minlength=len(self._names)).tolist()
        self._join = Join.resume(join, self._describe, meta["join"])
        live = np.flatnonzero(self._known).tolist()
        if self._subscribers:
            for row in live:
                self._subscribe(row)
        if self._governed:
            for row in live:
                self._govern(row, self._index.labels(row), self._names[self._service[row]])
        named = self._edges.rows(meta["edges"])
        for row in live if named is None else named:
            self._edges.appear(row, self._index.labels(row), self._names[self._service[row]])
        self._edges.load(meta["edges"])
        models = {name.removeprefix("online."): a for name, a in arrays.items() if name.startswith("online.")}
        self._online.load(meta["online"], models)
        self._drift.load({name.removeprefix("drift."): a for name, a in arrays.items() if name.startswith("drift.")})
        self._error_drift.load([item for item in meta["errors"] if item[0] in self._errors])
        self._limits.load(meta["limits"])
        self._silence.load(meta["silence"])
        still = {name.removeprefix("flatline."): a for name, a in arrays.items() if name.startswith("flatline.")}
        self._flatline.load(meta["flatline"], still)
        if meta["signals"] != msgspec.to_builtins(self._config.signals):
            self._classify(live)

    # ------------------------------------------------------------------ time

    def _believe(
        self,
        records: Sequence[LogRecord],
        rows: Rows,
        ts: F64,
        record: Rows,
        out: list[tuple[_Key, Effect]],
    ) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], F64]:
        """Which samples have a time that can be, and the watermark after each record."""
        stamps = np.array([r.stamp for r in records])
        bound = np.where(stamps > 0, stamps + AHEAD, LAST_TIME)
        good = (ts >= 0) & (ts < LAST_TIME) & (ts <= bound[record])
        newest = np.full(len(records), -np.inf)
        np.maximum.at(newest, record[good], ts[good])
        # a sender whose clock is ahead must not make all others late
        newest = np.minimum(newest, np.where(stamps > 0, stamps, np.inf))
        marks = np.maximum.accumulate(np.concatenate(([self._watermark], newest)))[1:]
        before = np.concatenate(([self._watermark], marks[:-1]))
        leaping = (stamps <= 0) & (newest > before + LEAP) & np.isfinite(before)
        if leaping.any() or self._leap:
            mark = self._watermark
            for r in range(len(records)):
                if stamps[r] <= 0 and np.isfinite(mark) and newest[r] > mark + LEAP:
                    self._leap += 1
                    if self._leap < CONFIRM:
                        good &= (record != r) | (ts <= mark + LEAP)
                        inside = ts[(record == r) & good]
                        mark = max(mark, float(inside.max())) if len(inside) else mark
                        marks[r] = mark
                        continue
                if np.isfinite(newest[r]):
                    self._leap = 0
                mark = max(mark, float(newest[r]))
                marks[r] = mark
        if not good.all():
            bad = np.flatnonzero(~good)
            whole = np.bincount(record, minlength=len(records))
            for r in dict.fromkeys(record[bad].tolist()):
                mine = bad[record[bad] == r]
                at = float(ts[mine[0]])
                who = self._index.labels(int(rows[mine[0]]))
                text = f"sample time {at!r} of {who} cannot be, at watermark {float(marks[r])!r}"
                reject = Reject(
                    pos=records[r].pos,
                    reason=DecodeReason.TIMESTAMP,
                    detail=text,
                    items=len(mine),
                    whole=len(mine) == int(whole[r]),
                )
                out.append(((r, _REFUSED, 1.0, 0, 0), reject))
        return good, marks

    def _cuts(self, marks: F64, growing: bool) -> list[int]:
        """Records before whose samples the whole bank is looked at: series to evict, silence, edges to tell."""
        before = np.concatenate(([self._watermark], marks[:-1]))
        moved = np.flatnonzero((marks > before) & np.isfinite(before))
        b, m = before[moved], marks[moved]
        due = b // self._evict_step != m // self._evict_step
        if self._flatline.on:
            due |= b // self._flatline.step != m // self._flatline.step
        if self._silence.after > 0:
            due |= b // self._silence.step != m // self._silence.step
        if growing or self._edges:
            due |= b // edges.STEP != m // edges.STEP
        out: list[int] = moved[due].tolist()
        return out

    def _boundary(self, r: int, before: float, now: float, out: list[tuple[_Key, Effect]]) -> None:
        if before // self._evict_step != now // self._evict_step:
            # after a hole of the whole source nobody is late until everybody could speak
            self._evict(min(now, before + self._evict_step))
            self._online.balance()
        if self._silence.boundary(before, now):
            bank = self._bank
            last, live = bank.last, self._known & ((bank.flags & ENDED) == 0)
            if self._maintenance:
                # who was away by plan is missed from the end of the plan on
                until = self._maintenance.until(self._windows, now, MOST_AWAY)
                live &= until <= now
                last = np.maximum(last, until)
            changes = self._silence.check(
                before,
                now,
                last=last,
                count=bank.count,
                age=bank.age,
                live=live,
                service=self._service,
                names=self._names,
                after=self._no_data[bank.rule] if self._policies else None,
                given_up=self._config.evict_after,
            )
            for n, change in enumerate(changes):
                out.append(((r, _BOUNDARY, 0.0, 0, n), self._append(self._hush(change, now))))
        if self._flatline.boundary(before, now):
            bank = self._bank
            live = self._known & ((bank.flags & ENDED) == 0) & ((bank.flags & HARM_BOTH) != 0)
            if self._maintenance:
                live &= self._maintenance.until(self._windows, now, MOST_AWAY) <= now
            changes = self._flatline.check(
                before,
                last=bank.last,
                interval=bank.age / np.maximum(bank.count - 1, 1),
                live=live,
                after=self._still[bank.rule],
                service=self._service,
                names=self._names,
            )
            for n, change in enumerate(changes):
                out.append(((r, _BOUNDARY, 0.0, 2, n), self._append(self._stuck(change, before))))
        if self._edges.boundary(before, now):
            bank = self._bank
            for n, (found, nodes) in enumerate(self._edges.due(before, bank.last, bank.d[1], bank.flags)):
                told = edges.update(self.source, self.partition, found, nodes)
                out.append(((r, _BOUNDARY, 0.0, 1, n), self._append(told)))

    # ------------------------------------------------------------------ samples

    def _take(self, part: _Segment, out: list[tuple[_Key, Effect]]) -> None:
        """The samples through everything that looks at samples."""
        if part.first == part.stop:
            return
        rows, ts, values = part.rows, part.ts, part.values
        new = self._meet(rows)
        skip = None
        if self._maintenance and len(rows):
            skip = self._maintenance.inside(self._windows[rows], ts)
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
        if self._flatline.on:
            self._flatline.ensure(self._bank.capacity)
            taken = np.flatnonzero(scored.used)
            self._flatline.learn(rows[taken], ts[taken], values[taken])
        if self._limits.rules:
            self._check_limits(part, scored.used, out)
        self._tell_drifts(part, scored.used, out)
        self._decide(part, self._online.confirm(seen(scored.breaks), said), new, out)

    def _meet(self, rows: Rows) -> list[tuple[int, int]]:
        """Enrol the series that are new: (first sample, row), in order of their samples."""
        strange = np.flatnonzero(~self._known[rows])
        if not len(strange):
            return []
        unknown, at = np.unique(rows[strange], return_index=True)
        new = sorted(zip(strange[at].tolist(), unknown.tolist(), strict=True))
        self._enrol([row for _, row in new])
        return new

    def _check_limits(self, part: _Segment, used: NDArray[np.bool_], out: list[tuple[_Key, Effect]]) -> None:
        """Fixed limits; their timers ring between the records that pass them."""
        cursor = part.first
        for reading in self._limits.select(part.rows, part.ts, np.where(used, part.values, np.nan)):
            cursor = self._advance(self._limits, int(part.record[reading.pos]), cursor, part.marks, out)
            event = self._limits.observe(reading)
            if event is not None:
                out.append((part.key(reading.pos, 0, reading.rule), self._append(event)))
        self._ring(self._limits, cursor, part.stop, part.marks, out)

    def _tell_drifts(self, part: _Segment, used: NDArray[np.bool_], out: list[tuple[_Key, Effect]]) -> None:
        """Drifts of the hours that these samples ended, and rises of the error rates that they carry."""
        drifts = self._drift.take()
        if drifts is not None:
            for i, sample in enumerate(drifts.pos.tolist()):
                for n, body in enumerate(self._drifted(drifts, i)):
                    out.append((part.key(sample, 2, n), self._append(body)))
        if self._errors:
            carriers = np.array(sorted(self._errors), np.intp)
            for sample in np.flatnonzero(used & np.isin(part.rows, carriers)).tolist():
                row, t = int(part.rows[sample]), float(part.ts[sample])
                rise = self._error_drift.update(row, t, float(part.values[sample]))
                if rise is not None:
                    out.append((part.key(sample, 3), self._append(self._erring(row, t, rise))))

    def _decide(
        self,
        part: _Segment,
        strange: Iterable[Seen],
        new: Sequence[tuple[int, int]],
        out: list[tuple[_Key, Effect]],
    ) -> None:
        """The join: samples and new series in their order, timers between the records that pass them."""
        fresh = iter(new)
        upcoming = next(fresh, None)
        cursor = part.first
        for s in strange:
            while upcoming is not None and upcoming[0] <= s.pos:
                cursor = self._appear(part, upcoming, cursor, out)
                upcoming = next(fresh, None)
            cursor = self._advance(self._join, int(part.record[s.pos]), cursor, part.marks, out)
            event = self._join.observe(s)
            if event is not None:
                out.append((part.key(s.pos, 1), self._append(event)))
        while upcoming is not None:
            cursor = self._appear(part, upcoming, cursor, out)
            upcoming = next(fresh, None)
        self._ring(self._join, cursor, part.stop, part.marks, out)
        for row in self._join.touched:
            self._bank.watch(row, row in self._join.members)
        self._join.touched.clear()

    def _appear(self, part: _Segment, new: tuple[int, int], cursor: int, out: list[tuple[_Key, Effect]]) -> int:
        """The join learns of a new series of a service; returns the record of its first sample."""
        sample, row = new
        cursor = self._advance(self._join, int(part.record[sample]), cursor, part.marks, out)
        self._join.appear(self._names[self._service[row]])
        return cursor

    def _advance(self, who: Join | Limits, to: int, cursor: int, marks: F64, out: list[tuple[_Key, Effect]]) -> int:
        """Ring the timers that the records cursor..to-1 passed; returns `to`."""
        if to > cursor:
            self._ring(who, cursor, to, marks, out)
        return to

    def _ring(self, who: Join | Limits, first: int, stop: int, marks: F64, out: list[tuple[_Key, Effect]]) -> None:
        """Timers that the watermark of the records first..stop-1 has passed, each after the samples of its record."""
        n = 0
        kind = 1 if who is self._join else 0
        while who.next_due() <= marks[stop - 1]:
            r = first + int(np.searchsorted(marks[first:stop], who.next_due()))
            for event in who.due(float(marks[r])):
                out.append(((r, _TIMER, event.ts, kind, n), self._append(event)))
                n += 1

    # ------------------------------------------------------------------ series

    def _room(self, rows: int) -> None:
        self._bank.ensure(rows)
        more = self._bank.capacity - len(self._known)
        if more > 0:
            self._known = np.concatenate((self._known, np.zeros(more, bool)))
            self._service = np.concatenate((self._service, np.zeros(more, np.int32)))
            self._kind = np.concatenate((self._kind, np.zeros(more, np.int8)))
            self._windows = np.concatenate((self._windows, np.zeros(more, np.int32)))

    def _enrol(self, rows: list[int]) -> None:
        for row in rows:
            labels = self._index.labels(row)
            name = self._mapper.service(labels)
            self._edges.appear(row, labels, name)
            sid = self._ids.get(name)
            if sid is None:
                if self._free:
                    sid = self._free.pop()
                    self._names[sid] = name
                else:
                    sid = len(self._names)
                    self._names.append(name)
                    self._sizes.append(0)
                self._ids[name] = sid
            self._sizes[sid] += 1
            self._service[row] = sid
            self._known[row] = True
            if self._governed:
                self._govern(row, labels, name)
        self._classify(rows)
        if self._subscribers:
            for row in rows:
                self._subscribe(row)

    def _classify(self, rows: list[int]) -> None:
        """What kind of signal each of these series is, which way it harms, whether it counts."""
        found: dict[Signal, list[int]] = {}
        for row in rows:
            found.setdefault(self._signals.of(self._index.labels(row)), []).append(row)
        for signal, mine in found.items():
            at = np.array(mine, np.intp)
            self._kind[at] = _KINDS.index(signal.kind)
            self._bank.mark(at, counter=signal.counter, harm=_HARM[signal.harm])

    def _policy_of(self, rule: PolicyRule) -> Policy:
        base = self._policy
        return msgspec.structs.replace(
            base,
            growth=base.growth if rule.growth is None else rule.growth,
            memory=base.memory if rule.memory is None else float(rule.memory),
            warm_seconds=base.warm_seconds if rule.warmup is None else float(rule.warmup),
        )

    @staticmethod
    def _join_policy_of(rule: PolicyRule, base: JoinPolicy) -> JoinPolicy:
        return msgspec.structs.replace(
            base,
            threshold=base.threshold if rule.threshold is None else rule.threshold,
            min_duration=base.min_duration if rule.min_duration is None else float(rule.min_duration),
            resolve_after=base.resolve_after if rule.resolve_after is None else float(rule.resolve_after),
        )

    def _govern(self, row: int, labels: Mapping[str, str], service: str) -> None:
        """Which policy the series obeys, and which maintenance concerns it."""
        if self._policies:
            given = {**labels, "service": service or labels.get("service", "")}
            found = next((i for i, matches in enumerate(self._policies) if matches(given)), -1)
            self._bank.obey(row, found + 1)
            if found >= 0 and self._joins[found] != self._join.policy:
                self._join.rules[row] = self._joins[found]
            adopt = self._adopt[found] if found >= 0 else None
            if adopt is not None:
                self._join.adopt[row] = float(adopt)
        if self._maintenance:
            self._windows[row] = self._maintenance.group(labels, service)

    def _subscribe(self, row: int) -> None:
        """What else looks at this series, by its labels."""
        who = self._describe(row)
        self._limits.appear(row, who)
        if self._online.rules:
            self._online.appear(row, who, bool(self._bank.flags[row] & COUNTER))
        read = tuple(i for i, (_, inputs, _) in enumerate(self._models) if inputs is not None and inputs(who.labels))
        if read:
            self._inputs[row] = read
        for i, (_, _, errors) in enumerate(self._models):
            if errors is not None and errors(who.labels):
                self._errors[row] = i
                break

    def _evict(self, now: float) -> None:
        """Forget the series that have been silent for longer than they are worth, and than there is room for them."""
        silent = now - self._bank.last
        waits = self._known & (silent > self._config.evict_after)
        rows = self._overdue(np.flatnonzero(waits), silent, int(SPARE * (self.series - waits.sum())))
        self._forget(rows)
        lives = np.bincount(self._service[self._known & ~waits], minlength=len(self._names)).tolist()
        self._join.recount({name: lives[sid] for name, sid in self._ids.items()})

    def _overdue(self, waiting: Rows, silent: F64, room: int) -> Rows:
        """Whom of those that wait nobody waits for any more."""
        # one that was known for a week is missed for a week: at most half of the rows wait for somebody to come back
        worth = np.maximum(self._bank.age[waiting], self._config.evict_after)
        longer = silent[waiting] / worth
        over = longer > 1
        keep = room - (len(waiting) - int(over.sum()))
        if keep > 0:  # by how long it is overdue: equals go together, for the numbers of rows mean nothing
            best = np.sort(longer[over])
            most = best[keep] if keep < len(best) else np.inf
            over &= (longer >= most) | (silent[waiting] > MOST_AWAY)
        return waiting[over]

    def _forget(self, rows: Rows) -> None:
        """These series are gone; who comes back is new."""
        if not len(rows):
            return
        for row in rows.tolist():
            sid = int(self._service[row])
            name = self._names[sid]
            self._join.vanish(row)
            self._limits.vanish(row)
            self._online.vanish(row)
            self._edges.vanish(row)
            self._inputs.pop(row, None)
            if self._errors.pop(row, None) is not None:
                self._error_drift.forget(row)
            self._sizes[sid] -= 1
            if self._sizes[sid] == 0:
                del self._ids[name]
                self._free.append(sid)
        self._known[rows] = False
        self._windows[rows] = 0
        self._flatline.forget(rows)
        self._bank.reset(rows)
        self._drift.reset(rows)
        self._dropped.update(rows.tolist())

    def _describe(self, row: int) -> Series:
        return Series(
            service=self._names[self._service[row]],
            metric=self._index.metric(row),
            labels=self._index.labels(row),
            kind=_KINDS[self._kind[row]],
            harm=_HARM_NAME[int(self._bank.flags[row]) & HARM_BOTH],
        )

    # ------------------------------------------------------------------ words

    def _hush(self, change: Change, now: float) -> Anomaly:
        hush = change.hush
        service = hush.service or self.source
        rows = np.array(change.rows, np.intp)
        evidence: list[Evidence] = []
        if len(rows):
            found = from_view(self._bank.view(rows), self._describe, now)
            found.sort(key=lambda e: (e.service, e.metric, sorted(e.labels.items())))
            evidence = [msgspec.structs.replace(e, channel="no-data", onset=hush.onset) for e in found[:8]]
        what = "source" if not hush.service else "service"
        if len(rows):
            which = self._whose(rows) if hush.service else ""
            count = f"{f' ({which})' if which else ''}, {hush.told} series"
        elif now - hush.onset > self._config.evict_after:
            count = ", not missed any more,"
        else:
            count = ", all series back,"
        return Anomaly(
            id=content_id("no-data", what, service, round(hush.onset)),
            service=service,
            signal="no-data",
            severity="critical" if not hush.service else "warning",
            state=change.state,
            onset=hush.onset,
            ts=now,
            score=0.75,
            revision=hush.revision,
            labels={"source": self.source},
            summary=f"no data from {what} {service}{count} since {clock(hush.onset)}",
            evidence=tuple(evidence),
        )

    def _whose(self, rows: Rows) -> str:
        """What these series of a service share and its others do not: the target that is down; "": all are silent."""
        shared = set.intersection(*(set(self._index.labels(row).items()) for row in rows.tolist()))
        others = self._known & (self._service == self._service[rows[0]])
        others[rows] = False
        own = set()
        for row in np.flatnonzero(others).tolist():
            labels = self._index.labels(row)
            own |= {(name, value) for name, value in shared if labels.get(name) != value}
            if len(own) == len(shared):
                break
        metric = [value for name, value in own if name == NAME]
        return ", ".join([*metric, *sorted(f"{name}={value}" for name, value in own if name != NAME)])

    def _stuck(self, change: Change, now: float) -> Anomaly:
        hush = change.hush
        evidence: list[Evidence] = []
        text = "moves again"
        if change.rows:
            rows = np.array(change.rows, np.intp)
            found = from_view(self._bank.view(rows), self._describe, now)
            found.sort(key=lambda e: (e.service, e.metric, sorted(e.labels.items())))
            evidence = [msgspec.structs.replace(e, channel="flatline", onset=hush.onset) for e in found[:8]]
            more = f" and {hush.told - 1} more" if hush.told > 1 else ""
            text = f"{evidence[0].metric}{more} exactly {evidence[0].level:.6g} since {clock(hush.onset)}"
        return Anomaly(
            id=content_id("flatline", hush.service, round(hush.onset)),
            service=hush.service,
            signal="flatline",
            state=change.state,
            onset=hush.onset,
            ts=now,
            score=0.6,
            revision=hush.revision,
            labels={"source": self.source},
            summary=f"{hush.service} does not move: {text}" if evidence else f"{hush.service} {text}",
            evidence=tuple(evidence),
        )

    def _drifted(self, drifts: Drifts, i: int) -> list[DriftDetected]:
        """One drift per model that reads the series, or one for the series itself."""
        row = int(drifts.rows[i])
        if row in self._errors and row not in self._inputs:
            return []  # error bits are watched as such: one rise is one drift
        who = self._describe(row)
        kind = int(drifts.kind[i])
        ground = self._bank.anchor(row) if kind == LEVEL else 0.0
        since, ts = float(drifts.since[i]), float(drifts.ts[i])
        out = []
        for model in [self._models[m][0] for m in self._inputs.get(row, ())] or [""]:
            subject = f"{who.service}/{who.metric}"
            out.append(
                DriftDetected(
                    id=content_id("drift", model, fingerprint(who.labels), round(ts)),
                    subject=model or subject,
                    model=model,
                    service=who.service,
                    metric=who.metric,
                    labels=who.labels,
                    kind=KINDS[kind],
                    detector="day-by-day" if kind == SEASON else "block-cusum",
                    since=since,
                    ts=ts,
                    before=ground + float(drifts.before[i]),
                    after=ground + float(drifts.after[i]),
                    statistic=float(drifts.statistic[i]),
                    threshold=float(drifts.threshold[i]),
                )
            )
        return out

    def _erring(self, row: int, ts: float, rise: Rise) -> DriftDetected:
        who = self._describe(row)
        model = self._models[self._errors[row]][0]
        return DriftDetected(
            id=content_id("drift", model, fingerprint(who.labels), round(ts)),
            subject=model,
            model=model,
            service=who.service,
            metric=who.metric,
            labels=who.labels,
            kind="error-rate",
            detector="bernoulli-cusum",
            since=rise.since,
            ts=ts,
            before=rise.before,
            after=rise.after,
            statistic=rise.statistic,
            threshold=rise.threshold,
        )

    def _append(self, body: Anomaly | DriftDetected | TopologyUpdate) -> Append:
        if isinstance(body, Anomaly):
            self.anomalies += 1
        elif isinstance(body, DriftDetected):
            self.drifts += 1
        return Append(body=body, origin=_NOWHERE)

    @staticmethod
    def _stamped(effect: Effect, record: LogRecord) -> Effect:
        if not isinstance(effect, Append):
            return effect
        pos = record.pos
        if isinstance(effect.body, TopologyUpdate):
            return Append(body=effect.body, origin=pos)
        return Append(body=msgspec.structs.replace(effect.body, pos=pos), origin=pos)


_NOWHERE = LogRecord(source="", partition=0, offset=0, value=b"", format="").pos
