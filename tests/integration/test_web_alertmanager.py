"""Alertmanager's API v2: the recorded contract, the real Alertmanager beside it, and the real amtool on it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from aiopsd.errors import Full, StreamError
from aiopsd.model import AlertBatch, fingerprint
from aiopsd.testing.services import Service, free_ports, require
from aiopsd.testing.web import START, TestSite, running
from aiopsd.web.site import rfc3339

CONFIG = """
receivers: [{name: oncall}, {name: team-db}]
route:
  receiver: oncall
  routes:
    - {receiver: team-db, matchers: ['service="db"'], group_by: [alertname]}
inhibit_rules:
  - {source_matchers: ['alertname="NodeDown"'], target_matchers: ['alertname="Slow"'], equal: [node]}
"""
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def site() -> AsyncIterator[TestSite]:
    async with running(CONFIG) as started:
        yield started


def at(seconds: float) -> str:
    return rfc3339(START + seconds)


# (what is sent, status, beginning of the body); the same table is played to a real Alertmanager below
SILENCE = {
    "comment": "c",
    "createdBy": "x",
    "startsAt": "2020-01-01T00:00:00Z",
    "endsAt": "2099-01-01T00:00:00Z",
    "matchers": [{"name": "a", "value": "b", "isRegex": False}],
}
ALERTS = [
    ("{", 400, '{"code":400,'),
    ("{}", 400, '{"code":400,'),
    ('[{"labels":{"a":1}}]', 400, '{"code":400,'),
    ('[{"labels":{"a":"b"},"startsAt":"banana"}]', 400, '{"code":400,'),
    ('[{"labels":{"a":"b"},"annotations":{"x":1}}]', 400, '{"code":400,'),
    ("[]", 200, ""),
    ("null", 200, ""),
    ("", 422, '{"code":602,"message":"alerts in body is required"}'),
    ("[{}]", 422, '{"code":602,"message":"0.labels in body is required"}'),
    ('[{"labels":null}]', 422, '{"code":602,"message":"0.labels in body is required"}'),
    ('[{"labels":{"a":"b"},"generatorURL":"banana"}]', 422, '{"code":601,"message":"0.generatorURL in body must be'),
    ('[{"labels":{}}]', 400, '"at least one label pair required"'),
    ('[{"labels":{"a":""}}]', 400, '"at least one label pair required"'),
    ('[{"labels":{"":"b"}}]', 400, '"invalid label set: invalid name \\"\\""'),
    (
        '[{"labels":{"a":"b"},"startsAt":"2026-01-02T00:00:00Z","endsAt":"2026-01-01T00:00:00Z"}]',
        400,
        '"start time must be before end time"',
    ),
    ('[{"labels":{"a":"b"},"new":{"unknown":[1]}}]', 200, ""),
    ('[{"labels":{"a":"zero"},"startsAt":"0001-01-01T00:00:00.000Z","endsAt":"0001-01-01T00:00:00Z"}]', 200, ""),
    ('[{"labels":{"a":"nano"},"startsAt":"2026-01-02T00:00:00.123456789Z"}]', 200, ""),
    ('[{"labels":{"alertname":"x","alertname":"y"}}]', 200, ""),
    ('[{"labels":{"a":"b"},"generatorURL":"/graph?a=b"}]', 200, ""),
]
SILENCES: list[tuple[Any, int, str]] = [
    ("[", 400, '{"code":400,'),
    ("[]", 400, '{"code":400,'),
    ("null", 422, '{"code":602,"message":"comment in body is required"}'),
    ({}, 422, '{"code":602,"message":"comment in body is required"}'),
    ({**SILENCE, "matchers": []}, 422, '{"code":612,"message":"matchers in body should have at least 1 items"}'),
    ({**SILENCE, "matchers": None}, 422, '{"code":602,"message":"matchers in body is required"}'),
    ({**SILENCE, "startsAt": None}, 422, '{"code":602,"message":"startsAt in body is required"}'),
    (
        {**SILENCE, "matchers": [{"value": "b", "isRegex": False}]},
        422,
        '{"code":602,"message":"matchers.0.name in body is required"}',
    ),
    (
        {**SILENCE, "matchers": [{"name": "a", "value": "b"}]},
        422,
        '{"code":602,"message":"matchers.0.isRegex in body is required"}',
    ),
    ({**SILENCE, "matchers": [{"name": "a", "value": "(", "isRegex": True}]}, 400, '"silence invalid: '),
    ({**SILENCE, "matchers": [{"name": "", "value": "b", "isRegex": False}]}, 400, '"silence invalid: '),
    (
        {**SILENCE, "matchers": [{"name": "a", "value": ".*", "isRegex": True}]},
        400,
        '"silence invalid: at least one matcher must not match the empty string"',
    ),
    (
        {**SILENCE, "startsAt": "2099-02-01T00:00:00Z"},
        400,
        '"Failed to create silence: start time must be before end time"',
    ),
    (
        {**SILENCE, "endsAt": "2021-01-01T00:00:00Z"},
        400,
        '"Failed to create silence: end time can\'t be in the past"',
    ),
    ({**SILENCE, "id": "11111111-1111-1111-1111-111111111111"}, 404, '"silence not found"'),
    ({**SILENCE, "id": "abc"}, 404, '"silence not found"'),
    ({**SILENCE, "comment": ""}, 200, '{"silenceID":"'),
]
GETS = [
    ("alerts?filter=%7Ba%3D%22b%22%7D", 400, '"bad matcher format: '),
    ("alerts?filter=", 400, '"bad matcher format: "'),
    ("alerts?filter=a", 400, '"bad matcher format: '),
    ("alerts?filter=a%3D~%22(%22", 400, '"'),
    ("alerts?receiver=(", 400, '"failed to parse receiver param: error parsing regexp: '),
    ("alerts?active=banana", 200, "["),
    ("alerts/groups?filter=(", 400, '"bad matcher format: '),
    ("silences?filter=(", 400, '"bad matcher format: '),
    ("silence/abc", 422, '{"code":601,"message":"silenceID in path must be of type uuid: \\"abc\\""}'),
    ("silence/11111111-1111-1111-1111-111111111111", 404, ""),
    ("nothing", 404, '{"code":404,"message":"path /api/v2/nothing was not found"}'),
]


async def ask(http: aiohttp.ClientSession, method: str, path: str, data: Any = None) -> tuple[int, str]:
    body = data if data is None or isinstance(data, str) else json.dumps(data)
    async with http.request(method, f"/api/v2/{path}", data=body, headers=JSON if data is not None else {}) as answer:
        return answer.status, (await answer.text()).strip()


@pytest.mark.parametrize(("data", "status", "begins"), ALERTS)
async def test_posting_alerts_answers_as_recorded(site: TestSite, data: str, status: int, begins: str) -> None:
    """Status and the beginning of the body are Alertmanager's for every recorded input."""
    got, text = await ask(site.http, "POST", "alerts", data)

    assert (got, text[: len(begins)]) == (status, begins)
    assert status != 200 or text == ""


