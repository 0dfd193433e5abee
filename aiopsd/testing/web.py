"""A site for tests of the web: the real application over a door that steps a real correlate stage in memory.

`shop_effects` is an incident as an operator would meet it at night: a slow database behind a payment service, with
evidence, a chain, a change event, alerts, a timeline and pages.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from msgspec.structs import replace

from aiopsd.config import load
from aiopsd.decode import check_samples
from aiopsd.metrics import Metrics
from aiopsd.model import (
    Action,
    Alert,
    AlertState,
    Audit,
    AuditEntry,
    Body,
    Candidate,
    ChangeEvent,
    Checked,
    Edge,
    Effect,
    Evidence,
    Incident,
    JournalRecord,
    Labels,
    Link,
    Node,
    Notification,
    Notify,
    NotifyReason,
    TopologyUpdate,
    Upsert,
    fingerprint,
)
from aiopsd.pipeline import correlate
from aiopsd.pipeline.correlate import CorrelateStage
from aiopsd.projection import Projection
from aiopsd.protocols import Clock
from aiopsd.stores.memory import MemoryStore
from aiopsd.web.server import build_app, serve
from aiopsd.web.site import Site

START = 1_790_000_000.0  # 2026-09-21T14:13:20Z
EDGES = (
    ("gateway", "frontend"),
    ("frontend", "checkout"),
    ("frontend", "catalog"),
    ("frontend", "search"),
    ("frontend", "recommend"),
    ("checkout", "payments"),
    ("checkout", "cart"),
    ("checkout", "shipping"),
    ("payments", "payments-db"),
    ("payments", "fraud-check"),
    ("invoices", "payments-db"),
    ("cart", "cart-redis"),
    ("catalog", "catalog-db"),
    ("search", "catalog-db"),
    ("recommend", "catalog"),
    ("gateway", "identity"),
    ("frontend", "identity"),
    ("shipping", "carrier-api"),
)


class StageDoor:
    """protocols.Door over a stage in memory: what is submitted is stepped, kept and projected before the answer.

    Set `refusal` to make every write raise it; `waits` is what `readiness` says.
    """

    def __init__(self, stage: CorrelateStage, projection: Projection, store: MemoryStore, clock: Clock) -> None:
        self.stage, self.projection, self.store, self.clock = stage, projection, store, clock
        self.refusal: Exception | None = None
        self.waits: dict[str, str] = {}
        self.reloads = 0
        self.bodies: list[Body] = []
        self.pushed: list[tuple[bytes, str]] = []
        self._offset = -1

    async def push_metrics(self, body: bytes, format: str) -> Checked:
        if self.refusal is not None:
            raise self.refusal
        checked = check_samples(body, format)
        self.pushed.append((body, format))
        return checked

    async def submit(self, bodies: Sequence[Body]) -> int:
        if self.refusal is not None:
            raise self.refusal
        for body in bodies:
            self._offset += 1
            self.bodies.append(body)
            await self.keep(self.stage.step([JournalRecord(offset=self._offset, stamp=self.clock(), body=body)]))
        return self._offset

    async def keep(self, effects: Sequence[Effect]) -> None:
        """Commit and project, as the runtime does."""
        await self.store.commit(effects, self._offset, "test")
        self.projection.apply(effects)

    def readiness(self) -> dict[str, str]:
        return dict(self.waits)

    def status(self) -> dict[str, Any]:
        return {"journal": {"end": self._offset + 1, "committed": self._offset}, "config": "token: hunter2"}

    async def reload(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.reloads += 1


def shop_topology() -> TopologyUpdate:
    """The service graph of the shop."""
    kinds = {
        "payments-db": "datastore",
        "cart-redis": "datastore",
        "catalog-db": "datastore",
        "carrier-api": "external",
    }
    return TopologyUpdate(
        source="test",
        edges=(
            *(Edge(caller=a, callee=b) for a, b in EDGES),
            Edge(caller="payments-db", callee="node-7", kind="runs_on"),
        ),
        nodes=(*(Node(name=n, kind=k) for n, k in kinds.items()), Node(name="node-7", kind="node")),
    )


def signal(service: str, metric: str, kind: str, normal: float, level: float, onset: float, delay: float) -> Evidence:
    """Evidence whose values swing around `normal` and climb to `level` from `onset` on; 60 values, 15 s apart."""
    end = onset + 600.0
    swing = normal * 0.15
    recent = []
    for k in range(60):
        t = end - (59 - k) * 15.0
        rise = 1 - math.exp(-max(0.0, t - onset) / delay)
        recent.append((t, normal + swing * math.sin(k * 1.7) + swing * math.sin(k * 0.6) + (level - normal) * rise))
    scale = swing
    return Evidence(
        service=service,
        metric=metric,
        kind=kind,
        channel="x",
        level=recent[-1][1],
        normal=normal,
        low=normal - 3 * scale,
        high=normal + 3 * scale,
        scale=scale,
        deviation=(recent[-1][1] - normal) / scale,
        score=0.97,
        onset=onset,
        recent=tuple(recent),
    )


def shop_alert(name: str, service: str, at: float, incident: str, reason: str, **more: str) -> Alert:
    """A firing alert of the shop."""
    labels: Labels = {"alertname": name, "service": service, "cluster": "eu-1", "severity": "warning", **more}
    return Alert(
        fingerprint=fingerprint(labels),
        labels=labels,
        annotations={"summary": f"{service}: {name} for 2 minutes"},
        starts_at=at,
        ends_at=0.0,
        updated_at=at,
        service=service,
        generator_url=f"http://prometheus.example/graph?g0.expr={name}",
        incident=incident,
        group_reason=reason,
        anomaly="aiopsd_kind" in labels,
    )


def shop_incident(start: float = START, incident_id: str = "4f1c09d2ab7e6531") -> tuple[Incident, list[Alert]]:
    """The incident of the slow payment database and its alerts."""
    db = signal("payments-db", "pg_stat_activity_waiting", "saturation", 4.0, 61.0, start, 90.0)
    pay = signal("payments", "http_request_duration_seconds_p99", "latency", 0.18, 2.4, start + 30, 120.0)
    out = signal("checkout", "http_requests_errors_ratio", "errors", 0.004, 0.21, start + 75, 150.0)
    change = ChangeEvent(
        id="c1",
        service="payments-db",
        kind="config",
        ts=start - 240,
        summary="max_connections 400 to 60",
        version="r1187",
        actor="deploy-bot",
        link="https://ci.example/r1187",
    )
    roots = (
        Candidate(
            service="payments-db",
            kind="datastore",
            score=4.2,
            confidence=0.86,
            metric="pg_stat_activity_waiting",
            reason="earliest to leave its range, everything else calls it",
            chain=(
                Link(
                    symptom="checkout",
                    cause="payments",
                    share=0.91,
                    text="errors began 45 s after payments slowed down",
                ),
                Link(symptom="payments", cause="payments-db", share=0.88, text="p99 latency follows waiting sessions"),
            ),
            evidence=(db, pay, out),
            changes=(change,),
        ),
        Candidate(service="payments", confidence=0.09, reason="slow itself, but after its database"),
        Candidate(service="node-7", kind="node", confidence=0.03, reason="hosts payments-db, shows nothing"),
    )
    alerts = [
        shop_alert(
            "DatabaseSessionsWaiting", "payments-db", start + 20, incident_id, "first alert", severity="critical"
        ),
        shop_alert("LatencyHigh", "payments", start + 60, incident_id, "calls payments-db, 40 s apart"),
        shop_alert("ErrorRatioHigh", "checkout", start + 95, incident_id, "calls payments, 35 s apart"),
        shop_alert("LatencyHigh", "frontend", start + 130, incident_id, "calls checkout, 35 s apart"),
        shop_alert(
            "anomaly", "payments", start + 45, incident_id, "calls payments-db, 25 s apart", aiopsd_kind="anomaly"
        ),
    ]
    incident = Incident(
        id=incident_id,
        dedup_key=incident_id,
        title="payments-db: pg_stat_activity_waiting, 3 more affected",
        severity="critical",
        services=("payments-db", "payments", "checkout", "frontend"),
        alerts=tuple(a.fingerprint for a in alerts),
        firing=len(alerts),
        started_at=start,
        opened_at=start + 20,
        updated_at=start + 130,
        paged=True,
        roots=roots,
        runbook="https://runbooks.example/payments-db",
    )
    return incident, alerts


def shop_effects(start: float = START, incident_id: str = "4f1c09d2ab7e6531") -> list[Effect]:
    """Everything that the runtime would commit for `shop_incident`."""
    incident, alerts = shop_incident(start, incident_id)
    page = Notification(
        id=f"page-{incident_id}",
        receiver="oncall",
        integration="pagerduty[0]",
        group_key=f"incident:{incident_id}",
        dedup_key=incident.dedup_key,
        action=Action.TRIGGER,
        reason=NotifyReason.FIRST,
        stamp=start + 50,
        alerts=tuple(alerts),
        incident=incident,
    )
    lines = [
        (20.0, "opened", "DatabaseSessionsWaiting of payments-db opened the incident", "no other incident is near", ""),
        (45.0, "grouped", "anomaly of payments joined", "calls payments-db, 25 s apart", ""),
        (50.0, "notified", "oncall/pagerduty[0]: trigger", "first notification", ""),
        (60.0, "grouped", "LatencyHigh of payments joined", "calls payments-db, 40 s apart", ""),
        (66.0, "change", "config of payments-db: max_connections 400 to 60", "240 s before the onset", ""),
        (95.0, "grouped", "ErrorRatioHigh of checkout joined", "calls payments, 35 s apart", ""),
        (96.0, "root", "payments-db, confidence 0.86", "earliest to leave its range", ""),
        (130.0, "grouped", "LatencyHigh of frontend joined", "calls checkout, 35 s apart", ""),
        (131.0, "suppressed", "oncall/slack[0]: nothing new for people", "group_interval has not passed", ""),
    ]
    audits = [
        Audit(
            entry=AuditEntry(
                incident=incident_id, stamp=start + at, kind=kind, text=text, reason=why, actor=who, offset=100 + i
            )
        )
        for i, (at, kind, text, why, who) in enumerate(lines)
    ]
    return [*(Upsert(item=a) for a in alerts), Upsert(item=incident), *audits, Notify(notification=page)]


def resolved(alert: Alert, at: float) -> Alert:
    """`alert`, over at `at`."""
    return replace(alert, state=AlertState.RESOLVED, ends_at=at, updated_at=at)


class TestClock:
    """A clock that stands until it is moved."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class TestSite:
    """One running site: `http` asks it, the rest is what it is made of."""

    __test__ = False

    def __init__(self, config_text: str, clock: TestClock) -> None:
        self.config = load(config_text)
        self.clock = clock
        self.metrics = Metrics()
        self.projection = Projection()
        self.store = MemoryStore(clock)
        self.stage = correlate.build(self.config)
        self.door = StageDoor(self.stage, self.projection, self.store, clock)
        self.url = ""
        self.http: aiohttp.ClientSession

    def build(self) -> web.Application:
        """The application over all this."""
        site = Site(
            config=self.config,
            door=self.door,
            projection=self.projection,
            store=self.store,
            metrics=self.metrics,
            clock=self.clock,
            topology=lambda: self.stage.topology,
            learned=self.stage.grouper.passages.learned,
            muted=self.stage.dispatcher.muted,
            group_of=self.stage.grouper.group_of,
            version="0.0.0",
        )
        return build_app(site)

    async def json(self, path: str, *, status: int = 200, **query: str | list[str]) -> Any:
        """The JSON of a GET, its status checked."""
        async with self.http.get(path, params=query) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: Any = None, *, status: int = 200, **more: Any) -> Any:
        """The JSON of the answer to a JSON POST (None when it has no body), its status checked."""
        async with self.http.post(path, json=body, **more) as answer:
            text = await answer.text()
            assert answer.status == status, f"{answer.status} {text}"
            return await answer.json() if text else None


@asynccontextmanager
async def running(config_text: str = "", now: float = START) -> AsyncIterator[TestSite]:
    """A site on a free port of 127.0.0.1 with a client; closed at the end."""
    site = TestSite(config_text, TestClock(now))
    await site.store.start()
    runner = await serve(site.build(), "127.0.0.1:0")
    site.url = "http://{}:{}".format(*runner.addresses[0][:2])
    try:
        jar = aiohttp.CookieJar(unsafe=True)  # keeps cookies of an address without a name too
        async with aiohttp.ClientSession(site.url, cookie_jar=jar) as site.http:
            yield site
    finally:
        await runner.cleanup()
        await site.store.stop()
