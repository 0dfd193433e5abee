"""What notifiers and trainers say: golden requests, vendors' limits, statuses, secrets, a message's life in Slack."""

import hmac
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from aiopsd.config import Secret, plugin_config
from aiopsd.errors import ConfigError, DeliveryError, DeliveryReason
from aiopsd.model import (
    Action,
    Alert,
    AlertState,
    Candidate,
    ChangeEvent,
    Direction,
    DriftDetected,
    Evidence,
    Incident,
    IncidentState,
    Link,
    Notification,
    NotifyReason,
    RetrainRequest,
)
from aiopsd.notifiers import text
from aiopsd.notifiers.http import BODY_LIMIT, HttpSession
from aiopsd.notifiers.pagerduty import BODY_LIMIT as PAGERDUTY_LIMIT
from aiopsd.notifiers.pagerduty import PagerDuty, PagerDutyConfig
from aiopsd.notifiers.slack import Slack, SlackConfig, message, mrkdwn
from aiopsd.notifiers.webhook import Webhook, WebhookConfig
from aiopsd.outgoing import check, redact, retry_after, rfc3339, signature
from aiopsd.protocols import Request, Session
from aiopsd.testing.receiver import Receiver, Reply, SlackWorkspace
from aiopsd.trainers.kafka import KafkaTrainer, KafkaTrainerConfig
from aiopsd.trainers.webhook import WebhookTrainer, WebhookTrainerConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "notifiers"
T = 1_772_359_400.0  # 2026-03-01 10:03:20 UTC
KEY = "R0UTINGKEY0123456789ABCDEFGHIJKL"
TOKEN = "xoxb-not-a-real-token"
HOOK = "https://hooks.example.com/services/T000/B000/VeryVerySecret"


