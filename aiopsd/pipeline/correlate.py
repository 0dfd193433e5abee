"""CorrelateStage: the journal in, decisions out.

Enters: journal records (alerts, anomalies, digests, drift, topology, changes, commands, ticks). Leaves: effects (rows
to write, notifications, retraining requests, questions to the detect side, audit lines). It composes grouping, root
cause, incident lifecycle, silences, routing and retraining, and owns the one clock they share: the stamp of the record
at hand, or of the timer that is due before it.

Timers are exact: before a record is handled, every timer due at or before its stamp fires, ordered by due, kind, key.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aiopsd import incidents as lifecycle
from aiopsd.config import Config, trainers
from aiopsd.correlate.grouping import Grouper, Placement, Revision
from aiopsd.correlate.place import name_of
from aiopsd.correlate.rootcause import Heard, rank
from aiopsd.correlate.verdicts import Verdicts, drawn, withdrawn
from aiopsd.evidence import joined
from aiopsd.incidents import IllegalMove, Move
from aiopsd.model import (
    AckIncident,
    Alert,
    AlertBatch,
    AlertIn,
    AlertState,
    Anomaly,
    AskEvidence,
    Audit,
    AuditEntry,
    ChangeEvent,
    DriftDetected,
    Effect,
    Evidence,
    EvidenceDigest,
    ExpireSilence,
    Forget,
    Incident,
    IncidentState,
    JournalRecord,
    Notify,
    NotifyReason,
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
    content_id,
    fingerprint,
)
from aiopsd.retraining import Retraining
from aiopsd.routing import Dispatcher
from aiopsd.rules import NOISE, Rules
from aiopsd.services import ServiceMapper
from aiopsd.silences import SilenceBook
from aiopsd.topology import EXPIRED, Diff, Topology

VERSION = 3
RANK_DELAY = 1.0  # s; a burst of alerts is ranked once, and well before any group_wait ends
LATE_AFTER = 120.0  # s between a broker's receipt and ours that make a record part of a backlog
TERM_MOST = 86400.0  # s; an end farther away than this is a date, not the silence of a sender
ASK_DEPTH = 6  # steps down the calls that are asked about, nearest first
ASK_LIMIT = 200  # services asked about at most: a digest is one journal record
# s after an incident opened, or got its first alert: evidence is asked for again, because metrics lag behind alerts.
# The first is just before the end of the default group_wait, so that the page knows what there is to know.
ASK_AGAIN = (25.0, 120.0, 300.0)
ASK_EVERY = 60.0  # s; what is new of an incident has its evidence asked for again at most so often
ANSWER_WAIT = 2.0  # s; a first page that is due sooner than so long after the question waits for the answer
ANOMALY_LABEL = "aiopsd_kind"
MANUAL = "resolved by an operator"

# kinds of timers, in the order in which they fire when due together
_END, _QUIET, _ACK, _RANK, _FORGET_ALERT, _FORGET_INCIDENT, _SWEEP, _ASK = range(8)
SWEEP_EVERY = 3600.0  # s; topology ages slowly


class CorrelateStage:
    """The decisions of one correlation domain as a deterministic function of its journal."""

    def __init__(
        self,
        config: Config,
        *,
        rules: Rules,
        services: ServiceMapper,
        topology: Topology,
        grouper: Grouper,
        silences: SilenceBook,
        dispatcher: Dispatcher,
        retraining: Retraining,
        verdicts: Verdicts,
        trainers: Sequence[str],
        resume: dict[str, Any] | None,
    ) -> None:
        self.config = config
        self.rules = rules
        self.services = services
        self.topology = topology
        self.grouper = grouper
        self.silences = silences
        self.dispatcher = dispatcher
        self.retraining = retraining
        self.verdicts = verdicts
        self.trainers = tuple(trainers)
        self.alerts: dict[str, Alert] = {}
        self.incidents: dict[str, Incident] = {}
        self.changes: dict[str, ChangeEvent] = {}
        self.offset = -1
        self.now = 0.0
        self._digests: dict[str, dict[str, Evidence]] = {}  # incident -> series key -> evidence
        self._heard: dict[str, Heard] = {}  # incident -> its evidence, arranged; follows from the digests
        self._asked: dict[str, int] = {}  # incident -> number of services at the last question
        self._asked_at: dict[str, float] = {}  # incident -> when it was first asked about since it opened or paged
        self._asked_last: dict[str, float] = {}  # incident -> when it was last asked about
        self._answered = False  # a detect side has ever said anything: a question is worth waiting for
        self._last_fired: dict[str, float] = {}  # incident -> stamp of the last move from firing to none
        self._timers: list[tuple[float, int, str]] = []
        self._ends: dict[str, float] = {}  # alert -> due of its one live end timer; others in the heap are stale
        self._ranking: dict[str, float] = {}
        self._out: list[Effect] = []
        self._touched_alerts: dict[str, None] = {}
        self._touched_incidents: dict[str, None] = {}
        self._news: dict[str, None] = {}  # alerts that routing has not heard of yet: told once a record
        self._reopened: dict[str, None] = {}
        self._unasked: dict[str, None] = {}  # incidents that opened or got their first alert in this record
        self._firing: dict[str, dict[str, int]] = {}  # incident -> severity -> alerts that fire; follows from alerts
        self._members: dict[str, set[str]] = {}  # incident -> its fingerprints, as a set; follows from incidents
        if resume is not None:
            self._resume(resume)

    # ------------------------------------------------------------------ the contract

    def step(self, records: Sequence[JournalRecord]) -> list[Effect]:
        """Effects of these records, in order; see protocols.CorrelateLike."""
        self._out = out = list[Effect]()
        for record in records:
            body = record.body
            if self.offset < 0 and not self.now:  # the first record ever starts the clock
                self.now = record.stamp
                self._timer(record.stamp + SWEEP_EVERY, _SWEEP, "")
            if type(body) is Started:
                self._started(record.stamp)
            self._fire(record.stamp)
            self.now = max(self.now, record.stamp)
            self.offset = record.offset
            handler = _HANDLERS.get(type(body))
            if handler is not None:
                self._guarded(type(body).__name__, handler, self, body)
            self._publish()
            self._fire(record.stamp)
        self._out = []
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
            self._audit("", "bug", f"handling {what} failed: {e!r}", reason=where.rpartition("aiopsd/")[2])

    def wake_at(self) -> float | None:
        """Stamp of the earliest timer; a Tick is wanted then."""
        due = self._timers[0][0] if self._timers else None
        for other in (self.grouper.wake_at(), self.retraining.wake_at(), self.dispatcher.wake_at()):
            if other is not None and (due is None or other < due):
                due = other
        return due

    def snapshot(self) -> Snapshot:
        """All state as plain data."""
        return Snapshot(
            kind="correlate",
            version=VERSION,
            meta={
                "offset": self.offset,
                "now": self.now,
                "alerts": msgspec.to_builtins(list(self.alerts.values())),
                "incidents": msgspec.to_builtins(list(self.incidents.values())),
                "changes": msgspec.to_builtins(list(self.changes.values())),
                "digests": {k: msgspec.to_builtins(v) for k, v in self._digests.items()},
                "asked": dict(self._asked),
                "asked_at": dict(self._asked_at),
                "asked_last": dict(self._asked_last),
                "answered": self._answered,
                "last_fired": dict(self._last_fired),
                "timers": [list(t) for t in self._timers],
                "ends": dict(self._ends),
                "ranking": dict(self._ranking),
                "topology": self.topology.snapshot(),
                "grouper": self.grouper.snapshot(),
                "silences": self.silences.snapshot(),
                "dispatcher": self.dispatcher.snapshot(),
                "retraining": self.retraining.snapshot(),
                "verdicts": self.verdicts.snapshot(),
            },
        )

    def _resume(self, meta: dict[str, Any]) -> None:
        self.offset, self.now = meta["offset"], meta["now"]
        self.alerts = {a.fingerprint: a for a in msgspec.convert(meta["alerts"], list[Alert])}
        for alert in self.alerts.values():
            self._count(alert, 1)
        self.incidents = {i.id: i for i in msgspec.convert(meta["incidents"], list[Incident])}
        self.changes = {c.id: c for c in msgspec.convert(meta["changes"], list[ChangeEvent])}
        self._digests = {k: msgspec.convert(v, dict[str, Evidence]) for k, v in meta["digests"].items()}
        self._asked = dict(meta["asked"])
        self._asked_at = dict(meta.get("asked_at", {}))
        self._asked_last = dict(meta.get("asked_last", {}))
        self._answered = bool(meta.get("answered", True))
        self._last_fired = dict(meta["last_fired"])
        self._timers = [(float(d), int(k), str(key)) for d, k, key in meta["timers"]]
        self._ends = dict(meta["ends"])
        self._ranking = dict(meta["ranking"])

    # ------------------------------------------------------------------ time

    def _timer(self, due: float, kind: int, key: str) -> None:
        heapq.heappush(self._timers, (due, kind, key))

    def _expect_end(self, alert: Alert) -> None:
        """One live timer an alert, however often it is sent again: it is moved only when the end comes sooner."""
        due = self._ends.get(alert.fingerprint)
        if alert.ends_at and (due is None or alert.ends_at < due):
            self._ends[alert.fingerprint] = alert.ends_at
            self._timer(alert.ends_at, _END, alert.fingerprint)

    def _fire(self, until: float) -> None:
        """Fire what is due, at the exact time at which it was due."""
        rounds = 0
        while (due := self.wake_at()) is not None and due <= until:
            rounds = rounds + 1 if due <= self.now else 0
            if rounds > 10_000:
                raise RuntimeError(f"a timer due at {due} does not go away: a bug in wake_at()")
            self.now = max(self.now, due)
            while self._timers and self._timers[0][0] <= self.now:
                when, kind, key = heapq.heappop(self._timers)
                self._guarded("a timer", self._on_timer, when, kind, key)
            wake = self.grouper.wake_at()
            if wake is not None and wake <= self.now:
                self._revise(self.grouper.reassess(self.now))
            wake = self.retraining.wake_at()
            if wake is not None and wake <= self.now:
                for request in self.retraining.due(self.now):
                    self._retrain(request)
            self._publish()
            wake = self.dispatcher.wake_at()
            if wake is not None and wake <= self.now:
                self._dispatch()

    def _dispatch(self) -> None:
        """Flush what is due; what a page says of its cause is ranked by then, however short the group_wait."""
        while (wake := self.dispatcher.wake_at()) is not None and wake <= self.now:
            incident_id = self.dispatcher.next_incident()
            if (until := self._answer_due(incident_id)) > self.now:
                self.dispatcher.postpone(until)
                continue
            if self._ranking.pop(incident_id, None) is not None:
                self._rank(incident_id)
                self._flush()
                continue
            for effect in self.dispatcher.flush_next():
                if isinstance(effect, Audit) and effect.entry.offset < 0:
                    effect = Audit(entry=replace(effect.entry, offset=self.offset))
                self._out.append(effect)
                if isinstance(effect, Notify):
                    self._notified(effect)

    def _answer_due(self, incident_id: str) -> float:
        """Until when a first page of this incident waits for its evidence; the past when it need not."""
        incident = self.incidents.get(incident_id)
        if incident is None or incident.paged or not self._answered:
            return 0.0
        return self._asked_at.get(incident_id, 0.0) + ANSWER_WAIT

    def _notified(self, effect: Notify) -> None:
        note = effect.notification
        if note.incident is None:
            return
        incident = self.incidents.get(note.incident.id)
        self._audit(
            note.incident.id,
            "notified",
            f"{note.action} to {note.destination}",
            reason=str(note.reason),
        )
        if incident is not None and not incident.paged:
            self._put(replace(incident, paged=True))
            self._flush()

    def _on_timer(self, when: float, kind: int, key: str) -> None:
        if kind == _END:
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
        elif kind == _QUIET:
            incident = self.incidents.get(key)
            if (
                incident is not None
                and not incident.firing
                and incident.state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
                and self._last_fired.get(key, 0.0) + self.config.correlate.resolve_after <= self.now
            ):
                self._close(incident, Move.QUIET, "nothing fired for correlate.resolve_after")
        elif kind == _ACK:
            incident = self.incidents.get(key)
            if (
                incident is not None
                and incident.state is IncidentState.ACKNOWLEDGED
                and 0 < incident.ack_until <= self.now
            ):
                self._put(replace(incident, state=lifecycle.move(incident.state, Move.ACK_ENDED)))
                self._audit(key, "ack", "acknowledgement ended and it still fires", reason="ack ended")
                self._tell(key)
        elif kind == _RANK:
            if self._ranking.get(key) == when:
                del self._ranking[key]
                self._rank(key)
        elif kind == _ASK:
            self._ask_again(key, when)
        elif kind == _FORGET_ALERT:
            alert = self.alerts.get(key)
            if alert is not None and alert.state is AlertState.RESOLVED:
                if alert.updated_at + self.config.correlate.retention > self.now:
                    self._timer(alert.updated_at + self.config.correlate.retention, _FORGET_ALERT, key)
                else:
                    del self.alerts[key]
                    self._out.append(Forget(kind="alert", id=key))
        elif kind == _FORGET_INCIDENT:
            incident = self.incidents.get(key)
            if incident is not None and incident.state in (IncidentState.RESOLVED, IncidentState.MERGED):
                keep = self.config.correlate.retention
                end = incident.updated_at + keep
                if end > self.now or incident.firing:  # an operator may resolve what still fires
                    self._timer(max(end, self.now + keep) if incident.firing else end, _FORGET_INCIDENT, key)
                else:
                    self._forget_incident(key)
        elif kind == _SWEEP:
            self._timer(self.now + SWEEP_EVERY, _SWEEP, "")
            self._topology_changed(self.topology.expire(self.now), EXPIRED)
            horizon = self.now - self.config.correlate.change_window - self.config.correlate.retention
            for change in [c for c in self.changes.values() if c.ts < horizon]:
                del self.changes[change.id]
            for silence_id in self.silences.expire_old(self.now, self.config.correlate.retention):
                self._out.append(Forget(kind="silence", id=silence_id))

    def _forget_incident(self, key: str) -> None:
        incident = self.incidents.pop(key)
        self._digests.pop(key, None)
        self._heard.pop(key, None)
        self._asked.pop(key, None)
        self._asked_at.pop(key, None)
        self._asked_last.pop(key, None)
        self._last_fired.pop(key, None)
        self._members.pop(key, None)
        self.grouper.forget(key)
        self.dispatcher.forget(incident)
        self._out.append(Forget(kind="incident", id=key))

    def _started(self, stamp: float) -> None:
        """Our own absence must not resolve an alert: what ends by a sender's silence gets a new term from here."""
        for fp, alert in self.alerts.items():
            if alert.state is AlertState.FIRING and alert.ends_at and alert.ends_at > self.now:
                term = min(alert.ends_at - alert.updated_at, TERM_MOST)
                term = max(term, self.config.correlate.resolve_timeout)
                self.alerts[fp] = replace(alert, ends_at=max(alert.ends_at, stamp + term))

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
                self._resolve_alert(replace(old, annotations=self.rules.enriched(old.labels, said)), ends)
            return
        if not firing:
            return  # the end of what we never saw fire, or already know to be over
        alert = Alert(
            fingerprint=fp,
            labels=given.labels,
            annotations=self.rules.enriched(given.labels, given.annotations),
            starts_at=starts,
            ends_at=ends,
            updated_at=now,
            service=self.topology.resolve(self.services.service(given.labels)),
            anomaly=given.labels.get(ANOMALY_LABEL) == "anomaly",
            generator_url=given.generator_url,
            timeout=timeout,
        )
        self._fires(alert, late)

    def _again(self, old: Alert, given: AlertIn, starts: float, ends: float, timeout: bool) -> None:
        """The same alert, still firing: only its end moves, unless the sender says something new of it."""
        if timeout and not old.timeout and old.ends_at > self.now:
            ends, timeout = old.ends_at, False  # an explicit end beats our timeout
        starts = min(starts, old.starts_at)
        annotations = self.rules.enriched(old.labels, given.annotations)
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
            self._out.append(Touch(fingerprint=old.fingerprint, ends_at=ends, updated_at=self.now))
        else:
            self._touched_alerts[old.fingerprint] = None
            self._news[old.fingerprint] = None

    def _fires(self, alert: Alert, late: bool) -> None:
        role, pack = self.rules.known(alert.labels)
        if role == NOISE:
            placement = Placement("", f"noise, says rule pack {pack}: opens and joins no incident")
        else:
            placement = self.grouper.place(alert, self.now)
        alert = replace(alert, role=role, incident=placement.incident, group_reason=placement.reason)
        self._keep(alert)
        self._expect_end(alert)
        self._merge_all(placement)
        incident_id = self._living(placement.incident)
        if incident_id != alert.incident:
            alert = replace(alert, incident=incident_id)
            self._keep(alert)
        if not incident_id:
            self._audit("", "suppressed", f"{_name(alert)}: {placement.reason}", reason="kept quiet")
            self._news[alert.fingerprint] = None
            return
        incident = self.incidents.get(incident_id)
        if incident is None:
            incident = Incident(
                id=incident_id,
                dedup_key=f"aiopsd-{incident_id}",
                started_at=alert.starts_at,
                opened_at=self.now,
                updated_at=self.now,
                late=late,
            )
            self._put(incident)
            self._audit(incident_id, "opened", f"{_name(alert)} opened the incident", reason=placement.reason)
        else:
            self._audit(incident_id, "grouped", f"{_name(alert)} joined", reason=placement.reason)
            if not late and incident.late and incident.state is not IncidentState.RESOLVED:
                incident = replace(incident, late=False)
        reopened = incident.state is IncidentState.RESOLVED
        if not incident.alerts or reopened or not (alert.anomaly or self._has_page(incident)):
            self._unasked[incident_id] = None
        incident = replace(
            incident,
            state=lifecycle.move(incident.state, Move.ALERT),
            started_at=min(incident.started_at, alert.starts_at) if not reopened else incident.started_at,
            resolved_at=0.0,
            reopened=incident.reopened + reopened,
            acked_at=0.0 if reopened else incident.acked_at,
            acked_by="" if reopened else incident.acked_by,
            ack_until=0.0 if reopened else incident.ack_until,
        )
        self._put(self._summed(incident, alert))
        if reopened:
            self._audit(incident_id, "reopened", f"{_name(alert)} fires again", reason=placement.reason)
            self._reopened[incident_id] = None
        self._news[alert.fingerprint] = None
        self._want_rank(incident_id)

    def _has_page(self, incident: Incident) -> bool:
        """It holds an alert that somebody else decided, not only our anomalies."""
        return any((a := self.alerts.get(fp)) is not None and not a.anomaly for fp in incident.alerts)

    def _resolve_alert(self, alert: Alert, ended: float) -> None:
        alert = replace(alert, state=AlertState.RESOLVED, ends_at=ended, updated_at=self.now)
        self._keep(alert)
        self._timer(self.now + self.config.correlate.retention, _FORGET_ALERT, alert.fingerprint)
        self.grouper.resolved(alert.fingerprint, self.now)
        incident = self.incidents.get(alert.incident)
        if incident is not None:
            incident = self._summed(incident)
            self._put(incident)
            self._audit(incident.id, "alert", f"{_name(alert)} resolved")
            self._settle(incident.id)
        self._news[alert.fingerprint] = None

    def _on_anomaly(self, event: Anomaly) -> None:
        """An anomaly is an alert with a fixed label set; its severity does not name it, so that it may change."""
        self._answered = True
        labels = {
            "alertname": "AiopsdAnomaly",
            "service": event.service,
            "signal": event.signal,
            ANOMALY_LABEL: "anomaly",
        }
        labels |= {k: v for k, v in event.labels.items() if k not in labels and k in ("instance", "cluster", "node")}
        fp = fingerprint(labels)
        labels = {k: v for k, v in labels.items() if v} | {"severity": event.severity}
        old = self.alerts.get(fp)
        if event.state == "resolved":
            if old is not None and old.state is AlertState.FIRING:
                self._resolve_alert(replace(old, evidence=event.evidence or old.evidence), event.ts)
            return
        annotations = self.rules.enriched(labels, {"summary": event.summary} if event.summary else {})
        if old is not None and old.state is AlertState.FIRING:
            new = replace(old, labels=labels, annotations=annotations, evidence=event.evidence, updated_at=self.now)
            self._keep(new)
            incident = self.incidents.get(new.incident)
            if incident is not None:
                self._put(self._summed(incident))
                self._want_rank(incident.id)
            self._news[fp] = None
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

    # ------------------------------------------------------------------ incidents

    def _living(self, incident_id: str) -> str:
        """The incident into which this one was merged, or itself."""
        while (found := self.incidents.get(incident_id)) is not None and found.merged_into:
            incident_id = found.merged_into
        return incident_id

    def _summed(self, incident: Incident, new: Alert | None = None) -> Incident:
        """The incident with what follows from its alerts, and with a new one: at the cost of the new one alone."""
        fps, services, runbook = incident.alerts, incident.services, incident.runbook
        if new is not None:
            members = self._members.get(incident.id)
            if members is None:
                members = self._members[incident.id] = set(fps)
            if new.fingerprint not in members:
                members.add(new.fingerprint)
                fps = (*fps, new.fingerprint)
            if new.service and new.service not in services:
                services = (*services, new.service)
            runbook = runbook or new.annotations.get("runbook_url", "")
        firing = self._firing.get(incident.id, {})
        return replace(
            incident,
            alerts=fps,
            services=services,
            firing=sum(firing.values()),
            severity=lifecycle.worst(firing) if firing else incident.severity,
            title=lifecycle.title((a for fp in fps if (a := self.alerts.get(fp)) is not None), services, incident.root),
            runbook=runbook,
        )

    def _recounted(self, incident: Incident, fps: Iterable[str]) -> Incident:
        """The incident with exactly these alerts, services and runbook anew: after some left it or came together."""
        alerts = [a for fp in fps if (a := self.alerts.get(fp)) is not None]
        runbook = next((a.annotations["runbook_url"] for a in alerts if a.annotations.get("runbook_url")), "")
        services = tuple(dict.fromkeys(a.service for a in alerts if a.service))
        self._members.pop(incident.id, None)
        return self._summed(replace(incident, alerts=tuple(fps), services=services, runbook=runbook))

    def _merge_all(self, placement: Placement) -> None:
        for source, target in placement.merged:
            self._merge(source, self._living(target), placement.reason)

    def _revise(self, revisions: Iterable[Revision]) -> None:
        """Second thoughts of the grouper: whole incidents that are one, or alerts that belong elsewhere."""
        for revision in revisions:
            if revision.kind == "merge":
                self._merge(revision.source, self._living(revision.target), revision.reason)
            else:
                self._move(revision)

    def _move(self, revision: Revision) -> None:
        source = self.incidents.get(revision.source)
        target_id = self._living(revision.target)
        moved = [a for fp in revision.fingerprints if (a := self.alerts.get(fp)) is not None]
        if not moved or target_id == revision.source:
            return
        for alert in moved:
            self._keep(replace(alert, incident=target_id, group_reason=revision.reason))
        if target_id:
            started = min(a.starts_at for a in moved)
            target = self.incidents.get(target_id)
            if target is None:
                target = Incident(
                    id=target_id,
                    dedup_key=f"aiopsd-{target_id}",
                    started_at=started,
                    opened_at=self.now,
                    updated_at=self.now,
                )
                self._audit(target_id, "opened", f"split from {revision.source}", reason=revision.reason)
            if any(a.state is AlertState.FIRING for a in moved):
                target = replace(target, state=lifecycle.move(target.state, Move.ALERT), resolved_at=0.0)
            fps = tuple(dict.fromkeys((*target.alerts, *(a.fingerprint for a in moved))))
            self._put(self._recounted(replace(target, started_at=min(target.started_at, started)), fps))
            self._settle(target_id)
        if source is not None:
            gone = {a.fingerprint for a in moved}
            source = self._recounted(source, tuple(fp for fp in source.alerts if fp not in gone))
            self._put(source)
            self._audit(
                source.id, "split", f"{len(moved)} alerts moved to {target_id or 'no incident'}", revision.reason
            )
            self._settle(source.id)
        self._flush()
        for alert in moved:
            kept = self.alerts[alert.fingerprint]
            self.dispatcher.alert(kept, self.incidents.get(target_id), self.now)
        for incident_id in (target_id, revision.source):
            if incident_id in self.incidents:
                self._tell(incident_id)
                self._want_rank(incident_id)

    def _settle(self, incident_id: str) -> None:
        """Start the quiet period of an incident in which nothing fires any more."""
        if not self.incidents[incident_id].firing:
            self._last_fired[incident_id] = self.now
            self._timer(self.now + self.config.correlate.resolve_after, _QUIET, incident_id)

    def _merge(self, source_id: str, target_id: str, reason: str) -> None:
        source, target = self.incidents.get(source_id), self.incidents.get(target_id)
        if source is None or target is None or source_id == target_id or source.state is IncidentState.MERGED:
            return
        for fp in source.alerts:
            alert = self.alerts.get(fp)
            if alert is not None and alert.incident == source_id:
                self._keep(replace(alert, incident=target_id, group_reason=f"merged: {reason}"))
        started = min(source.started_at, target.started_at)
        state = target.state
        if state is IncidentState.RESOLVED and source.firing:
            state = lifecycle.move(state, Move.ALERT)
        target = self._recounted(
            replace(
                target,
                state=state,
                resolved_at=0.0 if state is not IncidentState.RESOLVED else target.resolved_at,
                merged_from=(*target.merged_from, source_id),
                started_at=started,
            ),
            tuple(dict.fromkeys((*target.alerts, *source.alerts))),
        )
        source = replace(
            source,
            state=lifecycle.move(source.state, Move.MERGE),
            merged_into=target_id,
            firing=0,
            resolved_at=source.resolved_at or self.now,
        )
        kept = self._digests.setdefault(target_id, {})
        for incident_id in (source_id, target_id):
            self._heard.pop(incident_id, None)
        for key, e in self._digests.pop(source_id, {}).items():
            old = kept.get(key)
            if old is None:
                kept[key] = e
            else:  # the ruler of the incident that was asked about first
                pair = (e, old) if source.opened_at < target.opened_at else (old, e)
                kept[key] = joined(*pair, started)
        self._ranking.pop(source_id, None)
        self._put(source)
        self._put(target)
        self._timer(self.now + self.config.correlate.retention, _FORGET_INCIDENT, source_id)
        self._audit(source_id, "merged", f"merged into {target_id}", reason=reason)
        self._audit(target_id, "merged", f"{source_id} merged into this incident", reason=reason)
        self._flush()
        for fp in source.alerts:
            if (alert := self.alerts.get(fp)) is not None:
                self.dispatcher.alert(alert, self.incidents[target_id], self.now)
        self._tell(source_id, NotifyReason.MERGED)
        self._tell(target_id)
        self._want_rank(target_id)

    def _close(self, incident: Incident, what: Move, reason: str, actor: str = "") -> None:
        self._put(
            replace(
                incident,
                state=lifecycle.move(incident.state, what),
                resolved_at=self.now,
            )
        )
        self._ranking.pop(incident.id, None)
        self._timer(self.now + self.config.correlate.retention, _FORGET_INCIDENT, incident.id)
        self._audit(incident.id, "resolved", "incident resolved", reason=reason, actor=actor)
        self._tell(incident.id, NotifyReason.ALL_RESOLVED)

    def _tell(self, incident_id: str, reason: NotifyReason | None = None) -> None:
        """Routing hears of the incident's newest state; it may hand back another dedup_key after a merge."""
        self._flush()
        incident = self.incidents.get(incident_id)
        if incident is None:
            return
        key = self.dispatcher.incident(incident, self.now, reason)
        if key and key != incident.dedup_key:
            self._put(replace(incident, dedup_key=key))
            self._flush()

    # ------------------------------------------------------------------ causes

    def _want_rank(self, incident_id: str) -> None:
        if incident_id not in self._ranking:
            due = self.now + RANK_DELAY
            self._ranking[incident_id] = due
            self._timer(due, _RANK, incident_id)

    def _rank(self, incident_id: str) -> None:
        incident = self.incidents.get(incident_id)
        if incident is None or incident.state not in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED):
            return
        alerts = [a for fp in incident.alerts if (a := self.alerts.get(fp)) is not None]
        if not alerts:
            return
        window = self.config.correlate.change_window
        changes = [c for c in self.changes.values() if incident.started_at - window <= c.ts <= self.now]
        stale = self._asked_last.get(incident_id, 0.0) + ASK_EVERY <= self.now
        if stale or self._asked.get(incident_id) != len(incident.services):
            self._ask(incident)
        try:
            roots = rank(
                alerts,
                self.topology,
                self._evidence(incident_id),
                changes,
                onset=incident.started_at,
                page=next((a for a in alerts if not a.anomaly), alerts[0]),  # what a person is told of
                feedback=self.grouper.knowledge(map(name_of, alerts)),
            )
        except (ArithmeticError, LookupError, ValueError) as e:  # a bug in the explanation must not cost the page
            self._audit(incident_id, "root", "the ranking failed; the causes shown are the last ones", reason=repr(e))
            return
        roots = self.verdicts.corrected(roots, _shown(alerts), self.now)
        if not roots or roots == incident.roots:
            return
        before, after = incident.root, roots[0]
        changed = before is None or before.service != after.service
        incident = replace(incident, roots=roots, changes=tuple(c.id for r in roots[:1] for c in r.changes))
        self._put(self._summed(incident))
        if changed:
            self._audit(
                incident_id,
                "root",
                f"probable root cause: {after.service or 'unknown upstream'} (confidence {after.confidence:.2f})",
                reason=after.reason,
            )
        self._tell(incident_id, NotifyReason.ROOT_CHANGED if changed and before is not None else None)

    def _evidence(self, incident_id: str) -> Heard:
        heard = self._heard.get(incident_id)
        if heard is None:
            heard = self._heard[incident_id] = Heard(self._digests.get(incident_id, {}).values())
        return heard

    def _ask(self, incident: Incident) -> None:
        """Ask for the evidence of the neighbourhood as it is now."""
        self._asked[incident.id] = len(incident.services)
        self._asked_last[incident.id] = self.now
        question = self._question(incident)
        if question is not None:
            self._out.append(question)

    def _ask_first(self, incident_id: str) -> None:
        """It opened, or a person is about to hear of it: ask at once, and later again."""
        incident = self.incidents.get(self._living(incident_id))
        if incident is None or incident.state not in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED):
            return
        self._asked_at[incident.id] = self.now
        self._ask(incident)
        self._timer(self.now + ASK_AGAIN[0], _ASK, incident.id)

    def _ask_again(self, incident_id: str, when: float) -> None:
        """One round of ASK_AGAIN; an incident that no detect side knows anything of has no second one."""
        incident = self.incidents.get(incident_id)
        first = self._asked_at.get(incident_id)
        if incident is None or first is None or not incident.firing or incident_id not in self._digests:
            return
        rounds = [i for i, after in enumerate(ASK_AGAIN) if first + after == when]
        if not rounds:
            return  # it was asked about anew since, on another schedule
        self._ask(incident)
        if rounds[0] + 1 < len(ASK_AGAIN):
            self._timer(first + ASK_AGAIN[rounds[0] + 1], _ASK, incident_id)

    def _question(self, incident: Incident) -> AskEvidence | None:
        near: dict[str, int] = {}
        for service in incident.services:
            around = self.topology.near(service, self.config.correlate.hops)
            for reach in (around, self.topology.below(service, ASK_DEPTH)):  # a cause may lie far down the calls
                for name, distance in reach.items():
                    near[name] = min(distance, near.get(name, distance))
            near.setdefault(service, 0)
        wanted = sorted(near, key=lambda name: (near[name], name))[:ASK_LIMIT]
        if not wanted:
            return None
        return AskEvidence(
            request_id=content_id("ask", incident.id, len(incident.services), incident.reopened, repr(self.now)),
            incident=incident.id,
            services=tuple(wanted),
            since=incident.started_at,
        )

    def questions(self) -> list[AskEvidence]:
        """What the open incidents would ask now; changes nothing. For a start: questions are not kept across one."""
        living = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
        asked = [self._question(i) for i in self.incidents.values() if i.state in living and i.id in self._asked]
        return [q for q in asked if q is not None]

    def _on_digest(self, digest: EvidenceDigest) -> None:
        self._answered = True
        incident_id = self._living(digest.incident)
        if incident_id not in self.incidents:
            return
        kept = self._digests.setdefault(incident_id, {})
        self._heard.pop(incident_id, None)
        since = self.incidents[incident_id].started_at
        for e in digest.evidence:
            old = kept.get(_signal(e))
            kept[_signal(e)] = e if old is None else joined(old, e, since)
        self._illustrate(incident_id, kept)
        self._ranking.pop(incident_id, None)  # its timer finds nothing; the answer is ranked now
        self._asked_last[incident_id] = self.now  # several partitions answer one question
        self._rank(incident_id)

    def _illustrate(self, incident_id: str, kept: Mapping[str, Evidence]) -> None:
        """Signals of alerts that came without their values (those of fixed limits) get those of the digest."""
        for fp in self.incidents[incident_id].alerts:
            alert = self.alerts.get(fp)
            if alert is None or all(e.recent for e in alert.evidence):
                continue
            shown = tuple(
                e if e.recent or (known := kept.get(_signal(e))) is None else replace(e, recent=known.recent)
                for e in alert.evidence
            )
            if shown != alert.evidence:
                self._keep(replace(alert, evidence=shown))

    def _on_topology(self, update: TopologyUpdate) -> None:
        self._topology_changed(self.topology.apply(update, self.now), update.source)

    def _topology_changed(self, diff: Diff, source: str) -> None:
        if not diff.added and not diff.removed:
            return
        self._audit("", "topology", str(diff), reason=source)
        for incident in list(self.incidents.values()):
            if incident.state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED):
                self._want_rank(incident.id)

    def _on_change(self, change: ChangeEvent) -> None:
        service = self.topology.resolve(change.service)
        self.changes[change.id] = replace(change, service=service)
        for incident in list(self.incidents.values()):
            if incident.state not in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED):
                continue
            if any(service in self.topology.near(s, self.config.correlate.hops) for s in incident.services):
                self._audit(incident.id, "change", f"{change.kind} of {service}: {change.summary}".rstrip(": "))
                self._want_rank(incident.id)

    # ------------------------------------------------------------------ drift and commands

    def _on_drift(self, drift: DriftDetected) -> None:
        request, reason = self.retraining.decide(drift, self.now)
        text = f"drift of {drift.subject} ({drift.kind}, {drift.detector}): {drift.before:.4g} -> {drift.after:.4g}"
        self._audit("", "drift", text, reason=reason)
        if request is not None:
            self._retrain(request)

    def _retrain(self, request: RetrainRequest) -> None:
        self._out.extend(Retrain(trainer=trainer, request=request) for trainer in self.trainers)
        self._audit("", "retrain", f"retraining of {request.subject} requested", reason=request.reason)

    def _on_put_silence(self, command: PutSilence) -> None:
        written = self.silences.put(command, self.now)
        self._silenced(written, command.created_by)

    def _on_expire_silence(self, command: ExpireSilence) -> None:
        silence = self.silences.expire(command.id, self.now)
        if silence is not None:
            self._silenced([silence], command.actor)

    def _silenced(self, written: Iterable[Silence], actor: str) -> None:
        for silence in written:
            self._out.append(Upsert(item=silence))
            self._audit("", "silence", f"{silence.id} until {silence.ends_at:.0f}: {silence.comment}", actor=actor)

    def _on_ack(self, command: AckIncident) -> None:
        incident = self._commanded(command.incident, Move.ACK, command.actor)
        if incident is None:
            return
        self._put(
            replace(
                incident,
                state=lifecycle.move(incident.state, Move.ACK),
                acked_at=self.now,
                acked_by=command.actor,
                ack_until=command.until,
            )
        )
        if command.until:
            self._timer(command.until, _ACK, incident.id)
        self._audit(incident.id, "ack", command.comment or "acknowledged", actor=command.actor)
        self._tell(incident.id, NotifyReason.ACKNOWLEDGED)

    def _on_resolve(self, command: ResolveIncident) -> None:
        incident = self._commanded(command.incident, Move.RESOLVE, command.actor)
        if incident is not None:
            self._close(incident, Move.RESOLVE, command.comment or MANUAL, command.actor)

    def _commanded(self, incident_id: str, what: Move, actor: str) -> Incident | None:
        """The incident that a command means, or None and an audit line that says why it was refused."""
        incident = self.incidents.get(self._living(incident_id))
        if incident is None:
            self._audit("", "refused", f"{what}: unknown incident {incident_id}", actor=actor)
            return None
        try:
            lifecycle.move(incident.state, what)
        except IllegalMove as e:
            self._audit(incident.id, "refused", str(e), actor=actor)
            return None
        return incident

    def _on_verdict(self, verdict: Verdict) -> None:
        incident_id = self._living(verdict.incident)
        self._audit(incident_id, "verdict", f"{verdict.kind} {verdict.service}".strip(), verdict.comment, verdict.actor)
        incident = self.incidents.get(incident_id)
        named = [incident.root.service] if incident is not None and incident.root is not None else []
        meant = replace(verdict, incident=incident_id, other=self._living(verdict.other))
        if incident is not None:
            self._learn(incident, meant)
        self._revise(self.grouper.verdict(meant, self.now, named))
        if incident_id in self.incidents:
            self._want_rank(incident_id)

    def _learn(self, incident: Incident, verdict: Verdict) -> None:
        """What the verdict says of the next time: who is to be named, what the graph lacks or has too much."""
        hops = self.config.correlate.hops
        members = [a for fp in incident.alerts if (a := self.alerts.get(fp)) is not None]
        learned: TopologyUpdate | None = None
        if verdict.kind == "cause" and verdict.service and incident.root is not None:
            true = self.topology.resolve(verdict.service)
            self.verdicts.cause(incident.root.service, true, _shown(members).get(true, ()), self.now)
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
        alerts = [a for fp in incident.alerts if (a := self.alerts.get(fp)) is not None and a.service]
        return min(alerts, key=lambda a: (a.starts_at, a.fingerprint)).service if alerts else ""

    # ------------------------------------------------------------------ writing down

    def _keep(self, alert: Alert) -> None:
        old = self.alerts.get(alert.fingerprint)
        if old is not None:
            self._count(old, -1)
        self._count(alert, 1)
        self.alerts[alert.fingerprint] = alert
        self._touched_alerts[alert.fingerprint] = None

    def _count(self, alert: Alert, by: int) -> None:
        if alert.state is not AlertState.FIRING or not alert.incident:
            return
        words = self._firing.setdefault(alert.incident, {})
        word = alert.labels.get("severity", "warning")
        words[word] = words.get(word, 0) + by
        if not words[word]:
            del words[word]
            if not words:
                del self._firing[alert.incident]

    def _put(self, incident: Incident) -> None:
        self.incidents[incident.id] = incident
        self._touched_incidents[incident.id] = None

    def _publish(self) -> None:
        """Write down what changed, and let routing hear of it: once a record, however many alerts it had."""
        self._flush()
        news, self._news = self._news, {}
        for fp in news:
            if (alert := self.alerts.get(fp)) is not None:
                self.dispatcher.alert(alert, self.incidents.get(alert.incident), self.now)
        reopened, self._reopened = self._reopened, {}
        for incident_id in reopened:
            self._tell(incident_id, NotifyReason.REOPENED)
        unasked, self._unasked = self._unasked, {}
        for incident_id in unasked:
            self._ask_first(incident_id)

    def _flush(self) -> None:
        """One row per changed alert and incident, in the order in which they changed first."""
        if self._touched_alerts:
            for fp in self._touched_alerts:
                if fp in self.alerts:
                    self._out.append(Upsert(item=self.alerts[fp]))
            self._touched_alerts.clear()
        if self._touched_incidents:
            for key in self._touched_incidents:
                incident = self.incidents.get(key)
                if incident is not None:
                    incident = replace(incident, revision=incident.revision + 1, updated_at=self.now)
                    self.incidents[key] = incident
                    self._out.append(Upsert(item=incident))
            self._touched_incidents.clear()

    def _audit(self, incident: str, kind: str, text: str, reason: str = "", actor: str = "") -> None:
        self._out.append(
            Audit(
                entry=AuditEntry(
                    incident=incident,
                    stamp=self.now,
                    kind=kind,
                    text=text,
                    reason=reason,
                    actor=actor,
                    offset=self.offset,
                )
            )
        )


