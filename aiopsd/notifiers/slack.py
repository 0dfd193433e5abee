"""Slack: an incoming webhook posts text; a bot token keeps one parent message per incident and its changes in a thread.

Limits: https://docs.slack.dev/reference/block-kit/blocks (50 blocks, header 150, section text 3000, 10 fields of 2000,
context 10 elements) and a total near 13,200 characters, undocumented (slackapi/bolt-js#2509). Methods:
https://docs.slack.dev/reference/methods/chat.postMessage, chat.update, conversations.history. Rate limits answer 429
with Retry-After: https://docs.slack.dev/apis/web-api/rate-limits.

An incoming webhook answers without a timestamp, so its messages can neither be updated nor threaded. With a token, the
receipt remembers channel and timestamp of the parent. When it is missing (the first message, or a crash between Slack's
answer and our mark) the channel is searched for a message whose metadata holds the dedup_key before one is posted.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec

from aiopsd.config import Secret, Section
from aiopsd.errors import DeliveryError, DeliveryReason
from aiopsd.model import Action, Notification, NotifyReason
from aiopsd.notifiers import text
from aiopsd.outgoing import check, json_body
from aiopsd.protocols import Request, Session

API = "https://slack.com/api/"
HEADER_LIMIT = 150
SECTION_LIMIT = 3000
FIELD_LIMIT = 2000
FIELDS_LIMIT = 10
FALLBACK_LIMIT = 4000  # characters of `text`, by Slack's advice
LISTED = 10  # alerts by line; the incident's page has them all
EVENT_TYPE = "aiopsd_incident"  # of the metadata by which a parent is found again
PAGE, PAGES = 100, 5  # messages looked through for a lost parent
LOOKBACK = 300.0  # s before the incident's beginning: their clock is not ours
TIMEOUT = 30.0  # s of one request; the delivery loop's own limit is usually shorter
MARKS = {
    "firing": ":red_circle:",
    "acknowledged": ":large_yellow_circle:",
    "resolved": ":large_green_circle:",
    "merged": ":white_circle:",
}
LOUD = (NotifyReason.REOPENED, NotifyReason.REPEAT, NotifyReason.ACK_ENDED)  # an edited parent notifies nobody

_CALLS = (NotifyReason.FIRST, NotifyReason.NEW_ALERTS, *LOUD)  # of these, the mention tells the mentioned

_GONE = ("message_not_found", "cant_update_message", "edit_window_closed")
_AUTH = (
    "invalid_auth",
    "not_authed",
    "account_inactive",
    "token_revoked",
    "token_expired",
    "missing_scope",
    "no_permission",
    "org_login_required",
    "ekm_access_denied",
)
_BLIND = ("missing_scope", "channel_not_found", "not_in_channel", "no_permission", "not_allowed_token_type")
_AGAIN = ("internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org")


class SlackConfig(Section, frozen=True, kw_only=True):
    """Options of one Slack integration: `url` (incoming webhook), or `token` and `channel` (bot)."""

    url: Secret | None = None
    token: Secret | None = None  # xoxb-..., scopes chat:write and channels:history
    channel: str = ""  # its id (C0123...): a name can be posted to, but not searched
    api_url: str = API
    mention: str = ""  # put before the text of a new message, for example <!here> or <!subteam^S012>
    send_resolved: bool = True

    def __post_init__(self) -> None:
        if (self.url is None) == (self.token is None):
            raise ValueError("slack needs exactly one of `url` (incoming webhook) and `token` (bot)")
        if self.token is not None and not self.channel:
            raise ValueError("slack with a `token` needs a `channel`")


class Slack:
    """Says a notification in a channel."""

    Config: ClassVar[type[msgspec.Struct]] = SlackConfig

    def __init__(self, config: SlackConfig, session: Session) -> None:
        self.config = config
        self.session = session

    def encode(self, item: Notification, receipt: Mapping[str, str]) -> Request | None:
        """The message: posted, or with a receipt the parent's new content; None: there is no message to close."""
        if self.config.url is not None:
            body = json_body(message(item, self.config.mention))
            return Request(method="POST", url=self.config.url.reveal(), body=body, headers=_JSON)
        if "ts" in receipt:
            where = {"channel": receipt["channel"], "ts": receipt["ts"]}
            return self._call("chat.update", where | message(item) | {"metadata": _metadata(item)})
        if item.action is not Action.TRIGGER:
            return None
        body_of_parent = message(item, self.config.mention) | {"metadata": _metadata(item), "unfurl_links": False}
        return self._call("chat.postMessage", {"channel": self.config.channel} | body_of_parent)

    def reply(self, item: Notification, receipt: Mapping[str, str]) -> Request:
        """The change as a message in the parent's thread; a loud one is shown in the channel too."""
        body = {
            "channel": receipt["channel"],
            "thread_ts": receipt["ts"],
            "text": f"{MARKS[text.status(item)]} {mrkdwn(text.change(item) or item.reason, FALLBACK_LIMIT - 50)}",
            "unfurl_links": False,
        }
        if item.reason in LOUD:
            body["reply_broadcast"] = True
        return self._call("chat.postMessage", body)

    async def send(self, item: Notification, receipt: Mapping[str, str]) -> dict[str, str]:
        """Deliver; with a token the receipt is {"channel", "ts"} of the parent. See protocols.Notifier."""
        if self.config.url is not None:
            request = self.encode(item, receipt)
            assert request is not None  # a webhook always has something to say
            check(*await self._request(request), secrets=self._secrets())
            return {}
        parent = {k: receipt[k] for k in ("channel", "ts") if k in receipt} if "ts" in receipt else {}
        if not parent:
            parent = await self._find(item)
        if parent:
            try:
                await self._ask(self.encode(item, parent))
                await self._ask(self.reply(item, parent))
                return parent
            except _Gone:
                pass  # somebody deleted it: a trigger posts anew
        posting = self.encode(item, {})
        if posting is None:
            return {}
        said = await self._ask(posting)
        return {"channel": str(said.get("channel", self.config.channel)), "ts": str(said.get("ts", ""))}

    async def _find(self, item: Notification) -> dict[str, str]:
        """The parent that a crash made us forget; {} when there is none, or when we may not look."""
        started = item.incident.opened_at if item.incident is not None else item.stamp
        cursor = ""
        for _ in range(PAGES):
            query = {
                "channel": self.config.channel,
                "include_all_metadata": "true",
                "limit": str(PAGE),
                "oldest": f"{max(0.0, started - LOOKBACK):.6f}",
            }
            request = Request(
                method="POST",
                url=self.config.api_url + "conversations.history",
                body=urlencode(query | ({"cursor": cursor} if cursor else {})).encode(),
                headers=self._headers("application/x-www-form-urlencoded"),
            )
            try:
                said = await self._ask(request)
            except DeliveryError as e:
                if e.detail not in _BLIND:
                    raise
                return {}  # no scope, or a channel given by name: better a second parent than none
            for found in said.get("messages", ()):
                metadata = found.get("metadata") or {}
                payload = metadata.get("event_payload") or {}
                if metadata.get("event_type") == EVENT_TYPE and payload.get("dedup_key") == item.dedup_key:
                    return {"channel": self.config.channel, "ts": str(found["ts"])}
            cursor = (said.get("response_metadata") or {}).get("next_cursor", "")
            if not cursor:
                break
        return {}

    def _call(self, method: str, body: dict[str, Any]) -> Request:
        headers = self._headers("application/json; charset=utf-8")
        return Request(method="POST", url=self.config.api_url + method, body=json_body(body), headers=headers)

    def _headers(self, content: str) -> dict[str, str]:
        token = self.config.token.reveal() if self.config.token is not None else ""
        return {"Content-Type": content, "Authorization": f"Bearer {token}"}

    def _secrets(self) -> tuple[str, ...]:
        return tuple(s.reveal() for s in (self.config.url, self.config.token) if s is not None)

    async def _request(self, r: Request) -> tuple[int, Mapping[str, str], bytes]:
        return await self.session.request(r.method, r.url, data=r.body, headers=r.headers, timeout=TIMEOUT)

    async def _ask(self, request: Request | None) -> dict[str, Any]:
        """Call a method of the Web API; what it said.

        Raises:
            DeliveryError: by status, or by the `error` of an answer that is not ok.
        """
        assert request is not None  # only asked with something to say
        status, headers, body = await self._request(request)
        check(status, headers, body, secrets=self._secrets())
        try:
            said = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            raise DeliveryError(DeliveryReason.SERVER_ERROR, "Slack's answer is not JSON", retry=True) from None
        if said.get("ok") is True:
            return said
        error = str(said.get("error", "no error given"))[:100]
        if error in _GONE:
            raise _Gone(DeliveryReason.CLIENT_ERROR, error, retry=False)
        if error in ("ratelimited", "rate_limited"):
            raise DeliveryError(DeliveryReason.RATE_LIMITED, error, retry=True)
        if error in _AGAIN:
            raise DeliveryError(DeliveryReason.SERVER_ERROR, error, retry=True)
        if error in ("msg_too_long", "msg_blocks_too_long"):
            raise DeliveryError(DeliveryReason.TOO_LARGE, error, retry=False)
        raise DeliveryError(DeliveryReason.AUTH if error in _AUTH else DeliveryReason.CLIENT_ERROR, error, retry=False)