@pytest.mark.parametrize(("data", "status", "begins"), SILENCES)
async def test_posting_silences_answers_as_recorded(site: TestSite, data: Any, status: int, begins: str) -> None:
    """Status and the beginning of the body are Alertmanager's for every recorded input."""
    got, text = await ask(site.http, "POST", "silences", data)

    assert (got, text[: len(begins)]) == (status, begins)


@pytest.mark.parametrize(("path", "status", "begins"), GETS)
async def test_reading_answers_as_recorded(site: TestSite, path: str, status: int, begins: str) -> None:
    """Bad filters, receivers and ids are refused in Alertmanager's words."""
    got, text = await ask(site.http, "GET", path)

    assert (got, text[: len(begins)]) == (status, begins)


@pytest.mark.services
async def test_a_real_alertmanager_answers_the_same(tmp_path: Path) -> None:
    """Every row of the three tables, played to a real Alertmanager, gives the status and beginning that we give."""
    program = require("prometheus-alertmanager", "alertmanager")
    (port,) = free_ports(1)
    (tmp_path / "am.yml").write_text("route: {receiver: r}\nreceivers: [{name: r}]\n")
    real = Service(
        "alertmanager",
        [
            program,
            f"--config.file={tmp_path / 'am.yml'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.path={tmp_path / 'data'}",
            "--cluster.listen-address=",
        ],
        tmp_path,
        port=port,
    )
    await real.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            rows = [("POST", "alerts", *r) for r in ALERTS] + [("POST", "silences", *r) for r in SILENCES]
            for method, path, data, status, begins in rows:
                got, text = await ask(http, method, path, data)
                assert (data, got, text[: len(begins)]) == (data, status, begins)
            for path, status, begins in GETS:
                got, text = await ask(http, "GET", path)
                if status == 400 and not begins.startswith('"failed'):
                    begins = '"'  # its parser quotes the matcher in its own manner
                assert (path, got, text[: len(begins)]) == (path, status, begins)
    finally:
        real.stop()


