"""The pages in a real browser: they draw, they fit, they act, and hostile content stays text."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from aiopsd.model import Candidate, Evidence, Link, Upsert
from aiopsd.testing.breaks import BREAKS, broken
from aiopsd.testing.services import require
from aiopsd.testing.web import START, TestSite, running, shop_effects, shop_incident, shop_topology

pytestmark = pytest.mark.services

SHOP = "4f1c09d2ab7e6531"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Tab:
    """One tab, driven by the DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._calls = 0

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads((await asyncio.wait_for(self.socket.receive(), 30)).data)
        if "method" in message:
            self.events.append(message)
            given = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])
            elif message["method"] == "Log.entryAdded":
                self.complaints.append(given["entry"]["text"])
            elif message["method"] in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
                self.complaints.append(json.dumps(given))
        return message

    async def call(self, method: str, **params: Any) -> Any:
        self._calls += 1
        mine = self._calls
        await self.socket.send_json({"id": mine, "method": method, "params": params})
        while True:
            message = await self._next()
            if message.get("id") == mine:
                assert "error" not in message, message
                return message["result"]

    async def until(self, method: str) -> None:
        """Return when this event came after the last call of `forget`."""
        while not any(e["method"] == method for e in self.events):
            await self._next()

    def forget(self) -> None:
        self.events.clear()
        self.requests.clear()
        self.complaints.clear()

    async def open(self, url: str) -> None:
        self.forget()
        await self.call("Page.navigate", url=url)
        await self.until("Page.loadEventFired")

    async def run(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def press(self, selector: str) -> None:
        """Press a button and wait for the page that follows."""
        self.forget()
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")
        await self.until("Page.loadEventFired")


async def _endpoint(folder: Path, process: asyncio.subprocess.Process) -> str:
    """Where the browser's DevTools listen: it writes the port to a file of its folder."""
    told = folder / "DevToolsActivePort"
    async with asyncio.timeout(60):
        while not told.exists() or not told.read_text().count("\n"):
            assert process.returncode is None, "chromium ended"
            await asyncio.sleep(0.05)
    return f"http://127.0.0.1:{told.read_text().splitlines()[0]}"


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    program = require("chromium", "chromium-browser", "google-chrome")
    folder = tmp_path / "profile"
    process = await asyncio.create_subprocess_exec(
        program,
        *FLAGS,
        f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as http:
            where = await _endpoint(folder, process)
            async with http.put(f"{where}/json/new?about:blank") as answer:
                socket_url = (await answer.json(content_type=None))["webSocketDebuggerUrl"]
            async with http.ws_connect(socket_url, max_msg_size=0) as socket:
                opened = Tab(socket)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await opened.call(f"{domain}.enable")
                yield opened
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), 20)


@pytest.fixture
async def shop() -> AsyncIterator[TestSite]:
    async with running(now=START + 600) as started:
        await started.door.submit([shop_topology()])
        await started.door.keep(shop_effects())
        yield started


async def size(tab: Tab, width: int, height: int) -> None:
    await tab.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
    )


