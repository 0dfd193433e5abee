"""The stage: one handler for every kind of record, and the timers between them."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from aiopsd.config import Config, trainers
from aiopsd.correlate.grouping import Placement
from aiopsd.correlate.place import place_of
from aiopsd.correlate.verdicts import drawn, withdrawn
from aiopsd.evidence import about
from aiopsd.matchers import Matchers
from aiopsd.model import (
    ANOMALY,
    AckIncident,
    Alert,
    AlertBatch,
    AlertIn,
    AlertState,
    Anomaly,
    AskEvidence,
    ChangeEvent,
    DriftDetected,
    Effect,
    EndMaintenance,
    EvidenceDigest,
    ExpireSilence,
    Forget,
    Incident,
    JournalRecord,
    Maintain,
    PutMaintenance,
    PutSilence,
    ResolveIncident,
    Retrain,
    RetrainRequest,
    Silence,
    Snapshot,
    Started,
    Tick,
    TopologyUpdate,
    Touch,
    Upsert,
    Verdict,
    Window,
    fingerprint,
)
from aiopsd.pipeline.correlate.causes import Causes, shown
from aiopsd.pipeline.correlate.incidents import Incidents, called, name
from aiopsd.pipeline.correlate.ledger import (
    ACK,
    ASK,
    END,
    FORGET_ALERT,
    FORGET_INCIDENT,
    QUIET,
    RANK,
    SWEEP,
    Ledger,
)
from aiopsd.pipeline.correlate.pages import Pages
from aiopsd.pipeline.correlate.parts import Parts, compose
from aiopsd.rules import NOISE
from aiopsd.topology import EXPIRED, Diff

VERSION = 10
LATE_AFTER = 120.0  # s between a broker's receipt and ours that make a record part of a backlog
TERM_MOST = 86400.0  # s; an end farther away than this is a date, not the silence of a sender
SWEEP_EVERY = 3600.0  # s; topology ages slowly
ANOMALY_LABEL = "aiopsd_kind"
PLACES = ("instance", "cluster", "node")  # labels of an anomaly's series that name its alert
LIMIT = "rule"  # label that a fixed limit adds


class CorrelateStage:
    """The decisions of one correlation domain as a deterministic function of its journal."""

    def __init__(self, config: Config, parts: Parts, resume: dict[str, Any] | None) -> None:
        self.config, self.parts = config, parts
        self.topology, self.grouper, self.dispatcher = parts.topology, parts.grouper, parts.dispatcher
        self._trainers = tuple(f"{kind}[{index}]" for kind, index, _, _ in trainers(config))
        self._ledger = ledger = Ledger()
        self._pages = Pages(ledger, parts.dispatcher)
        self._causes = Causes(config.correlate, ledger, self._pages, parts)
        self._life = Incidents(config.correlate, ledger, self._pages, self._causes, parts.pieces)
        self._ends: dict[str, float] = {}  # alert -> due of its one live end timer; others in the heap are stale
        self._handlers: dict[type, Callable[[Any], None]] = {
            AlertBatch: self._on_alerts,
            Anomaly: self._on_anomaly,
            DriftDetected: self._on_drift,
            EvidenceDigest: self._causes.on_digest,
            TopologyUpdate: self._on_topology,
            ChangeEvent: self._causes.on_change,
            PutSilence: self._on_put_silence,
            ExpireSilence: self._on_expire_silence,
            PutMaintenance: self._on_put_maintenance,
            EndMaintenance: self._on_end_maintenance,
            AckIncident: self._life.on_ack,
            ResolveIncident: self._life.on_resolve,
            Verdict: self._on_verdict,
        }
        assert Tick not in self._handlers  # a tick only lets the timers fire
        if resume is not None:
            for part in (ledger, self._causes, self._life):
                part.resume(resume)
            self._ends = dict(resume["ends"])

    # ------------------------------------------------------------------ what others read

    @property
    def now(self) -> float:
        """Stamp of the record or timer at hand."""
        return self._ledger.now

    @property
    def offset(self) -> int:
        """Of the last record; -1: none."""
        return self._ledger.offset

    @property
    def alerts(self) -> dict[str, Alert]:
        """Alerts by fingerprint, resolved ones for `correlate.retention`."""
        return self._ledger.alerts

    @property
    def incidents(self) -> dict[str, Incident]:
        """Incidents by id, ended ones for `correlate.retention`."""
        return self._ledger.incidents

    def questions(self) -> list[AskEvidence]:
        """What the open incidents would ask now; changes nothing. For a start: questions are not kept across one."""
        return self._causes.questions()

    # ------------------------------------------------------------------ the contract

    def step(self, records: Sequence[JournalRecord]) -> list[Effect]:
        """Effects of these records, in order; see protocols.CorrelateLike."""
        ledger = self._ledger
        ledger.out = out = list[Effect]()
        for record in records:
            body = record.body
            if ledger.offset < 0 and not ledger.now:  # the first record ever starts the clock
                ledger.now = record.stamp
                ledger.timer(record.stamp + SWEEP_EVERY, SWEEP, "")
            if type(body) is Started:
                self._started(record.stamp)
            self._fire(record.stamp)
            ledger.now = max(ledger.now, record.stamp)
            ledger.offset = record.offset
            handler = self._handlers.get(type(body))
            if handler is not None:
                self._guarded(type(body).__name__, handler, body)
            self._publish()
            self._fire(record.stamp)
        ledger.out = []
        return out

    def _guarded(self, what: str, handle: Callable[..., None], *args: Any) -> None:
        """A bug in the handling of one record must not stop the paging of all others, at every start anew.

        The half-done handling stands, deterministically so: a replay decides the same. It is loud: an audit line of
        kind "bug", which the runtime logs as an error and counts.
        """
        try:
            handle(*args)
        except Exception as e:  # the one broad catch of the core: see above
            trace = e.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
            self._ledger.audit("", "bug", f"handling {what} failed: {e!r}", reason=where.rpartition("aiopsd/")[2])

    def _publish(self) -> None:
        if not self.grouper.settling:
            for incident_id, cause in self._causes.named().items():
                self._guarded("a cause", self._follow, incident_id, cause)
        self._pages.publish()
        self._causes.publish()

    def wake_at(self) -> float | None:
        """Stamp of the earliest timer; a Tick is wanted then."""
        timers = self._ledger.timers
        due = timers[0][0] if timers else None
        for other in (self.grouper.wake_at(), self.parts.retraining.wake_at(), self.dispatcher.wake_at()):
            if other is not None and (due is None or other < due):
                due = other
        return due

    def snapshot(self) -> Snapshot:
        """All state as plain data."""
        return Snapshot(
            kind="correlate",
            version=VERSION,
            meta={
                **self._ledger.snapshot(),
                **self._causes.snapshot(),
                "ends": dict(self._ends),
                **self.parts.snapshot(),
            },
        )

    # ------------------------------------------------------------------ time

    def _fire(self, until: float) -> None:
        """Fire what is due, at the exact time at which it was due."""
        ledger = self._ledger
        rounds = 0
        while (due := self.wake_at()) is not None and due <= until:
            rounds = rounds + 1 if due <= ledger.now else 0
            if rounds > 10_000:
                raise RuntimeError(f"a timer due at {due} does not go away: a bug in wake_at()")
            ledger.now = max(ledger.now, due)
            while ledger.timers and ledger.timers[0][0] <= ledger.now:
                when, kind, key = heapq.heappop(ledger.timers)
                self._guarded("a timer", self._on_timer, when, kind, key)
            wake = self.grouper.wake_at()
            if wake is not None and wake <= ledger.now:
                self._guarded("second thoughts", self._reassess)
            wake = self.parts.retraining.wake_at()
            if wake is not None and wake <= ledger.now:
                for request in self.parts.retraining.due(ledger.now):
                    self._retrain(request)
            self._publish()
            self._dispatch()

    def _reassess(self) -> None:
        self._life.revise(self.grouper.reassess(self.now))

    def _follow(self, incident_id: str, cause: str) -> None:
        """What the evidence says of an incident's cause may make it part of another one."""
        self._life.revise(self.grouper.caused(self._ledger.living(incident_id), cause, self.now))

    def _dispatch(self) -> None:
        """Flush what is due; what a page says of its cause is ranked by then, however short the group_wait."""
        while (wake := self.dispatcher.wake_at()) is not None and wake <= self.now:
            incident_id = self.dispatcher.next_incident()
            if (until := self._causes.answer_due(incident_id)) > self.now:
                self.dispatcher.postpone(until)
            elif self._causes.overdue(incident_id):
                self._publish()
            else:
                self._pages.flush_next()

    def _on_timer(self, when: float, kind: int, key: str) -> None:
        if kind == END:
            self._on_end(when, key)
        elif kind == QUIET:
            self._life.on_quiet(key)
        elif kind == ACK:
            self._life.on_ack_ended(key)
        elif kind == RANK:
            self._causes.on_timer(key, when)
        elif kind == ASK:
            self._causes.ask_again(key, when)
        elif kind == FORGET_ALERT:
            self._forget_alert(key)
        elif kind == FORGET_INCIDENT:
            if self._life.to_forget(key):
                self._forget_incident(key)
        elif kind == SWEEP:
            self._sweep()

    def _forget_alert(self, key: str) -> None:
        ledger, keep = self._ledger, self.config.correlate.retention
        alert = ledger.alerts.get(key)
        if alert is None or alert.state is not AlertState.RESOLVED:
            return
        if alert.updated_at + keep > ledger.now:
            ledger.timer(alert.updated_at + keep, FORGET_ALERT, key)
        else:
            del ledger.alerts[key]
            ledger.out.append(Forget(kind="alert", id=key))

    def _forget_incident(self, key: str) -> None:
        incident = self._life.forget(key)
        self.grouper.forget(key)
        self.dispatcher.forget(incident)
        self._ledger.out.append(Forget(kind="incident", id=key))

    def _sweep(self) -> None:
        ledger, correlate = self._ledger, self.config.correlate
        ledger.timer(ledger.now + SWEEP_EVERY, SWEEP, "")
        self._topology_changed(self.topology.expire(ledger.now), EXPIRED)
        self._causes.forget_changes(ledger.now - correlate.change_window - correlate.retention)
        for silence_id in self.parts.silences.expire_old(ledger.now, correlate.retention):
            ledger.out.append(Forget(kind="silence", id=silence_id))
        if self.parts.maintenance.forget(ledger.now):
            ledger.out.append(Maintain(windows=self.parts.maintenance.all()))

    def _started(self, stamp: float) -> None:
        """Our own absence must not resolve an alert: what ends by a sender's silence gets a new term from here."""
        alerts = self._ledger.alerts
        for fp, alert in alerts.items():
            if alert.state is AlertState.FIRING and alert.ends_at and alert.ends_at > self.now:
                term = min(alert.ends_at - alert.updated_at, TERM_MOST)
                term = max(term, self.config.correlate.resolve_timeout)
                alerts[fp] = replace(alert, ends_at=max(alert.ends_at, stamp + term))

    # ------------------------------------------------------------------ alerts

    def _on_alerts(self, batch: AlertBatch) -> None:
        late = batch.sent_at > 0 and self.now - batch.sent_at > LATE_AFTER
        for given in batch.alerts:
            self._on_alert(given, late)

    def _on_alert(self, given: AlertIn, late: bool) -> None:
        fp = fingerprint(given.labels)
        old = self.alerts.get(fp)
        now = self.now
        ends, timeout = given.ends_at, False
        if not ends:
            ends, timeout = now + self.config.correlate.resolve_timeout, True
        starts = given.starts_at or (min(given.ends_at, now) if given.ends_at else now)
        firing = ends > now
        if old is not None and old.state is AlertState.FIRING:
            if firing:
                self._again(old, given, starts, ends, timeout)
            else:
                said = given.annotations or old.annotations
                self._resolve_alert(replace(old, annotations=self.parts.rules.enriched(old.labels, said)), ends)
            return
        if not firing:
            return  # the end of what we never saw fire, or already know to be over
        alert = Alert(
            fingerprint=fp,
            labels=given.labels,
            annotations=self.parts.rules.enriched(given.labels, given.annotations),
            starts_at=starts,
            ends_at=ends,
            updated_at=now,
            service=self.topology.resolve(self.parts.services.service(given.labels)),
            anomaly=given.labels.get(ANOMALY_LABEL) == "anomaly",
            generator_url=given.generator_url,
            timeout=timeout,
        )
        if not alert.service and (vertex := place_of(alert, self.topology).vertex) in self.topology:
            alert = replace(alert, service=vertex)  # no rule maps it, but a pod's name, say, tells where it sits
        self._fires(alert, late)

    def _again(self, old: Alert, given: AlertIn, starts: float, ends: float, timeout: bool) -> None:
        """The same alert, still firing: only its end moves, unless the sender says something new of it."""
        if timeout and not old.timeout and old.ends_at > self.now:
            ends, timeout = old.ends_at, False  # an explicit end beats our timeout
        starts = min(starts, old.starts_at)
        annotations = self.parts.rules.enriched(old.labels, given.annotations)
        new = replace(
            old,
            ends_at=ends,
            timeout=timeout,
            updated_at=self.now,
            starts_at=starts,
            annotations=annotations,
            generator_url=given.generator_url,
        )
        self.alerts[old.fingerprint] = new
        self._expect_end(new)
        if starts == old.starts_at and annotations == old.annotations:
            self._ledger.out.append(Touch(fingerprint=old.fingerprint, ends_at=ends, updated_at=self.now))
        else:
            self._ledger.touch(old.fingerprint)
            self._pages.news(old.fingerprint)

    def _fires(self, alert: Alert, late: bool) -> None:
        role, pack = self.parts.rules.known(alert.labels)
        if role:
            alert = replace(alert, role=role)
        if role == NOISE:
            placement = Placement("", f"noise, says rule pack {pack}: opens and joins no incident")
        else:
            placement = self.grouper.place(alert, self.now)
        alert = replace(alert, incident=placement.incident, group_reason=placement.reason)
        self._ledger.keep(alert)
        self._expect_end(alert)
        self._life.join(alert, placement, late)

    def _expect_end(self, alert: Alert) -> None:
        """One live timer an alert, however often it is sent again: it is moved only when the end comes sooner."""
        due = self._ends.get(alert.fingerprint)
        if alert.ends_at and (due is None or alert.ends_at < due):
            self._ends[alert.fingerprint] = alert.ends_at
            self._ledger.timer(alert.ends_at, END, alert.fingerprint)

    def _on_end(self, when: float, key: str) -> None:
        if self._ends.get(key) != when:
            return
        del self._ends[key]
        alert = self.alerts.get(key)
        if alert is None or alert.state is not AlertState.FIRING or not alert.ends_at:
            return
        if alert.ends_at > self.now:
            self._expect_end(alert)
        else:
            self._resolve_alert(alert, alert.ends_at)

    def _resolve_alert(self, alert: Alert, ended: float) -> None:
        alert = replace(alert, state=AlertState.RESOLVED, ends_at=ended, updated_at=self.now)
        self._ledger.keep(alert)
        self._ledger.timer(self.now + self.config.correlate.retention, FORGET_ALERT, alert.fingerprint)
        self.grouper.resolved(alert.fingerprint, self.now, ended if alert.anomaly else None)
        self._life.alert_ended(alert)
        self._pages.news(alert.fingerprint)

    def _on_anomaly(self, event: Anomaly) -> None:
        """An anomaly is an alert with a fixed label set; its severity does not name it, so that it may change."""
        self._causes.answered = True
        fp = fingerprint(_identity(event))
        old = self.alerts.get(fp)
        firing = old is not None and old.state is AlertState.FIRING
        if event.state == "resolved":
            left = self.parts.tellers.ends(fp, event)
            if old is None or not firing:
                return
            if left is None:
                self._resolve_alert(replace(old, evidence=event.evidence or old.evidence), event.ts)
                return
            event = left
        elif not firing and (window := self._planned(event)) is not None:
            text = f"anomaly of {about(event.signal)} ({event.service}) is planned work: {_asked(window)}"
            self._ledger.audit("", "suppressed", text, reason="maintenance")
            return
        self.parts.tellers.tells(fp, event)
        labels = {k: v for k, v in _identity(event).items() if v} | {"severity": event.severity}
        annotations = self.parts.rules.enriched(labels, {"summary": event.summary} if event.summary else {})
        if old is not None and firing:
            new = replace(old, labels=labels, annotations=annotations, evidence=event.evidence, updated_at=self.now)
            self._ledger.keep(new)
            self._life.alert_changed(new)
            self._pages.news(fp)
            return
        alert = Alert(
            fingerprint=fp,
            labels=labels,
            annotations=annotations,
            starts_at=event.onset,
            ends_at=0.0,
            updated_at=self.now,
            service=self.topology.resolve(event.service),
            anomaly=True,
            evidence=event.evidence,
        )
        self._fires(alert, self.now - event.ts > LATE_AFTER + self.config.detect.resolve_after)

    def _planned(self, event: Anomaly) -> Window | None:
        """The window of planned work that all series of an anomaly are in: its samples were scored before it came."""
        series = [(e.labels, e.service) for e in event.evidence] or [(event.labels, event.service)]
        found = [self.parts.maintenance.covers({**labels, "service": service}, event.ts) for labels, service in series]
        return found[0] if all(found) else None

    # ------------------------------------------------------------------ topology, drift, silences, planned work

    def _on_topology(self, update: TopologyUpdate) -> None:
        self._topology_changed(self.topology.apply(update, self.now), update.source)

    def _topology_changed(self, diff: Diff, source: str) -> None:
        if diff.added or diff.removed:
            self._ledger.audit("", "topology", str(diff), reason=source)
            self._causes.want_all()

    def _on_drift(self, drift: DriftDetected) -> None:
        request, reason = self.parts.retraining.decide(drift, self.now)
        which = f" in {drift.service}/{drift.metric}" if drift.model and drift.metric else ""  # a model reads many
        text = (
            f"drift of {drift.subject}{which} ({drift.kind}, {drift.detector}): {drift.before:.4g} -> {drift.after:.4g}"
        )
        if drift.since > 0:
            text += f" since {_clock(drift.since)}"
        self._ledger.audit("", "drift", text, reason=reason)
        if request is not None:
            self._retrain(request)

    def _retrain(self, request: RetrainRequest) -> None:
        self._ledger.out.extend(Retrain(trainer=trainer, request=request) for trainer in self._trainers)
        self._ledger.audit("", "retrain", f"retraining of {request.subject} requested", reason=request.reason)

    def _on_put_silence(self, command: PutSilence) -> None:
        written = self.parts.silences.put(command, self.now)
        self._silenced(written, command.created_by)

    def _on_expire_silence(self, command: ExpireSilence) -> None:
        silence = self.parts.silences.expire(command.id, self.now)
        if silence is not None:
            self._silenced([silence], command.actor)

    def _silenced(self, written: Iterable[Silence], actor: str) -> None:
        for silence in written:
            self._ledger.out.append(Upsert(item=silence))
            state = f"until {_clock(silence.ends_at)}" if silence.ends_at > self.now else "ended"
            self._ledger.audit("", "silence", _asked(silence, state), actor=actor)

    def _on_put_maintenance(self, command: PutMaintenance) -> None:
        window = self.parts.maintenance.put(command, self.now)
        if window is not None:
            self._maintained(window, f"until {_clock(window.ends_at)}", command.created_by)

    def _on_end_maintenance(self, command: EndMaintenance) -> None:
        window = self.parts.maintenance.end(command, self.now)
        if window is not None:
            self._maintained(window, "ended", command.actor)

    def _maintained(self, window: Window, state: str, actor: str) -> None:
        self._ledger.out.append(Maintain(windows=self.parts.maintenance.all()))
        self._ledger.audit("", "maintenance", _asked(window, state), actor=actor)

    # ------------------------------------------------------------------ verdicts

    def _on_verdict(self, verdict: Verdict) -> None:
        ledger = self._ledger
        incident_id = ledger.living(verdict.incident)
        incident = ledger.incidents.get(incident_id)
        named = [incident.root.service] if incident is not None and incident.root is not None else []
        meant = replace(verdict, incident=incident_id, other=ledger.living(verdict.other))
        ledger.audit(incident_id, "verdict", self._in_words(meant, named), verdict.comment, verdict.actor)
        if incident is not None:
            self._learn(incident, meant)
            if meant.kind == "cause" and meant.service:
                said = self.topology.resolve(meant.service)
                ledger.put(replace(incident, said=said, said_by=meant.actor))
        self._life.revise(self.grouper.verdict(meant, self.now, named))
        for touched in {ledger.living(incident_id): None, ledger.living(meant.other): None}:
            self._causes.rank_now(touched)  # who said it sees in the answer what came of it

    def _in_words(self, verdict: Verdict, named: Sequence[str]) -> str:
        """What was said, against what we had decided."""
        if verdict.kind == "cause":
            ours = named[0] or "something upstream" if named else "nobody"
            against = "as we did" if named == [self.topology.resolve(verdict.service)] else f"where we named {ours}"
            return f"named {verdict.service} as the cause, {against}"
        if verdict.kind == "merge":
            other = self.incidents.get(verdict.other)
            return f"said that it is one with {called(other) if other is not None else verdict.other}"
        if verdict.kind == "split":
            gone = [name(a) for fp in verdict.fingerprints if (a := self.alerts.get(fp)) is not None]
            return f"said that these belong elsewhere: {', '.join(gone)}"
        return "said that nobody needed it: its alerts open no incident any more when they come alone"

    def _learn(self, incident: Incident, verdict: Verdict) -> None:
        """What the verdict says of the next time: who is to be named, what the graph lacks or has too much."""
        hops = self.config.correlate.hops
        members = self._ledger.members(incident)
        learned: TopologyUpdate | None = None
        if verdict.kind == "cause" and verdict.service and incident.root is not None:
            true = self.topology.resolve(verdict.service)
            self.parts.verdicts.cause(incident.root.service, true, shown(members).get(true, ()), self.now)
            if not incident.said:  # else the first cause is an operator's, not ours
                self.parts.trust.learn(incident.root.confidence, incident.root.service == true)
        elif verdict.kind == "merge" and (other := self.incidents.get(verdict.other)) is not None:
            first, second = sorted((incident, other), key=lambda i: (i.started_at, i.opened_at, i.id))
            learned = drawn(self.topology, self._began_at(first), self._began_at(second), hops)
        elif verdict.kind == "split":
            chosen = set(verdict.fingerprints)
            sides = [[a.service for a in members if (a.fingerprint in chosen) is side] for side in (True, False)]
            learned = withdrawn(self.topology, *sides)
        if learned is not None:
            self._on_topology(learned)

    def _began_at(self, incident: Incident) -> str:
        """The service of the incident's earliest alert."""
        alerts = [a for a in self._ledger.members(incident) if a.service]
        return min(alerts, key=lambda a: (a.starts_at, a.fingerprint)).service if alerts else ""


