"""The pages: everything of an incident is there, everything hostile is text, forms come from us only."""

from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from aiopsd.model import Audit, AuditEntry, Candidate, ChangeEvent, Evidence, IncidentState, Link, Upsert, Verdict
from aiopsd.projection import LIVE
from aiopsd.testing.web import START, TestSite, running, shop_effects, shop_incident, shop_topology
from aiopsd.web.site import rfc3339

SHOP = "4f1c09d2ab7e6531"
PAGE = {"Accept": "text/html"}
EVIL = "</title></textarea>\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"


class Parsed(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


async def page(site: TestSite, path: str, status: int = 200) -> Parsed:
    async with site.http.get(path, headers=PAGE) as answer:
        assert answer.status == status
        assert answer.content_type == "text/html"
        return Parsed(await answer.text())


@pytest.fixture
async def shop() -> AsyncIterator[TestSite]:
    async with running(now=START + 600) as started:
        await started.door.submit([shop_topology()])
        await started.door.keep(shop_effects())
        yield started


async def test_the_index_shows_what_is_open(shop: TestSite) -> None:
    """Severity, title, cause with confidence, since, services, state; it refreshes by itself, without script."""
    shown = await page(shop, "/")

    for word in ("critical", "payments-db", "86%", "10m", "checkout", "open", "1 open · aiopsd"):
        assert word in shown.text
    assert ("meta", "content", "15") in shown.attributes
    assert "script" not in shown.tags


async def test_the_index_is_calm_when_nothing_is_open() -> None:
    """An empty site says so, and what it still waits for."""
    async with running() as site:
        site.door.waits = {"source orders": "broker away"}
        shown = await page(site, "/")

    assert "Nothing is open." in shown.text
    assert "broker away" in shown.text


async def test_failed_deliveries_are_loud(shop: TestSite) -> None:
    """A page that never reached anybody is on the first page, with receiver and error."""
    (row,) = await shop.store.outbox()
    await shop.store.mark(row.seq, "failed", attempts=9, error="authError: 403", at=START)

    shown = await page(shop, "/")

    assert "1 delivery failed for good." in shown.text
    assert "oncall/pagerduty[0] : authError: 403" in shown.text


async def test_an_incident_page_leads_from_symptom_to_cause(shop: TestSite) -> None:
    """Chain, evidence, graph, alerts with reasons, pages sent and timeline are all on it."""
    shown = await page(shop, f"/incidents/{SHOP}")

    for word in (
        *("Probable root cause", "From symptom to cause", "91% explained", "Around it", "Evidence", "left normal"),
        *(
            "calls payments-db, 40 s apart",
            "oncall/pagerduty[0]",
            "first notification",
            "group_interval has not passed",
        ),
        *("max_connections 400 to 60", "fraud-check", "above by"),
    ):
        assert word in shown.text
    drawn = [value for tag, name, value in shown.attributes if tag == "svg" and name == "class"]
    assert (drawn.count("series"), drawn.count("graph")) == (3, 1)
    assert ("a", "href", "https://runbooks.example/payments-db") in shown.attributes


async def test_the_head_says_whether_a_page_arrived(shop: TestSite) -> None:
    """On its way, arrived, or failed: never "paged" for a page that nobody got."""
    (row,) = await shop.store.outbox()
    assert "page on its way" in (await page(shop, f"/incidents/{SHOP}")).text
    await shop.store.mark(row.seq, "failed", attempts=9, error="authError: 403", at=START)
    assert "page failed" in (await page(shop, f"/incidents/{SHOP}")).text
    await shop.store.mark(row.seq, "delivered", at=START)
    assert "opened 14:13:40 · paged" in (await page(shop, f"/incidents/{SHOP}")).text


async def test_an_open_incident_says_that_nothing_fires_any_more(shop: TestSite) -> None:
    """Since when, and when it resolves unless something comes back: on its page and in the list."""
    incident, _ = shop_incident()
    assert "nothing fires" not in (await page(shop, "/")).text.lower()
    await shop.door.keep([Upsert(item=replace(incident, firing=0, quiet_since=START + 60))])

    told = "Nothing fires since 14:14:20 ; resolves at 14:19:20 unless something comes back."
    assert told.replace(" ;", ";") in (await page(shop, f"/incidents/{SHOP}")).text.replace(" ;", ";")
    assert "nothing fires since 14:14:20, resolves at 14:19:20" in (await page(shop, "/")).text


async def test_a_resolved_incident_has_no_buttons(shop: TestSite) -> None:
    """What cannot be taken any more offers nothing but to say whether it was right, and does not refresh."""
    incident, _ = shop_incident()
    await shop.door.keep([Upsert(item=replace(incident, state=IncidentState.RESOLVED, resolved_at=START + 500))])

    shown = await page(shop, f"/incidents/{SHOP}")

    assert [value for tag, name, value in shown.attributes if (tag, name) == ("form", "action")] == [
        f"/incidents/{SHOP}/verdict"
    ]
    assert "script" not in shown.tags
    assert "lasted 8m 20s" in shown.text


async def test_hostile_content_is_text(shop: TestSite) -> None:
    """Markup in every field that comes from outside stays text: no tag, no handler, no javascript link."""
    incident, alerts = shop_incident()
    link = Link(symptom=EVIL, cause=EVIL, edge=EVIL, text=EVIL, share=0.5)
    signal = Evidence(
        service=EVIL, metric=EVIL, kind=EVIL, channel=EVIL, labels={EVIL: EVIL}, recent=((1.0, 1.0), (2.0, 2.0))
    )
    change = ChangeEvent(
        id=EVIL, service=EVIL, kind=EVIL, ts=START, summary=EVIL, version=EVIL, actor=EVIL, link="javascript:alert(3)"
    )
    root = Candidate(
        service=EVIL, kind=EVIL, metric=EVIL, reason=EVIL, chain=(link,), evidence=(signal,), changes=(change,)
    )
    await shop.door.keep(
        [
            Upsert(
                item=replace(
                    incident,
                    title=EVIL,
                    severity=EVIL,
                    services=(EVIL, "db"),
                    roots=(root, root),
                    runbook="javascript:alert(4)",
                    acked_by=EVIL,
                    state=IncidentState.ACKNOWLEDGED,
                    merged_from=(EVIL,),
                )
            ),
            Upsert(
                item=replace(
                    alerts[0],
                    labels={"alertname": EVIL, EVIL: EVIL},
                    annotations={"summary": EVIL},
                    service=EVIL,
                    group_reason=EVIL,
                    generator_url="javascript:alert(5)",
                )
            ),
            Audit(entry=AuditEntry(incident=SHOP, stamp=START, kind=EVIL, text=EVIL, reason=EVIL, actor=EVIL)),
        ]
    )
    for path in ("/", f"/incidents/{SHOP}"):
        shown = await page(shop, path)

        assert "alert(1)" in shown.text
        assert "{{7*7}}" in shown.text
        assert all(value != "x" for tag, name, value in shown.attributes if tag == "img")
        scripts = [value for tag, name, value in shown.attributes if tag == "script" and name == "src"]
        assert scripts in ([], ["/static/refresh.js"])
        assert shown.tags.count("script") == len(scripts)
        assert not [a for a in shown.attributes if a[1].startswith("on")]
        assert not [a for a in shown.attributes if a[1] in ("href", "src", "action") and "javascript:" in a[2].lower()]


async def test_script_cannot_run_even_if_it_got_in(shop: TestSite) -> None:
    """The policy of every page allows our own files only."""
    async with shop.http.get("/") as answer:
        policy = answer.headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


OURS = {"Sec-Fetch-Site": "same-origin"}


async def test_the_buttons_ack_and_resolve() -> None:
    """The forms act on the real stage, answer with the page, and remember who you are."""
    async with running() as site:
        await site.post("/api/v2/alerts", [{"labels": {"alertname": "A", "service": "db", "severity": "critical"}}])
        (incident,) = site.projection.incidents()
        form = {"actor": "maria", "comment": "looking"}
        async with site.http.post(f"/incidents/{incident.id}/ack", data=form, headers=OURS | PAGE) as answer:
            assert (answer.status, str(answer.url)) == (200, f"{site.url}/incidents/{incident.id}")
            shown = Parsed(await answer.text())
        assert "Taken by maria" in shown.text
        assert ("input", "value", "maria") in shown.attributes
        async with site.http.post(f"/incidents/{incident.id}/resolve", data=form, headers=OURS | PAGE) as answer:
            assert answer.status == 200
        assert site.projection.incidents()[0].state == "resolved"
        async with site.http.post(f"/incidents/{incident.id}/ack", data=form, headers=OURS | PAGE) as answer:
            assert answer.status == 409
            assert "resolved" in Parsed(await answer.text()).text


async def test_the_page_takes_a_verdict(shop: TestSite) -> None:
    """Every suspect can be named, the word is in the timeline at once, and what is no verdict is refused."""
    shown = await page(shop, f"/incidents/{SHOP}")
    assert "Was that right?" in shown.text
    assert "payments-db payments" in shown.text
    for form, status in (
        ({"actor": "ann", "kind": "cause", "service": "payments"}, 200),
        ({"actor": "ann", "kind": "noise"}, 200),
        ({"actor": "ann", "kind": "cause"}, 400),
        ({"actor": "ann", "kind": "split"}, 400),
        ({"actor": "ann", "kind": "merge"}, 400),
        ({"actor": "ann", "kind": "guess"}, 400),
        ({"kind": "noise"}, 400),
    ):
        async with shop.http.post(f"/incidents/{SHOP}/verdict", data=form, headers=OURS | PAGE) as answer:
            assert answer.status == status, form
    said = [b for b in shop.door.bodies if isinstance(b, Verdict)]

    assert [(v.kind, v.service, v.actor) for v in said] == [("cause", "payments", "ann"), ("noise", "", "ann")]


async def test_the_page_splits_and_merges_and_says_what_came_of_it() -> None:
    """Alerts that are marked go to an incident of their own, two incidents become one, and each answer says so."""
    async with running() as site:
        for name in ("Slow", "Full"):
            site.clock.now += 1
            alert = {"labels": {"alertname": name, "service": name, "severity": "critical"}}
            await site.post("/api/v2/alerts", [alert])
        first, second = sorted(site.projection.incidents(), key=lambda i: i.opened_at)
        form = {"actor": "ann", "kind": "merge", "other": first.id}
        async with site.http.post(f"/incidents/{second.id}/verdict", data=form, headers=OURS | PAGE) as answer:
            shown = Parsed(await answer.text())
            assert f"said that it is one with {first.title} ({first.id})" in shown.text
            assert "ann merged them" in shown.text
        (living,) = site.projection.incidents(states=LIVE)
        shown = await page(site, f"/incidents/{living.id}")
        marks = [v for tag, k, v in shown.attributes if tag == "input" and k == "value" and v in living.alerts]
        assert sorted(marks) == sorted(living.alerts)

        form = {"actor": "ann", "kind": "split", "fingerprint": marks[0]}
        async with site.http.post(f"/incidents/{living.id}/verdict", data=form, headers=OURS | PAGE) as answer:
            assert "What followed from it" in Parsed(await answer.text()).text
        assert len(site.projection.incidents(states=LIVE)) == 2


async def test_a_verdict_that_changes_nothing_says_so(shop: TestSite) -> None:
    """An operator who confirms reads that it is kept, and that nothing moves now."""
    form = {"actor": "ann", "kind": "noise"}
    async with shop.http.post(f"/incidents/{SHOP}/verdict", data=form, headers=OURS | PAGE) as answer:
        assert "Nothing changes here now; it counts the next time." in Parsed(await answer.text()).text


async def test_where_to_look_first_is_on_the_page(shop: TestSite) -> None:
    """Runbook, dashboard, owner and first look of the cause's alerts stand at the top, and with each alert."""
    incident, alerts = shop_incident()
    notes = {"dashboard": "https://g.example/db", "owner": "storage", "first_look": "pg_blocking_pids"}
    await shop.door.keep([Upsert(item=replace(alerts[0], annotations=notes)), Upsert(item=incident)])
    shown = await page(shop, f"/incidents/{SHOP}")

    assert "Owner: storage" in shown.text
    assert "First look: pg_blocking_pids" in shown.text
    links = [v for tag, k, v in shown.attributes if tag == "a" and k == "href"]
    assert links.count("https://g.example/db") == 2
    assert "https://runbooks.example/payments-db" in links


@pytest.mark.parametrize("where", ["alerts", "incident"])
async def test_why_nobody_is_told_of_an_alert_stands_beside_it(where: str) -> None:
    """Who silenced it and why, or which alert inhibits it: on the page of alerts and on the incident's."""
    rule = "{source_matchers: [alertname=Down], target_matchers: [alertname=Slow], equal: [service]}"
    async with running(f"inhibit_rules: [{rule}]") as site:
        named = [{"labels": {"alertname": n, "service": "db", "severity": "critical"}} for n in ("Down", "Slow", "Hot")]
        await site.post("/api/v2/alerts", named)
        silence = {
            "comment": "disk swap",
            "createdBy": "maria",
            "startsAt": rfc3339(START),
            "endsAt": rfc3339(START + 60),
        }
        await site.post(
            "/api/v2/silences", silence | {"matchers": [{"name": "alertname", "value": "Hot", "isRegex": False}]}
        )
        (incident,) = site.projection.incidents()
        shown = await page(site, "/alerts" if where == "alerts" else f"/incidents/{incident.id}")

    assert "silenced by maria: disk swap" in shown.text
    assert "inhibited by Down of db" in shown.text
    assert (shown.text.count("silenced by"), shown.text.count("inhibited by")) == (1, 1)


async def test_a_cause_is_shown_as_what_the_graph_says_it_is(shop: TestSite) -> None:
    """The ranking knows services, hosts and what is outside; a reader sees that it is a datastore."""
    incident, _ = shop_incident()
    roots = (replace(incident.roots[0], kind="service"), *incident.roots[1:])
    await shop.door.keep([Upsert(item=replace(incident, roots=roots))])

    assert "datastore payments-db" in (await page(shop, f"/incidents/{SHOP}")).text


async def test_incidents_go_by_their_titles(shop: TestSite) -> None:
    """The page of alerts names the incident of each, not a piece of its id."""
    shown = await page(shop, "/alerts")

    assert "payments-db: pg_stat_activity_waiting, 3 more affected" in shown.text
    assert SHOP[:8] not in shown.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Referer": "http://evil.example/x"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://ops.example"}, 403),
        ({"Origin": "http://ops.example"}, 404),
        ({"Referer": "http://ops.example/incidents/x"}, 404),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
    ],
)
async def test_forms_come_from_our_pages_only(headers: dict[str, str], status: int) -> None:
    """A form from another origin is 403; from ours it gets as far as the unknown incident."""
    async with running("http: {external_url: 'http://ops.example/'}") as site:
        async with site.http.post("/incidents/x/ack", data={"actor": "me"}, headers=headers) as answer:
            assert answer.status == status
        assert site.door.bodies == []


