"""Causes of incidents: which evidence is asked for and when, what the answers say, and the ranking."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from aiopsd.config import CorrelateConfig
from aiopsd.correlate.place import name_of
from aiopsd.correlate.rootcause import Heard, Knowledge, rank, recognised
from aiopsd.correlate.verdicts import named
from aiopsd.evidence import joined
from aiopsd.model import (
    Alert,
    AskEvidence,
    ChangeEvent,
    Evidence,
    EvidenceDigest,
    Incident,
    IncidentState,
    NotifyReason,
    content_id,
    fingerprint,
)
from aiopsd.pipeline.correlate.ledger import ACTIVE, ASK, RANK, Ledger
from aiopsd.pipeline.correlate.pages import Pages
from aiopsd.pipeline.correlate.parts import Parts

RANK_DELAY = 1.0  # s; a burst of alerts is ranked once, and well before any group_wait ends
ASK_DEPTH = 6  # steps down the calls that are asked about, nearest first
# Services of each partition that are in trouble and not near in the graph, which may not know the call to one of them.
# They are asked about once metrics speak of the incident's own services: beside none they would be all there is.
STRANGERS = 8
ASK_LIMIT = 200  # services asked about at most: a digest is one journal record
# s after an incident opened, or got its first alert: evidence is asked for again, because metrics lag behind alerts.
# The first is just before the end of the default group_wait, so that the page knows what there is to know; the last
# ones are for metrics of one sample in five minutes, of which it takes two until trouble is told from a lone peak.
ASK_AGAIN = (25.0, 120.0, 300.0, 600.0, 1200.0)
ASK_EVERY = 60.0  # s; what is new of an incident has its evidence asked for again at most so often
NAMED = 0.9  # confidence from which a cause says what belongs together: by its own measure it errs once in ten times
ANSWER_WAIT = 2.0  # s; a first page that is due sooner than so long after the question waits for the answer


class Causes:
    """The evidence of every incident, the questions that bring it, and who is ranked first."""

    def __init__(self, config: CorrelateConfig, ledger: Ledger, pages: Pages, parts: Parts) -> None:
        self.config = config
        self.changes: dict[str, ChangeEvent] = {}
        self.answered = False  # a detect side has ever said anything: a question is worth waiting for
        self._ledger = ledger
        self._pages = pages
        self._parts = parts
        self._digests: dict[str, dict[str, Evidence]] = {}  # incident -> series key -> evidence
        self._heard: dict[str, Heard] = {}  # incident -> its evidence, arranged; follows from the digests
        self._asked: dict[str, int] = {}  # incident -> number of services at the last question
        self._asked_at: dict[str, float] = {}  # incident -> when it was first asked about since it opened or paged
        self._asked_last: dict[str, float] = {}  # incident -> when it was last asked about
        self._unasked: dict[str, None] = {}  # incidents that opened or got their first alert in this record
        self._ranking: dict[str, float] = {}  # incident -> due of its ranking
        self._named: dict[str, str] = {}  # incident -> its cause, of which grouping has not heard yet

    # ------------------------------------------------------------------ the ranking

    def want(self, incident_id: str) -> None:
        """Rank it soon."""
        if incident_id not in self._ranking:
            due = self._ledger.now + RANK_DELAY
            self._ranking[incident_id] = due
            self._ledger.timer(due, RANK, incident_id)

    def rank_now(self, incident_id: str) -> None:
        """Rank it at once, whether that was wanted for later or not."""
        self._ranking.pop(incident_id, None)
        self.rank(incident_id)

    def want_all(self) -> None:
        """Rank every active incident soon."""
        for incident in list(self._ledger.incidents.values()):
            if incident.state in ACTIVE:
                self.want(incident.id)

    def on_timer(self, incident_id: str, when: float) -> None:
        """The time for which its ranking was wanted."""
        if self._ranking.get(incident_id) == when:
            del self._ranking[incident_id]
            self.rank(incident_id)

    def overdue(self, incident_id: str) -> bool:
        """Its page is due before its ranking: whether it had to be ranked now."""
        if incident_id not in self._ranking:
            return False
        self.rank_now(incident_id)
        self._ledger.flush()
        return True

    def rank(self, incident_id: str) -> None:
        """Rank the causes with what is known now; tell if that changes anything.

        One that is over is ranked, too: what hindsight brings into it may have another cause. That corrects the record.
        """
        ledger = self._ledger
        incident = ledger.incidents.get(incident_id)
        if incident is None or incident.state is IncidentState.MERGED:
            return
        over = incident.state not in ACTIVE
        alerts = ledger.members(incident)
        if not alerts:
            return
        window = self.config.change_window
        changes = [c for c in self.changes.values() if incident.started_at - window <= c.ts <= ledger.now]
        stale = self._asked_last.get(incident_id, 0.0) + ASK_EVERY <= ledger.now
        # what metrics show when nothing fires any more is another trouble's
        if not over and incident.firing and (stale or self._asked.get(incident_id) != len(incident.services)):
            self._ask(incident)
        try:
            roots = rank(
                alerts,
                self._parts.topology,
                self._evidence(incident),
                changes,
                onset=incident.started_at,
                page=next((a for a in alerts if not a.anomaly), alerts[0]),  # what a person is told of
                feedback=self._knowledge(incident, alerts),
                elsewhere=lambda vertex: self._parts.grouper.elsewhere(vertex, incident_id),
            )
        except (ArithmeticError, LookupError, ValueError) as e:  # a bug in the explanation must not cost the page
            text = "the ranking failed; the causes shown are the last ones"
            ledger.audit(incident_id, "root", text, reason=repr(e))
            return
        roots = named(self._parts.verdicts.corrected(roots, shown(alerts), ledger.now), incident)
        if not roots or roots == incident.roots:
            return
        before, after = incident.root, roots[0]
        changed = before is None or before.service != after.service
        incident = replace(incident, roots=roots, changes=tuple(c.id for r in roots[:1] for c in r.changes))
        ledger.put(ledger.summed(incident))
        if not over and after.evidence:  # alerts alone: grouping has weighed them
            self._named[incident_id] = after.service
        if changed:
            ledger.audit(
                incident_id,
                "root",
                f"probable root cause: {after.service or 'unknown upstream'} ({after.confidence:.0%} sure)",
                reason=after.reason,
            )
        if not over:
            self._pages.tell(incident_id, NotifyReason.ROOT_CHANGED if changed and before is not None else None)

    def _knowledge(self, incident: Incident, alerts: Iterable[Alert]) -> Knowledge:
        """What names, operators and the lot of other incidents here say of this one."""
        return replace(
            self._parts.grouper.knowledge(map(name_of, alerts)),
            trust=self._parts.trust.shift,
            shatter=self._parts.pieces.share(self._ledger.now),
            company=self._parts.pieces.company(incident.id),
        )

    def named(self) -> dict[str, str]:
        """Incidents whose cause was found since the last call and is as good as certain, each with that cause."""
        named, self._named = self._named, {}
        return {incident: cause for incident, cause in named.items() if self._agreed(incident, cause) >= NAMED}

    def _agreed(self, incident_id: str, cause: str) -> float:
        """Chance that an incident stems from this trouble, whose own incident is a second witness where it says so too.

        Alone a piece of an outage is rightly unsure: that there are pieces is a sign of a place that is hard to read.
        """
        ledger = self._ledger
        mine, home = (ledger.incidents.get(i) for i in (incident_id, self._parts.grouper.home(incident_id, cause)))
        one, other = (i.root if i is not None else None for i in (mine, home))
        if one is None or one.service != cause:
            return 0.0
        if other is None or other.service != cause:
            return one.confidence
        either = one.confidence * other.confidence
        neither = (1.0 - one.confidence) * (1.0 - other.confidence)
        return either / (either + neither) if either else 0.0

    def _evidence(self, incident: Incident) -> Heard:
        heard = self._heard.get(incident.id)
        if heard is None:
            said = recognised(self._digests.get(incident.id, {}).values(), incident.started_at)
            heard = self._heard[incident.id] = Heard(said)
        return heard

    # ------------------------------------------------------------------ questions

    def ask_first(self, incident_id: str) -> None:
        """It opened, or a person is about to hear of it: ask at the end of the record, and later again."""
        self._unasked[incident_id] = None

    def publish(self) -> None:
        """Put the questions of this record."""
        unasked, self._unasked = self._unasked, {}
        for incident_id in unasked:
            incident = self._ledger.incidents.get(self._ledger.living(incident_id))
            if incident is not None and incident.state in ACTIVE:
                self._asked_at[incident.id] = self._ledger.now
                self._ask(incident)
                self._ledger.timer(self._ledger.now + ASK_AGAIN[0], ASK, incident.id)

    def ask_again(self, incident_id: str, when: float) -> None:
        """One round of ASK_AGAIN; an incident that no detect side knows anything of has no second one."""
        incident = self._ledger.incidents.get(incident_id)
        first = self._asked_at.get(incident_id)
        if incident is None or first is None or not incident.firing or incident_id not in self._digests:
            return
        rounds = [i for i, after in enumerate(ASK_AGAIN) if first + after == when]
        if not rounds:
            return  # it was asked about anew since, on another schedule
        self._ask(incident)
        if rounds[0] + 1 < len(ASK_AGAIN):
            self._ledger.timer(first + ASK_AGAIN[rounds[0] + 1], ASK, incident_id)

    def _ask(self, incident: Incident) -> None:
        """Ask for the evidence of the neighbourhood as it is now."""
        self._asked[incident.id] = len(incident.services)
        self._asked_last[incident.id] = self._ledger.now
        question = self._question(incident)
        if question is not None:
            self._ledger.out.append(question)

    def _question(self, incident: Incident) -> AskEvidence | None:
        # a cause may lie far down the calls
        wanted = self._parts.topology.around(incident.services, self.config.hops, ASK_DEPTH, ASK_LIMIT)
        if not wanted:
            return None
        now = repr(self._ledger.now)
        return AskEvidence(
            request_id=content_id("ask", incident.id, len(incident.services), incident.reopened, now),
            incident=incident.id,
            services=wanted,
            since=incident.started_at,
            others=STRANGERS if incident.id in self._digests else 0,
        )

    def questions(self) -> list[AskEvidence]:
        """What the open incidents would ask now; changes nothing. For a start: questions are not kept across one."""
        incidents = self._ledger.incidents.values()
        asked = [self._question(i) for i in incidents if i.state in ACTIVE and i.id in self._asked]
        return [q for q in asked if q is not None]

    def answer_due(self, incident_id: str) -> float:
        """Until when a first page of this incident waits for its evidence; the past when it need not."""
        incident = self._ledger.incidents.get(incident_id)
        if incident is None or incident.paged or not self.answered:
            return 0.0
        return self._asked_at.get(incident_id, 0.0) + ANSWER_WAIT

    # ------------------------------------------------------------------ answers

    def on_digest(self, digest: EvidenceDigest) -> None:
        """An answer of one detect side."""
        self.answered = True
        incident_id = self._ledger.living(digest.incident)
        if incident_id not in self._ledger.incidents:
            return
        kept = self._digests.setdefault(incident_id, {})
        self._heard.pop(incident_id, None)
        since = self._ledger.incidents[incident_id].started_at
        for e in digest.evidence:
            old = kept.get(_signal(e))
            kept[_signal(e)] = e if old is None else joined(old, e, since)
        self._illustrate(incident_id, kept)
        self._ranking.pop(incident_id, None)  # its timer finds nothing; the answer is ranked now
        self._asked_last[incident_id] = self._ledger.now  # several partitions answer one question
        self.rank(incident_id)

    def _illustrate(self, incident_id: str, kept: Mapping[str, Evidence]) -> None:
        """Signals of alerts that came without their values (those of fixed limits) get those of the digest."""
        for alert in self._ledger.members(self._ledger.incidents[incident_id]):
            if all(e.recent for e in alert.evidence):
                continue
            seen = tuple(
                e if e.recent or (known := kept.get(_signal(e))) is None else replace(e, recent=known.recent)
                for e in alert.evidence
            )
            if seen != alert.evidence:
                self._ledger.keep(replace(alert, evidence=seen))

    def merged(self, source: Incident, target: Incident, started: float) -> None:
        """The evidence of two incidents that became one, which began at `started`."""
        kept = self._digests.setdefault(target.id, {})
        for incident in (source, target):
            self._heard.pop(incident.id, None)
        for key, e in self._digests.pop(source.id, {}).items():
            old = kept.get(key)
            if old is None:
                kept[key] = e
            else:  # the ruler of the incident that was asked about first
                pair = (e, old) if source.opened_at < target.opened_at else (old, e)
                kept[key] = joined(*pair, started)
        self.settled(source.id)

    def settled(self, incident_id: str) -> None:
        """It is over: a ranking that was wanted is wanted no more."""
        self._ranking.pop(incident_id, None)

    def forget(self, incident_id: str) -> None:
        """It left the stage's memory."""
        for of in (self._digests, self._heard, self._asked, self._asked_at, self._asked_last):
            of.pop(incident_id, None)

    # ------------------------------------------------------------------ changes

    def on_change(self, change: ChangeEvent) -> None:
        """A deploy, a flag, a rollout: a candidate for every active incident near it."""
        service = self._parts.topology.resolve(change.service)
        self.changes[change.id] = replace(change, service=service)
        for incident in list(self._ledger.incidents.values()):
            if incident.state not in ACTIVE:
                continue
            if any(service in self._parts.topology.near(s, self.config.hops) for s in incident.services):
                text = f"{change.kind} of {service}: {change.summary}".rstrip(": ")
                self._ledger.audit(incident.id, "change", text)
                self.want(incident.id)

    def forget_changes(self, before: float) -> None:
        """Drop those that no incident can ask for any more."""
        for change in [c for c in self.changes.values() if c.ts < before]:
            del self.changes[change.id]

    # ------------------------------------------------------------------ snapshot

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        return {
            "changes": msgspec.to_builtins(list(self.changes.values())),
            "digests": {k: msgspec.to_builtins(v) for k, v in self._digests.items()},
            "asked": dict(self._asked),
            "asked_at": dict(self._asked_at),
            "asked_last": dict(self._asked_last),
            "answered": self.answered,
            "ranking": dict(self._ranking),
            "named": dict(self._named),
        }

    def resume(self, meta: dict[str, Any]) -> None:
        """Take over what `snapshot` returned."""
        self.changes = {c.id: c for c in msgspec.convert(meta["changes"], list[ChangeEvent])}
        self._digests = {k: msgspec.convert(v, dict[str, Evidence]) for k, v in meta["digests"].items()}
        self._asked = dict(meta["asked"])
        self._asked_at = dict(meta.get("asked_at", {}))
        self._asked_last = dict(meta.get("asked_last", {}))
        self.answered = bool(meta.get("answered", True))
        self._ranking = dict(meta["ranking"])
        self._named = dict(meta.get("named", {}))


def shown(alerts: Iterable[Alert]) -> dict[str, set[str]]:
    """Service -> names of its alerts."""
    out: dict[str, set[str]] = {}
    for a in alerts:
        out.setdefault(a.service, set()).add(name_of(a))
    return out


def _signal(e: Evidence) -> str:
    return f"{e.service}\xff{e.metric}\xff{fingerprint(e.labels)}"