def _shown(alerts: Iterable[Alert]) -> dict[str, set[str]]:
    """Service -> names of its alerts."""
    shown: dict[str, set[str]] = {}
    for a in alerts:
        shown.setdefault(a.service, set()).add(name_of(a))
    return shown


def _signal(e: Evidence) -> str:
    return f"{e.service}\xff{e.metric}\xff{fingerprint(e.labels)}"


def _name(alert: Alert) -> str:
    where = alert.service or alert.labels.get("instance", "")
    what = alert.labels.get("alertname", "alert") if not alert.anomaly else f"anomaly of {alert.labels.get('signal')}"
    return f"{what} ({where})" if where else what


_HANDLERS: dict[type, Callable[[CorrelateStage, Any], None]] = {
    AlertBatch: CorrelateStage._on_alerts,
    Anomaly: CorrelateStage._on_anomaly,
    DriftDetected: CorrelateStage._on_drift,
    EvidenceDigest: CorrelateStage._on_digest,
    TopologyUpdate: CorrelateStage._on_topology,
    ChangeEvent: CorrelateStage._on_change,
    PutSilence: CorrelateStage._on_put_silence,
    ExpireSilence: CorrelateStage._on_expire_silence,
    AckIncident: CorrelateStage._on_ack,
    ResolveIncident: CorrelateStage._on_resolve,
    Verdict: CorrelateStage._on_verdict,
}
assert Tick not in _HANDLERS  # a tick only lets the timers fire


def build(config: Config, resume: Snapshot | None = None) -> CorrelateStage:
    """The stage, new or from a snapshot of its own; construction is recovery.

    Raises:
        ValueError: the snapshot is of another kind or of a newer version.
        ConfigError: a matcher, route or rule of the configuration is wrong.
    """
    if resume is not None and (resume.kind != "correlate" or resume.version > VERSION):
        raise ValueError(f"cannot resume from a snapshot of {resume.kind} version {resume.version}")
    meta = resume.meta if resume is not None else {}
    rules = Rules(config.packs)  # first: a broken pack is told with its line
    topology = Topology(config.topology.stale_after, meta.get("topology"))
    silences = SilenceBook(meta.get("silences"))
    return CorrelateStage(
        config,
        rules=rules,
        services=ServiceMapper(config.services),
        topology=topology,
        grouper=Grouper(config.correlate, topology, meta.get("grouper")),
        silences=silences,
        dispatcher=Dispatcher(config, silences, meta.get("dispatcher")),
        retraining=Retraining(config.retraining, meta.get("retraining")),
        verdicts=Verdicts(meta.get("verdicts")),
        trainers=[f"{kind}[{index}]" for kind, index, _, _ in trainers(config)],
        resume=meta or None,
    )
