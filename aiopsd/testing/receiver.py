"""A real HTTP receiver on 127.0.0.1 that answers by script and remembers what came; and a Slack that behaves.

Enters: a script of replies. Leaves: the requests, in the order of their arrival. For tests of delivery, where what
matters is what was on the wire, in which order and when.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs

import msgspec
from aiohttp import web


class Reply(NamedTuple):
    """One answer: after `delay` seconds, or (drop) the connection closed without one, after the body was read."""

    status: int = 200
    body: bytes = b"ok"
    headers: Mapping[str, str] = MappingProxyType({})
    delay: float = 0.0
    drop: bool = False


class Received(NamedTuple):
    """One request as it arrived; `at` is monotonic seconds, for differences."""

    method: str
    path: str
    headers: dict[str, str]  # lower-case names
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Answer = Callable[[Received], Reply | Awaitable[Reply]]

PATIENCE = 30.0  # seconds a test waits for a request: a loaded machine is slow, and waiting costs only failures


class Receiver:
    """An HTTP server; `async with Receiver([Reply(503), Reply(202)]) as r`, then post to `r.url`.

    Answers follow the script, then `default`; or all come from `answer`. `received` is in order of arrival,
    `most_at_once` the largest number of requests that were open together.
    """

    def __init__(
        self, script: Iterable[Reply] = (), *, default: Reply | None = None, answer: Answer | None = None
    ) -> None:
        self.received: list[Received] = []
        self.most_at_once = 0
        self.port = 0
        self._script = list(script)
        self._default = default or Reply()
        self._answer = answer
        self._open = 0
        self._news = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def got(self, count: int, timeout: float = PATIENCE) -> list[Received]:
        """Wait until `count` requests have arrived; all of them.

        Raises:
            AssertionError: fewer came in time; says which.
        """
        try:
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(lambda: len(self.received) >= count)
        except TimeoutError:
            raise AssertionError(f"not {count} requests within {timeout} s: {self._said()}") from None
        return self.received

    async def until(self, wanted: Callable[[Received], bool], timeout: float = PATIENCE) -> Received:
        """Wait until a request has arrived that is `wanted`; the first of them.

        Raises:
            AssertionError: none came in time; says which did.
        """
        try:
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(lambda: any(map(wanted, self.received)))
        except TimeoutError:
            raise AssertionError(f"none of these was wanted, within {timeout} s: {self._said()}") from None
        return next(filter(wanted, self.received))

    def _said(self) -> list[str]:
        return [f"{r.method} {r.path} {r.body[:500]!r}" for r in self.received]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        came = Received(
            method=request.method,
            path=request.path_qs,
            headers={k.lower(): v for k, v in request.headers.items()},
            body=body,
            at=time.monotonic(),
        )
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            async with self._news:
                self.received.append(came)
                self._news.notify_all()
            reply = await self._reply(came)
            if reply.delay:
                await asyncio.sleep(reply.delay)
        finally:
            self._open -= 1
        if reply.drop:
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    async def _reply(self, came: Received) -> Reply:
        if self._answer is not None:
            said = self._answer(came)
            return said if isinstance(said, Reply) else await said
        return self._script.pop(0) if self._script else self._default


class SlackWorkspace:
    """One channel that keeps its messages as Slack does: post, update, history with metadata, threads.

    Use its `answer` for a Receiver. `fail` holds errors (or Replies) by method, used up one by one.
    """

    def __init__(self, token: str, channel: str = "C1") -> None:
        self.token, self.channel = token, channel
        self.messages: dict[str, dict[str, Any]] = {}  # ts -> message, in order of posting
        self.fail: dict[str, list[str | Reply]] = {}
        self._count = 0

    @property
    def parents(self) -> list[dict[str, Any]]:
        return [m for m in self.messages.values() if "thread_ts" not in m]

    def thread(self, ts: str) -> list[dict[str, Any]]:
        return [m for m in self.messages.values() if m.get("thread_ts") == ts]

    def answer(self, came: Received) -> Reply:
        method = came.path.rpartition("/")[2]
        if self.fail.get(method):
            said = self.fail[method].pop(0)
            return said if isinstance(said, Reply) else _slack_error(said)
        if came.headers.get("authorization") != f"Bearer {self.token}":
            return _slack_error("invalid_auth")
        if came.headers["content-type"].startswith("application/json"):
            asked = came.json
        else:
            asked = {k: v[0] for k, v in parse_qs(came.body.decode()).items()}
        if asked.get("channel") != self.channel:
            return _slack_error("channel_not_found")
        if method == "chat.postMessage":
            self._count += 1
            ts = f"1700000000.{self._count:06d}"
            self.messages[ts] = asked | {"ts": ts}
            return _slack_ok(channel=self.channel, ts=ts)
        if method == "chat.update":
            if asked["ts"] not in self.messages:
                return _slack_error("message_not_found")
            self.messages[asked["ts"]] |= asked
            return _slack_ok(channel=self.channel, ts=asked["ts"])
        if method == "conversations.history":
            shown = sorted(self.parents, key=lambda m: m["ts"], reverse=True)
            begin = int(asked.get("cursor") or 0)
            page = shown[begin : begin + int(asked["limit"])]
            more = str(begin + len(page)) if begin + len(page) < len(shown) else ""
            if asked.get("include_all_metadata") != "true":
                page = [{k: v for k, v in m.items() if k != "metadata"} for m in page]
            return _slack_ok(messages=page, response_metadata={"next_cursor": more})
        return _slack_error("unknown_method")


def _slack_ok(**said: Any) -> Reply:
    return Reply(200, msgspec.json.encode({"ok": True} | said), {"Content-Type": "application/json"})


def _slack_error(error: str) -> Reply:
    return Reply(200, msgspec.json.encode({"ok": False, "error": error}), {"Content-Type": "application/json"})
