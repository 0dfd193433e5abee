"""Our own API: incidents, commands, the graph, the outbox, the status, management, and its own description."""

import asyncio
import html
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from aiopsd.errors import ConfigError, Full
from aiopsd.model import AckIncident, Audit, AuditEntry, Edge, IncidentState, Tick, TopologyUpdate, Upsert, Verdict
from aiopsd.testing.web import START, TestSite, running, shop_effects, shop_incident, shop_topology
from aiopsd.web import openapi
from aiopsd.web.api import state
from aiopsd.web.server import split_listen
from aiopsd.web.site import Gate, Problem, rfc3339

SHOP = "4f1c09d2ab7e6531"
ALERT = [{"labels": {"alertname": "Slow", "service": "db", "severity": "critical"}}]
TOKEN = {"Authorization": "Bearer s3cret"}


@pytest.fixture
async def site() -> AsyncIterator[TestSite]:
    async with running() as started:
        yield started


@pytest.fixture
async def shop() -> AsyncIterator[TestSite]:
    """A site that shows the incident of the shop, as committed by a runtime."""
    async with running() as started:
        await started.door.submit([shop_topology()])
        await started.door.keep(shop_effects())
        yield started


async def opened(site: TestSite, name: str = "Slow") -> str:
    """Id of an incident that the real stage opened for a critical alert."""
    site.clock.now += 1
    await site.post("/api/v2/alerts", [{"labels": {"alertname": name, "service": name, "severity": "critical"}}])
    alert = next(a for a in site.projection.alerts(firing=True) if a.labels["alertname"] == name)
    assert alert.incident
    return alert.incident


# --------------------------------------------------------------------------- incidents


async def test_an_incident_tells_all(shop: TestSite) -> None:
    """Cause, chain, evidence, alerts with the reason of their place, timeline with reasons, deliveries; ISO times."""
    found = await shop.json(f"/api/v1/incidents/{SHOP}")

    assert found["cause"] == {
        "service": "payments-db",
        "kind": "datastore",
        "metric": "pg_stat_activity_waiting",
        "confidence": 0.86,
        "reason": "earliest to leave its range, everything else calls it",
    }
    assert [(k["symptom"], k["cause"]) for k in found["causes"][0]["chain"]] == [
        ("checkout", "payments"),
        ("payments", "payments-db"),
    ]
    assert len(found["causes"][0]["evidence"][0]["recent"]) == 60
    assert found["members"][0]["reason"] == "first alert"
    assert found["timeline"][0] == {
        "at": "2026-09-21T14:13:40Z",
        "incident": SHOP,
        "kind": "opened",
        "text": "DatabaseSessionsWaiting of payments-db opened the incident",
        "reason": "no other incident is near",
        "actor": "",
        "offset": 100,
    }
    assert [(d["destination"], d["state"], d["reason"]) for d in found["deliveries"]] == [
        ("oncall/pagerduty[0]", "pending", "first notification")
    ]
    assert (found["started_at"], found["resolved_at"]) == ("2026-09-21T14:13:20Z", None)


async def test_an_incident_in_which_nothing_fires_says_when_it_resolves(shop: TestSite) -> None:
    """Open, `quiet_since` and `resolves_at` are set from the end of its last alert on; of any other they are null."""
    incident, _ = shop_incident()

    async def said(**change: Any) -> tuple[str | None, str | None]:
        await shop.door.keep([Upsert(item=replace(incident, **change))])
        found = await shop.json(f"/api/v1/incidents/{SHOP}")
        (listed,) = (await shop.json("/api/v1/incidents"))["incidents"]
        assert (listed["quiet_since"], listed["resolves_at"]) == (found["quiet_since"], found["resolves_at"])
        return found["quiet_since"], found["resolves_at"]

    assert await said() == (None, None)
    assert await said(firing=0, quiet_since=START + 60) == ("2026-09-21T14:14:20Z", "2026-09-21T14:19:20Z")
    assert await said(firing=0, quiet_since=START + 60, state=IncidentState.RESOLVED) == (None, None)


async def test_the_list_filters(shop: TestSite) -> None:
    """By state, several at once, and by affected service; a wrong state is refused by name."""
    incident, _ = shop_incident()
    await shop.door.keep([Upsert(item=replace(incident, id="done", state=IncidentState.RESOLVED, services=("other",)))])

    async def ids(**query: Any) -> set[str]:
        return {i["id"] for i in (await shop.json("/api/v1/incidents", **query))["incidents"]}

    assert await ids() == {SHOP, "done"}
    assert await ids(state="open") == {SHOP}
    assert await ids(state="resolved,merged") == {"done"}
    assert await ids(state=["open", "resolved"]) == {SHOP, "done"}
    assert await ids(state="open", service="checkout") == {SHOP}
    assert await ids(service="other") == {"done"}
    assert await ids(service="nobody") == set()
    error = await shop.json("/api/v1/incidents", state="gone", status=400)
    assert (error["code"], error["where"]) == (400, "state")


