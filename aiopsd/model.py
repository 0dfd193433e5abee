"""The nouns, frozen: everything that crosses a boundary between two modules is declared here.

Times are UTC seconds since the epoch as float, everywhere. Ids come from content (`content_id`), never from chance:
the same records give the same ids today and in a replay. Bodies of the journal and effects are closed, tagged unions,
so that they are written and read by msgspec without a registry.
"""

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeAlias

import fnv_c
import msgspec
import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = dict[str, str]
ANOMALY = "AiopsdAnomaly"  # alertname of what detection finds


class Noun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every record type: frozen, keyword-only, compact on the wire."""


def content_id(*parts: object) -> str:
    """16 hex digits that name a thing by its content: the first 64 bits of BLAKE2b over the parts.

    >>> content_id("incident", 3) == content_id("incident", 3)
    True
    """
    told = b"".join([str(part).encode() + b"\xff" for part in parts])
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def fingerprint(labels: Mapping[str, str]) -> str:
    """Alertmanager's identity of a label set: FNV-1a 64 over sorted name 0xFF value 0xFF, 16 hex digits.

    Source: prometheus/common model.LabelSet.Fingerprint.

    >>> fingerprint({"alertname": "Up"})
    '57fc0d42e24a6ea7'
    """
    packed = b"".join(k.encode() + b"\xff" + labels[k].encode() + b"\xff" for k in sorted(labels))
    return f"{fnv_c.fnv1a_64(packed):016x}"


# --------------------------------------------------------------------------- input logs


class SourcePos(Noun, frozen=True, kw_only=True):
    """Where a record stood in the log it came from: (source name, partition, offset)."""

    source: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.source}/{self.partition}@{self.offset}"


class LogRecord(Noun, frozen=True, kw_only=True, gc=False):  # no cycles: the collector need not walk millions of them
    """One raw record of an input log. `value` is the payload as received; `format` names its decoder."""

    source: str
    partition: int
    offset: int
    value: bytes
    format: str
    stamp: float = 0.0  # receipt time of the broker or the door
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def pos(self) -> SourcePos:
        return SourcePos(source=self.source, partition=self.partition, offset=self.offset)


class Entry(Noun, frozen=True, kw_only=True):
    """What a writer hands to a log: the record before it has an offset."""

    value: bytes
    format: str
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None  # None: by key, else round robin


class Checked(Noun, frozen=True, kw_only=True):
    """What a body of metrics brings: samples (or series that have some) to take, how many are refused, why the first.

    As far as a cheap look at the door can tell: what is wrong inside a series of remote write is found when it is read.
    """

    taken: int
    refused: int = 0
    why: tuple[str, ...] = ()


# of the float64 that Prometheus stores where a series ends (its model/value/value.go): a NaN that no arithmetic makes
STALE_BITS = 0x7FF0000000000002


# --------------------------------------------------------------------------- evidence and events


class Direction(StrEnum):
    """Which way a signal left its normal range."""

    HIGH = "high"
    LOW = "low"


class Evidence(Noun, frozen=True, kw_only=True):
    """One signal of one service as the detectors see it: which range it left, by how much, since when.

    `deviation` counts robust scales (`scale`, in the metric's unit) from `normal` in the harmful direction.
    `lead_in` is the deviation that was there before `onset` already (chronic trouble explains nothing new).
    `low`/`high` bound what would be normal now. `kind` is the class of the signal: latency, errors, availability,
    traffic, saturation, resource or other.
    """

    service: str
    metric: str
    kind: str = "other"
    labels: Labels = {}
    channel: str = ""  # which envelope broke: x, resid, season, flatline, no-data, threshold, ...
    direction: Direction = Direction.HIGH
    harm: str = ""  # direction that harms: high, low, both, none; "": as its kind has it
    level: float = 0.0
    normal: float = 0.0
    low: float = 0.0
    high: float = 0.0
    scale: float = 0.0
    deviation: float = 0.0
    score: float = 0.0  # in [0, 1); 0.5 is the decision point of every detector
    onset: float = 0.0
    lead_in: float = 0.0
    traffic: float = 0.0  # mean rate of the series when kind == traffic, else 0
    recent: tuple[tuple[float, float], ...] = ()  # (ts, value), oldest first, for the drawing
    opinion: str = ""  # of a model of the second tier, in words
    rate: bool = False  # the series counts: level, range and samples are what it counted per second


class Anomaly(Noun, frozen=True, kw_only=True, tag="anomaly"):
    """A service (or one series) left its normal range; an alert with a fixed label set once it is in the journal.

    One anomaly has one `id` from onset to end; `revision` counts its updates. `state` is "firing" or "resolved".
    """

    id: str
    service: str
    signal: str  # metric name, or "service" when several metrics were joined
    severity: str = "warning"
    state: str = "firing"
    onset: float
    ts: float  # sample time of the decision
    score: float
    revision: int = 0
    labels: Labels = {}
    summary: str = ""
    evidence: tuple[Evidence, ...] = ()
    pos: SourcePos | None = None  # the record whose processing emitted it


class DriftDetected(Noun, frozen=True, kw_only=True, tag="drift"):
    """The distribution of a series (data drift) or of a model's errors (concept drift) changed for good."""

    id: str
    subject: str  # model name, or service/metric of the series
    model: str = ""  # the model to retrain; "" when no model is declared for the series
    service: str = ""
    metric: str = ""
    labels: Labels = {}
    kind: str = "level"  # level | variance | season | error-rate
    detector: str = ""
    since: float
    ts: float
    # of the level; of variance: mean distance between neighbouring samples; of season: mean distance of an hour from
    # what its hour of day shows; of errors: their share
    before: float
    after: float
    statistic: float
    threshold: float
    pos: SourcePos | None = None


# --------------------------------------------------------------------------- alerts, topology, changes


class AlertIn(Noun, frozen=True, kw_only=True):
    """An alert as a sender posted it; times are 0 when the sender left them out."""

    labels: Labels
    annotations: Labels = {}
    starts_at: float = 0.0
    ends_at: float = 0.0
    generator_url: str = ""


class AlertBatch(Noun, frozen=True, kw_only=True, tag="alerts"):
    """The alerts of one request or record, in its order."""

    alerts: tuple[AlertIn, ...]
    sender: str = ""  # format of the sender: prometheus, alertmanager, ...
    sent_at: float = 0.0  # when the broker took it, for what came through a log: tells a backlog from news


class Edge(Noun, frozen=True, kw_only=True):
    """`caller` depends on `callee`. `kind`: calls, runs_on (node), located_in (zone), reads, writes, publishes, ..."""

    caller: str
    callee: str
    kind: str = "calls"
    weight: float = 1.0
    confidence: float = 1.0


class Node(Noun, frozen=True, kw_only=True):
    """What is known of one vertex. `kind`: service, datastore, queue, node, zone, external."""

    name: str
    kind: str = "service"
    labels: Labels = {}


class TopologyUpdate(Noun, frozen=True, kw_only=True, tag="topology"):
    """Edges and nodes seen by one source; `replace` says that they are all that this source knows."""

    source: str
    edges: tuple[Edge, ...] = ()
    nodes: tuple[Node, ...] = ()
    removed: tuple[Edge, ...] = ()
    replace: bool = False


class ChangeEvent(Noun, frozen=True, kw_only=True, tag="change"):
    """A deployment, configuration change or scaling of a service: a candidate cause."""

    id: str
    service: str
    kind: str  # deploy | config | scale | other
    ts: float
    summary: str = ""
    version: str = ""
    actor: str = ""
    link: str = ""
    labels: Labels = {}


# --------------------------------------------------------------------------- commands


class Matcher(Noun, frozen=True, kw_only=True):
    """One label matcher of Alertmanager: `=`, `!=`, `=~`, `!~`; regexes are RE2 and fully anchored."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


class PutSilence(Noun, frozen=True, kw_only=True, tag="put_silence"):
    """Create or edit a silence. `request_id` makes two equal requests two silences and one retried request one."""

    request_id: str
    matchers: tuple[Matcher, ...]
    starts_at: float
    ends_at: float
    created_by: str = ""
    comment: str = ""
    id: str = ""  # set to edit


class ExpireSilence(Noun, frozen=True, kw_only=True, tag="expire_silence"):
    id: str
    actor: str = ""


class PutMaintenance(Noun, frozen=True, kw_only=True, tag="put_maintenance"):
    """Planned work: what the series that match say between the times is neither scored nor learned nor missed.

    A matcher sees the labels of a series, `__name__` among them; `service` is the service that it belongs to.
    """

    request_id: str
    matchers: tuple[Matcher, ...]
    starts_at: float  # 0: now; never before the command's own stamp
    ends_at: float
    created_by: str = ""
    comment: str = ""


class EndMaintenance(Noun, frozen=True, kw_only=True, tag="end_maintenance"):
    id: str
    actor: str = ""


class AckIncident(Noun, frozen=True, kw_only=True, tag="ack"):
    """Somebody took the incident; repeats stop until `until` (0: until it resolves)."""

    incident: str
    actor: str
    comment: str = ""
    until: float = 0.0


class ResolveIncident(Noun, frozen=True, kw_only=True, tag="resolve"):
    incident: str
    actor: str
    comment: str = ""


class Verdict(Noun, frozen=True, kw_only=True, tag="verdict"):
    """What an operator says of a decision: `kind` is cause (true root named in `service`), split, merge or noise."""

    request_id: str
    incident: str
    kind: str
    actor: str
    service: str = ""
    other: str = ""  # the other incident of a merge
    fingerprints: tuple[str, ...] = ()  # alerts of a split
    comment: str = ""


class EvidenceDigest(Noun, frozen=True, kw_only=True, tag="digest"):
    """The answer of the detect side to AskEvidence: the evidence of a neighbourhood, sub-threshold included."""

    request_id: str
    incident: str
    asof: float  # watermark of the answering partition
    evidence: tuple[Evidence, ...] = ()
    partition: int = 0


class Started(Noun, frozen=True, kw_only=True, tag="started"):
    """The daemon came up: what happened since the previous stamp, nobody saw.

    Deadlines that stand for a sender's silence start anew from here: our absence must not resolve an alert.
    """

    version: str = ""


class Tick(Noun, frozen=True, kw_only=True, tag="tick"):
    """Time passed and nothing else did: appended by the runtime at a stage's wake_at()."""


Body: TypeAlias = (
    AlertBatch
    | Anomaly
    | DriftDetected
    | EvidenceDigest
    | TopologyUpdate
    | ChangeEvent
    | PutSilence
    | ExpireSilence
    | PutMaintenance
    | EndMaintenance
    | AckIncident
    | ResolveIncident
    | Verdict
    | Started
    | Tick
)


class JournalRecord(Noun, frozen=True, kw_only=True):
    """One record of the journal. `stamp` is the receipt time, non-decreasing; `origin` dedupes what came from a log."""

    offset: int
    stamp: float
    body: Body
    origin: SourcePos | None = None


# --------------------------------------------------------------------------- alerts and incidents as kept


class AlertState(StrEnum):
    FIRING = "firing"
    RESOLVED = "resolved"


class Alert(Noun, frozen=True, kw_only=True, tag="alert"):
    """One alert (or anomaly) as the correlate stage keeps it."""

    fingerprint: str
    labels: Labels
    annotations: Labels = {}
    starts_at: float
    ends_at: float  # 0: open end; else when it resolved or, by its sender's word, will
    updated_at: float
    state: AlertState = AlertState.FIRING
    service: str = ""
    anomaly: bool = False
    generator_url: str = ""
    incident: str = ""  # id of its incident; "" when it opens none
    group_reason: str = ""  # why it is where it is
    timeout: bool = False  # ends_at is our resolve_timeout, not the sender's word
    role: str = ""  # symptom | cause | saturation | noise, where a rule pack knows it
    evidence: tuple[Evidence, ...] = ()


class IncidentState(StrEnum):
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    MERGED = "merged"


VERBS = {  # kind of edge -> how a person reads it
    "calls": "calls",
    "called_by": "is called by",
    "suspected": "may depend on",
    "runs_on": "runs on",
    "located_in": "is in",
    "reads": "reads",
    "writes": "writes",
}


class Link(Noun, frozen=True, kw_only=True):
    """One step of an explanation: what `symptom` shows is explained by `cause` to the share `share`."""

    symptom: str
    cause: str
    edge: str = "calls"
    share: float = 0.0
    text: str = ""

    @property
    def verb(self) -> str:
        """How the edge reads between the two names."""
        return VERBS.get(self.edge, "depends on")


class Candidate(Noun, frozen=True, kw_only=True):
    """A possible root cause. `score` orders; `confidence` is a probability; `chain` leads from the symptom to it."""

    service: str
    kind: str = "service"  # service | node | zone | external | change | unknown
    score: float = 0.0
    confidence: float = 0.0
    metric: str = ""
    reason: str = ""
    chain: tuple[Link, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    changes: tuple[ChangeEvent, ...] = ()
    signs: tuple[float, ...] = ()  # what `confidence` follows from, of the first only: verdicts can refit it


class Incident(Noun, frozen=True, kw_only=True, tag="incident"):
    """One problem: its alerts, its services, its ranked causes. `id` is stable; `dedup_key` is what receivers see."""

    id: str
    dedup_key: str
    state: IncidentState = IncidentState.OPEN
    title: str = ""
    severity: str = "warning"
    services: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()  # fingerprints, in order of arrival
    firing: int = 0
    started_at: float  # earliest onset
    opened_at: float
    updated_at: float
    quiet_since: float = 0.0  # when the last of its alerts ended; 0 while one fires
    resolved_at: float = 0.0
    acked_at: float = 0.0
    acked_by: str = ""
    ack_until: float = 0.0
    merged_into: str = ""
    merged_from: tuple[str, ...] = ()
    reopened: int = 0
    paged: bool = False
    late: bool = False  # opened from a backlog
    revision: int = 0
    roots: tuple[Candidate, ...] = ()
    changes: tuple[str, ...] = ()  # ids of change events considered
    runbook: str = ""
    said: str = ""  # the cause that an operator named for it
    said_by: str = ""

    @property
    def root(self) -> Candidate | None:
        return self.roots[0] if self.roots else None


class Silence(Noun, frozen=True, kw_only=True, tag="silence"):
    id: str
    matchers: tuple[Matcher, ...]
    starts_at: float
    ends_at: float
    updated_at: float
    created_by: str = ""
    comment: str = ""


class Window(Noun, frozen=True, kw_only=True):
    """Planned work as it was taken: [starts_at, ends_at) in sample time."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: float
    ends_at: float
    created_by: str = ""
    comment: str = ""


class NotifyReason(StrEnum):
    """Why a notification is due: Alertmanager's needs-update decision with names, and ours for incidents."""

    FIRST = "first notification"
    NEW_ALERTS = "new alerts added"
    SOME_RESOLVED = "some alerts resolved"
    ALL_RESOLVED = "all alerts resolved"
    REPEAT = "repeat interval elapsed"
    ROOT_CHANGED = "probable root cause changed"
    ACKNOWLEDGED = "acknowledged"
    ACK_ENDED = "acknowledgement ended and it still fires"
    MERGED = "merged into another incident"
    REOPENED = "reopened"


class Action(StrEnum):
    """What a receiver should do with its item of that dedup_key."""

    TRIGGER = "trigger"
    ACKNOWLEDGE = "acknowledge"
    RESOLVE = "resolve"


class Notification(Noun, frozen=True, kw_only=True, tag="notification"):
    """One message to one integration of one receiver; everything a notifier needs to encode it, and nothing live.

    `id` comes from (group key, integration, sequence number of the group's notifications), so a replay gives the same.
    """

    id: str
    receiver: str
    integration: str  # "<kind>[<index>]", e.g. "slack[0]"
    group_key: str
    dedup_key: str
    action: Action
    reason: NotifyReason
    stamp: float
    group_labels: Labels = {}
    alerts: tuple[Alert, ...] = ()
    changed: tuple[str, ...] = ()  # fingerprints that are new or newly resolved since the last one
    incident: Incident | None = None
    supersedes: str = ""  # after a merge: the dedup_key that this one replaces, or that lives on
    into: str = ""  # ... and what the incident that lives on is called
    external_url: str = ""
    truncated: int = 0

    @property
    def destination(self) -> str:
        return f"{self.receiver}/{self.integration}"


class RetrainRequest(Noun, frozen=True, kw_only=True, tag="retrain"):
    """A model (or the models of a series) should be retrained; the evidence says why."""

    id: str
    dedup_key: str
    subject: str
    model: str = ""
    reason: str = ""
    requested_at: float
    drift: tuple[DriftDetected, ...] = ()
    labels: Labels = {}


class AuditEntry(Noun, frozen=True, kw_only=True, tag="audit"):
    """One line of a timeline: what was decided, why, and by which journal record."""

    incident: str  # "" for what belongs to no incident
    stamp: float
    kind: str  # opened, alert, grouped, root, merged, notified, suppressed, ack, resolved, reopened, silence, ...
    text: str
    reason: str = ""
    actor: str = ""
    offset: int = -1  # of the journal record


# --------------------------------------------------------------------------- effects


class Append(Noun, frozen=True, kw_only=True, tag="append"):
    """Detect side: put this body into the journal, once per origin."""

    body: Anomaly | DriftDetected | EvidenceDigest | TopologyUpdate
    origin: SourcePos


class Upsert(Noun, frozen=True, kw_only=True, tag="upsert"):
    """Write this decision; the last one wins by its id."""

    item: Alert | Incident | Silence


class Touch(Noun, frozen=True, kw_only=True, tag="touch"):
    """A firing alert was sent again and only its end moved: for the read model, no row is written."""

    fingerprint: str
    ends_at: float
    updated_at: float


class Forget(Noun, frozen=True, kw_only=True, tag="forget"):
    """A kept item reached the end of its retention in the stage; `kind` is alert, incident or silence."""

    kind: str
    id: str


class Notify(Noun, frozen=True, kw_only=True, tag="notify"):
    notification: Notification


class Retrain(Noun, frozen=True, kw_only=True, tag="retrain_effect"):
    trainer: str  # "<kind>[<index>]" of the configured trainer
    request: RetrainRequest


class AskEvidence(Noun, frozen=True, kw_only=True, tag="ask"):
    """The correlate stage wants the evidence of these services; the answer is an EvidenceDigest in the journal."""

    request_id: str
    incident: str
    services: tuple[str, ...]
    since: float  # onset of the incident: what came before it is lead-in
    others: int = (
        0  # of each partition so many services more, loudest first, that nobody asked for and that are not well
    )


class Maintain(Noun, frozen=True, kw_only=True, tag="maintain"):
    """The windows of planned work have changed; these are all of them, for the detect side and the read model."""

    windows: tuple[Window, ...]


class Reject(Noun, frozen=True, kw_only=True, tag="reject"):
    """A record, or a part of one, that cannot be used: counted, logged, a dead letter when whole."""

    pos: SourcePos
    reason: str  # closed enum errors.DecodeReason
    detail: str
    items: int = 1  # how many samples or alerts were refused
    whole: bool = True  # the whole record, as opposed to some of its items


class Audit(Noun, frozen=True, kw_only=True, tag="audit_effect"):
    entry: AuditEntry


Effect: TypeAlias = Append | Upsert | Touch | Forget | Notify | Retrain | AskEvidence | Maintain | Reject | Audit


# --------------------------------------------------------------------------- snapshots


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's state: plain data and arrays, versioned, no pickle.

    `meta` is what msgspec can encode (dicts, lists, str, int, float, bool, None); `arrays` are kept as arrays. The
    receiver of a snapshot may not assume that it can mutate either.
    """

    kind: str
    version: int
    meta: dict[str, Any]
    arrays: dict[str, NDArray[np.generic]] = {}


def labels_text(labels: Mapping[str, str], without: Iterable[str] = ()) -> str:
    """`name="value", ...` sorted by name, as operators read label sets."""
    skip = frozenset(without)
    return ", ".join(f'{k}="{labels[k]}"' for k in sorted(labels) if k not in skip)
