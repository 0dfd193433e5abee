"""What a page says of its cause, and when evidence is asked for: journal records in, effects out."""

from collections.abc import Iterable, Sequence

import msgspec
import pytest

from aiopsd.config import Config, load
from aiopsd.correlate.grouping import Revision
from aiopsd.model import (
    Alert,
    AlertBatch,
    AlertIn,
    Anomaly,
    AskEvidence,
    Body,
    Candidate,
    ChangeEvent,
    Edge,
    Effect,
    Evidence,
    EvidenceDigest,
    Incident,
    IncidentState,
    JournalRecord,
    Node,
    Notification,
    Notify,
    NotifyReason,
    Tick,
    TopologyUpdate,
    Upsert,
    Verdict,
)
from aiopsd.pipeline import correlate
from aiopsd.pipeline.correlate import causes

T0 = 1_700_000_000.0
OPS = "route: {receiver: ops%s}\nreceivers: [{name: ops, webhook_configs: [{url: 'http://127.0.0.1:1/'}]}]"
CONFIG = load(OPS % "")
AT_ONCE = load(OPS % ", group_wait: 0s")


class Room:
    """A correlate stage, restarted from its snapshot before every record when `crash`."""

    def __init__(
        self,
        calls: str = "web>cart cart>db",
        *,
        nodes: Iterable[Node] = (),
        crash: bool = False,
        config: Config = CONFIG,
    ) -> None:
        self.stage = correlate.build(config)
        self.config = config
        self.crash = crash
        self.questions: list[tuple[float, AskEvidence]] = []
        self.notes: list[Notification] = []
        self.incidents: dict[str, Incident] = {}
        self.offset = 0
        edges = tuple(Edge(caller=a, callee=b) for a, b in (pair.split(">") for pair in calls.split()))
        self.tell(0.0, TopologyUpdate(source="file:test", edges=edges, nodes=tuple(nodes)))

    def tell(self, at: float, body: Body) -> None:
        """One record, after the ticks that are due before it."""
        while (wake := self.stage.wake_at()) is not None and wake < T0 + at and self.offset:
            self._step(wake, Tick())
        self._step(T0 + at, body)

    def _step(self, stamp: float, body: Body) -> None:
        if self.crash and self.offset:
            kept = msgspec.msgpack.decode(msgspec.msgpack.encode(self.stage.snapshot().meta))
            self.stage = correlate.build(self.config, msgspec.structs.replace(self.stage.snapshot(), meta=kept))
        self._take(self.stage.step([JournalRecord(offset=self.offset, stamp=stamp, body=body)]), stamp)
        self.offset += 1

    def _take(self, effects: Iterable[Effect], stamp: float) -> None:
        for effect in effects:
            if isinstance(effect, AskEvidence):
                self.questions.append((stamp - T0, effect))
            elif isinstance(effect, Notify):
                self.notes.append(effect.notification)
            elif isinstance(effect, Upsert) and isinstance(effect.item, Incident):
                self.incidents[effect.item.id] = effect.item

    def alert(self, at: float, service: str, name: str = "Slow", *, started: float | None = None, **more: str) -> None:
        labels = {"alertname": name, "service": service, "severity": "critical", **more}
        starts = T0 + (at if started is None else started)
        self.tell(at, AlertBatch(alerts=(AlertIn(labels=labels, starts_at=starts, ends_at=T0 + 1e5),)))

    def anomaly(self, at: float, service: str) -> None:
        self.tell(at, Anomaly(id=f"a-{service}", service=service, signal="p99", onset=T0 + at, ts=T0 + at, score=0.9))

    def answer(self, at: float, *evidence: Evidence) -> None:
        """Evidence about the newest question."""
        _, ask = self.questions[-1]
        digest = EvidenceDigest(request_id=ask.request_id, incident=ask.incident, asof=T0 + at, evidence=evidence)
        self.tell(at, digest)

    @property
    def asked(self) -> list[float]:
        return [at for at, _ in self.questions]

    @property
    def causes(self) -> list[Candidate]:
        (incident,) = self.incidents.values()
        return list(incident.roots)