@pytest.mark.parametrize("states", ["", "open"])
async def test_the_cursor_reaches_every_incident_once(site: TestSite, states: str) -> None:
    """Pages hold every incident once and in order, though many opened in one moment; from memory and from the store."""
    incident, _ = shop_incident()
    await site.door.keep([Upsert(item=replace(incident, id=f"i{n:02d}", opened_at=START + n // 10)) for n in range(25)])
    seen: list[str] = []
    query = {"limit": "4"} | ({"state": states} if states else {})
    while True:
        page = await site.json("/api/v1/incidents", **query)
        seen += [i["id"] for i in page["incidents"]]
        if not page["next"]:
            break
        assert len(page["incidents"]) == 4
        query["cursor"] = page["next"]

    assert seen == [f"i{n:02d}" for n in range(24, -1, -1)]


async def test_bad_queries_name_their_parameter(site: TestSite) -> None:
    """limit, cursor and format are refused with their name."""
    for path, query, where in (
        ("/api/v1/incidents", {"limit": "0"}, "limit"),
        ("/api/v1/incidents", {"limit": "1001"}, "limit"),
        ("/api/v1/incidents", {"limit": "٣"}, "limit"),
        ("/api/v1/incidents", {"cursor": "!!"}, "cursor"),
        ("/api/v1/incidents", {"cursor": "YWJj"}, "cursor"),
        ("/api/v1/topology", {"format": "dot"}, "format"),
        ("/api/v1/outbox", {"limit": "many"}, "limit"),
    ):
        assert (await site.json(path, status=400, **query))["where"] == where


async def test_what_memory_dropped_comes_from_the_store(shop: TestSite) -> None:
    """An incident that the projection forgot is still read with its alerts."""
    shop.projection.load([], [], [])

    found = await shop.json(f"/api/v1/incidents/{SHOP}")

    assert (found["id"], len(found["members"])) == (SHOP, 5)


async def test_every_alert_tells_where_it_is_and_why(shop: TestSite) -> None:
    """Alerts of an incident and of none, page by page, filtered by service; each with its reason."""
    _, alerts = shop_incident()
    labels = {"alertname": "Flapping", "service": "search"}
    alone = replace(alerts[0], fingerprint="f" * 16, labels=labels, service="search", incident="", group_reason="flaps")
    await shop.door.keep([Upsert(item=alone)])
    seen, cursor = [], ""
    while True:
        page = await shop.json("/api/v1/alerts", limit="2", **({"cursor": cursor} if cursor else {}))
        seen += [a["fingerprint"] for a in page["alerts"]]
        cursor = page["next"]
        if not cursor:
            break

    assert seen == sorted([*(a.fingerprint for a in alerts), alone.fingerprint])
    (found,) = (await shop.json("/api/v1/alerts", incident="none"))["alerts"]
    assert (found["labels"], found["reason"], found["incident"]) == (labels, "flaps", "")
    assert len((await shop.json("/api/v1/alerts", incident=SHOP, service="payments"))["alerts"]) == 2


async def test_the_timeline_holds_what_belongs_to_no_incident(shop: TestSite) -> None:
    """Who silenced what is found, newest first."""
    silence = {
        "comment": "disk swap",
        "createdBy": "maria",
        "startsAt": rfc3339(START),
        "endsAt": rfc3339(START + 60),
        "matchers": [{"name": "a", "value": "b", "isRegex": False}],
    }
    await shop.post("/api/v2/silences", silence)

    entries = (await shop.json("/api/v1/timeline", limit="3"))["timeline"]

    assert (entries[0]["kind"], entries[0]["actor"], "disk swap" in entries[0]["text"]) == ("silence", "maria", True)
    assert (len(entries), entries[1]["incident"]) == (3, SHOP)


@pytest.mark.parametrize(("chunk", "most"), [(state.CHUNK, state.SCANNED), (5, 12)])
async def test_the_timeline_is_searched_and_paged(
    site: TestSite, monkeypatch: pytest.MonkeyPatch, chunk: int, most: int
) -> None:
    """Who said what is found by kind, person and incident; pages join without a gap, however little is read at once."""
    monkeypatch.setattr(state, "CHUNK", chunk)
    monkeypatch.setattr(state, "SCANNED", most)
    entries = [
        AuditEntry(
            incident=f"i{n % 2}", stamp=START + n // 7, kind="verdict" if n % 3 else "root", text=f"{n}", actor=who
        )
        for n, who in ((n, "ann" if n % 5 else "bob") for n in range(60))
    ]
    await site.door.keep([Audit(entry=e) for e in entries])

    for query, wanted in (
        ({}, entries),
        ({"kind": "verdict"}, [e for e in entries if e.kind == "verdict"]),
        (
            {"kind": ["root", "silence"], "incident": "i1"},
            [e for e in entries if (e.kind, e.incident) == ("root", "i1")],
        ),
        ({"actor": "bob", "kind": "verdict,root"}, [e for e in entries if e.actor == "bob"]),
        ({"actor": "eve"}, []),
    ):
        found, cursor = [], ""
        while True:
            page = await site.json("/api/v1/timeline", **query, limit="4", **({"cursor": cursor} if cursor else {}))
            assert len(page["timeline"]) <= 4
            found += [e["text"] for e in page["timeline"]]
            cursor = page["next"]
            if not cursor:
                break
        assert found == [e.text for e in reversed(wanted)], query
    assert (await site.json("/api/v1/timeline", status=400, cursor="x"))["where"] == "cursor"


async def test_a_refused_body_names_the_field(site: TestSite) -> None:
    """What is missing, unknown or no such word is named, and for a word what it may be."""
    one = await opened(site)
    for body, where, said in (
        ({}, "actor", "missing"),
        ({"actor": "me", "untl": 1}, "untl", "unknown"),
        ({"actor": 5}, "actor", "str"),
    ):
        told = await site.post(f"/api/v1/incidents/{one}/ack", body, status=400)
        assert (told["where"], said in told["message"]) == (where, True)
    told = await site.post(f"/api/v1/incidents/{one}/verdict", {"kind": "root", "actor": "me"}, status=400)
    assert told["message"] == "Invalid enum value 'root', expected one of: cause, split, merge, noise"
    window = {"actor": "me", "matchers": [{"name": "a"}], "ends_at": "2100-01-01T00:00:00Z"}
    assert (await site.post("/api/v1/maintenance", window, status=400))["where"] == "matchers[0].value"


async def test_the_end_of_a_silence_is_told_as_one(site: TestSite) -> None:
    """Who reads the timeline tells a silence that was asked for from one that was taken back."""
    silence = {"comment": "swap", "createdBy": "maria", "startsAt": rfc3339(START), "endsAt": rfc3339(START + 3600)}
    silence |= {"matchers": [{"name": "a", "value": "b", "isRegex": False}]}
    key = (await site.post("/api/v2/silences", silence))["silenceID"]
    site.clock.now += 60
    async with site.http.delete(f"/api/v2/silence/{key}") as answer:
        assert answer.status == 200

    ended, asked = (await site.json("/api/v1/timeline", kind="silence"))["timeline"]
    assert ended["text"] == f'{{a="b"}} ended: swap ({key})'
    assert asked["text"].startswith('{a="b"} until ')


# --------------------------------------------------------------------------- commands


async def test_an_incident_is_taken_and_resolved(site: TestSite) -> None:
    """Ack then resolve on the real stage: each answer and the next read show the new state, the timeline says who."""
    key = await opened(site)
    until = datetime.fromtimestamp(START + 3600, UTC).isoformat()

    acked = await site.post(f"/api/v1/incidents/{key}/ack", {"actor": "maria", "comment": "on it", "until": until})
    assert (acked["state"], acked["acked_by"], acked["ack_until"]) == (
        "acknowledged",
        "maria",
        rfc3339(START + 3600).replace(".000", ""),
    )
    resolved = await site.post(f"/api/v1/incidents/{key}/resolve", {"actor": "maria"})
    assert resolved["state"] == "resolved"
    detail = await site.json(f"/api/v1/incidents/{key}")

    assert detail["state"] == "resolved"
    assert [(t["kind"], t["actor"]) for t in detail["timeline"] if t["actor"]] == [
        ("ack", "maria"),
        ("resolved", "maria"),
    ]


async def test_commands_that_cannot_be_are_refused(site: TestSite) -> None:
    """404 for an unknown incident, 409 for an illegal move, 400 and 415 for a bad body, each with its place."""
    key = await opened(site)
    me = {"actor": "me"}

    assert (await site.post("/api/v1/incidents/nope/ack", me, status=404))["where"] == "id"
    assert (await site.post(f"/api/v1/incidents/{key}/ack", {"actor": " "}, status=400))["where"] == "actor"
    assert (await site.post(f"/api/v1/incidents/{key}/ack", {}, status=400))["message"].count("actor") == 1
    assert (await site.post(f"/api/v1/incidents/{key}/ack", {**me, "x": 1}, status=400))["message"].count("`x`") == 1
    assert (await site.post(f"/api/v1/incidents/{key}/ack", {**me, "until": rfc3339(START - 9)}, status=400))[
        "where"
    ] == "until"
    naive = {**me, "until": "2030-01-01T00:00:00"}
    assert (await site.post(f"/api/v1/incidents/{key}/ack", naive, status=400))["where"] == "until"
    async with site.http.post(f"/api/v1/incidents/{key}/ack", data=b'{"actor":"me"}') as answer:
        assert answer.status == 415
    await site.post(f"/api/v1/incidents/{key}/resolve", me)
    for verb in ("ack", "resolve"):
        error = await site.post(f"/api/v1/incidents/{key}/{verb}", me, status=409)
        assert (error["where"], "resolved" in error["message"]) == ("state", True)
    site.door.refusal = Full("disk")
    await site.post("/api/v1/incidents/nope/ack", me, status=404)
    assert not [b for b in site.door.bodies if isinstance(b, AckIncident)]


async def test_verdicts_are_checked_and_kept(site: TestSite) -> None:
    """Each kind asks for what it needs; a good one is in the journal with its request id."""
    one, other = await opened(site, "Slow"), await opened(site, "Full")
    path = f"/api/v1/incidents/{one}/verdict"
    for body, where in (
        ({"kind": "cause"}, "service"),
        ({"kind": "merge"}, "other"),
        ({"kind": "merge", "other": one}, "other"),
        ({"kind": "merge", "other": "nope"}, "other"),
        ({"kind": "split"}, "fingerprints"),
        ({"kind": "split", "fingerprints": ["nope"]}, "fingerprints"),
        ({"kind": "guess"}, "kind"),
    ):
        assert (body, (await site.post(path, {**body, "actor": "me"}, status=400))["where"]) == (body, where)
    assert await site.post("/api/v1/incidents/nope/verdict", {"kind": "noise", "actor": "me"}, status=404)

    await site.post(path, {"kind": "cause", "service": "db", "actor": "me"}, headers={"Idempotency-Key": "k1"})

    (verdict,) = [b for b in site.door.bodies if isinstance(b, Verdict)]
    assert (verdict.request_id, verdict.incident, verdict.service) == ("k1", one, "db")
    assert other != one


async def test_a_verdict_is_answered_with_what_it_changed(site: TestSite) -> None:
    """Who says what was wrong reads what followed at once; of a name that nothing has, what it may have meant."""
    edges = [{"caller": "web", "callee": "search"}, {"caller": "shop", "callee": "till"}]
    await site.post("/api/v1/topology", {"source": "me", "edges": edges}, status=204)
    one = await opened(site, "search")
    assert await opened(site, "web") == one
    site.clock.now += 5
    await site.door.submit([Tick()])
    path = f"/api/v1/incidents/{one}/verdict"

    said = await site.post(path, {"kind": "cause", "service": "web", "actor": "ann"})
    told = [d["text"] for d in said["decisions"]]
    assert (said["cause"]["service"], said["hint"]) == ("web", "")
    assert told[0] == "named web as the cause, where we named search"
    assert told[1].startswith("probable root cause: web")
    said = await site.post(path, {"kind": "cause", "service": "saerch", "actor": "ann"})
    assert said["hint"] == "nothing here or in the graph is called saerch: did you mean search?"


async def test_a_pod_is_shown_as_its_service(site: TestSite) -> None:
    """An alert that no rule maps to a service is found under the one that its pod's name tells, and affects it."""
    await site.post("/api/v1/topology", {"edges": [{"caller": "web", "callee": "search"}]}, status=204)
    labels = {"alertname": "PodCrashLooping", "pod": "search-7d9f8b6c5d-x2x4z", "severity": "critical"}
    await site.post("/api/v2/alerts", [{"labels": labels}])

    (alert,) = (await site.json("/api/v1/alerts", service="search"))["alerts"]
    assert alert["labels"] == labels
    assert (await site.json(f"/api/v1/incidents/{alert['incident']}"))["services"] == ["search"]


async def test_verdicts_say_in_the_timeline_what_they_were_about(site: TestSite) -> None:
    """Who said that which incidents are one, and which alerts belong elsewhere, is read without looking up ids."""
    one, other = await opened(site, "Slow"), await opened(site, "Full")
    path = f"/api/v1/incidents/{one}/verdict"

    said = await site.post(path, {"kind": "merge", "other": other, "actor": "ann"})
    assert said["decisions"][0]["text"] == f"said that it is one with Full on Full ({other})"
    living = said["merged_into"] or one
    (alert,) = (await site.json("/api/v1/alerts", service="Full"))["alerts"]
    body = {"kind": "split", "fingerprints": [alert["fingerprint"]], "actor": "ann"}
    said = await site.post(f"/api/v1/incidents/{living}/verdict", body)
    assert said["decisions"][0]["text"] == "said that these belong elsewhere: Full (Full)"
    assert any(d["kind"] == "opened" for d in said["decisions"])


# --------------------------------------------------------------------------- graph, outbox, status


async def test_the_graph_is_json_and_graphml(shop: TestSite) -> None:
    """Both forms hold every edge."""
    graph = await shop.json("/api/v1/topology")
    assert {"confidence", "first_seen", "last_seen", "stale_at", "sources"} <= set(graph["edges"][0])
    assert datetime.fromisoformat(graph["edges"][0]["first_seen"]).timestamp() == START
    async with shop.http.get("/api/v1/topology", params={"format": "graphml"}) as answer:
        assert answer.content_type == "application/graphml+xml"
        root = ET.fromstring(await answer.text())

    pairs = {(e["caller"], e["callee"]) for e in graph["edges"]}
    names = "{http://graphml.graphdrawing.org/xmlns}edge"
    assert ("payments", "payments-db") in pairs
    assert pairs == {(e.get("source"), e.get("target")) for e in root.iter(names)}


async def test_an_edge_says_what_trouble_showed_of_it(shop: TestSite) -> None:
    """How often it crossed, of how many, and after what time; what nobody saw says nothing."""
    passages = shop.stage.grouper.passages
    passages.crossed("payments-db", "payments", True, 40.0, 1.0)
    passages.crossed("payments-db", "payments", True, 60.0, 1.0)
    passages.stayed("payments-db", "payments", True, 1.0)
    passages.stayed("payments", "payments-db", False, 1.0)

    learned = {(e["caller"], e["callee"]): e["learned"] for e in (await shop.json("/api/v1/topology"))["edges"]}
    async with shop.http.get("/api/v1/topology", params={"format": "graphml"}) as answer:
        text = await answer.text()

    assert learned.pop(("payments", "payments-db")) == {"climbs": {"troubles": 3.0, "crossed": 2.0, "delay": 50.0}}
    assert set(map(bool, learned.values())) == {False}
    names = re.findall(r'attr\.name="((?:climbs|runs_down)_\w+)"', text)
    assert sorted(names) == ["climbs_crossed", "climbs_delay", "climbs_troubles"]


async def test_the_outbox_shows_what_waits_and_what_failed(shop: TestSite) -> None:
    """A pending row, then the failed one with its error; a delivered one is not shown."""
    (row,) = await shop.store.outbox()
    assert [d["state"] for d in (await shop.json("/api/v1/outbox"))["deliveries"]] == ["pending"]
    await shop.store.mark(row.seq, "failed", attempts=3, error="clientError: 400", at=START)
    (failed,) = (await shop.json("/api/v1/outbox"))["deliveries"]
    assert (failed["state"], failed["attempts"], failed["error"]) == ("failed", 3, "clientError: 400")
    await shop.store.mark(row.seq, "delivered", at=START)
    assert (await shop.json("/api/v1/outbox"))["deliveries"] == []


async def test_the_status_names_the_maintenance_in_force() -> None:
    """Whoever wonders why nothing is said finds the window that is the reason."""
    rule = "{name: load test, match: {service: db}, start: 2000-01-01T00:00:00Z, end: 2100-01-01T00:00:00Z}"
    async with running(f"detect: {{maintenance: [{rule}]}}") as site:
        assert (await site.json("/api/v1/status"))["maintenance"] == ["load test"]


async def test_a_quiet_alert_has_a_group_and_a_reason(site: TestSite) -> None:
    """What fires by itself all the time opens no incident; where it is, and why, is told wherever alerts are."""
    labels = {"alertname": "CertExpires", "service": "edge"}
    for _ in range(12):
        await site.post("/api/v2/alerts", [{"labels": labels}])
        site.clock.now += 60
        await site.post("/api/v2/alerts", [{"labels": labels, "endsAt": rfc3339(site.clock.now)}])
        site.clock.now += 1740
    await site.post("/api/v2/alerts", [{"labels": labels}])
    (alert,) = (await site.json("/api/v1/alerts", incident="none"))["alerts"]
    (same,) = await site.json("/api/v2/alerts")
    async with site.http.get("/alerts", headers={"Accept": "text/html"}) as answer:
        page = await answer.text()

    assert alert["incident"] == ""
    assert alert["group"]
    assert alert["reason"]
    assert same["aiopsd"] == {k: alert[k] for k in ("incident", "group", "reason")}
    assert alert["reason"] in html.unescape(page)
    assert alert["group"][:8] in page


async def test_changes_of_the_graph_are_told(shop: TestSite) -> None:
    """Which edges came and went, when and by whose word, newest first."""
    await shop.door.submit([TopologyUpdate(source="mesh", edges=(Edge(caller="web", callee="new"),))])
    newest, *_ = (await shop.json("/api/v1/topology/changes"))["changes"]
    line = next(e for e in (await shop.json("/api/v1/timeline"))["timeline"] if e["kind"] == "topology")

    assert newest["source"] == "mesh"
    assert newest["added"] == [{"caller": "web", "callee": "new"}]
    assert newest["new_nodes"] == ["new", "web"]
    assert line["text"] == "1 edge added, 0 removed: + web -> new"
    assert line["reason"] == "mesh"


async def test_the_status_shows_positions_and_not_the_configuration(shop: TestSite) -> None:
    """Journal positions, figures and what we wait for; the configuration's text, with its secrets, stays inside."""
    shop.door.waits = {"source orders": "broker away"}

    status = await shop.json("/api/v1/status")

    assert status["journal"] == {"end": 1, "committed": 0}
    assert status["waiting_for"] == {"source orders": "broker away"}
    assert status["figures"]["incidents"]["open"] == 1
    assert "hunter2" not in str(status)


# --------------------------------------------------------------------------- management


async def test_ready_says_what_it_waits_for(site: TestSite) -> None:
    """503 with the reasons until there are none; healthy all the while; HEAD as GET."""
    site.door.waits = {"daemon": "recovering"}
    error = await site.json("/-/ready", status=503)
    assert error["waiting_for"] == {"daemon": "recovering"}
    for path in ("/-/healthy", "/-/ready"):
        site.door.waits = {}
        async with site.http.get(path) as answer:
            assert (answer.status, await answer.text()) == (200, "OK")
        async with site.http.head(path) as answer:
            assert answer.status == 200


async def test_reload_answers_with_the_reason(site: TestSite) -> None:
    """POST reloads, a bad configuration is 500 with its key, GET is 405."""
    await site.post("/-/reload")
    assert site.door.reloads == 1
    site.door.refusal = ConfigError("unknown field `pol`", "$.http")
    error = await site.post("/-/reload", status=500)
    assert (error["where"], "unknown field `pol`" in error["message"]) == ("$.http", True)
    assert (await site.json("/-/reload", status=405))["code"] == 405


async def test_metrics_count_requests_by_route(site: TestSite) -> None:
    """One series per route template, not per path; unknown paths share one; karma's version is there."""
    for path in ("/api/v1/incidents/a", "/api/v1/incidents/b", "/nowhere/1", "/nowhere/2"):
        await site.json(path, status=404)
    async with site.http.request("PROPFIND", "/api/v1/incidents") as answer:
        assert answer.status == 405

    async with site.http.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text = await answer.text()

    assert re.search(r'http_requests_total\{method="GET",route="/api/v1/incidents/\{id\}",status="404"\} 2', text)
    assert re.search(r'http_requests_total\{method="GET",route="unknown",status="404"\} 2', text)
    assert 'method="other"' in text
    assert "PROPFIND" not in text
    assert 'alertmanager_build_info{version="0.28.0"} 1' in text


@pytest.mark.parametrize(("accepted", "sent"), [("gzip", "gzip"), ("gzip, deflate, br", "gzip"), ("br", ""), ("", "")])
async def test_metrics_are_compressed_for_who_takes_it(site: TestSite, accepted: str, sent: str) -> None:
    """Prometheus asks for gzip; the content is the same either way."""
    async with site.http.get("/metrics", headers={"Accept-Encoding": accepted}) as answer:
        assert answer.headers.get("Content-Encoding", "") == sent
        assert "alertmanager_build_info" in await answer.text()


async def test_writes_need_the_token() -> None:
    """With a token every write without it is 401 and does nothing; reads stay open; the right one is taken."""
    async with running("http: {token: s3cret}") as site:
        for path in (
            *("/api/v1/write", "/api/v1/metrics", "/api/v1/alertmanager", "/api/v1/topology", "/api/v1/changes"),
            *("/api/v2/alerts", "/api/v2/silences", "/-/reload", "/api/v1/incidents/x/ack"),
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
                async with site.http.post(path, json=[], headers=headers) as answer:
                    assert (path, answer.status) == (path, 401)
                    assert (await answer.json())["code"] == 401
        async with site.http.delete("/api/v2/silence/11111111-1111-1111-1111-111111111111") as answer:
            assert answer.status == 401
        assert (site.door.bodies, site.door.reloads) == ([], 0)
        await site.post("/api/v2/alerts", ALERT, headers=TOKEN)
        assert len(await site.json("/api/v2/alerts")) == 1


async def test_everything_lives_below_the_prefix() -> None:
    """With a route prefix every link and route has it, and nothing answers outside."""
    async with running("http: {route_prefix: /ops/}") as site:
        await site.door.keep(shop_effects())
        for path in ("/ops/", "/ops", "/ops/-/ready", "/ops/metrics", "/ops/api/v2/status", "/ops/api/v1/incidents"):
            async with site.http.get(path) as answer:
                assert (path, answer.status) == (path, 200)
        async with site.http.get("/ops/") as answer:
            text = await answer.text()
        assert {link[:5] for link in re.findall('(?:href|src)="(/[^"]*)"', text)} == {"/ops/"}
        await site.json("/api/v2/status", status=404)
        assert (await site.json("/ops/api/v1/incidents"))["incidents"][0]["url"].endswith(f"/ops/incidents/{SHOP}")


def test_the_document_is_valid_and_complete(site: TestSite) -> None:
    """OpenAPI 3.1: every reference resolves, every schema is one, every route of the API is described."""
    app = site.build()
    document = openapi.document("0.0.0")

    defined = set(document["components"]["schemas"])
    references = set(re.findall(r"'#/components/schemas/([^']+)'", str(document)))
    assert references <= defined
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    described = {(verb, path) for path, verbs in document["paths"].items() for verb in verbs}
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/api/v1/") and route.method != "HEAD"
    }
    others = {("post", "/api/v1/otlp/v1/metrics")}  # Prometheus' path of OpenTelemetry's own API
    assert served - described == {("get", "/api/v1/openapi.json"), *others}
    assert described <= served
    assert all(v["operationId"] and v["summary"] for verbs in document["paths"].values() for v in verbs.values())


async def test_answers_are_what_the_document_says(shop: TestSite) -> None:
    """The answers of list, detail, outbox and an error validate against their schemas in the served document."""
    document = await shop.json("/api/v1/openapi.json")
    assert document["openapi"] == "3.1.0"
    for path, template, query, status in (
        ("/api/v1/incidents", "/api/v1/incidents", {}, "200"),
        (f"/api/v1/incidents/{SHOP}", "/api/v1/incidents/{id}", {}, "200"),
        ("/api/v1/alerts", "/api/v1/alerts", {}, "200"),
        ("/api/v1/timeline", "/api/v1/timeline", {}, "200"),
        ("/api/v1/outbox", "/api/v1/outbox", {}, "200"),
        ("/api/v1/incidents", "/api/v1/incidents", {"limit": "x"}, "400"),
    ):
        content = document["paths"][template]["get"]["responses"][status]["content"]
        schema = {**content["application/json"]["schema"], "components": document["components"]}
        jsonschema.validate(await shop.json(path, status=int(status), **query), schema)


# --------------------------------------------------------------------------- parts


def test_listen_addresses_are_read() -> None:
    """host:port, :port and [v6]:port; anything else names the key."""
    assert split_listen("127.0.0.1:9095") == ("127.0.0.1", 9095)
    assert split_listen(":0") == (None, 0)
    assert split_listen("[::1]:80") == ("::1", 80)
    for wrong in ("localhost", "a:b", "1:2:3", "h:70000"):
        with pytest.raises(ConfigError, match=r"\$\.http\.listen"):
            split_listen(wrong)


def test_times_are_written_for_go() -> None:
    """What no calendar holds is written as Go's zero time, the rest with milliseconds."""
    assert rfc3339(START) == "2026-09-21T14:13:20.000Z"
    assert rfc3339(253402300799.0) == "9999-12-31T23:59:59.000Z"
    assert {rfc3339(t) for t in (0.0, float("nan"), float("inf"), 1e300, -1e12)} == {"0001-01-01T00:00:00.000Z"}


async def test_the_gate_bounds_what_runs_and_what_waits(site: TestSite) -> None:
    """Two run, sixteen wait, the next is told 503 at once; who waits too long is told 503; all is counted."""
    gate = Gate("metrics", 2, site.metrics)
    leave, inside = asyncio.Event(), 0

    async def one() -> None:
        nonlocal inside
        async with gate.place(10.0):
            inside += 1
            await leave.wait()
            inside -= 1

    async with asyncio.TaskGroup() as tasks:
        for n in range(18):
            tasks.create_task(one(), name=f"one-{n}")
        await asyncio.sleep(0)  # every task runs until it waits
        assert (inside, gate.waiting) == (2, 16)
        with pytest.raises(Problem, match="too many") as refused:
            async with gate.place(10.0):
                pass
        assert refused.value.status == 503
        leave.set()
    async with gate.place(1.0), gate.place(1.0):
        with pytest.raises(Problem, match="no free place"):
            async with gate.place(0.01):
                pass
    full = site.metrics.registry.get_sample_value("aiopsd_queue_full_total", {"queue": "metrics"})
    assert full == 18
    assert (gate.waiting, inside) == (0, 0)


async def test_a_bug_is_500_and_the_site_lives_on(site: TestSite, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is an answer that tells nothing of the inside; the next request is served."""
    site.door.refusal = RuntimeError("secret detail")
    error = await site.post("/-/reload", status=500)
    assert "secret detail" not in error["message"]
    await site.json("/api/v1/incidents")


def test_the_reference_lists_every_route(site: TestSite) -> None:
    """docs/reference/http-api.md names each route of the application with its methods."""
    text = (Path(__file__).parents[2] / "docs/reference/http-api.md").read_text(encoding="utf-8")
    missing = []
    for route in site.build().router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method in ("HEAD", "OPTIONS") or path == "/incidents/{id}/{verb}":
            continue
        if not re.search(rf"`[^`]*\b{route.method}\b[^|.]*{re.escape(path)}[`?]", text):
            missing.append((route.method, path))

    assert missing == []


# --------------------------------------------------------------------------- planned work

LOAD_TEST = {
    "actor": "ann",
    "matchers": [{"name": "service", "value": "pay|cart", "is_regex": True}],
    "ends_at": "2026-09-21T16:00:00Z",
    "comment": "load test",
}


async def test_planned_work_is_announced_read_and_ended(site: TestSite) -> None:
    """A read after the write sees it; the status, the first page and the timeline name it until it is over."""
    made = await site.post("/api/v1/maintenance", LOAD_TEST)
    assert (made["state"], made["starts_at"], made["ends_at"]) == (
        "active",
        "2026-09-21T14:13:20Z",
        LOAD_TEST["ends_at"],
    )
    assert made["matchers"] == [{"name": "service", "value": "pay|cart", "is_regex": True, "is_equal": True}]
    assert (await site.json("/api/v1/maintenance"))["windows"] == [made]
    assert await site.json(f"/api/v1/maintenance/{made['id']}") == made
    assert (await site.json("/api/v1/status"))["maintenance"] == ["load test"]
    async with site.http.get("/", headers={"Accept": "text/html"}) as page:
        text = html.unescape(await page.text())
        assert 'service=~"pay|cart"' in text
        assert "until 16:00:00" in text

    site.clock.now += 60
    path = f"/api/v1/maintenance/{made['id']}"
    async with site.http.delete(path, params={"actor": "bob"}) as answer:
        assert (answer.status, (await answer.json())["ends_at"]) == (200, "2026-09-21T14:14:20Z")
    async with site.http.delete(path, params={"actor": "bob"}) as answer:
        assert (answer.status, (await answer.json())["state"]) == (200, "expired")
    assert (await site.json("/api/v1/status"))["maintenance"] == []
    lines = [(e["kind"], e["actor"]) for e in (await site.json("/api/v1/timeline"))["timeline"]]
    assert lines == [("maintenance", "bob"), ("maintenance", "ann")]


async def test_a_retried_announcement_is_one_window(site: TestSite) -> None:
    """The same Idempotency-Key and body make one window, also when the first answer was lost."""
    key = {"Idempotency-Key": "k1"}
    one = await site.post("/api/v1/maintenance", LOAD_TEST, headers=key)
    site.clock.now += 5
    assert await site.post("/api/v1/maintenance", LOAD_TEST, headers=key) == one
    assert len((await site.json("/api/v1/maintenance"))["windows"]) == 1
    await site.post("/api/v1/maintenance", LOAD_TEST)
    assert len((await site.json("/api/v1/maintenance"))["windows"]) == 2


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"actor": " "}, "actor"),
        ({"matchers": []}, "matchers"),
        ({"matchers": [{"name": "a", "value": "(", "is_regex": True}]}, "matchers[0].value"),
        ({"matchers": [{"name": "a", "value": "b", "isRegex": True}]}, "matchers[0].isRegex"),
        ({"matchers": [{"name": "a", "value": ".*", "is_regex": True}]}, "matchers"),
        ({"ends_at": "2026-09-21T16:00:00"}, "ends_at"),
        ({"ends_at": "2026-09-21T14:00:00Z"}, "ends_at"),
        ({"ends_at": "soon"}, "ends_at"),
    ],
)
async def test_planned_work_that_means_nothing_is_refused(site: TestSite, change: dict[str, Any], where: str) -> None:
    """400 with the field; nothing is written."""
    error = await site.post("/api/v1/maintenance", LOAD_TEST | change, status=400)
    assert error["where"] == where
    assert site.door.bodies == []


async def test_unknown_planned_work_is_404(site: TestSite) -> None:
    """Reading and ending what is not there is 404; ending needs an actor."""
    assert (await site.json("/api/v1/maintenance/x", status=404))["where"] == "id"
    made = await site.post("/api/v1/maintenance", LOAD_TEST)
    for path, status in (("/api/v1/maintenance/x?actor=a", 404), (f"/api/v1/maintenance/{made['id']}", 400)):
        async with site.http.delete(path) as answer:
            assert answer.status == status