async def test_the_good_alerts_of_a_bad_body_are_taken(site: TestSite) -> None:
    """One bad and one good alert: 400 that names the bad one, and the good one is there."""
    message = await site.post("/api/v2/alerts", [{"labels": {"alertname": "Good"}}, {"labels": {}}], status=400)

    assert message == "at least one label pair required (alert 1)"
    assert ["Good"] == [a["labels"]["alertname"] for a in await site.json("/api/v2/alerts")]
    assert (
        site.metrics.registry.get_sample_value("aiopsd_rejected_items_total", {"source": "http", "reason": "labels"})
        == 1
    )


async def test_an_alert_is_read_right_after_its_post(site: TestSite) -> None:
    """Read your writes: with Alertmanager's fingerprint, its fields all there, its receivers by the route."""
    labels = {"alertname": "Slow", "service": "db", "empty": ""}
    await site.post("/api/v2/alerts", [{"labels": labels, "startsAt": at(-60), "generatorURL": "http://p/g"}])

    (alert,) = await site.json("/api/v2/alerts")

    assert alert["fingerprint"] == fingerprint({"alertname": "Slow", "service": "db"})
    assert alert["status"] == {"state": "active", "silencedBy": [], "inhibitedBy": [], "mutedBy": []}
    assert alert["receivers"] == [{"name": "team-db"}]
    assert (alert["startsAt"], alert["updatedAt"]) == (at(-60), at(0))
    assert (alert["annotations"], alert["generatorURL"]) == ({}, "http://p/g")
    assert alert["endsAt"] == at(300)  # resolve_timeout


async def test_filters_choose_alerts(site: TestSite) -> None:
    """Matchers, receiver and the three booleans choose as in Alertmanager; a missing label is an empty one."""
    await site.post(
        "/api/v2/alerts",
        [
            {"labels": {"alertname": "NodeDown", "node": "n1"}},
            {"labels": {"alertname": "Slow", "node": "n1"}},
            {"labels": {"alertname": "Slow", "node": "n2", "service": "db"}},
        ],
    )
    await site.post(
        "/api/v2/silences",
        {**SILENCE, "startsAt": at(0), "matchers": [{"name": "node", "value": "n2", "isRegex": False}]},
    )

    async def names(**query: Any) -> list[str]:
        found = await site.json("/api/v2/alerts", **query)
        return sorted(a["labels"]["alertname"] + a["labels"]["node"] for a in found)

    assert await names() == ["NodeDownn1", "Slown1", "Slown2"]
    assert await names(filter=['alertname=~"Sl.*"', "node!=n2"]) == ["Slown1"]
    assert await names(filter='service=""') == ["NodeDownn1", "Slown1"]
    assert await names(receiver="team-.*") == ["Slown2"]
    assert await names(receiver="team") == []  # anchored
    assert await names(silenced="false") == ["NodeDownn1", "Slown1"]
    assert await names(inhibited="false") == ["NodeDownn1", "Slown2"]
    assert await names(active="false") == ["Slown1", "Slown2"]
    (slow,) = await site.json("/api/v2/alerts", filter=["alertname=Slow", "node=n1"])
    assert slow["status"]["state"] == "suppressed"
    assert slow["status"]["inhibitedBy"] == [fingerprint({"alertname": "NodeDown", "node": "n1"})]


