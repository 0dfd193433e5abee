"""Generic webhook: a CloudEvent 1.0 in structured JSON, or Alertmanager's webhook v4 body, signed with HMAC-SHA256.

CloudEvents: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md. Webhook v4:
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config. The signature is described in
docs/reference/notifiers.md; every request carries the notification's id as Idempotency-Key, the same on each retry.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from aiopsd.config import Secret, Section
from aiopsd.model import Alert, AlertState, Labels, Notification
from aiopsd.notifiers import text
from aiopsd.outgoing import CLOUDEVENTS, check, cloud_event, json_body, rfc3339, signed
from aiopsd.protocols import Request, Session

TIMEOUT = 30.0  # s of one request; the delivery loop's own limit is usually shorter
ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time: "not over"


class WebhookConfig(Section, frozen=True, kw_only=True):
    """Options of one webhook integration."""

    url: Secret  # a secret, because tokens live in its path and query
    format: Literal["cloudevents", "alertmanager"] = "cloudevents"
    secret: Secret | None = None  # signs time and body; None: unsigned
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)  # added to each request, Authorization say
    max_alerts: int = 0  # at most so many alerts in the body; 0: all that the notification holds
    send_resolved: bool = True


class Webhook:
    """Posts a notification; any 2xx is a success."""

    Config: ClassVar[type[msgspec.Struct]] = WebhookConfig

    def __init__(self, config: WebhookConfig, session: Session) -> None:
        self.config = config
        self.session = session

    def encode(self, item: Notification, receipt: Mapping[str, str]) -> Request:
        """The signed body; the same notification gives the same bytes."""
        limit = self.config.max_alerts or len(item.alerts)
        alerts, left = item.alerts[:limit], item.truncated + max(0, len(item.alerts) - limit)
        if self.config.format == "alertmanager":
            content, body = "application/json", json_body(alertmanager_body(item, alerts, left))
        else:
            content, body = CLOUDEVENTS, json_body(event(item, alerts, left))
        headers = {"Content-Type": content, "User-Agent": "aiopsd", "Idempotency-Key": item.id}
        if self.config.secret is not None:
            headers |= signed(self.config.secret.reveal(), item.stamp, body)
        headers |= {name: value.reveal() for name, value in self.config.headers.items()}
        return Request(method="POST", url=self.config.url.reveal(), body=body, headers=headers)

    async def send(self, item: Notification, receipt: Mapping[str, str]) -> dict[str, str]:
        """Deliver; see protocols.Notifier."""
        r = self.encode(item, receipt)
        answer = await self.session.request(r.method, r.url, data=r.body, headers=r.headers, timeout=TIMEOUT)
        secret = (self.config.secret.reveal(),) if self.config.secret is not None else ()
        check(*answer, secrets=(r.url, *secret, *(v.reveal() for v in self.config.headers.values())))
        return {}


def event(item: Notification, alerts: Iterable[Alert], left: int) -> dict[str, Any]:
    """The CloudEvent of a notification; `subject` is the dedup_key, `type` ends in the action."""
    incident = item.incident
    return cloud_event(
        id=item.id,
        source=item.external_url or "aiopsd",
        type=f"io.aiopsd.notification.{item.action}",
        subject=item.dedup_key,
        time=item.stamp,
        data={
            "action": item.action,
            "reason": item.reason,
            "status": text.status(item),
            "dedup_key": item.dedup_key,
            "supersedes": item.supersedes,
            "into": item.into,
            "receiver": item.receiver,
            "group_key": item.group_key,
            "group_labels": item.group_labels,
            "title": text.headline(item),
            "text": text.plain(item),
            "incident": msgspec.to_builtins(incident) if incident is not None else None,
            "incident_url": text.link(item) if incident is not None else "",
            "runbook_url": text.runbook(item),
            "alerts": [msgspec.to_builtins(a) for a in alerts],
            "changed": item.changed,
            "truncated_alerts": left,
        },
    )


def alertmanager_body(item: Notification, alerts: Iterable[Alert], left: int) -> dict[str, Any]:
    """Alertmanager's webhook v4, with `notification_reason` as in its newest version."""
    shown = list(alerts)
    firing = any(a.state is AlertState.FIRING for a in item.alerts)
    return {
        "receiver": item.receiver,
        "status": "resolved" if item.action == "resolve" or not firing else "firing",
        "alerts": [
            {
                "status": str(a.state),
                "labels": a.labels,
                "annotations": a.annotations,
                "startsAt": rfc3339(a.starts_at),
                "endsAt": rfc3339(a.ends_at) if a.state is AlertState.RESOLVED else ZERO_TIME,
                "generatorURL": a.generator_url,
                "fingerprint": a.fingerprint,
            }
            for a in shown
        ],
        "groupLabels": item.group_labels,
        "commonLabels": common([a.labels for a in item.alerts]),
        "commonAnnotations": common([a.annotations for a in item.alerts]),
        "externalURL": item.external_url,
        "version": "4",
        "groupKey": item.group_key,
        "truncatedAlerts": left,
        "notification_reason": str(item.reason),
    }


def common(sets: list[Labels]) -> Labels:
    """Pairs that are in every set, sorted by name.

    >>> common([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}])
    {'a': '1'}
    """
    if not sets:
        return {}
    return {k: v for k, v in sorted(sets[0].items()) if all(other.get(k) == v for other in sets[1:])}
