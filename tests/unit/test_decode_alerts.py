"""Alerts as their senders write them."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.decode import decode_alerts
from aiopsd.decode.alerts import FORMATS, OPEN_END, alert_fingerprint
from aiopsd.errors import DecodeError
from aiopsd.model import AlertIn

GOLDEN = Path(__file__).parent.parent / "golden" / "decode"
LABELS = {
    "alertname": "NoAnnotations",
    "cluster": "test",
    "instance": "127.0.0.1:29101",
    "job": "shop",
    "team": "shop",
}
URL = "http://prometheus.example:9090/graph?g0.expr=shop_limit+%3E+1&g0.tab=1"
START = 1795237462.189


@pytest.mark.parametrize(
    ("name", "format", "ends"),
    [
        ("prometheus-2.42-alerts-firing", "prometheus", START + 240),
        ("prometheus-2.42-alerts-resolved", "prometheus", START + 9),
        ("alertmanager-0.25-webhook-firing", "alertmanager", OPEN_END),
        ("alertmanager-0.25-webhook-resolved", "alertmanager", START + 9),
    ],
)
def test_one_alert_recorded_on_its_way_through_both_senders(name: str, format: str, ends: float) -> None:
    """The same alert from Prometheus and, later, from Alertmanager's webhook is the same alert."""
    good, bad = decode_alerts((GOLDEN / f"{name}.json").read_bytes(), format)

    assert [] == bad
    assert [AlertIn(labels=LABELS, starts_at=START, ends_at=ends, generator_url=URL)] == [
        msgspec.structs.replace(a, ends_at=round(a.ends_at, 3)) for a in good
    ]


def test_the_fingerprint_is_alertmanagers() -> None:
    """The webhook carries the fingerprint that Alertmanager computed: ours of the same labels is equal."""
    body = (GOLDEN / "alertmanager-0.25-webhook-firing.json").read_bytes()

    assert msgspec.json.decode(body)["alerts"][0]["fingerprint"] == alert_fingerprint(LABELS)


def test_vmalert_gives_a_key_twice_and_nanoseconds() -> None:
    """vmalert's body, as recorded: of a label given twice the last counts, and nine digits are a time."""
    good, bad = decode_alerts((GOLDEN / "vmalert-1.79-alerts-key-twice.json").read_bytes(), "prometheus")

    assert [] == bad
    assert ["CartErrors"] == [a.labels["alertname"] for a in good]
    assert 8.0 == pytest.approx(good[0].ends_at - good[0].starts_at)
    assert 1795237570.166601 == good[0].starts_at


def posted(**fields: object) -> bytes:
    return msgspec.json.encode([{"labels": {"alertname": "A"}} | fields])


ZERO = "0001-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0.0, 0.0)),
        ({"startsAt": ZERO, "endsAt": ZERO}, (0.0, 0.0)),  # amtool
        ({"startsAt": None, "endsAt": "", "annotations": None}, (0.0, 0.0)),
        ({"endsAt": "2026-01-05T00:00:00Z"}, (1767571200.0, 1767571200.0)),
        ({"startsAt": "2026-01-05T00:00:00Z", "endsAt": "2026-01-05T01:00:01+01:00"}, (1767571200.0, 1767571201.0)),
        ({"startsAt": "2026-01-05T00:00:00.5"}, (1767571200.5, 0.0)),
    ],
)
def test_times_of_a_posted_alert(fields: dict[str, object], expected: tuple[float, float]) -> None:
    """What was left out is 0, Go's zero time too; a start left out is the end when there is one."""
    (alert,), bad = decode_alerts(posted(**fields), "prometheus")

    assert (expected, []) == ((alert.starts_at, alert.ends_at), bad)


@pytest.mark.parametrize("body", [b"[]", b"null", b" [ ] "])
def test_no_alerts_is_no_fault(body: bytes) -> None:
    """An empty list and null are taken."""
    assert ([], []) == decode_alerts(body, "prometheus")


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (b"", "schema", "alerts in body is required"),
        (b"{}", "malformed", "Expected `array | null`, got `object`"),
        (b"[{", "malformed", "not JSON"),
        (b"[" * 100_000, "malformed", "not JSON"),
    ],
)
def test_a_body_that_is_no_list_is_refused_whole(body: bytes, reason: str, words: str) -> None:
    """Not JSON, not a list, or nothing at all: nothing can be taken."""
    with pytest.raises(DecodeError) as caught:
        decode_alerts(body, "prometheus")

    assert reason == caught.value.reason
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"labels": None}, "schema", "1.labels in body is required"),
        ({"labels": {}}, "labels", "at least one label pair required"),
        ({"labels": {"a": ""}}, "labels", "at least one label pair required"),
        ({"labels": {"": "x"}}, "labels", 'invalid label set: invalid name ""'),
        ({"annotations": {"": "x"}}, "labels", 'invalid annotations: invalid name ""'),
        ({"labels": {"a": 1}}, "malformed", "1: Expected `str`, got `int`"),
        ({"startsAt": "yesterday"}, "malformed", "1.startsAt: cannot read 'yesterday'"),
        ({"startsAt": 5}, "malformed", "got `int` - at `$.startsAt`"),
        ({"startsAt": "1969-12-31T00:00:00Z"}, "timestamp", "before 1970"),
        (
            {"startsAt": "2026-01-05T00:00:01Z", "endsAt": "2026-01-05T00:00:00Z"},
            "timestamp",
            "start time must be before end time",
        ),
        ({"generatorURL": "not a url"}, "value", '1.generatorURL in body must be of type uri: "not a url"'),
        ({"generatorURL": "http://[::1"}, "value", "generatorURL"),
    ],
)
def test_a_bad_alert_costs_itself(fields: dict[str, object], reason: str, words: str) -> None:
    """Good alerts before and after a bad one are taken; the bad one is refused by its place and in words."""
    fine = {"labels": {"alertname": "fine"}}
    body = msgspec.json.encode([fine, {"labels": {"alertname": "A"}} | fields, fine])

    good, bad = decode_alerts(body, "prometheus")

    assert 2 == len(good)
    assert [(1, reason)] == [(i, r) for i, r, _ in bad]
    assert words in bad[0][2]