class NoSession:
    """A session for encode: asking it is a bug."""

    async def request(
        self, method: str, url: str, *, data: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        raise AssertionError("encode is pure")


def alert(name: str, service: str, *, at: float = T, over: bool = False, **more: Any) -> Alert:
    labels = {"alertname": name, "service": service, "severity": "critical"}
    return Alert(
        **{
            "fingerprint": sha256(f"{name}{service}".encode()).hexdigest()[:16],
            "labels": labels,
            "annotations": {"summary": f"{name} <{service}> & more", "runbook_url": "https://runbooks/x"},
            "starts_at": at,
            "ends_at": at + 300 if over else 0.0,
            "updated_at": at,
            "state": AlertState.RESOLVED if over else AlertState.FIRING,
            "service": service,
            "generator_url": "http://prometheus/graph",
        }
        | more
    )


SATURATION = Evidence(
    service="payments-db",
    metric="connections_used_ratio",
    kind="saturation",
    direction=Direction.HIGH,
    level=0.97,
    normal=0.4,
    low=0.2,
    high=0.6,
    scale=0.05,
    deviation=11.4,
    score=0.93,
    onset=T - 60,
)
ROOT = Candidate(
    service="payments-db",
    kind="datastore",
    score=3.2,
    confidence=0.82,
    metric="connections_used_ratio",
    reason="it broke first and explains both symptoms",
    chain=(
        Link(symptom="checkout", cause="payments", edge="calls", share=0.9),
        Link(symptom="payments", cause="payments-db", edge="reads", share=0.85),
    ),
    evidence=(SATURATION,),
    changes=(
        ChangeEvent(id="c", service="payments-db", kind="config", ts=T - 120, summary="max_connections 500 -> 50"),
    ),
)
INCIDENT = Incident(
    id="5f3e9a1c00000001",
    dedup_key="aiopsd-5f3e9a1c00000001",
    title="payments-db: connections_used_ratio, 2 more affected",
    severity="critical",
    services=("checkout", "payments", "payments-db"),
    alerts=("a", "b"),
    firing=2,
    started_at=T - 60,
    opened_at=T,
    updated_at=T + 30,
    roots=(ROOT, Candidate(service="payments", confidence=0.1)),
    runbook="https://runbooks/payments",
)


def note(action: Action = Action.TRIGGER, reason: NotifyReason = NotifyReason.FIRST, **more: Any) -> Notification:
    alerts = (alert("HighLatency", "checkout"), alert("ErrorRate", "payments", at=T + 5))
    fields = {
        "id": "n0000000000000001",
        "receiver": "oncall",
        "integration": "x[0]",
        "group_key": "incident:5f3e9a1c00000001",
        "dedup_key": "aiopsd-5f3e9a1c00000001",
        "action": action,
        "reason": reason,
        "stamp": T + 30,
        "group_labels": {"incident": "5f3e9a1c00000001"},
        "alerts": alerts,
        "changed": tuple(a.fingerprint for a in alerts),
        "incident": INCIDENT,
        "external_url": "https://aiopsd.example.com",
    }
    return Notification(**fields | more)


ACKED = replace(INCIDENT, state=IncidentState.ACKNOWLEDGED, acked_by="ada", acked_at=T + 60, ack_until=T + 3600)
OVER = replace(INCIDENT, state=IncidentState.RESOLVED, firing=0, resolved_at=T + 900)
MERGED = replace(INCIDENT, state=IncidentState.MERGED, merged_into="other", firing=0)
LABELS = {"incident": None, "group_key": '{}:{job="api"}', "dedup_key": "d" * 64, "group_labels": {"job": "api"}}
CASES = {
    "trigger": note(),
    "acknowledge": note(Action.ACKNOWLEDGE, NotifyReason.ACKNOWLEDGED, incident=ACKED, changed=()),
    "resolve": note(
        Action.RESOLVE,
        NotifyReason.ALL_RESOLVED,
        incident=OVER,
        alerts=(alert("HighLatency", "checkout", over=True),),
        changed=(),
    ),
    "merged": note(
        Action.RESOLVE,
        NotifyReason.MERGED,
        incident=MERGED,
        alerts=(),
        changed=(),
        supersedes="aiopsd-other",
        into="orders-db: Down, 2 more affected",
    ),
    "labels": note(**LABELS),
}
RETRAIN = RetrainRequest(
    id="q1",
    dedup_key="q1",
    subject="demand",
    model="demand",
    reason="error-rate drift of demand by adwin: 0.1 -> 0.4, statistic 9 over 5",
    requested_at=T,
    drift=(
        DriftDetected(
            id="d1", subject="demand", model="demand", kind="error-rate", detector="adwin",
            since=T - 600, ts=T, before=0.1, after=0.4, statistic=9.0, threshold=5.0,
        ),
    ),
)  # fmt: skip
PD = PagerDuty(PagerDutyConfig(routing_key=Secret(KEY)), NoSession())
SLACK_HOOK = Slack(SlackConfig(url=Secret(HOOK)), NoSession())
SLACK_BOT = Slack(SlackConfig(token=Secret(TOKEN), channel="C1", mention="<!here>"), NoSession())
EVENTS = Webhook(WebhookConfig(url=Secret(HOOK), secret=Secret("hush-hush")), NoSession())
AM = Webhook(WebhookConfig(url=Secret(HOOK), format="alertmanager"), NoSession())
NOTIFIERS = {
    "pagerduty": PD,
    "slack-webhook": SLACK_HOOK,
    "slack-bot": SLACK_BOT,
    "webhook": EVENTS,
    "alertmanager": AM,
}
PARENT = {"channel": "C1", "ts": "1.2"}


def readable(r: Request | None) -> str:
    if r is None:
        return "null\n"
    shown = {"method": r.method, "url": r.url, "headers": r.headers, "body": json.loads(r.body)}
    return json.dumps(shown, indent=2, ensure_ascii=False) + "\n"


def golden(name: str, found: str) -> None:
    """Compare with the file, or write it when AIOPSD_WRITE_GOLDEN is set."""
    path = GOLDEN / name
    if os.environ.get("AIOPSD_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NOTIFIERS)
def test_requests_are_as_recorded(name: str, case: str) -> None:
    """Each kind says each kind of notification as its golden file; twice the same bytes."""
    notifier, receipt = NOTIFIERS[name], PARENT if case in ("acknowledge", "resolve", "merged") else {}

    assert notifier.encode(CASES[case], receipt) == notifier.encode(CASES[case], receipt)
    golden(f"{name}/{case}.json", readable(notifier.encode(CASES[case], receipt)))


def test_retraining_requests_are_as_recorded() -> None:
    """The webhook trainer and both modes of the Kafka trainer say a request as their golden files."""
    webhook = WebhookTrainer(WebhookTrainerConfig(url=Secret(HOOK), secret=Secret("hush-hush")), NoSession())
    golden("trainers/webhook.json", readable(webhook.encode(RETRAIN)))
    for mode in ("structured", "binary"):
        options = {"bootstrap_servers": ["k:9092"], "topic": "t", "mode": mode}
        key, value, headers = KafkaTrainer(plugin_config(KafkaTrainerConfig, options, "$")).encode(RETRAIN)
        shown = {"key": key.decode(), "headers": {k: v.decode() for k, v in headers}, "value": json.loads(value)}
        golden(f"trainers/kafka-{mode}.json", json.dumps(shown, indent=2) + "\n")


def test_the_text_names_what_an_operator_asks() -> None:
    """Cause with confidence, chain, evidence, change, affected services, since when, runbook and incident link."""
    said = text.plain(CASES["trigger"])

    for part in (
        "payments-db (datastore), confidence 82 %: it broke first",
        "checkout calls payments (explains 90 %), which reads payments-db (85 %)",
        "connections_used_ratio of payments-db rose to 0.97, normal 0.2 to 0.6, since 10:02:20 UTC",
        "config of payments-db at 10:01:20 UTC, 1m 00s before it began: max_connections 500 -> 50",
        "Next suspects: payments, confidence 10 %",
        "Affected: checkout, payments, payments-db",
        "Since: 2026-03-01 10:02:20 UTC",
        "Runbook: https://runbooks/payments",
        "Incident: https://aiopsd.example.com/incidents/5f3e9a1c00000001",
    ):
        assert part in said


@pytest.mark.parametrize("case", ["trigger", "acknowledge", "resolve"])
def test_the_first_line_names_the_cause_how_sure_and_since_when(case: str) -> None:
    """A phone shows one line: cause and what it shows, how far it reaches, how sure, since when or how long."""
    line = text.plain(CASES[case]).splitlines()[0]

    when = "lasted 16m" if case == "resolve" else "since 10:02:20 UTC"
    assert line.endswith(f"payments-db: connections_used_ratio, 2 more affected (cause 82 % sure, {when})")


def test_a_long_title_leaves_room_for_how_sure_and_since_when() -> None:
    """What is cut is the title, never what stands behind it."""
    line = text.headline(note(incident=replace(INCIDENT, title="x" * 500)), 120)

    assert (120, "x… (cause 82 % sure, since 10:02:20 UTC)") == (len(line), line[-40:])


def test_a_page_says_what_to_do_first() -> None:
    """First look, owner, dashboard and runbook, as a rule pack or a sender says: the cause's own before others'."""
    here = {"first_look": "pg_blocking_pids", "owner": "storage"}
    here |= {"dashboard": "https://g/db", "runbook_url": "https://r/db"}
    own = alert("TooManyLocks", "payments-db", annotations=here)
    other = alert("ErrorRate", "payments", annotations={k: f"https://other/{k}" for k in here})

    said = text.plain(note(alerts=(other, own)))

    assert ("First look: pg_blocking_pids" in said, "Owner: storage" in said, "other" in said) == (True, True, False)
    assert text.links(note(alerts=(other, own)))[1:] == [("Runbook", "https://r/db"), ("Dashboard", "https://g/db")]


def test_what_others_advise_is_said_to_be_theirs() -> None:
    """Who is sent to `df -h` reads that it is for redis, where cart is the probable cause."""
    theirs = {"first_look": "df -h", "owner": "storage", "dashboard": "https://g/redis"}
    page = note(alerts=(alert("DiskFull", "redis", annotations=theirs),), incident=replace(INCIDENT, runbook=""))

    facts = dict(text.facts(page))
    assert (facts["First look"], facts["Owner"]) == ("df -h (of redis)", "storage (of redis)")
    assert text.links(page)[1:] == [("Dashboard of redis", "https://g/redis")]


def test_a_change_is_told_with_its_version_author_and_link() -> None:
    """Who is woken by a bad release can open it: version, how long before, by whom, and its link."""
    release = ChangeEvent(
        id="c", service="search", kind="deploy", ts=T - 150, version="v42", actor="ci", summary="release 42",
        link="https://ci.example/42",
    )  # fmt: skip
    page = note(incident=replace(INCIDENT, roots=(replace(ROOT, changes=(release,)),)))

    said = "deploy v42 of search at 10:00:50 UTC, 1m 30s before it began, by ci: release 42 (https://ci.example/42)"
    assert dict(text.facts(page))["Change"] == said
    assert ("Deploy v42", "https://ci.example/42") in text.links(page)


def test_a_cause_without_metrics_has_its_alerts_as_evidence() -> None:
    """Alerts are evidence, too: with their own words and since when."""
    page = note(incident=replace(INCIDENT, roots=(replace(ROOT, service="payments", evidence=()),)))

    assert text.evidence(page) == ["ErrorRate of payments: ErrorRate <payments> & more (since 10:03:25 UTC)"]


def test_what_no_person_would_try_is_no_alternative() -> None:
    """A candidate of a few percent is left to the incident's page."""
    likely, hardly = Candidate(service="a", confidence=0.2), Candidate(service="b", confidence=0.01)

    assert text.alternatives(replace(INCIDENT, roots=(ROOT, likely, hardly))) == ["a, confidence 20 %"]


def test_an_incident_without_a_cause_says_so() -> None:
    """The first page of what nobody understands yet is a message all the same, in Slack, too."""
    page = note(incident=replace(INCIDENT, roots=()))

    assert "Probable cause: not known yet" in text.plain(page)
    assert message(page)["blocks"][1]["text"]["text"] == "*Probable cause:* not known yet"


def test_an_end_says_how_long_it_was_and_whether_it_is_one() -> None:
    """Over by itself: how long it lasted, since when nothing fires. By somebody's word: what fires on."""
    quiet = replace(OVER, quiet_since=T + 600)
    forced = replace(OVER, firing=2)

    ended = note(Action.RESOLVE, NotifyReason.ALL_RESOLVED, incident=quiet, alerts=(), changed=())
    assert text.change(ended) == "The incident has resolved, it lasted 11m; nothing fires since 10:13:20 UTC."
    ended = note(Action.RESOLVE, NotifyReason.ALL_RESOLVED, incident=forced, changed=())
    assert text.change(ended) == "Resolved by an operator while 2 of its alerts still fire."


def test_links_that_are_no_links_are_left_out() -> None:
    """A runbook or external URL that is not http(s) never becomes a link."""
    evil = note(incident=replace(INCIDENT, runbook="javascript:alert(1)"), alerts=(), external_url="ftp://x")

    assert ("", "") == (text.runbook(evil), text.link(evil))


# ------------------------------------------------------------------ limits


def huge(alerts: int = 100, size: int = 8000) -> Notification:
    """A notification that is larger than any receiver takes."""
    many = tuple(alert("A" * 200, f"s{n}", annotations={"summary": "<&>\n" * (size // 4)}) for n in range(alerts))
    root = replace(
        ROOT, service="r" * 3000, reason="&" * 50_000, evidence=(replace(SATURATION, metric="m" * 9000),) * 9
    )
    incident = replace(
        INCIDENT, title="t" * 5000, services=tuple(f"service-{n}" * 50 for n in range(500)), roots=(root, root, root)
    )
    return note(alerts=many, incident=incident, dedup_key="k" * 300, truncated=50)


def test_pagerduty_limits_hold() -> None:
    """Summary 1024 characters, dedup_key 255 (hashed, the same for its resolve), body 512 KB, severity of the four."""
    request = PD.encode(huge(size=100_000), {})
    event = json.loads(request.body)

    assert len(request.body) <= PAGERDUTY_LIMIT
    assert 1024 == len(event["payload"]["summary"])
    assert sha256(b"k" * 300).hexdigest() == event["dedup_key"]
    assert "critical" == event["payload"]["severity"]
    assert "num_firing" in event["payload"]["custom_details"]  # the longest lists went first
    assert event["dedup_key"] == json.loads(PD.encode(replace(huge(), action=Action.RESOLVE), {}).body)["dedup_key"]


def test_pagerduty_drops_all_details_as_the_last_resort() -> None:
    """When even the other details are too large, the page itself still goes."""
    root = replace(ROOT, reason="x" * 600_000)
    event = json.loads(PD.encode(note(incident=replace(INCIDENT, roots=(root,))), {}).body)

    assert ["note"] == list(event["payload"]["custom_details"])


@pytest.mark.parametrize(
    ("word", "severity"),
    [("critical", "critical"), ("page", "critical"), ("error", "error"), ("info", "info"), ("weird", "warning")],
)
def test_pagerduty_severity_is_one_of_four(word: str, severity: str) -> None:
    """Our words map to PagerDuty's, unknown ones to warning, and the configuration may say otherwise."""
    item = note(incident=replace(INCIDENT, severity=word))
    own = PagerDuty(
        plugin_config(PagerDutyConfig, {"routing_key": KEY, "severities": {word: "info"}}, "$"), NoSession()
    )

    assert severity == json.loads(PD.encode(item, {}).body)["payload"]["severity"]
    assert "info" == json.loads(own.encode(item, {}).body)["payload"]["severity"]


def slack_problems(said: dict[str, Any]) -> list[str]:
    """Limits of https://docs.slack.dev/reference/block-kit that this message breaks."""
    problems = []

    def at_most(what: str, value: Any, limit: int) -> None:
        if len(value) > limit:
            problems.append(f"{what}: {len(value)} > {limit}")

    at_most("text", said["text"], 4000)
    at_most("blocks", said["blocks"], 50)
    at_most("all of it", json.dumps(said["blocks"], ensure_ascii=False), 13_200)
    for block in said["blocks"]:
        if block["type"] == "header":
            at_most("header", block["text"]["text"], 150)
        elif block["type"] == "context":
            at_most("context", block["elements"], 10)
        else:
            fields = block.get("fields", [])
            at_most("fields", fields, 10)
            for f in fields:
                at_most("field", f["text"], 2000)
            if "text" in block:
                at_most("section", block["text"]["text"], 3000)
            elif not fields:
                problems.append("section without text")
            for said_text in [f["text"] for f in fields] + [block.get("text", {}).get("text", "")]:
                if said_text.endswith(("&", "&am")):
                    problems.append(f"cut inside an entity: {said_text[-20:]}")
    return problems


@pytest.mark.parametrize("case", [*CASES, "huge", "empty"])
def test_slack_limits_hold(case: str) -> None:
    """No block, field or message is longer than Slack takes, whatever the notification holds."""
    items = CASES | {"huge": huge(), "empty": note(alerts=(), incident=None, changed=(), external_url="")}

    assert [] == slack_problems(message(items[case], "<!here>"))


def test_slack_text_cannot_be_broken_out_of() -> None:
    """Names from labels are escaped: no mention, no link, no markup of theirs."""
    item = note(incident=replace(INCIDENT, title="<!channel> & <https://evil|click>"))
    said = json.dumps(message(item), ensure_ascii=False)

    assert "<!channel>" not in said.replace(json.dumps(message(item)["blocks"][0], ensure_ascii=False), "")
    assert "&lt;!channel&gt;" in message(item)["text"]
    assert "plain_text" == message(item)["blocks"][0]["text"]["type"]
    assert 20 >= len(mrkdwn("&" * 1000, 20))


def test_webhook_may_hold_fewer_alerts() -> None:
    """max_alerts cuts the list and counts what it cut."""
    few = Webhook(WebhookConfig(url=Secret(HOOK), max_alerts=1, format="alertmanager"), NoSession())
    body = json.loads(few.encode(note(truncated=3), {}).body)

    assert (1, 4) == (len(body["alerts"]), body["truncatedAlerts"])


def test_the_signature_can_be_checked_by_its_description() -> None:
    """v1=HMAC-SHA256(secret, "v1:" + timestamp + ":" + body), with both headers on the request."""
    r = EVENTS.encode(note(), {})
    stamp = r.headers["X-Aiopsd-Timestamp"]
    digest = hmac.new(b"hush-hush", f"v1:{stamp}:".encode() + r.body, "sha256").hexdigest()

    assert f"v1={digest}" == r.headers["X-Aiopsd-Signature"] == signature("hush-hush", int(stamp), r.body)
    assert "n0000000000000001" == r.headers["Idempotency-Key"]


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (SlackConfig, {}, "exactly one of"),
        (SlackConfig, {"url": "u", "token": "t", "channel": "c"}, "exactly one of"),
        (SlackConfig, {"token": "t"}, "needs a `channel`"),
        (PagerDutyConfig, {}, "routing_key"),
        (PagerDutyConfig, {"routing_key": "k", "region": "mars"}, "mars"),
        (WebhookConfig, {"url": "u", "format": "xml"}, "xml"),
        (WebhookConfig, {"url": "u", "headers": {"a": 1}}, "headers"),
    ],
)
def test_wrong_options_are_refused_with_their_key(kind: type, options: dict[str, Any], said: str) -> None:
    """Options that cannot work raise ConfigError under the integration's path."""
    with pytest.raises(ConfigError, match=said) as e:
        plugin_config(kind, options, "$.receivers[0].x_configs[0]")

    assert "$.receivers[0].x_configs[0]" in str(e.value)


def test_pagerduty_regions() -> None:
    """us and eu have their addresses, and a URL of one's own wins."""
    urls = [
        PagerDuty(plugin_config(PagerDutyConfig, {"routing_key": "k"} | o, "$"), NoSession()).encode(note(), {}).url
        for o in ({}, {"region": "eu"}, {"url": "http://127.0.0.1:1/x"})
    ]

    assert [
        "https://events.pagerduty.com/v2/enqueue",
        "https://events.eu.pagerduty.com/v2/enqueue",
        "http://127.0.0.1:1/x",
    ] == urls


# ------------------------------------------------------------------ statuses and secrets

SECRETS = (KEY, TOKEN, "VeryVerySecret", "hush-hush", "T000/B000", "Bearer-Token-X")


def built(kind: str, url: str, session: Session) -> Any:
    """A notifier or trainer of that kind that sends to `url`."""
    if kind == "pagerduty":
        return PagerDuty(PagerDutyConfig(routing_key=Secret(KEY), url=url), session)
    if kind == "slack-webhook":
        return Slack(SlackConfig(url=Secret(url)), session)
    if kind == "slack-bot":
        return Slack(SlackConfig(token=Secret(TOKEN), channel="C1", api_url=f"{url}/"), session)
    extra = {"secret": Secret("hush-hush"), "headers": {"Authorization": Secret("Bearer-Token-X")}}
    if kind == "webhook":
        return Webhook(WebhookConfig(url=Secret(url), **extra), session)
    return WebhookTrainer(WebhookTrainerConfig(url=Secret(url), **extra), session)


KINDS = ["pagerduty", "slack-webhook", "slack-bot", "webhook", "trainer"]
STATUSES = [
    (400, DeliveryReason.CLIENT_ERROR, False),
    (401, DeliveryReason.AUTH, False),
    (403, DeliveryReason.AUTH, False),
    (404, DeliveryReason.CLIENT_ERROR, False),
    (408, DeliveryReason.TIMEOUT, True),
    (410, DeliveryReason.CLIENT_ERROR, False),
    (413, DeliveryReason.TOO_LARGE, False),
    (429, DeliveryReason.RATE_LIMITED, True),
    (500, DeliveryReason.SERVER_ERROR, True),
    (503, DeliveryReason.SERVER_ERROR, True),
    (302, DeliveryReason.CLIENT_ERROR, False),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_status_table(kind: str) -> None:
    """Per status: the reason, retry yes or no, Retry-After passed on; and no secret in an error, echoed or not."""
    item: Any = RETRAIN if kind == "trainer" else note()
    for status, reason, retry in STATUSES:
        echo = " ".join(SECRETS).encode()
        headers = {"Retry-After": "7", "Location": "https://elsewhere/VeryVerySecret"}
        async with Receiver(default=Reply(status, echo, headers)) as r, HttpSession() as session:
            sender = built(kind, f"{r.url}/services/T000/B000/VeryVerySecret", session)
            with pytest.raises(DeliveryError) as e:
                await sender.send(item, {})
        assert (reason, retry, 7.0 if retry else None) == (e.value.reason, e.value.retry, e.value.retry_after), status
        assert 1 == len(r.received), "nothing is followed or repeated here"
        own = {"pagerduty": [KEY], "slack-bot": [TOKEN], "slack-webhook": ["VeryVerySecret"]}
        for secret in own.get(kind, ["hush-hush", "Bearer-Token-X", "T000/B000/VeryVerySecret"]):
            assert secret not in str(e.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_sent_arrives(kind: str) -> None:
    """A success is quiet, and what the receiver got is what encode said."""
    item: Any = RETRAIN if kind == "trainer" else note()
    said = b'{"ok": true, "ts": "1.2", "channel": "C1"}'
    async with Receiver(default=Reply(202, said)) as r, HttpSession() as session:
        sender = built(kind, r.url, session)
        await sender.send(item, {})

    request = sender.encode(item) if kind == "trainer" else sender.encode(item, {})
    assert request.body == r.received[-1].body
    assert request.headers.items() <= {k: r.received[-1].headers[k.lower()] for k in request.headers}.items()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_shows_its_secrets(kind: str) -> None:
    """The repr of a notifier's options shows no secret."""
    sender = built(kind, HOOK if kind != "pagerduty" else "https://x", NoSession())

    shown = repr(sender.config) + str(sender.config) + repr(sender)
    secrets = [s for s in SECRETS if not (kind == "slack-bot" and s in HOOK)]  # there, the URL is the API's address
    assert [] == [s for s in secrets if s in shown]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/VeryVerySecret", "http://nobody.invalid/VeryVerySecret"])
async def test_an_unreachable_receiver_is_a_network_error_without_secrets(url: str) -> None:
    """Refused and unresolved are NETWORK, worth a retry, and name the host only."""
    async with HttpSession() as session:
        with pytest.raises(DeliveryError) as e:
            await built("webhook", url, session).send(note(), {})

    assert (DeliveryReason.NETWORK, True) == (e.value.reason, e.value.retry)
    assert "VeryVerySecret" not in str(e.value)
    assert e.value.__cause__ is None
    assert e.value.__suppress_context__


@pytest.mark.parametrize("url", ["not a url VeryVerySecret", "ftp://x/VeryVerySecret", "http://h:99999/VeryVerySecret"])
async def test_a_url_that_is_none_is_final(url: str) -> None:
    """It is not retried and its text is not shown."""
    async with HttpSession() as session:
        with pytest.raises(DeliveryError) as e:
            await built("webhook", url, session).send(note(), {})

    assert not e.value.retry
    assert "VeryVerySecret" not in str(e.value)


async def test_a_long_answer_is_cut_and_a_late_one_is_a_timeout() -> None:
    """No more than the limit of a body is read, and no longer waited than said."""
    async with Receiver([Reply(200, b"x" * (BODY_LIMIT + 9999)), Reply(delay=5)]) as r, HttpSession() as session:
        _, _, body = await session.request("POST", r.url, data=b"", headers={}, timeout=30.0)
        assert BODY_LIMIT == len(body)

        with pytest.raises(DeliveryError) as e:
            await session.request("POST", r.url, data=b"", headers={}, timeout=0.05)

    assert (DeliveryReason.TIMEOUT, True) == (e.value.reason, e.value.retry)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Sun, 01 Mar 2026 10:03:50 GMT", "date": "Sun, 01 Mar 2026 10:03:20 GMT"}, 30.0),
        ({"retry-after": "Sun, 01 Mar 2026 10:03:10 GMT", "date": "Sun, 01 Mar 2026 10:03:20 GMT"}, 0.0),
        ({"retry-after": "Sun, 01 Mar 2026 10:03:50 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_both_forms(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, or a date measured against the answer's own Date."""
    assert seconds == retry_after(headers)


def test_errors_are_short_and_redacted() -> None:
    """What a receiver said is kept up to 200 characters on one line, without the secrets."""
    with pytest.raises(DeliveryError) as e:
        check(400, {}, b"line\n\nline " + b"s3cret " * 500, secrets=("s3cret",))

    assert "s3cret" not in str(e.value)
    assert len(str(e.value)) < 260
    assert "*** and ***" == redact("https://h/a/bcd?t=1 and a/bcd", ("https://h/a/bcd?t=1",))


def test_times_are_written_in_utc() -> None:
    """RFC 3339 with milliseconds; what no calendar holds is said to be unknown."""
    assert "2026-03-01T10:03:20.000Z" == rfc3339(T)
    assert "unknown" == text.when(1e20)


# ------------------------------------------------------------------ Slack's messages


class Desk:
    """A Slack bot at a workspace that behaves."""

    def __init__(self, session: Session, url: str, workspace: SlackWorkspace) -> None:
        self.slack = Slack(SlackConfig(token=Secret(TOKEN), channel="C1", api_url=f"{url}/api/"), session)
        self.workspace = workspace


async def tell(
    notes: list[tuple[Notification, dict[str, str] | None]], workspace: SlackWorkspace
) -> list[dict[str, str]]:
    """Send each; the receipt is the last one's unless given."""
    receipts: list[dict[str, str]] = []
    async with Receiver(answer=workspace.answer) as r, HttpSession() as session:
        desk = Desk(session, r.url, workspace)
        for item, receipt in notes:
            given = receipt if receipt is not None else (receipts[-1] if receipts else {})
            receipts.append(await desk.slack.send(item, given))
    return receipts


async def test_slack_keeps_one_parent_and_its_thread() -> None:
    """One parent per incident, updated in place; each change is a message in its thread, a reopening a loud one."""
    workspace = SlackWorkspace(TOKEN)
    reopened = note(reason=NotifyReason.REOPENED)
    items = [CASES["trigger"], CASES["acknowledge"], CASES["resolve"], reopened]

    receipts = await tell([(item, None) for item in items], workspace)

    [parent] = workspace.parents
    assert all(r == {"channel": "C1", "ts": parent["ts"]} for r in receipts)
    assert ":red_circle:" in parent["text"]  # of the last update
    thread = workspace.thread(parent["ts"])
    assert [":large_yellow_circle:", ":large_green_circle:", ":red_circle:"] == [m["text"].split()[0] for m in thread]
    assert [False, False, True] == [m.get("reply_broadcast", False) for m in thread]


async def test_slack_finds_its_parent_after_a_crash() -> None:
    """Without a receipt the channel is searched by metadata, over pages, before a second parent is posted."""
    workspace = SlackWorkspace(TOKEN)
    others = [(note(dedup_key=f"other-{n}"), {}) for n in range(3)]
    first = await tell([(CASES["trigger"], {}), *others], workspace)
    for n in range(250):
        workspace.messages[f"1800000000.{n:06d}"] = {"text": "chatter", "ts": f"1800000000.{n:06d}"}

    [again] = await tell([(note(reason=NotifyReason.NEW_ALERTS), {})], workspace)

    assert first[0] == again
    assert 4 + 250 == len(workspace.parents)


async def test_slack_has_nothing_to_close_without_a_parent() -> None:
    """A resolve or acknowledgement of what was never posted posts nothing."""
    workspace = SlackWorkspace(TOKEN)

    assert [{}, {}] == await tell([(CASES["resolve"], {}), (CASES["acknowledge"], {})], workspace)
    assert {} == workspace.messages


async def test_slack_posts_anew_when_the_parent_is_gone() -> None:
    """A deleted parent is replaced by a trigger, and missed by nobody at the resolve."""
    workspace = SlackWorkspace(TOKEN)
    gone = {"channel": "C1", "ts": "1.1"}

    [new] = await tell([(note(reason=NotifyReason.NEW_ALERTS), gone)], workspace)
    assert [new["ts"]] == [m["ts"] for m in workspace.parents]
    assert [{}] == await tell([(CASES["resolve"], gone)], workspace)
    assert 1 == len(workspace.messages)


async def test_slack_posts_when_it_may_not_look() -> None:
    """Without the scope to read the channel, a first message is posted all the same."""
    workspace = SlackWorkspace(TOKEN)
    workspace.fail["conversations.history"] = ["missing_scope"]

    await tell([(CASES["trigger"], {})], workspace)

    assert 1 == len(workspace.parents)


@pytest.mark.parametrize(
    ("error", "reason", "retry"),
    [
        ("invalid_auth", DeliveryReason.AUTH, False),
        ("missing_scope", DeliveryReason.AUTH, False),
        ("channel_not_found", DeliveryReason.CLIENT_ERROR, False),
        ("ratelimited", DeliveryReason.RATE_LIMITED, True),
        ("internal_error", DeliveryReason.SERVER_ERROR, True),
        ("msg_blocks_too_long", DeliveryReason.TOO_LARGE, False),
    ],
)
async def test_slack_errors_of_a_200(error: str, reason: DeliveryReason, retry: bool) -> None:
    """An answer that is not ok is an error by its word."""
    workspace = SlackWorkspace(TOKEN)
    workspace.fail["chat.postMessage"] = [error]

    with pytest.raises(DeliveryError) as e:
        await tell([(CASES["trigger"], {})], workspace)

    assert (reason, retry) == (e.value.reason, e.value.retry)


async def test_slack_does_not_look_past_a_rate_limit() -> None:
    """When the search itself is rate limited, nothing is posted: the retry will look again."""
    workspace = SlackWorkspace(TOKEN)
    workspace.fail["conversations.history"] = [Reply(429, b"", {"Retry-After": "3"})]

    with pytest.raises(DeliveryError) as e:
        await tell([(CASES["trigger"], {})], workspace)

    assert 3.0 == e.value.retry_after
    assert {} == workspace.messages


def test_alertmanager_bodies_read_back_as_webhook_v4() -> None:
    """The v4 body has the documented keys and Go's zero time while firing."""
    body = json.loads(AM.encode(CASES["labels"], {}).body)

    assert {"receiver", "status", "alerts", "groupLabels", "commonLabels", "commonAnnotations"} <= body.keys()
    assert ("4", "firing", '{}:{job="api"}') == (body["version"], body["status"], body["groupKey"])
    assert {"0001-01-01T00:00:00Z"} == {a["endsAt"] for a in body["alerts"]}
    assert {"severity": "critical"} == body["commonLabels"]


def test_cloudevents_have_the_required_attributes() -> None:
    """specversion, id, source and type are there and not empty, and data holds the incident whole."""
    for item in CASES.values():
        event = json.loads(EVENTS.encode(item, {}).body)
        assert all(event[k] for k in ("specversion", "id", "source", "type", "time", "subject"))
    incident = json.loads(EVENTS.encode(note(), {}).body)["data"]["incident"]
    assert INCIDENT == msgspec.convert(incident, Incident)