@pytest.fixture(params=[False, True], ids=["straight", "restarted"])
def room(request: pytest.FixtureRequest) -> Room:
    return Room(crash=request.param)


def root(note: Notification) -> Candidate:
    """The probable cause that a notification names."""
    assert note.incident is not None
    assert note.incident.root is not None
    return note.incident.root


def cpu(service: str, *values: float, at: float) -> Evidence:
    """Ten calm samples, then these, a minute apart, the last one at `at`."""
    all_ = [0.1] * 10 + list(values)
    recent = tuple((T0 + at - 60.0 * (len(all_) - 1 - i), v) for i, v in enumerate(all_))
    level = values[-1] if values else 0.1
    return Evidence(
        service=service, metric="cpu", kind="resource", level=level, normal=0.1, scale=0.01,
        deviation=(level - 0.1) / 0.01, onset=recent[10][0] if values else 0.0, recent=recent,
    )  # fmt: skip


def test_evidence_is_asked_for_in_the_breath_in_which_an_incident_opens(room: Room) -> None:
    """The question leaves with the record that opened it, and names what lies down the calls."""
    room.alert(100.0, "web")

    assert room.asked == [100.0]
    assert set(room.questions[0][1].services) >= {"web", "cart", "db"}


def test_the_page_names_the_cause_that_the_evidence_shows(room: Room) -> None:
    """Under the default group_wait the first notification carries the ranking of the answer, chain and all."""
    room.alert(100.0, "web")
    room.answer(100.2, cpu("db", 0.9, at=100.0))
    room.tell(131.0, Tick())

    (page,) = room.notes
    assert page.stamp == T0 + 130.0
    assert root(page).service == "db"
    assert root(page).chain[0].symptom == "web"


def test_evidence_is_asked_for_again_just_before_the_page_and_later(room: Room) -> None:
    """Metrics lag: what came in during group_wait is in the page, what comes later is asked for on a schedule."""
    room.alert(100.0, "web")
    room.answer(100.2, cpu("db", at=100.0))
    room.tell(126.0, Tick())
    assert room.asked == [100.0, 125.0]
    room.answer(126.0, cpu("db", 0.9, at=120.0))
    room.tell(3000.0, Tick())

    assert root(room.notes[0]).service == "db"
    assert room.asked == [100.0, 125.0, 220.0, 400.0, 700.0, 1300.0]


def test_others_that_are_not_well_are_asked_about_once_metrics_speak(room: Room) -> None:
    """The graph may lack the call to the cause: the second question is about what else is in trouble, too."""
    room.alert(100.0, "web")
    room.answer(100.2, cpu("web", at=100.0))
    room.tell(126.0, Tick())
    room.answer(126.0, cpu("web", 0.9, at=100.0), cpu("stranger", 0.9, at=100.0))
    room.tell(131.0, Tick())

    assert [bool(ask.others) for _, ask in room.questions] == [False, True]
    assert "stranger" in {c.service for c in room.notes[0].incident.roots}


def test_who_knows_nothing_is_not_asked_again(room: Room) -> None:
    """Without an answer to the first question there is no metric to wait for."""
    room.alert(100.0, "web")
    room.tell(1000.0, Tick())

    assert room.asked == [100.0]


def test_nothing_is_asked_about_an_incident_in_which_nothing_fires(room: Room) -> None:
    """What metrics show by then is another trouble's: a change nearby ranks what is known, and asks for nothing."""
    room.alert(100.0, "web")
    room.answer(100.2, cpu("db", at=100.0))
    ended = AlertIn(labels={"alertname": "Slow", "service": "web", "severity": "critical"}, ends_at=T0 + 190.0)
    room.tell(200.0, AlertBatch(alerts=(ended,)))
    before = list(room.asked)
    room.tell(300.0, ChangeEvent(id="c", service="db", kind="deploy", ts=T0 + 300.0))
    room.tell(310.0, Tick())

    assert room.asked == before