async def test_groups_follow_the_routes(site: TestSite) -> None:
    """Alerts stand under their receiver and group labels: by incident at the root, by alertname below."""
    await site.post(
        "/api/v2/alerts",
        [{"labels": {"alertname": "A", "service": "db", "i": str(i)}} for i in range(2)]
        + [{"labels": {"alertname": "B", "service": "web"}}],
    )

    groups = await site.json("/api/v2/alerts/groups")

    found = {g["receiver"]["name"]: (list(g["labels"]), len(g["alerts"])) for g in groups}
    assert found == {"team-db": (["alertname"], 2), "oncall": (["incident"], 1)}
    assert {g["receiver"]["name"] for g in await site.json("/api/v2/alerts/groups", receiver="oncall")} == {"oncall"}


TIMED = """
receivers: [{name: oncall}, {name: team-db}, {name: nights}]
route:
  receiver: oncall
  group_by: [alertname]
  routes:
    - {receiver: team-db, matchers: ['service="db"'], mute_time_intervals: [always, weekends], continue: true}
    - {receiver: nights, matchers: ['service="db"'], active_time_intervals: [never]}
time_intervals:
  - {name: always, time_intervals: [{}]}
  - {name: weekends, time_intervals: [{weekdays: ['saturday', 'friday:saturday'], location: Europe/Berlin}]}
  - {name: never, time_intervals: [{times: [{start_time: '09:00', end_time: '17:00'}], years: [1971], months: ['1:3']}]}
"""


async def test_groups_of_a_muted_route_say_by_what() -> None:
    """`mutedBy` stands at the alerts of a group; `muted=false` leaves it out, and /alerts does not know of it."""
    async with running(TIMED) as site:
        await site.post("/api/v2/alerts", [{"labels": {"alertname": a, "service": a}} for a in ("db", "web")])

        groups = await site.json("/api/v2/alerts/groups")
        told = {
            (g["receiver"]["name"], a["status"]["state"], *a["status"]["mutedBy"]) for g in groups for a in g["alerts"]
        }
        assert told == {("oncall", "active"), ("team-db", "suppressed", "always"), ("nights", "suppressed", "never")}
        (both,) = await site.json("/api/v2/alerts", receiver="nights")
        assert [{"name": "team-db"}, {"name": "nights"}] == both["receivers"]  # all of them, whichever was asked for
        left = await site.json("/api/v2/alerts/groups", muted="false")
        assert ["oncall"] == [g["receiver"]["name"] for g in left]
        assert {("active", ())} == {
            (a["status"]["state"], tuple(a["status"]["mutedBy"])) for a in await site.json("/api/v2/alerts")
        }
        own = {a["service"]: a["muted_by"] for a in (await site.json("/api/v1/alerts"))["alerts"]}
        assert own == {"db": ["always", "never"], "web": []}