def _identity(event: Anomaly) -> dict[str, str]:
    """The labels that name the alert of an anomaly."""
    labels = {"alertname": ANOMALY, "service": event.service, "signal": event.signal, ANOMALY_LABEL: "anomaly"}
    # a limit is of each series by itself: one that is back inside is not the end of another's
    named = event.labels if LIMIT in event.labels else PLACES
    return labels | {k: v for k, v in event.labels.items() if k in named and k not in labels}


def _clock(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _asked(what: Silence | Window, state: str = "") -> str:
    """What an operator asked for, as the timeline tells it: on what, until when, why, and by which id to end it."""
    about = " ".join(filter(None, (str(Matchers(what.matchers)), state)))
    return f"{about}{f': {what.comment}' if what.comment else ''} ({what.id})"


def build(config: Config, resume: Snapshot | None = None) -> CorrelateStage:
    """The stage, new or from a snapshot of its own; construction is recovery.

    Raises:
        ValueError: the snapshot is of another kind or of a newer version.
        ConfigError: a matcher, route or rule of the configuration is wrong.
    """
    if resume is not None and (resume.kind != "correlate" or resume.version > VERSION):
        raise ValueError(f"cannot resume from a snapshot of {resume.kind} version {resume.version}")
    meta = resume.meta if resume is not None else {}
    return CorrelateStage(config, compose(config, meta), meta or None)