@pytest.mark.parametrize(
    ("mine", "theirs", "named", "one"),
    [
        (0.92, 0.3, "cart", True),  # certain by itself, whatever the other says
        (0.84, 0.82, "db", True),  # unsure each, but they say the same
        (0.84, 0.82, "cart", False),
        (0.6, 0.6, "db", False),
    ],
)
def test_incidents_that_name_one_cause_are_one(
    mine: float, theirs: float, named: str, one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trouble of the cause is in one of them: two witnesses of it are as good as one that is certain."""
    said = {"far": ("db", mine), "db": (named, theirs)}

    def ranked(alerts: Sequence[Alert], *_: object, **__: object) -> tuple[Candidate, ...]:
        service, confidence = said[alerts[0].service]
        return (Candidate(service=service, confidence=confidence, evidence=(cpu(service, 0.9, at=100.0),)),)

    monkeypatch.setattr(causes, "rank", ranked)
    room = Room("web>cart cart>db far>away")
    room.anomaly(100.0, "db")
    room.anomaly(101.0, "far")
    assert len([i for i in room.incidents.values() if i.state is IncidentState.OPEN]) == 2
    room.tell(110.0, Tick())

    assert (len([i for i in room.incidents.values() if i.state is IncidentState.OPEN]) == 1) is one


def test_the_first_alert_of_an_incident_of_anomalies_asks_anew(room: Room) -> None:
    """A person is about to hear of it: the page is not to be explained with evidence from before."""
    room.anomaly(100.0, "cart")
    room.answer(100.2, cpu("db", at=100.0))
    before = len(room.asked)
    room.alert(140.0, "cart", "Down")

    assert room.asked[before:][-1] == 140.0


@pytest.mark.parametrize("crash", [False, True], ids=["straight", "restarted"])
def test_a_first_page_that_is_due_at_once_waits_for_the_answer(crash: bool) -> None:
    """With a group_wait of nothing a page leaves at once, but not before the evidence of its cause could come."""
    room = Room(crash=crash, config=AT_ONCE)
    room.anomaly(0.0, "elsewhere")  # metrics are there
    room.alert(100.0, "web")
    assert room.notes == []
    room.answer(100.3, cpu("db", 0.9, at=100.0))
    room.tell(103.0, Tick())

    (page,) = room.notes
    assert page.stamp == T0 + 102.0
    assert root(page).service == "db"


@pytest.mark.parametrize("crash", [False, True], ids=["straight", "restarted"])
def test_without_metrics_no_page_waits_for_evidence(crash: bool) -> None:
    """A daemon of alerts alone pages in the step in which the alert comes, when there is no group_wait."""
    room = Room(crash=crash, config=AT_ONCE)
    room.alert(100.0, "web")

    assert [n.stamp for n in room.notes] == [T0 + 100.0]


@pytest.mark.parametrize("crash", [False, True], ids=["straight", "restarted"])
def test_a_backlog_pages_once_for_one_trouble(crash: bool) -> None:
    """Both ends of a chain of old alerts open incidents; what is queued behind them makes them one, before any page."""
    room = Room("a>b b>c c>d d>e", crash=crash)
    for service, started in (("a", -500.0), ("e", -560.0), ("c", -530.0), ("b", -515.0), ("d", -545.0)):
        room.alert(100.2, service, started=started)
    room.tell(400.0, Tick())

    states = [i.state for i in room.incidents.values()]
    assert sorted(states) == [IncidentState.MERGED, IncidentState.OPEN]
    (page,) = room.notes
    assert page.stamp == T0 + 105.2
    assert len(page.alerts) == 5


def test_the_first_correction_of_a_cause_does_not_wait_for_the_interval(room: Room) -> None:
    """Evidence that comes after the page is told group_wait after it; the next correction at the interval's tick."""
    room.alert(100.0, "web")
    room.answer(100.2, cpu("cart", at=100.0))
    room.tell(140.0, Tick())
    assert [n.stamp for n in room.notes] == [T0 + 130.0]
    room.answer(150.0, cpu("cart", 0.5, 0.5, at=150.0))
    room.answer(200.0, cpu("cart", 0.14, 0.14, at=150.0), cpu("db", 40.0, 40.0, at=150.0))
    room.tell(431.0, Tick())

    told = [(n.stamp - T0, n.reason, root(n).service) for n in room.notes[1:]]
    assert told == [(160.0, NotifyReason.ROOT_CHANGED, "cart"), (430.0, NotifyReason.ROOT_CHANGED, "db")]


def test_trouble_that_lasts_is_judged_by_the_ruler_of_its_beginning(room: Room) -> None:
    """When the bank has learned the trouble, later answers do not make the cause look calm."""
    room.alert(100.0, "web")
    room.answer(100.2, cpu("db", 0.9, at=100.0))
    learned = msgspec.structs.replace(cpu("db", *[0.9] * 6, at=400.0), normal=0.8, scale=0.5, deviation=0.2)
    room.answer(400.0, learned, cpu("cart", 0.14, at=400.0))

    assert room.causes[0].service == "db"
    assert room.causes[0].evidence[0].deviation > 50.0


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [("zone", "eu-1a", "zone"), ("node", "host-7", "node"), ("external", "bank-api", "external")],
)
def test_a_silent_thing_below_several_services_is_the_cause(kind: str, name: str, expected: str) -> None:
    """Services that share nothing but a node, a zone or somebody else's API: it is named, with its kind and a chain."""
    room = Room(" ".join(f"s{i}>{name}" for i in range(5)), nodes=[Node(name=name, kind=kind)])
    for i in range(5):
        room.alert(100.0 + 3.0 * i, f"s{i}")
    room.tell(140.0, Tick())

    page = room.notes[0]
    assert (root(page).service, root(page).kind) == (name, expected)
    assert root(page).chain[0].cause == name