@pytest.mark.services
async def test_amtool_takes_what_the_status_shows(tmp_path: Path) -> None:
    """`config.original` with time intervals passes the real `amtool check-config`: it is strict Alertmanager YAML."""
    program = require("amtool")
    async with running(TIMED) as site:
        shown = (await site.json("/api/v2/status"))["config"]["original"]
    (tmp_path / "am.yml").write_text(shown)
    process = await asyncio.create_subprocess_exec(
        program,
        "check-config",
        str(tmp_path / "am.yml"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 0, out.decode()
    assert yaml.safe_load(shown)["time_intervals"] == yaml.safe_load(TIMED)["time_intervals"]


async def test_a_silence_lives_its_life(site: TestSite) -> None:
    """Created, found, edited in place or anew, ended twice: each read sees the write before it."""
    made = (await site.post("/api/v2/silences", {**SILENCE, "startsAt": at(0), "endsAt": at(3600)}))["silenceID"]
    silence = await site.json(f"/api/v2/silence/{made}")
    assert silence["status"] == {"state": "active"}
    assert silence["matchers"] == [{"isEqual": True, "isRegex": False, "name": "a", "value": "b"}]

    site.clock.now += 10
    longer = {**SILENCE, "id": made, "startsAt": silence["startsAt"], "endsAt": at(7200)}
    assert await site.post("/api/v2/silences", longer) == {"silenceID": made}
    assert (await site.json(f"/api/v2/silence/{made}"))["endsAt"] == at(7200)

    other = {**longer, "matchers": [{"name": "a", "value": "c", "isRegex": False}]}
    second = (await site.post("/api/v2/silences", other))["silenceID"]
    assert second != made
    assert (await site.json(f"/api/v2/silence/{made}"))["status"] == {"state": "expired"}
    assert [second, made] == [s["id"] for s in await site.json("/api/v2/silences")]
    assert [second] == [s["id"] for s in await site.json("/api/v2/silences", filter='a="c"')]

    for _ in range(2):
        assert await ask(site.http, "DELETE", f"silence/{second}") == (200, "")
    assert (await site.json(f"/api/v2/silence/{second}"))["status"] == {"state": "expired"}
    assert await ask(site.http, "DELETE", "silence/11111111-1111-1111-1111-111111111111") == (
        404,
        '"silence not found"',
    )


async def test_equal_silences_stay_two_and_a_retried_one_is_one(site: TestSite) -> None:
    """Two equal requests are two silences; one request sent twice under an Idempotency-Key is one."""
    ids = [(await site.post("/api/v2/silences", SILENCE))["silenceID"] for _ in range(2)]
    key = {"Idempotency-Key": "retry-1"}
    once = [(await site.post("/api/v2/silences", SILENCE, headers=key))["silenceID"] for _ in range(2)]

    assert ids[0] != ids[1]
    assert once[0] == once[1]


@pytest.mark.parametrize("refusal", [Full("disk"), StreamError("broker away"), TimeoutError()])
async def test_what_is_not_safe_is_503(site: TestSite, refusal: Exception) -> None:
    """A full disk, an absent broker and a late decision are 503, never a 4xx that loses the alert."""
    site.door.refusal = refusal

    assert (await ask(site.http, "POST", "alerts", [{"labels": {"a": "b"}}]))[0] == 503
    assert (await ask(site.http, "POST", "silences", SILENCE))[0] == 503


async def test_only_json_is_taken(site: TestSite) -> None:
    """Another or no Content-Type is 415; a charset parameter is fine."""
    for given, status in (("text/plain", 415), ("application/json; charset=utf-8", 200), ("", 415)):
        async with site.http.post(
            "/api/v2/alerts", data=b"[]", headers={"Content-Type": given}, skip_auto_headers=["Content-Type"]
        ) as answer:
            assert (given, answer.status) == (given, status)


async def test_methods_cors_and_caching_are_alertmanagers(site: TestSite) -> None:
    """405 lists what is allowed; simple requests may come from anywhere; nothing is cached."""
    assert await ask(site.http, "PUT", "alerts") == (
        405,
        '{"code":405,"message":"method PUT is not allowed, but [GET,POST] are"}',
    )
    async with site.http.get("/api/v2/receivers", headers={"Origin": "http://karma"}) as answer:
        assert await answer.json() == [{"name": "oncall"}, {"name": "team-db"}]
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cache-Control"] == "no-store"
    for wanted, allowed in (("POST", "POST"), ("DELETE", None)):
        headers = {"Origin": "http://karma", "Access-Control-Request-Method": wanted}
        async with site.http.options("/api/v2/silences", headers=headers) as answer:
            assert (answer.status, answer.headers.get("Access-Control-Allow-Methods")) == (200, allowed)
    async with site.http.get("/api/v1/status", headers={"Origin": "http://evil"}) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_the_status_shows_routing_and_no_secret() -> None:
    """`config.original` is Alertmanager's YAML with our routes; what integrations hold is not in it."""
    secret = "https://hooks.example/s3cret"
    text = CONFIG.replace("{name: team-db}", f"{{name: team-db, slack_configs: [{{url: {secret}}}]}}")
    async with running(text) as site:
        status = await site.json("/api/v2/status")

    original = status["config"]["original"]
    assert secret not in original
    assert yaml.safe_load(original)["route"]["routes"] == [
        {"receiver": "team-db", "group_by": ["alertname"], "matchers": ['service="db"']}
    ]
    assert {"cluster", "versionInfo", "config", "uptime"} == set(status)


async def test_vmalert_s_body_is_taken(site: TestSite) -> None:
    """Nanoseconds and a key given twice in one object, as vmalert sends them."""
    body = (
        '[{"startsAt":"2026-09-21T14:13:20.123456789Z","endsAt":"2026-09-21T14:13:28.123456789Z",'
        '"labels":{"alertname":"Vm","alertname":"Vm","group":"g"},"annotations":{}}]'
    )

    assert await ask(site.http, "POST", "alerts", body) == (200, "")
    (batch,) = [b for b in site.door.bodies if isinstance(b, AlertBatch)]
    assert batch.alerts[0].labels == {"alertname": "Vm", "group": "g"}
    assert batch.alerts[0].starts_at == pytest.approx(START + 0.123456, abs=1e-5)


@pytest.mark.services
async def test_amtool_adds_queries_and_silences(site: TestSite) -> None:
    """The real amtool adds and queries alerts, adds, queries, updates, expires silences and reads the routes."""
    program = require("amtool")
    site.clock.now = time.time()

    async def amtool(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--alertmanager.url={site.url}",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,  # warns there of another version than its own
        )
        out, told = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, told.decode()
        site.clock.now = time.time()  # amtool has a clock of its own: ours follows
        return out.decode().strip()

    await amtool("alert", "add", "alertname=DiskFull", "node=n1", "--annotation=summary=disk")
    await amtool("alert", "add", "alertname=Slow", "node=n2")
    assert len(json.loads(await amtool("alert", "query", "-o", "json"))) == 2
    found = json.loads(await amtool("alert", "query", "-o", "json", "DiskFull"))
    assert [a["labels"]["node"] for a in found] == ["n1"]

    silence = await amtool("silence", "add", "-c", "maintenance", "-a", "me", "-d", "1h", "node=~n1|n9")
    assert json.loads(await amtool("alert", "query", "-o", "json", "DiskFull")) == []
    assert len(json.loads(await amtool("alert", "query", "-o", "json", "-s", "DiskFull"))) == 1
    assert [silence] == [s["id"] for s in json.loads(await amtool("silence", "query", "-o", "json"))]
    assert [silence] == [s["id"] for s in json.loads(await amtool("silence", "update", "-o", "json", "-d2h", silence))]
    await amtool("silence", "expire", silence)
    assert json.loads(await amtool("silence", "query", "-o", "json")) == []
    assert len(json.loads(await amtool("silence", "query", "-o", "json", "--expired", "--within=1h"))) == 1
    assert "team-db" in await amtool("config", "routes", "show")
    assert await amtool("config", "routes", "test", "service=db") == "team-db"
    assert "oncall" in await amtool("config", "show")