# what stands outside of the screen, though nothing scrolls: a card hides what is wider than itself
CUT = """[...document.querySelectorAll('td, th, button, select, input, h1, p')]
    .filter(e => e.getBoundingClientRect().right > WIDTH).map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 1024, 390])
async def test_the_pages_draw_and_fit(tab: Tab, shop: TestSite, width: int, scheme: str) -> None:
    """All pages load from us alone, without a complaint of the browser, as wide as the screen, in both schemes."""
    await size(tab, width, 900)
    other, _ = shop_incident(incident_id="5f3e9a1c00000001")
    await shop.door.keep([Upsert(item=replace(other, title="somewhere-else: " + "HighErrorRate of everything " * 4))])
    await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    for path in ("/", "/alerts", f"/incidents/{SHOP}"):
        await tab.open(shop.url + path)

        assert tab.complaints == []
        assert await tab.run(CUT.replace("WIDTH", str(width))) == []
        assert all(url.startswith(shop.url) for url in tab.requests)
        assert await tab.run("document.documentElement.scrollWidth") <= width
        ground = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(14, 18, 23)" if scheme == "dark" else "rgb(245, 246, 248)")
    drawn = "[...document.querySelectorAll('svg.series, svg.graph')].map(s => s.getBoundingClientRect().height > 60)"
    assert await tab.run(drawn) == [True] * 4


async def test_text_in_the_drawings_fits_and_nothing_overlaps(tab: Tab, shop: TestSite) -> None:
    """Names stay inside their boxes and no two boxes of the graph overlap."""
    await size(tab, 1360, 900)
    await tab.open(f"{shop.url}/incidents/{SHOP}")

    outside = await tab.run(
        """[...document.querySelectorAll('.node')].filter(g => {
            const box = g.querySelector('rect').getBBox();
            return [...g.querySelectorAll('text')].some(t => {
                const b = t.getBBox();
                return b.x < box.x || b.x + b.width > box.x + box.width || b.y < box.y
                    || b.y + b.height > box.y + box.height;
            });
        }).map(g => g.textContent)"""
    )
    overlaps = await tab.run(
        """(() => { const boxes = [...document.querySelectorAll('.node rect')].map(r => r.getBBox());
            return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => a.x < b.x + b.width && b.x < a.x + a.width
                && a.y < b.y + b.height && b.y < a.y + a.height)).length; })()"""
    )

    assert (outside, overlaps) == ([], 0)
    assert await tab.run("document.querySelectorAll('.node').length") > 8


BROKEN = """[...document.querySelectorAll('figure')].map(f => {
    const box = c => { const e = f.querySelector('.' + c); return e && e.getBoundingClientRect().toJSON(); };
    const of = (f.textContent.match(/of="([^"]+)"/) || [])[1];
    return {of, band: box('band'), onset: box('onset'), broken: box('broken'), missing: box('missing')};
}).filter(f => f.of)"""


async def test_every_kind_of_break_can_be_seen(tab: Tab, shop: TestSite) -> None:
    """What left its band is red outside of it, from the mark of its onset on; silence is shown as what is missing."""
    told: list[Evidence] = []
    asked: list[Evidence] = []
    for kind in sorted(BREAKS):
        event, answer = broken(kind)
        told.append(replace(event, labels={"of": kind}))
        asked += [replace(e, labels={"of": kind}) for e in answer if e.metric == "m"]
    incident, alerts = shop_incident()
    incident = replace(incident, roots=(replace(incident.roots[0], evidence=tuple(asked)),))
    await shop.door.keep([Upsert(item=incident), Upsert(item=replace(alerts[0], evidence=tuple(told)))])
    await size(tab, 1360, 900)
    await tab.open(f"{shop.url}/incidents/{SHOP}")
    seen = {f["of"]: f for f in await tab.run(BROKEN)}

    assert sorted(seen) == sorted(BREAKS)
    for kind, f in seen.items():
        assert f["band"]["height"] > 1, kind
        if kind == "no-data":
            assert f["missing"]["width"] > 30
            assert f["missing"]["left"] == pytest.approx(f["onset"]["left"], abs=2)
        else:
            out = max(f["band"]["top"] - f["broken"]["top"], f["broken"]["bottom"] - f["band"]["bottom"])
            assert out > 3, kind
            assert f["broken"]["left"] <= f["onset"]["left"] <= f["broken"]["right"], kind


async def test_everything_is_there_without_script(tab: Tab, shop: TestSite) -> None:
    """With JavaScript off the incident is whole: chain, drawings, timeline, and it refreshes by meta."""
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    await tab.open(f"{shop.url}/incidents/{SHOP}")
    document = await tab.call("DOM.getDocument", depth=-1)
    html = (await tab.call("DOM.getOuterHTML", nodeId=document["root"]["nodeId"]))["outerHTML"]

    for part in ("91% explained", '<svg class="graph"', '<svg class="series"', "first notification", "Acknowledge"):
        assert part in html
    assert '<meta http-equiv="refresh" content="30">' in html


async def test_the_buttons_work(tab: Tab) -> None:
    """Type a name, press Acknowledge, then Resolve: the real browser's forms pass the same-origin check."""
    async with running() as site:
        alert = {"labels": {"alertname": "Slow", "service": "db", "severity": "critical"}}
        await site.post("/api/v2/alerts", [alert])
        (incident,) = site.projection.incidents()
        await tab.open(f"{site.url}/incidents/{incident.id}")
        await tab.run("document.querySelector('[name=actor]').value = 'maria'")
        await tab.press("button.main")
        assert "Taken by maria" in await tab.run("document.body.innerText")
        assert await tab.run("document.querySelector('[name=actor]').value") == "maria"
        await tab.press("button:not(.main)")
        assert "resolved" in await tab.run("document.querySelector('.head').innerText")
        assert tab.complaints == []
        assert site.projection.incidents()[0].state == "resolved"


