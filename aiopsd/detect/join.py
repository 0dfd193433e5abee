"""The evidence of a service's series, kept for about an hour and summed, becomes one event with a life.

What enters is the samples that left their envelope (`bank.Breaks`), one by one in the order of the log, and the
watermark. What leaves is `Anomaly`: firing once, revised while it grows materially, resolved when every series that
took part has been back in its range for `resolve_after`. With `by_series` each series is its own subject.

All work is per break, and breaks are rare; a stationary series costs nothing here. Nothing depends on row numbers or on
how the samples were cut into steps.
"""

import heapq
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from aiopsd.detect.bank import CHANNELS, HOUR, MENTION, SLOTS, STILL, Breaks
from aiopsd.detect.evidence import Describe, number, summary
from aiopsd.model import Anomaly, Direction, Evidence, Labels, content_id, labels_text

HALF_LIFE = 1800.0  # s; metrics that leave their range within about an hour of each other add up
FORGET = 4 * HALF_LIFE  # s; after four half-lives what did not fire is forgotten
ADOPT = 3 * 3600.0  # s; a level that stays for so long is no longer held against a series that stopped breaking
ALONE = 8.0  # widths for each evidence that an event takes at which one metric makes it alone, of however many
WIDE = 20.0  # deviations of a range that noise or a season made; a wider one was made by a few samples that jumped
RENEW = 2.0  # a break that much stronger than the first is the onset; what came before was its forerunner or noise
KEPT = 8  # evidences attached to an event
GROWTH = 1.5  # an event is revised when its evidence or its number of series has grown that much
RAMP = 3600.0  # s over which the steps of a ramp add up
DAY = 86400.0  # s for which a series is known before its breaks add up: it may be the morning that it has not seen yet
ECHO = 4 * 3600.0  # s until a third is left of what an event came to: a weaker one is its aftershock
WEARY = 1.5  # after each event a subject has to show so many times more for the next ...
MOST = 4.0  # ... but no more than so many times: whatever came before, a severe one is heard
RESTED = 3 * 86400.0  # s ... of which a third is left after so long; who alarms often is believed less
RANGES = (0, 1, 2)  # channels whose evidence is a distance in widths of an envelope
_LONGEST_GAP = 2.5  # sampling intervals; a series is not quiet before it could have spoken


class JoinPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When evidence is an event. Durations in seconds of sample time."""

    threshold: float = 0.5  # of the score
    min_duration: float = 0.0
    resolve_after: float = 900.0
    theta: float = 0.15  # evidence of a lone series at which the score is 0.5
    by_series: bool = False


class Entry(msgspec.Struct):
    """One series of a subject: what it took for normal when it left its range, and the worst it showed since."""

    row: int
    evidence: float  # envelope widths of its breaks, at most 1 but where one makes an event alone, as of `at`
    at: float
    onset: float
    bad: float  # time of its last sample outside the range
    interval: float
    channel: int
    up: bool
    normal: float
    low: float
    high: float
    scale: float
    level: float
    peak: float
    lead: float
    recent: list[tuple[float, float]]
    unit: float  # of the metric for an evidence of 1, when it left its range; 0: distances do not add up
    far: float  # the largest evidence of one break, not cut
    opinion: str = ""  # as of Seen, the last that was given
    least: float = 0.0  # mean step of an hour until then

    def weight(self, now: float) -> float:
        """Evidence left at `now`."""
        return self.evidence * decay(now - self.at)

    def beyond(self, now: float) -> float:
        """What is left at `now` of the evidence above 1: it makes no event, but tells a bad one from a worse one."""
        return math.log(max(self.far, 1.0)) * decay(now - self.at)

    def way(self, s: "Seen") -> float:
        """How far it has come, in widths of the range that it left: each step of a ramp widens that, so none is far."""
        if self.unit <= 0.0 or s.channel not in RANGES or s.up != self.up or s.ts - self.onset > RAMP:
            return 0.0
        return max(s.value - self.high if self.up else self.low - s.value, 0.0) / self.unit


class Subject(msgspec.Struct):
    """What an event is about: a service, or one series of it."""

    key: str
    service: str
    entries: dict[int, Entry]
    sum: float = 0.0  # of the entries' evidence, as of `at`
    at: float = 0.0
    state: str = "quiet"  # quiet | pending | firing
    since: float = 0.0  # when it became pending
    deadline: float = 0.0
    id: str = ""
    signal: str = ""
    onset: float = 0.0
    labels: Labels = {}
    revision: int = 0
    told_sum: float = 0.0
    told_series: int = 0
    told_score: float = 0.0  # what `sum` came to, of 1
    score: float = 0.0  # as told: with what is beyond, so that it keeps its order at the top
    peak: float = 0.0  # the loudest it was since it fired

    def loud(self, now: float) -> float:
        """All its evidence at `now`, what is above 1 included."""
        return self.sum * decay(now - self.at) + sum(e.beyond(now) for e in self.entries.values())


def decay(seconds: float) -> float:
    """What is left of evidence after so long.

    >>> decay(1800.0)
    0.5
    """
    return float(0.5 ** (max(seconds, 0.0) / HALF_LIFE))


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """One element of `Breaks` as plain numbers."""

    pos: int
    row: int
    ts: float
    value: float
    evidence: float
    channel: int
    up: bool
    normal: float
    low: float
    high: float
    scale: float
    interval: float
    lead: float
    recent: list[tuple[float, float]]
    opinion: str = ""  # what is strange where it is not the value, in words: of its hour, or of the second tier
    step: float = 0.0
    least: float = 0.0
    age: float = math.inf

    def jumps(self) -> float:
        """By how much the range that it left was made by jumps, not by what the series usually does; 1: it was not.

        A metric that idles and has jumped will jump farther one day. Where tails fall as a power, the logarithm of how
        far records are beyond the last grows as that of the range in deviations, whatever the power.
        """
        if self.channel not in RANGES or self.high <= self.low:
            return 1.0
        return max(1.0, math.log(max((self.high - self.low) / self.scale, 1.0)) / math.log(WIDE))


def seen(breaks: Breaks) -> Iterator[Seen]:
    """The elements of `breaks` in order; recent samples only where there is evidence."""
    columns = zip(
        breaks.pos.tolist(),
        breaks.rows.tolist(),
        breaks.ts.tolist(),
        breaks.values.tolist(),
        breaks.evidence.tolist(),
        breaks.channel.tolist(),
        breaks.up.tolist(),
        breaks.normal.tolist(),
        breaks.low.tolist(),
        breaks.high.tolist(),
        breaks.scale.tolist(),
        breaks.interval.tolist(),
        breaks.lead.tolist(),
        breaks.step.tolist(),
        breaks.least.tolist(),
        breaks.mean.tolist(),
        breaks.age.tolist(),
        strict=True,
    )
    for i, (pos, row, ts, value, evidence, channel, *rest, step, least, mean, age) in enumerate(columns):
        recent: list[tuple[float, float]] = []
        if evidence > MENTION:
            pairs = zip(breaks.recent_ts[i].tolist(), breaks.recent[i].tolist(), strict=True)
            recent = [*[(t, v) for t, v in pairs if t == t][1 - SLOTS :], (ts, value)]  # the break itself is drawn
        opinion = ""
        if evidence > MENTION and channel == STILL:
            opinion = f"moved by {number(step)} a sample within the hour, never by less than {number(least)} before"
        elif evidence > MENTION and channel == HOUR:
            _, _, low, high, *_ = rest
            opinion = f"{number(mean)} in the mean of the hour, normally {number(low)}..{number(high)}"
        yield Seen(  # type: ignore[call-arg]  # the rest of the columns
            pos, row, ts, value, evidence, channel, *rest, recent, opinion, step, least, age
        )


class Record(msgspec.Struct):
    """What the last events of a subject ask of its next one."""

    bar: float = 1.0  # times the usual evidence, as of `at`
    at: float = 0.0
    sum: float = 0.0  # what the last event came to, as of `ended`
    ended: float = 0.0

    def asks(self, now: float) -> float:
        """Times the usual evidence that an event takes now."""
        return max(1.0, self.bar * _left(now - self.at, RESTED))

    def echo(self, now: float) -> float:
        """Evidence that is no more than an aftershock now."""
        return self.sum * _left(now - self.ended, ECHO)

    def spent(self, now: float) -> bool:
        """It asks nothing any more."""
        return self.asks(now) <= 1.0 and self.echo(now) < MENTION


def _left(seconds: float, span: float) -> float:
    return float(0.3679 ** (max(seconds, 0.0) / span))


class Join:
    """Subjects and their timers. `describe(row)` names a series; it is asked only when evidence appears."""

    def __init__(self, policy: JoinPolicy, describe: Describe) -> None:
        self.policy = policy
        self.describe = describe
        self.subjects: dict[str, Subject] = {}
        self.members: dict[int, str] = {}  # row -> key of the subject that follows it
        self.sizes: dict[str, int] = {}  # live series of each service
        self.records: dict[str, Record] = {}  # of subjects that had an event of late
        self._timers: list[tuple[float, str]] = []
        self.adopt_after = ADOPT
        self.adopt: dict[int, float] = {}  # row -> seconds, where its policy says otherwise
        self.rules: dict[int, JoinPolicy] = {}  # row -> what holds for events that begin with it, where not `policy`
        self.touched: set[int] = set()  # rows followed or released since the caller last cleared this

    # ------------------------------------------------------------------ series come and go

    def appear(self, service: str) -> None:
        self.sizes[service] = self.sizes.get(service, 0) + 1

    def recount(self, sizes: Mapping[str, int]) -> None:
        """So many series of each service live now: those that wait to come back make no noise."""
        for service in self.sizes.keys() - sizes.keys():
            self.records.pop(service, None)
        self.sizes = dict(sizes)

    def vanish(self, row: int) -> None:
        """The series was evicted."""
        self.adopt.pop(row, None)
        self.rules.pop(row, None)
        key = self.members.pop(row, None)
        if key is not None:
            subject = self.subjects[key]
            entry = subject.entries.pop(row)
            subject.sum = max(0.0, subject.sum - entry.weight(subject.at))

    # ------------------------------------------------------------------ samples

    def theta(self, service: str) -> float:
        """Summed evidence at which a service's score is 0.5: more series make more noise."""
        if self.policy.by_series:
            return self.policy.theta
        return float(self.policy.theta * max(self.sizes.get(service, 1), 1) ** NOISE)

    def _enough(self, subject: Subject) -> float:
        """Summed evidence that makes an event of it, whatever came before."""
        threshold = self._policy(subject).threshold
        return self.theta(subject.service) * threshold / (1.0 - threshold)

    def _policy(self, subject: Subject) -> JoinPolicy:
        """That of the series with which it began."""
        return self.rules.get(next(iter(subject.entries), -1), self.policy) if self.rules else self.policy

    def observe(self, s: Seen) -> Anomaly | None:
        """Take one sample; the event it makes or revises, if any."""
        key = self.members.get(s.row)
        if key is not None:
            entry = self.subjects[key].entries[s.row]
            # on its way back a series leaves the envelope of what had become usual; that is no news
            if s.evidence <= MENTION or (s.up != entry.up and entry.low <= s.value <= entry.high):
                self._calm(entry, s)
                return None
        elif s.evidence <= MENTION:
            return None
        if key is None:
            who = self.describe(s.row)
            key = who.service
            if self.policy.by_series:
                key = f"{who.metric}{{{labels_text(who.labels, ('__name__',))}}}"
            subject = self.subjects.get(key)
            if subject is None:
                subject = self.subjects[key] = Subject(key=key, service=who.service, entries={}, at=s.ts)
            self.members[s.row] = key
            self.touched.add(s.row)
        else:
            subject = self.subjects[key]
        self._take(subject, s)
        return self._judge(subject, s.ts)

    def _calm(self, entry: Entry, s: Seen) -> None:
        """A followed series said something unremarkable: is it still outside of what was normal at its onset?"""
        if entry.channel == STILL:
            outside = s.step < entry.least
        else:
            outside = s.value > entry.high if entry.up else s.value < entry.low
        if outside and s.ts - entry.onset <= self.adopt.get(s.row, self.adopt_after):
            entry.bad = max(entry.bad, s.ts)
            entry.interval = s.interval

    def _take(self, subject: Subject, s: Seen) -> None:
        now = max(subject.at, s.ts)
        subject.sum *= decay(now - subject.at)
        subject.at = now
        entry = subject.entries.get(s.row)
        left = 0.0 if entry is None else entry.weight(now)
        far = s.evidence if entry is None else max(s.evidence, entry.way(s))
        jumps = s.jumps()
        size = min(far, 1.0 / jumps)
        if far > ALONE * jumps:
            size = max(1.0, min(far / (ALONE * jumps), self._enough(subject)))
        evidence = max(size, left)
        if s.age >= DAY:  # breaks of one series add up, as those of several do
            evidence = max(evidence, min(left + size, 1.0 / jumps))
        quiet = max(self._policy(subject).resolve_after, _LONGEST_GAP * s.interval)
        renewed = entry is not None and (s.ts - entry.bad > quiet or size >= RENEW * entry.peak)
        if entry is None or (renewed and subject.state != "firing"):
            subject.sum = max(0.0, subject.sum - left)
            beyond = s.value - s.high if s.up else s.low - s.value
            unit = beyond / s.evidence if beyond > 0.0 and s.channel in RANGES and s.age >= DAY else 0.0
            entry = Entry(
                s.row, evidence, now, s.ts, s.ts, s.interval, s.channel, s.up, s.normal, s.low, s.high, s.scale,
                s.value, size, s.lead, s.recent, unit, far, s.opinion, s.least,
            )  # fmt: skip
            subject.entries[s.row] = entry
            subject.sum += evidence
            return
        entry.evidence, entry.at = evidence, now
        subject.sum = max(0.0, subject.sum + evidence - left)
        entry.bad = max(entry.bad, s.ts)
        entry.interval = s.interval
        entry.recent = s.recent
        entry.opinion = s.opinion or entry.opinion
        if abs(s.value - entry.normal) > abs(entry.level - entry.normal):
            entry.level = s.value
            entry.up = s.value > entry.normal
        entry.peak, entry.far = max(entry.peak, size), max(entry.far, far)

    def _judge(self, subject: Subject, ts: float) -> Anomaly | None:
        policy = self._policy(subject)
        theta = self.theta(subject.service)
        score = subject.sum / (subject.sum + theta)
        if subject.state == "quiet":
            if score >= policy.threshold and self._is_news(subject, score, ts):
                if policy.min_duration <= 0:
                    return self._fire(subject, ts)
                subject.since = ts
                self._enter(subject, "pending")
        elif subject.state == "pending":
            if score < policy.threshold:
                self._enter(subject, "quiet")
            elif ts - subject.since >= policy.min_duration:
                return self._fire(subject, ts)
        elif self._grown(subject, score):
            return self._tell(subject, ts, "firing", subject.revision + 1)
        self._schedule(subject)
        return None

    def _is_news(self, subject: Subject, score: float, ts: float) -> bool:
        """More than an aftershock of the last event, and than a subject that alarms often has to show."""
        record = self.records.get(subject.key)
        if record is None:
            return True
        threshold = self._policy(subject).threshold
        odds = record.asks(ts) * threshold / (1.0 - threshold)
        return subject.loud(max(subject.at, ts)) > record.echo(ts) and score >= odds / (1.0 + odds)

    @staticmethod
    def _grown(subject: Subject, score: float) -> bool:
        series = len(subject.entries)
        if series >= max(GROWTH * subject.told_series, subject.told_series + 1):
            return True
        return subject.sum >= GROWTH * subject.told_sum and score > subject.told_score + 0.02

    # ------------------------------------------------------------------ time

    def next_due(self) -> float:
        """Watermark at which `due` has something to look at; inf: never."""
        return self._timers[0][0] if self._timers else float("inf")

    def due(self, now: float) -> list[Anomaly]:
        """Events whose time has come by the watermark `now`, in the order of their times."""
        out = []
        while self._timers and self._timers[0][0] <= now:
            at, key = heapq.heappop(self._timers)
            subject = self.subjects.get(key)
            if subject is None or subject.deadline != at:
                continue  # set before something else happened
            subject.deadline = 0.0
            if self._deadline(subject) > at:  # samples have moved it since it was set
                self._schedule(subject)
            elif subject.state == "pending":
                last = max((e.bad + _LONGEST_GAP * e.interval for e in subject.entries.values()), default=0.0)
                if last >= at and self._score(subject, at) >= self._policy(subject).threshold:
                    out.append(self._fire(subject, at))
                else:
                    self._enter(subject, "quiet")
            elif subject.state == "firing":
                out.append(self._tell(subject, at, "resolved", subject.revision + 1))
                record = self.records.get(subject.key)
                if record is not None:  # else the last of the service was evicted meanwhile
                    record.sum, record.ended = subject.peak, at
                self._drop(subject)
            else:
                self._forget(subject, at)
        return out

    def _score(self, subject: Subject, now: float) -> float:
        left = subject.sum * decay(now - subject.at)
        return left / (left + self.theta(subject.service))

    def _deadline(self, subject: Subject) -> float:
        policy = self._policy(subject)
        if subject.state == "pending":
            return subject.since + policy.min_duration
        entries = subject.entries.values()
        if subject.state == "quiet":
            return min((e.bad for e in entries), default=subject.at) + FORGET
        quiet = policy.resolve_after
        return max((e.bad + max(quiet, _LONGEST_GAP * e.interval) for e in entries), default=subject.at + quiet)

    def _schedule(self, subject: Subject) -> None:
        """One timer per subject; one that rings too early sets itself again, so samples need not move it."""
        if subject.deadline == 0.0:
            subject.deadline = self._deadline(subject)
            heapq.heappush(self._timers, (subject.deadline, subject.key))

    def _enter(self, subject: Subject, state: str) -> None:
        subject.state = state
        subject.deadline = 0.0
        self._schedule(subject)

    def _forget(self, subject: Subject, now: float) -> None:
        """Nothing came of what these series showed."""
        for row in [r for r, e in subject.entries.items() if e.bad + FORGET <= now]:
            entry = subject.entries.pop(row)
            subject.sum = max(0.0, subject.sum - entry.weight(subject.at))
            del self.members[row]
            self.touched.add(row)
        if subject.entries:
            self._schedule(subject)
        else:
            del self.subjects[subject.key]

    def _drop(self, subject: Subject) -> None:
        for row in subject.entries:
            del self.members[row]
            self.touched.add(row)
        del self.subjects[subject.key]

    def loudest(self, now: float, since: float, most: int, besides: Collection[str] = ()) -> list[str]:
        """Services that were outside their ranges at `since` or later, loudest first; those in `besides` left out."""
        loud: dict[str, float] = {}
        for subject in self.subjects.values():
            if subject.service not in besides and any(e.bad >= since for e in subject.entries.values()):
                loud[subject.service] = max(loud.get(subject.service, 0.0), subject.loud(now))
        return sorted(loud, key=lambda service: (-loud[service], service))[:most]

    # ------------------------------------------------------------------ words

    def _fire(self, subject: Subject, ts: float) -> Anomaly:
        now = max(subject.at, ts)
        weights = [(e.weight(now), e) for e in subject.entries.values()]
        top = max(w for w, _ in weights)
        part = [e for w, e in weights if w >= 0.25 * top]
        names = sorted({self.describe(e.row).metric for e in part})
        subject.onset = min(e.onset for e in part)
        subject.signal = names[0] if len(names) == 1 else "service"
        shared: dict[str, str] | None = None
        for e in part:
            labels = self.describe(e.row).labels
            shared = dict(labels) if shared is None else {k: v for k, v in shared.items() if labels.get(k) == v}
        subject.labels = {k: v for k, v in (shared or {}).items() if k != "__name__"}
        subject.id = content_id("anomaly", subject.key, subject.signal, round(subject.onset))
        self._enter(subject, "firing")
        if len(self.records) > 64 + 2 * len(self.subjects):
            self.records = {k: r for k, r in self.records.items() if k in self.subjects or not r.spent(ts)}
        record = self.records.setdefault(subject.key, Record())
        record.bar, record.at = min(record.asks(ts) * WEARY, MOST), ts
        return self._tell(subject, ts, "firing", 0)

    def _tell(self, subject: Subject, ts: float, state: str, revision: int) -> Anomaly:
        now = max(subject.at, ts)
        subject.sum *= decay(now - subject.at)
        subject.at = now
        summed = max(subject.told_score, self._score(subject, now))
        loud = subject.loud(now)
        subject.score = max(subject.score, loud / (loud + self.theta(subject.service)))
        subject.peak = max(subject.peak, loud)
        subject.revision, subject.told_sum, subject.told_score = revision, subject.sum, summed
        subject.told_series = len(subject.entries)
        ranked = sorted(
            ((self._evidence(e), e.weight(now)) for e in subject.entries.values()),
            key=lambda p: (-p[1], p[0].metric, sorted(p[0].labels.items())),
        )
        evidence = tuple(e for e, _ in ranked[:KEPT])
        return Anomaly(
            id=subject.id,
            service=subject.service,
            signal=subject.signal,
            severity="critical" if summed >= CRITICAL else "warning",
            state=state,
            onset=subject.onset,
            ts=ts,
            score=subject.score,
            revision=revision,
            labels=subject.labels,
            summary=summary(evidence, subject.onset, len(ranked) - 1),
            evidence=evidence,
        )

    def _evidence(self, e: Entry) -> Evidence:
        who = self.describe(e.row)
        off = (e.level - e.normal) / e.scale
        loud = max(e.peak, e.evidence) + math.log(max(e.far, 1.0))
        return Evidence(
            service=who.service,
            metric=who.metric,
            kind=who.kind,
            labels=who.labels,
            channel=CHANNELS[e.channel] if e.channel >= 0 else "online",
            direction=Direction.HIGH if e.up else Direction.LOW,
            level=e.level,
            normal=e.normal,
            low=e.low,
            high=e.high,
            scale=e.scale,
            deviation=off if e.up else -off,
            score=loud / (loud + self.policy.theta),
            onset=e.onset,
            lead_in=max(0.0, (e.lead if e.up else -e.lead) / e.scale),
            traffic=e.normal if who.kind == "traffic" else 0.0,
            recent=tuple(e.recent),
            opinion=e.opinion,
            rate=who.counter,
        )

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> dict[str, Any]:
        return {
            "subjects": msgspec.to_builtins([self.subjects[k] for k in sorted(self.subjects)], str_keys=True),
            "sizes": dict(sorted(self.sizes.items())),
            "timers": sorted([t, k] for t, k in self._timers),
            "records": {k: msgspec.to_builtins(r) for k, r in sorted(self.records.items())},
        }

    @classmethod
    def resume(cls, policy: JoinPolicy, describe: Describe, data: Mapping[str, Any]) -> "Join":
        join = cls(policy, describe)
        for subject in msgspec.convert(data["subjects"], list[Subject], strict=False):
            join.subjects[subject.key] = subject
            for row in subject.entries:
                join.members[row] = subject.key
        join.sizes = dict(data["sizes"])
        join.records = msgspec.convert(data["records"], dict[str, Record])
        join._timers = [(t, k) for t, k in data["timers"]]  # sorted: a heap
        return join


NOISE = 0.65  # power of the number of series: between 0.5 (their noise is independent) and 1 (it is one)
CRITICAL = 0.9