def test_a_change_just_before_is_told_with_the_page() -> None:
    """The deployment of a callee three minutes before the symptoms is the cause's change in the page."""
    room = Room("web>cart web>search")
    room.tell(10.0, ChangeEvent(id="c", service="cart", kind="deploy", version="v7", ts=T0 + 10.0))
    room.alert(190.0, "web")
    room.answer(190.1, cpu("cart", 0.3, at=190.0), cpu("search", 0.3, at=190.0))
    room.tell(240.0, Tick())

    page = room.notes[0]
    assert root(page).service == "cart"
    assert [c.version for c in root(page).changes] == ["v7"]
    assert "deploy v7" in root(page).reason


@pytest.mark.parametrize("crash", [False, True], ids=["straight", "restarted"])
def test_what_is_brought_together_when_it_is_over_has_its_cause_corrected(crash: bool) -> None:
    """A lone alert and an outage of a store were two; merged after both ended, the record names the store, untold."""
    room = Room("web>cart cart>db shop>cart", crash=crash)
    for at, service, name in ((10.0, "web", "ClockSkew"), (400.0, "db", "Down"), (410.0, "cart", "Slow")):
        labels = {"alertname": name, "service": service, "severity": "critical"}
        ends = T0 + at + 300.0
        room.tell(at, AlertBatch(alerts=(AlertIn(labels=labels, starts_at=T0 + at, ends_at=ends),)))
    room.tell(2000.0, Tick())
    lone, outage = sorted(room.incidents.values(), key=lambda i: i.started_at)
    told = len(room.notes)
    assert {lone.state, outage.state} == {IncidentState.RESOLVED}

    room.tell(2001.0, Verdict(request_id="v", incident=lone.id, kind="merge", actor="ann", other=outage.id))
    room.tell(2010.0, Tick())

    (kept,) = (i for i in room.incidents.values() if i.state is not IncidentState.MERGED)
    assert lone.roots[0].service == "web"
    assert kept.roots[0].service == "db"
    assert all(n.reason is not NotifyReason.ROOT_CHANGED for n in room.notes[told:])