async def test_a_foreign_page_cannot_press_our_buttons(tab: Tab) -> None:
    """A form on another origin that posts to us is refused, and nothing was decided."""
    async with running() as site:
        alert = {"labels": {"alertname": "Slow", "service": "db", "severity": "critical"}}
        await site.post("/api/v2/alerts", [alert])
        (incident,) = site.projection.incidents()
        target = f"{site.url}/incidents/{incident.id}/ack"

        async def trap(request: web.Request) -> web.Response:
            text = (
                f"<form method=post action='{target}'><input name=actor value=eve><button class=main>x</button></form>"
            )
            return web.Response(text=text, content_type="text/html")

        app = web.Application()
        app.router.add_get("/", trap)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await tab.open(f"http://localhost:{runner.addresses[0][1]}/")
            await tab.press("button.main")
            assert "did not come from our own page" in await tab.run("document.body.innerText")
        finally:
            await runner.cleanup()
        assert site.projection.incidents()[0].state == "open"


async def test_hostile_labels_run_nothing(tab: Tab, shop: TestSite) -> None:
    """Markup in names, labels and annotations shows as text: no script ran, no image loaded, no dialog opened."""
    evil = "</title></svg>\"'><img src=/evil.png onerror=window.hacked=1><script>window.hacked=2</script>"
    incident, alerts = shop_incident()
    signal = Evidence(service=evil, metric=evil, recent=((1.0, 1.0), (2.0, 2.0)))
    root = Candidate(service=evil, reason=evil, chain=(Link(symptom="db", cause=evil, text=evil),), evidence=(signal,))
    labels = {"alertname": evil, evil: evil}
    await shop.door.keep(
        [
            Upsert(item=replace(incident, title=evil, services=(evil, "db"), roots=(root,), runbook="javascript:0")),
            Upsert(item=replace(alerts[0], labels=labels, annotations={"summary": evil}, group_reason=evil)),
        ]
    )
    for path in ("/", f"/incidents/{SHOP}"):
        await tab.open(shop.url + path)

        assert await tab.run("window.hacked === undefined")
        assert not [url for url in tab.requests if "evil" in url]
        assert tab.complaints == []
        assert "onerror=window.hacked=1" in await tab.run("document.body.innerText")
        assert await tab.run("document.querySelectorAll('a[href^=javascript]').length") == 0


# A document that a reload brings begins with a whole budget of virtual time, so how often the page would load hung on
# which came first, the new document or the end of the old one's budget. Refused, the reload leaves one document.
WATCH = """window.asked = []; navigation.addEventListener("navigate", event => {
    window.asked.push([event.navigationType, event.destination.url]); event.preventDefault(); });"""


@pytest.mark.parametrize(
    ("done", "reloads"),
    [
        ("1", 1),
        ("document.querySelector('[name=comment]').value = 'half a sent'", 0),
        ("document.querySelector('[name=fingerprint]').checked = true", 0),
        ("document.querySelector('[name=service]').selectedIndex = 1", 0),
    ],
)
async def test_a_refresh_never_takes_what_is_being_said(tab: Tab, shop: TestSite, done: str, reloads: int) -> None:
    """Within 45 s of virtual time the page asks for itself anew once, but not while a form is half filled in."""
    page = f"{shop.url}/incidents/{SHOP}"
    await tab.open(page)
    await tab.run(done)
    await tab.run(WATCH)
    tab.forget()
    await tab.call("Emulation.setVirtualTimePolicy", policy="advance", budget=45_000)
    await tab.until("Emulation.virtualTimeBudgetExpired")

    assert await tab.run("window.asked") == [["reload", page]] * reloads
