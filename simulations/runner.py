"""The real stages in virtual time: records in, incidents and notifications with their virtual times out.

A DetectStage and a CorrelateStage exactly as the daemon builds them, joined by a journal that is a list: offsets and
non-decreasing stamps as the real one gives them, ticks where a timer is due, questions for evidence answered at once.
No clock, no I/O, no chance: the same events give the same result. What this leaves out is what the runtime is for
(processes, logs, receivers); the demo and the acceptance tests play against the daemon itself.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from aiopsd.config import Config
from aiopsd.decode import decode_alerts, decode_changes, decode_topology
from aiopsd.model import (
    Alert,
    AlertBatch,
    Anomaly,
    Append,
    AskEvidence,
    Audit,
    AuditEntry,
    Body,
    DriftDetected,
    Effect,
    EvidenceDigest,
    Forget,
    Incident,
    JournalRecord,
    LogRecord,
    Notification,
    Notify,
    Reject,
    Retrain,
    RetrainRequest,
    Started,
    Tick,
    Upsert,
)
from aiopsd.pipeline import correlate, detect
from simulations import wire
from simulations.world import World

SOURCE = "metrics"

Event: TypeAlias = "tuple[float, LogRecord | Body]"  # (virtual receipt time, what arrives)


@dataclass
class Result:
    """What came of a run. `journal` is complete, so that a run can be played again under another configuration."""

    incidents: dict[str, Incident] = field(default_factory=dict)  # last version by id, in order of opening
    alerts: dict[str, Alert] = field(default_factory=dict)
    notifications: list[Notification] = field(default_factory=list)  # `stamp` is the virtual time of the decision
    timeline: list[AuditEntry] = field(default_factory=list)
    anomalies: list[Anomaly] = field(default_factory=list)
    drifts: list[DriftDetected] = field(default_factory=list)
    retrains: list[RetrainRequest] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    journal: list[JournalRecord] = field(default_factory=list)
    questions: int = 0
    samples: int = 0
    detect_cpu: float = 0.0  # seconds
    correlate_cpu: float = 0.0


class Run:
    """One run in progress: feed events in time order, read `result` at any time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.result = Result()
        self.detect = detect.build(config, SOURCE, 0, None)
        self.correlate = correlate.build(config, None)
        self.now = 0.0

    def feed(self, event: Event) -> None:
        """Take one event; timers due before it fire first.

        Raises:
            ValueError: it is older than the previous one.
        """
        at, what = event
        if at < self.now:
            raise ValueError(f"an event of {at} came after one of {self.now}")
        self.advance(at)
        self.now = at
        if not isinstance(what, LogRecord):
            self._append(what)
            return
        began = time.process_time()
        effects = self.detect.step([what])
        self.result.detect_cpu += time.process_time() - began
        self.result.samples = self.detect.samples
        for effect in effects:
            if isinstance(effect, Append):
                if isinstance(effect.body, Anomaly):
                    self.result.anomalies.append(effect.body)
                elif isinstance(effect.body, DriftDetected):
                    self.result.drifts.append(effect.body)
                self._append(effect.body, effect)
            elif isinstance(effect, Reject):
                self.result.rejects.append(effect)

    def advance(self, until: float) -> None:
        """Fire every timer due at or before this time, each at its own time."""
        if not self.result.journal:
            return  # a daemon starts with its first record, not in 1970
        while (wake := self.correlate.wake_at()) is not None and wake <= until:
            self.now = max(self.now, wake)
            self._append(Tick())

    def _append(self, body: Body, source: Append | None = None) -> None:
        journal = self.result.journal
        stamp = max(self.now, journal[-1].stamp if journal else 0.0)
        origin = source.origin if source else None
        journal.append(JournalRecord(offset=len(journal), stamp=stamp, body=body, origin=origin))
        began = time.process_time()
        effects = self.correlate.step(journal[-1:])
        self.result.correlate_cpu += time.process_time() - began
        for question in self._take(effects):
            evidence = tuple(self.detect.evidence(question.services, question.since, question.others))
            self.result.questions += 1
            if evidence:
                answer = EvidenceDigest(
                    request_id=question.request_id,
                    incident=question.incident,
                    asof=self.detect.watermark,
                    evidence=evidence,
                )
                self._append(answer)

    def _take(self, effects: Iterable[Effect]) -> list[AskEvidence]:
        r = self.result
        questions = []
        for effect in effects:
            if isinstance(effect, Upsert):
                if isinstance(effect.item, Incident):
                    r.incidents[effect.item.id] = effect.item
                elif isinstance(effect.item, Alert):
                    r.alerts[effect.item.fingerprint] = effect.item
            elif isinstance(effect, Notify):
                r.notifications.append(effect.notification)
            elif isinstance(effect, Audit):
                r.timeline.append(effect.entry)
            elif isinstance(effect, Retrain):
                r.retrains.append(effect.request)
            elif isinstance(effect, Reject):
                r.rejects.append(effect)
            elif isinstance(effect, AskEvidence):
                questions.append(effect)
            elif isinstance(effect, Forget):
                continue  # the result keeps what the stage may forget
        return questions


def run(config: Config, events: Iterable[Event], *, until: float | None = None) -> Result:
    """Play events, in time order, through the stages of this configuration; then on to `until`, timers only."""
    playing = Run(config)
    for event in events:
        playing.feed(event)
    if until is not None:
        playing.advance(until)
    return playing.result


def events(world: World, *, metrics: bool = True, alerts: bool = True) -> Iterator[Event]:
    """A world as the daemon would receive it, through the real decoders: topology first, then by time.

    At equal times metrics come before alerts before changes: a sample is scraped before its rule is evaluated.
    """
    labels = [wire.label_bytes(s) for s in world.series]
    start = world.scenario.start
    yield start, Started(version="simulation")
    yield start, decode_topology(wire.topology(world.edges(), world.vertices()), "simulation")
    offset = 0
    for chunk in world.play():
        due: list[tuple[float, int, LogRecord | Body]] = []
        for k, ts in enumerate(chunk.ts.tolist() if metrics else []):
            body = wire.remote_write(labels, chunk.ts[k : k + 1], chunk.values[:, k : k + 1])
            record = LogRecord(source=SOURCE, partition=0, offset=offset, value=body, format="remote-write", stamp=ts)
            due.append((ts, 0, record))
            offset += 1
        for at, batch in chunk.alerts if alerts else []:
            decoded, _ = decode_alerts(wire.alerts(batch), "prometheus")
            due.append((at, 1, AlertBatch(alerts=tuple(decoded), sender="prometheus")))
        for at, change in chunk.changes:
            due += [(at, 2, body) for body in decode_changes(wire.change(change))]
        due.sort(key=lambda e: e[:2])
        yield from ((at, what) for at, _, what in due)