@pytest.mark.parametrize("crash", [False, True], ids=["straight", "restarted"])
def test_a_page_names_who_sends_the_load(crash: bool) -> None:
    """A backlog and a slow store say little of who began; when backlogs have come alone often enough, they do."""
    teams = {"batch": ("store", "cart", "pay"), "feed": ("lake", "view", "map"), "sync": ("pool", "mail", "chat")}
    calls = " ".join(f"{who}>{store} {a}>{store} {b}>{store}" for who, (store, a, b) in teams.items())
    room = Room(calls, crash=crash)
    named = []
    for k in range(9):
        at = 100.0 + 8000.0 * k
        sender = list(teams)[k % 3]
        told = [(0.0, sender, "Backlog"), *((15.0 + 8.0 * i, v, "Slow") for i, v in enumerate(teams[sender]))]
        for after, service, name in told if 0 < k < 8 else told[:2]:
            labels = {"alertname": name, "service": service, "severity": "warning"}
            began = T0 + at + after
            room.tell(at + after, AlertBatch(alerts=(AlertIn(labels=labels, starts_at=began, ends_at=began + 900.0),)))
        room.tell(at + 120.0, Tick())
        (newest,) = (i for i in room.incidents.values() if i.started_at >= T0 + at and not i.merged_into)
        named.append((newest.roots[0].service, [(x.symptom, x.cause, x.edge) for x in newest.roots[0].chain]))
        room.tell(at + 7000.0, Tick())

    assert named[0][0] == "store"
    assert [who for who, _ in named[1:]] == ["feed", "sync", "batch", "feed", "sync", "batch", "feed", "sync"]
    assert ("pool", "sync", "called_by") in named[-1][1]


@pytest.mark.parametrize(("calls", "named"), [("web>cart web>users", "users"), ("web>users users>cart", "cart")])
def test_what_another_incident_is_about_is_no_cause_of_what_does_not_depend_on_it(calls: str, named: str) -> None:
    """Its evidence comes with the neighbourhood; the strongest signal around is not whom a small alert is due to."""
    room = Room(calls)
    room.alert(0.0, "cart", "DiskFull")
    room.alert(4000.0, "users", "BatchJobFailed")
    (first, _), (_, second) = room.incidents, room.incidents
    assert first != second
    room.answer(4090.5, cpu("cart", 0.9, at=4090.0))

    cause = room.incidents[second].root
    assert cause is not None
    assert cause.service == named


def test_what_is_posted_together_is_explained_once_it_has_been_weighed(room: Room) -> None:
    """The first sight of a storm says who is near whom; a second later each alert says what it stems from."""
    labels = [{"alertname": "Slow", "service": s, "severity": "critical"} for s in ("web", "cart", "db")]
    room.tell(
        100.0, AlertBatch(alerts=tuple(AlertIn(labels=x, starts_at=T0 + 100.0, ends_at=T0 + 1e5) for x in labels))
    )
    room.tell(103.0, Tick())

    assert {a.service: a.group_reason for a in room.stage.alerts.values()} == {
        "web": "web depends on cart and started 0 s after it",
        "cart": "cart depends on db and started 0 s after it",
        "db": "what is in trouble near it does not explain it",
    }
    assert room.notes == []


def test_an_alert_that_is_moved_twice_leaves_no_incident_open() -> None:
    """What comes and goes within a second may be moved twice from where it was first; each incident it left ends."""
    room = Room()
    room.anomaly(100.0, "web")
    (first,) = room.incidents
    (fp,) = room.stage.alerts
    moves = [Revision("move", first, incident, (fp,), True, "it fits there") for incident in ("a" * 16, "b" * 16)]

    room.stage._life.revise(moves)
    began, over = T0 + 100.0, T0 + 130.0
    room.tell(
        130.0, Anomaly(id="a-web", service="web", signal="p99", onset=began, ts=over, score=0.0, state="resolved")
    )
    room.tell(2000.0, Tick())

    assert {i.state for i in room.stage.incidents.values()} == {IncidentState.RESOLVED}