class _Gone(DeliveryError):
    """The parent is not there, or may not be edited, any more."""


_JSON = {"Content-Type": "application/json; charset=utf-8"}


def _metadata(item: Notification) -> dict[str, Any]:
    return {"event_type": EVENT_TYPE, "event_payload": {"dedup_key": item.dedup_key, "notification": item.id}}


def message(item: Notification, mention: str = "") -> dict[str, Any]:
    """`text` (for notifications and clients without blocks) and `blocks`, within Slack's limits."""
    mark = MARKS[text.status(item)]
    head = text.headline(item, HEADER_LIMIT - len(mark) - 1)
    prefix = f"{mention} " if mention and item.reason in _CALLS else ""
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": text.cut(f"{mark} {head}", HEADER_LIMIT)}}
    ]
    facts = list(text.facts(item))
    long = [f"*{name}:* {mrkdwn(value, 900)}" for name, value in facts if name in _LONG]
    news = [mrkdwn(said, 600)] if (said := text.change(item)) else []
    blocks.append(_section(prefix + "\n".join([*news, *long])))
    fields = [f"*{name}*\n{mrkdwn(value, 500)}" for name, value in facts if name not in _LONG]
    if fields:
        cells = [{"type": "mrkdwn", "text": f[:FIELD_LIMIT]} for f in fields[:FIELDS_LIMIT]]
        blocks.append({"type": "section", "fields": cells})
    if item.alerts and item.action is Action.TRIGGER:
        lines = [f"• {mrkdwn(text.alert_line(a, item.stamp), 250)}" for a in item.alerts[:LISTED]]
        left = len(item.alerts) - len(lines) + item.truncated
        blocks.append(_section("\n".join(lines + ([f"… and {left} more"] if left else []))))
    if links := text.links(item):
        shown = [(mrkdwn(name.replace("|", " "), 75), url) for name, url in links if len(url) <= SECTION_LIMIT // 4]
        said = " | ".join(f"<{_escape(url)}|{name}>" for name, url in shown)
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": said or " "}]})
    return {"text": mrkdwn(f"{mark} {head}", FALLBACK_LIMIT), "blocks": blocks}


_LONG = ("Probable cause", "Change", "Evidence", "Chain", "Next suspects", "First look")


def _section(said: str) -> dict[str, Any]:
    """Whole lines up to the limit: a cut in the middle could open a link or an entity."""
    kept, size = [], 0
    for line in said.split("\n"):
        size += len(line) + 1
        if size > SECTION_LIMIT:
            break
        kept.append(line)
    return {"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(kept)}}


def _escape(said: str) -> str:
    """https://docs.slack.dev/messaging/formatting-message-text#escaping"""
    return said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def mrkdwn(said: str, limit: int) -> str:
    """Escaped and at most `limit` characters long after escaping; newlines become spaces.

    >>> mrkdwn("a < b", 20)
    'a &lt; b'
    """
    said = re.sub(r"\s*\n\s*", " ", said)
    out = _escape(said)
    while len(out) > limit:
        said = text.cut(said, max(1, len(said) - max(1, (len(out) - limit) // 5)))
        out = _escape(said)
    return out