async def test_the_token_opens_a_session() -> None:
    """With a token the form asks for it once; a wrong one is 401; the cookie holds a proof and not the token."""
    async with running("http: {token: s3cret}") as site:
        alert = {"labels": {"alertname": "A", "service": "db", "severity": "critical"}}
        await site.post("/api/v2/alerts", [alert], headers={"Authorization": "Bearer s3cret"})
        (incident,) = site.projection.incidents()
        path, form = f"/incidents/{incident.id}", {"actor": "me"}
        assert ("input", "name", "token") in (await page(site, path)).attributes
        for wrong in (form, form | {"token": "wrong"}):
            async with site.http.post(f"{path}/ack", data=wrong, headers=OURS) as answer:
                assert answer.status == 401
        right = form | {"token": "s3cret"}
        async with site.http.post(f"{path}/ack", data=right, headers=OURS, allow_redirects=False) as answer:
            cookie = next(c for c in answer.headers.getall("Set-Cookie") if c.startswith("aiopsd_session="))
        assert ("HttpOnly" in cookie, "SameSite=Strict" in cookie, "s3cret" in cookie) == (True, True, False)
        session = {"Cookie": cookie.split(";")[0]}
        async with site.http.post(
            f"{path}/resolve", data=form, headers=OURS | session, allow_redirects=False
        ) as answer:
            assert answer.status == 303


async def test_problems_are_pages_for_people_and_json_for_programs(shop: TestSite) -> None:
    """An unknown incident is a page with a way back in a browser, JSON elsewhere."""
    shown = await page(shop, "/incidents/nope", 404)
    assert "no incident 'nope'" in shown.text
    assert (await shop.json("/incidents/nope", status=404))["where"] == "id"
    assert (await shop.json("/static/nope.css", status=404))["code"] == 404
