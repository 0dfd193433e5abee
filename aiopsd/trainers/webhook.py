"""Retraining by webhook: a CloudEvent 1.0 posted in structured JSON, signed, with the dedup_key as Idempotency-Key.

The receiver answers 2xx once it has the request, and the same again for a key that it knows. A JSON object in the
answer with `id` or `run_id` is remembered as the job's name. The event is described in docs/reference/notifiers.md.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from aiopsd.config import Secret, Section
from aiopsd.model import RetrainRequest
from aiopsd.outgoing import CLOUDEVENTS, check, cloud_event, json_body, signed
from aiopsd.protocols import Request, Session

TIMEOUT = 30.0  # s of one request; the delivery loop's own limit is usually shorter
EVENT_TYPE = "io.aiopsd.retraining.requested"


def event(item: RetrainRequest, source: str) -> dict[str, Any]:
    """The CloudEvent of a request; its id is the dedup_key, so that source and id name it once (CloudEvents 3.1)."""
    return cloud_event(
        id=item.dedup_key,
        source=source,
        type=EVENT_TYPE,
        subject=item.subject,
        time=item.requested_at,
        data={
            "dedup_key": item.dedup_key,
            "subject": item.subject,
            "model": item.model,
            "reason": item.reason,
            "requested_at": item.requested_at,
            "labels": item.labels,
            "drift": [msgspec.to_builtins(d) for d in item.drift],
        },
    )


class WebhookTrainerConfig(Section, frozen=True, kw_only=True):
    """Options of one webhook trainer."""

    url: Secret  # a secret, because tokens live in its path and query
    secret: Secret | None = None  # signs time and body; None: unsigned
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    source: str = "aiopsd"  # CloudEvents source: a URI that names this daemon


class WebhookTrainer:
    """Posts a retraining request."""

    Config: ClassVar[type[msgspec.Struct]] = WebhookTrainerConfig

    def __init__(self, config: WebhookTrainerConfig, session: Session) -> None:
        self.config = config
        self.session = session

    def encode(self, item: RetrainRequest) -> Request:
        """The signed body; the same request gives the same bytes."""
        body = json_body(event(item, self.config.source))
        headers = {"Content-Type": CLOUDEVENTS, "User-Agent": "aiopsd", "Idempotency-Key": item.dedup_key}
        if self.config.secret is not None:
            headers |= signed(self.config.secret.reveal(), item.requested_at, body)
        headers |= {name: value.reveal() for name, value in self.config.headers.items()}
        return Request(method="POST", url=self.config.url.reveal(), body=body, headers=headers)

    async def send(self, item: RetrainRequest, receipt: Mapping[str, str]) -> dict[str, str]:
        """Deliver; {"run": ...} when the answer names the job. See protocols.Trainer."""
        r = self.encode(item)
        status, headers, body = await self.session.request(
            r.method, r.url, data=r.body, headers=r.headers, timeout=TIMEOUT
        )
        secret = (self.config.secret.reveal(),) if self.config.secret is not None else ()
        check(status, headers, body, secrets=(r.url, *secret, *(v.reveal() for v in self.config.headers.values())))
        return _run(body)


def _run(body: bytes) -> dict[str, str]:
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    run = (said.get("run_id") or said.get("id")) if isinstance(said, dict) else None
    return {"run": str(run)[:200]} if run else {}
