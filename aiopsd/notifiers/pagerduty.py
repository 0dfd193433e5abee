"""PagerDuty Events API v2: one alert per dedup_key, triggered, acknowledged, resolved.

Limits and answers: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ (summary 1024 characters,
dedup_key 255, body 512 KB; 202 accepted, 400 never retry, 429 and 5xx retry).
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, ClassVar, Literal

import msgspec

from aiopsd.config import Secret, Section
from aiopsd.model import Action, AlertState, Notification
from aiopsd.notifiers import text
from aiopsd.outgoing import check, json_body, rfc3339
from aiopsd.protocols import Request, Session

URLS = {"us": "https://events.pagerduty.com/v2/enqueue", "eu": "https://events.eu.pagerduty.com/v2/enqueue"}
SUMMARY_LIMIT = 1024
DEDUP_LIMIT = 255
BODY_LIMIT = 512_000  # bytes; Alertmanager's reading of "512 KB"
LABEL_LIMIT = 255  # of component, group and class: not documented, long ones are of no use to anybody
LISTED = 25  # alerts by line
TIMEOUT = 30.0  # s of one request; the delivery loop's own limit is usually shorter
SEVERITIES = {"critical": "critical", "page": "critical", "error": "error", "warning": "warning", "info": "info"}


class PagerDutyConfig(Section, frozen=True, kw_only=True):
    """Options of one PagerDuty integration."""

    routing_key: Secret  # of an Events API v2 integration
    region: Literal["us", "eu"] = "us"
    url: str = ""  # "": the region's
    severities: dict[str, Literal["critical", "error", "warning", "info"]] = msgspec.field(
        default_factory=dict
    )  # ours to theirs
    client: str = "aiopsd"
    send_resolved: bool = True


class PagerDuty:
    """Sends a notification as an event; the receiver keeps the state, so there is nothing to remember."""

    Config: ClassVar[type[msgspec.Struct]] = PagerDutyConfig

    def __init__(self, config: PagerDutyConfig, session: Session) -> None:
        self.config = config
        self.session = session

    def encode(self, item: Notification, receipt: Mapping[str, str]) -> Request:
        """The event; parts of custom_details are dropped, the longest lists first, until 512 KB hold it."""
        event: dict[str, Any] = {
            "routing_key": self.config.routing_key.reveal(),
            "event_action": str(item.action),
            "dedup_key": dedup_key(item.dedup_key),
        }
        if item.action is not Action.ACKNOWLEDGE:
            event["payload"] = self._payload(item)
        if links := _links(item):
            event["links"] = links
        event["client"] = self.config.client
        if item.external_url.startswith(("https://", "http://")):
            event["client_url"] = item.external_url
        body = json_body(event)
        for part in ("alerts", "evidence", "chain"):
            if len(body) <= BODY_LIMIT:
                break
            event["payload"]["custom_details"].pop(part, None)
            body = json_body(event)
        if len(body) > BODY_LIMIT:
            event["payload"]["custom_details"] = {"note": "details left out: larger than PagerDuty's 512 KB"}
            body = json_body(event)
        return Request(
            method="POST",
            url=self.config.url or URLS[self.config.region],
            body=body,
            headers={"Content-Type": "application/json"},
        )

    async def send(self, item: Notification, receipt: Mapping[str, str]) -> dict[str, str]:
        """Deliver; see protocols.Notifier."""
        r = self.encode(item, receipt)
        answer = await self.session.request(r.method, r.url, data=r.body, headers=r.headers, timeout=TIMEOUT)
        check(*answer, secrets=(self.config.routing_key.reveal(),))
        return {}

    def _payload(self, item: Notification) -> dict[str, Any]:
        incident = item.incident
        root = incident.root if incident is not None else None
        first = item.alerts[0] if item.alerts else None
        service = (root.service if root is not None else "") or (first.service if first is not None else "")
        word = text.severity(item)
        payload: dict[str, Any] = {
            "summary": text.headline(item, SUMMARY_LIMIT),
            "source": service or item.receiver,
            "severity": self.config.severities.get(word) or SEVERITIES.get(word, "warning"),
        }
        if started := text.started_at(item):
            payload["timestamp"] = rfc3339(started)
        group = _common(item, "cluster") or _common(item, "namespace")
        kind = (root.metric if root is not None else "") or (first.labels.get("alertname", "") if first else "")
        for name, value in (("component", service), ("group", group), ("class", kind)):
            if value:
                payload[name] = text.cut(value, LABEL_LIMIT)
        payload["custom_details"] = _details(item)
        return payload


_LISTS = ("Alerts", "Next suspects", "Evidence")  # facts that details hold as lists, under names of their own


def dedup_key(key: str) -> str:
    """The key itself, or the SHA-256 of one that is too long for PagerDuty."""
    return key if len(key) <= DEDUP_LIMIT else sha256(key.encode()).hexdigest()


def _details(item: Notification) -> dict[str, Any]:
    incident = item.incident
    details: dict[str, Any] = {"what_changed": text.change(item)}
    details |= {name.lower().replace(" ", "_"): value for name, value in text.facts(item) if name not in _LISTS}
    if incident is not None:
        details["incident"] = incident.id
        details["alternatives"] = text.alternatives(incident)
        details["evidence"] = text.evidence(item)
    details["num_firing"], details["num_resolved"] = text.counts(item)
    ordered = sorted(item.alerts, key=lambda a: a.state is AlertState.RESOLVED)
    details["alerts"] = [text.alert_line(a, item.stamp) for a in ordered[:LISTED]]
    if (left := len(item.alerts) - LISTED + item.truncated) > 0 and len(item.alerts) >= LISTED:
        details["alerts_not_listed"] = left
    if item.supersedes:
        details["merged_into"] = item.supersedes
    return {k: v for k, v in details.items() if v not in ("", [])}


def _links(item: Notification) -> list[dict[str, str]]:
    return [{"href": href, "text": name} for name, href in text.links(item)]


def _common(item: Notification, label: str) -> str:
    """The value that all alerts share, or ""."""
    values = dict.fromkeys(a.labels.get(label, "") for a in item.alerts)
    return next(iter(values)) if len(values) == 1 else ""