def test_labels_without_value_and_unknown_fields_vanish() -> None:
    """An empty label is no label; what we do not know is ignored, as Alertmanager does."""
    (alert,), _ = decode_alerts(posted(labels={"a": "b", "c": ""}, silenceURL="x", values={"A": 1}), "prometheus")

    assert {"a": "b"} == alert.labels


# ------------------------------------------------------------------ the webhook


def hook(*alerts: dict[str, object], **fields: object) -> bytes:
    return msgspec.json.encode({"version": "4", "alerts": list(alerts)} | fields)


L = {"labels": {"alertname": "A"}}


@pytest.mark.parametrize(
    ("alert", "starts", "ends"),
    [
        ({"status": "firing", "endsAt": ZERO}, 0.0, OPEN_END),
        ({"status": "firing", "endsAt": "2026-01-05T00:00:00Z"}, 1767571200.0, 1767571200.0),
        ({"status": "resolved", "startsAt": "2026-01-05T00:00:00Z", "endsAt": ZERO}, 1767571200.0, 1767571200.0),
    ],
)
def test_a_webhooks_alert_fires_until_it_is_said_to_be_resolved(
    alert: dict[str, object], starts: float, ends: float
) -> None:
    """A firing alert without an end has none until the sender resolves it: it is repeated every few hours only."""
    (found,), bad = decode_alerts(hook(L | alert), "alertmanager")

    assert (starts, ends, []) == (found.starts_at, found.ends_at, bad)


def test_grafanas_superset_is_taken() -> None:
    """Grafana adds fields of its own and calls the version 1."""
    more = {"values": {"B": 3}, "valueString": "x", "silenceURL": "u", "dashboardURL": "", "panelURL": ""}
    body = hook(L | {"status": "firing"} | more, version="1", orgId=1, title="t", state="alerting", message="m")

    assert 1 == len(decode_alerts(body, "alertmanager")[0])


@pytest.mark.parametrize(
    ("alert", "reason"),
    [
        ({"status": "pending"}, "schema"),
        ({}, "schema"),
        ({"status": "resolved"}, "timestamp"),
        ({"status": 1}, "malformed"),
    ],
)
def test_a_bad_alert_of_a_webhook_costs_itself(alert: dict[str, object], reason: str) -> None:
    """A status that is none, or a resolution without a time."""
    good, bad = decode_alerts(hook(L | alert, L | {"status": "firing"}), "alertmanager")

    assert (1, [(0, reason)]) == (len(good), [(i, r) for i, r, _ in bad])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (hook(version="5"), "unsupported"),
        (hook(L | {"status": 1}, version="5"), "unsupported"),
        (b'{"version":"4"}', "schema"),
        (b"[]", "malformed"),
        (b'{"alerts":{}}', "malformed"),
    ],
)
def test_what_is_no_webhook_of_version_4_is_refused_whole(body: bytes, reason: str) -> None:
    """Another version, another shape or no alerts at all."""
    with pytest.raises(DecodeError) as caught:
        decode_alerts(body, "alertmanager")

    assert reason == caught.value.reason


def test_an_unknown_format_is_refused_by_name() -> None:
    """A format that nobody decodes."""
    with pytest.raises(DecodeError, match="nagios"):
        decode_alerts(b"[]", "nagios")


json_like = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from([ZERO, "2026-01-05T00:00:00Z"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["labels", "annotations", "startsAt", "endsAt", "status", "alerts", "version", "a", ""]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=10,
)


@given(st.one_of(st.binary(max_size=80), json_like.map(msgspec.json.encode)), st.sampled_from(FORMATS))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_alerts_or_refusals(body: bytes, format: str) -> None:
    """Whatever comes in, each alert is taken or refused once, or the whole is a DecodeError."""
    try:
        good, bad = decode_alerts(body, format)
    except DecodeError:
        return
    raw = msgspec.Raw
    if format == "alertmanager":
        listed = msgspec.json.decode(body, type=dict[str, raw])["alerts"]
        given_alerts = msgspec.json.decode(listed, type=list[raw] | None)
    else:
        given_alerts = msgspec.json.decode(body, type=list[raw] | None)
    assert len(given_alerts or ()) == len(good) + len(bad)
    assert all(a.labels and "" not in a.labels and "" not in a.labels.values() for a in good)
    assert all(0 <= a.starts_at and 0 <= a.ends_at for a in good)
