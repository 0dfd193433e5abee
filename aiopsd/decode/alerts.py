"""Alerts as their senders write them: Prometheus' list (vmalert and amtool too) and Alertmanager's webhook version 4.

`prometheus`: the body of POST /api/v2/alerts, `[{labels, annotations, startsAt, endsAt, generatorURL}, ...]`.
`alertmanager`: what Alertmanager's webhook receiver is sent, and Grafana, whose fields are a superset.

One bad alert costs itself, not its neighbours. Fields that we do not know are ignored, as Alertmanager does, a label
without a value is no label, and of a key given twice the last counts (vmalert gives `alertname` twice).
Source: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml, notify/webhook/webhook.go
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw

from aiopsd.decode.times import parse_time
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import AlertIn, Labels
from aiopsd.model import fingerprint as alert_fingerprint

__all__ = ["FORMATS", "OPEN_END", "BadAlert", "alert_fingerprint", "decode_alerts"]

FORMATS = ("prometheus", "alertmanager")

OPEN_END = 4_102_444_800.0
"""End of an alert that fires until its sender says otherwise (2100-01-01T00:00:00Z).

A webhook is not sent again every minute: Alertmanager repeats it after repeat_interval, four hours by default. Without
an end such an alert would be resolved by resolve_timeout while it still fires.
"""

BadAlert = tuple[int, DecodeReason, str]  # index in the list, reason, detail

_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class PostedAlert(msgspec.Struct, gc=False):
    """One alert of either format."""

    labels: Labels | None = None
    annotations: Labels | None = None
    startsAt: str | None = None
    endsAt: str | None = None
    generatorURL: str | None = None
    status: str | None = None  # of the webhook: firing or resolved


class Webhook(msgspec.Struct):
    alerts: list[PostedAlert] | None
    version: str = "4"


class RawWebhook(msgspec.Struct):
    alerts: list[Raw] | None
    version: str = "4"


_list = msgspec.json.Decoder(list[PostedAlert] | None)
_raws = msgspec.json.Decoder(list[Raw] | None)
_alert = msgspec.json.Decoder(PostedAlert)
_webhook = msgspec.json.Decoder(Webhook)
_raw_webhook = msgspec.json.Decoder(RawWebhook)


def decode_alerts(value: bytes, format: str) -> tuple[list[AlertIn], list[BadAlert]]:
    """(alerts in order, what was refused) of one body.

    Reasons of a refused alert: SCHEMA, `labels` is missing; LABELS, no label or a name that is empty; TIMESTAMP, it
    ends before it starts; VALUE, its generatorURL is none; MALFORMED, a field of the wrong type, a time that is none.
    Times that were left out are 0; a start that was left out is the end, when there is one.

    Raises:
        DecodeError: MALFORMED, not JSON or not a list (an object, for the webhook); SCHEMA, no body or no `alerts`;
            UNSUPPORTED, another format or version of the webhook.
    """
    if format not in FORMATS:
        raise DecodeError(DecodeReason.UNSUPPORTED, f"no decoder for the alert format `{format[:100]}`")
    if not value.strip():
        raise DecodeError(DecodeReason.SCHEMA, "alerts in body is required")
    webhook = format == "alertmanager"
    good: list[AlertIn] = []
    bad: list[BadAlert] = []
    for i, posted in enumerate(_posted(value, webhook)):
        if isinstance(posted, PostedAlert):
            try:
                good.append(_taken(posted, i, webhook))
            except DecodeError as e:
                bad.append((i, e.reason, e.detail))
        else:
            bad.append((i, DecodeReason.MALFORMED, f"{i}: {posted}"))
    return good, bad


def _posted(value: bytes, webhook: bool) -> "Sequence[PostedAlert | Exception]":
    """Each alert, or why it cannot be read."""
    try:
        if webhook:
            body = _webhook.decode(value)
            _check_version(body.version)
            return body.alerts or ()
        return _list.decode(value) or ()
    except _BROKEN:
        pass  # once more, one by one, to tell the good from the bad
    try:
        raws = _raw(value, webhook)
    except msgspec.ValidationError as e:
        reason = DecodeReason.SCHEMA if "missing required field" in str(e) else DecodeReason.MALFORMED
        raise DecodeError(reason, str(e)) from None
    except _BROKEN as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not JSON: {e}") from None
    out: list[PostedAlert | Exception] = []
    for raw in raws:
        try:
            out.append(_alert.decode(raw))
        except _BROKEN as e:
            out.append(e)
    return out


def _raw(value: bytes, webhook: bool) -> Sequence[Raw]:
    if not webhook:
        return _raws.decode(value) or ()
    body = _raw_webhook.decode(value)
    _check_version(body.version)
    return body.alerts or ()


def _check_version(version: str) -> None:
    if version not in ("4", "1"):  # Grafana says "1" and means the same
        raise DecodeError(DecodeReason.UNSUPPORTED, f"webhook version {version[:20]!r}: this takes 4")


def _taken(posted: PostedAlert, i: int, webhook: bool) -> AlertIn:
    if posted.labels is None:
        raise DecodeError(DecodeReason.SCHEMA, f"{i}.labels in body is required")
    labels = posted.labels
    if "" in labels.values():
        labels = {k: v for k, v in labels.items() if v}
    if not labels:
        raise DecodeError(DecodeReason.LABELS, "at least one label pair required")
    annotations = posted.annotations or {}
    if "" in labels or "" in annotations:
        kind = "label set" if "" in labels else "annotations"
        raise DecodeError(DecodeReason.LABELS, f'invalid {kind}: invalid name ""')
    url = posted.generatorURL or ""
    if url and not is_url(url):
        raise DecodeError(DecodeReason.VALUE, f'{i}.generatorURL in body must be of type uri: "{url[:200]}"')
    starts, ends = _time(posted.startsAt, i, "startsAt"), _time(posted.endsAt, i, "endsAt")
    if webhook:
        ends = _webhook_end(posted.status, starts, ends, i)
    if starts and ends and ends < starts:
        raise DecodeError(DecodeReason.TIMESTAMP, "start time must be before end time")
    if ends != OPEN_END:
        starts = starts or ends
    return AlertIn(labels=labels, annotations=annotations, starts_at=starts, ends_at=ends, generator_url=url)


def _webhook_end(status: str | None, starts: float, ends: float, i: int) -> float:
    if status == "firing":
        return ends or OPEN_END
    if status != "resolved":
        raise DecodeError(DecodeReason.SCHEMA, f"{i}.status is {status!r}: firing or resolved")
    if not (ends or starts):
        raise DecodeError(DecodeReason.TIMESTAMP, f"{i}: resolved, and neither startsAt nor endsAt is given")
    return ends or starts


def _time(text: str | None, i: int, field: str) -> float:
    if not text:
        return 0.0
    try:
        at = parse_time(text)
    except ValueError as e:
        raise DecodeError(DecodeReason.MALFORMED, f"{i}.{field}: {e}") from None
    if at < 0.0:
        raise DecodeError(DecodeReason.TIMESTAMP, f"{i}.{field}: {text} is before 1970")
    return at


def is_url(text: str) -> bool:
    """Whether Go's url.ParseRequestURI takes it: absolute, or an absolute path."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return text.startswith("/") or (bool(parts.scheme) and bool(parts.netloc or parts.path.startswith("/")))
