"""What goes out over HTTP, whoever it goes to: CloudEvents, signatures, and what an answer means for a retry.

Enters: payloads, secrets, answers. Leaves: bytes, headers, DeliveryErrors. No socket: notifiers and trainers send.
"""

import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from aiopsd.errors import DeliveryError, DeliveryReason

DETAIL_LIMIT = 200  # characters of an answer in an error
CLOUDEVENTS = "application/cloudevents+json; charset=utf-8"


def rfc3339(ts: float) -> str:
    """UTC with milliseconds, as Prometheus writes times.

    >>> rfc3339(0.0625)
    '1970-01-01T00:00:00.062Z'
    """
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cloud_event(*, id: str, source: str, type: str, subject: str, time: float, data: Any) -> dict[str, Any]:
    """The attributes of a CloudEvent 1.0 with its data (cloudevents/spec, json-format.md)."""
    return {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": rfc3339(time),
        "datacontenttype": "application/json",
        "data": data,
    }


def json_body(value: Any) -> bytes:
    """Compact JSON in the order given: the same value gives the same bytes."""
    return msgspec.json.encode(value)


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """`v1=` and the hex HMAC-SHA256 of `v1:{timestamp}:{body}`; compare in constant time.

    >>> signature("key", 1, b"{}")[:11]
    'v1=b0fa2e23'
    """
    return "v1=" + hmac.new(secret.encode(), b"v1:%d:" % timestamp + body, "sha256").hexdigest()


def signed(secret: str, stamp: float, body: bytes) -> dict[str, str]:
    """The two headers that let a receiver check who sent this body. The time is that of the decision, so that a
    repeated delivery is the same bytes; replays are caught by the Idempotency-Key."""
    timestamp = int(stamp)
    return {"X-Aiopsd-Timestamp": str(timestamp), "X-Aiopsd-Signature": signature(secret, timestamp, body)}


def host_of(url: str) -> str:
    """host[:port] of a URL: what of it may be shown."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname or "?")
    except ValueError:
        return "?"


def check(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    secrets: tuple[str, ...] = (),
    accepted: range = range(200, 300),
) -> None:
    """Return when the status is a success, else raise what it means.

    429 and 5xx (and 408) are worth a retry, and their Retry-After is passed on; every other status is not.

    Args:
        secrets: texts that a receiver may echo; they are cut out of the error.
        accepted: statuses that are a success.

    Raises:
        DeliveryError: with reason, retry and retry_after in seconds.
    """
    if status in accepted:
        return
    detail = f"HTTP {status}"
    if 300 <= status < 400:
        detail += f", a redirect to {host_of(headers.get('location', ''))} that is not followed"
    elif said := redact(" ".join(body[:2000].decode(errors="replace").split()), secrets)[:DETAIL_LIMIT]:
        detail += f": {said}"
    after = retry_after(headers)
    if status == 429:
        raise DeliveryError(DeliveryReason.RATE_LIMITED, detail, retry=True, retry_after=after)
    if status >= 500:
        raise DeliveryError(DeliveryReason.SERVER_ERROR, detail, retry=True, retry_after=after)
    if status == 408:
        raise DeliveryError(DeliveryReason.TIMEOUT, detail, retry=True, retry_after=after)
    if status in (401, 403):
        raise DeliveryError(DeliveryReason.AUTH, detail, retry=False)
    if status == 413:
        raise DeliveryError(DeliveryReason.TOO_LARGE, detail, retry=False)
    raise DeliveryError(DeliveryReason.CLIENT_ERROR, detail, retry=False)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (RFC 9110 10.2.3); a date counts from the answer's own Date. None: none given.

    >>> retry_after({"retry-after": "7"})
    7.0
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        since = parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - since).total_seconds())
    except (ValueError, TypeError):
        return None


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """The text without the secrets; of a URL, without its path, segments and query values of eight characters on."""
    for secret in secrets:
        parts = {secret}
        if "://" in secret:
            url = urlsplit(secret)
            parts |= {url.path, url.path.strip("/"), url.query}
            parts |= {p for p in re.split(r"[/?&=]", f"{url.path}?{url.query}") if len(p) >= 8}
        for part in sorted(parts, key=lambda p: (-len(p), p)):
            if len(part) >= 4:
                text = text.replace(part, "***")
    return text
