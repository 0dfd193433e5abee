"""Plays an outage through the real daemon over HTTP, says what it made of it, and serves its page until Ctrl-C.

A day of metrics of a simulated shop is pushed quickly; then the outage, its first six minutes within some twenty
seconds. The daemon lives through them in a process of its own, with a fresh data folder and every default, on a clock
that runs as fast as the story and knows slow machines (hurry.py): what it decides is what it would decide in six
minutes. Pages go to a receiver in this process. Without a terminal it ends by itself: 0 when an incident named the true
cause, else 1.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from simulations import wire
from simulations.hurry import SPEED, Pace
from simulations.process import Daemon, Failure, Pager
from simulations.world import Scenario, Truth, World, iso, pages_without, scenario

BEFORE = 60.0  # s of the story in which nothing is broken yet
PAGE_SECONDS = 30.0
AT_ONCE = 240  # steps of history in one request

CONFIG = """\
metric_log: {{sync: normal}}
services: {{labels: [service, node]}}
route: {{receiver: oncall}}
receivers:
  - name: oncall
    webhook_configs:
      - url: "http://127.0.0.1:{pager}/page"
"""

Batch = list[dict[str, Any]]
Sent = list[tuple[float, Batch]]  # requests with alerts, and when


class Terminal:
    """Plain words, with colour where somebody looks."""

    def __init__(self) -> None:
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.width = min(shutil.get_terminal_size((100, 24)).columns, 110)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def good(self, text: str) -> str:
        return self._paint("1;32", text)

    def bad(self, text: str) -> str:
        return self._paint("1;31", text)

    def say(self, text: str = "", indent: int = 2, hang: int = 0) -> None:
        """A paragraph, wrapped."""
        if not text:
            print(flush=True)
            return
        pad = " " * indent
        print(textwrap.fill(text, self.width, initial_indent=pad, subsequent_indent=pad + " " * hang), flush=True)

    def head(self, text: str) -> None:
        print("\n" + self.bold(text), flush=True)

    def progress(self, text: str, done: float) -> None:
        """A bar on a terminal; nothing elsewhere."""
        if sys.stdout.isatty():
            filled = int(30 * done)
            end = "\n" if done >= 1 else ""
            print(f"\r  {text:34s} [{'#' * filled}{'.' * (30 - filled)}] {done:4.0%}", end=end, flush=True)
        elif done >= 1:
            print(f"  {text}", flush=True)

    def pages(self, messages: Mapping[str, list[dict[str, Any]]]) -> None:
        """What each page said last, and why it was said."""
        for mine in messages.values():
            reasons = ", ".join(dict.fromkeys(page["reason"] for page in mine))
            self.say(f"- {mine[-1]['title']} ({reasons})", 4, 2)


def steps(world: World) -> Iterator[tuple[float, Any, list[Batch], Batch]]:
    """(ts, values of all series, batches of alerts, changes) of every step of the scenario."""
    gap = float(world.scenario.step)
    for chunk in world.play():
        for k, ts in enumerate(chunk.ts.tolist()):
            batches = [batch for at, batch in chunk.alerts if at == ts]
            changes = [change for at, change in chunk.changes if ts <= at < ts + gap]
            yield ts, chunk.values[:, k], batches, changes


class Player:
    """Sends a world to the daemon: its history at once, its story by the daemon's clock."""

    def __init__(self, world: World, daemon: Daemon, clock: Pace, out: Terminal) -> None:
        self.world, self.daemon, self.clock, self.out = world, daemon, clock, out
        self.sent: Sent = []  # of the story
        self._labels = [wire.label_bytes(s) for s in world.series]
        self._ts: list[float] = []
        self._values: list[Any] = []

    def play(self) -> None:
        """All of it. The story starts when the history is scored; it is caught up with what that took."""
        start, end = story(self.world)
        begun = False
        for ts, values, batches, changes in steps(self.world):
            if ts >= start and not begun:
                begun = True
                self._learned(ts)
            if begun:
                self._go_on(ts)
                self.out.progress("the outage, twenty times as fast as life", (ts - start) / (end - start))
            self._ts.append(ts)
            self._values.append(values)
            if begun or len(self._ts) == AT_ONCE:
                self._flush()
            if begun:
                self._tell(ts, batches, changes)
                self.daemon.wait_for_samples(ts)
            elif not self._ts:
                began = self.world.scenario.start
                self.out.progress("a day of metrics", (ts - began) / (start - began))
        self._go_on(end)
        self.daemon.say(self.clock.run(1.0))
        self.out.progress("the outage, twenty times as fast as life", 1.0)

    def _learned(self, ts: float) -> None:
        self._flush()
        self.daemon.wait_for_samples(ts - self.world.scenario.step)
        self.out.progress("a day of metrics", 1.0)

    def _go_on(self, ts: float) -> None:
        """Wait for this time of the story; the daemon's clock, and ours, hurry no further than to the next step."""
        self.daemon.say(self.clock.run(SPEED, max(ts, self.clock()) + self.world.scenario.step))
        while (left := ts - self.clock()) > 0:
            time.sleep(left / SPEED)

    def _flush(self) -> None:
        if self._ts:
            self.daemon.write(wire.remote_write(self._labels, np.array(self._ts), np.stack(self._values, axis=1)))
            self._ts.clear()
            self._values.clear()

    def _tell(self, ts: float, batches: list[Batch], changes: Batch) -> None:
        for batch in batches:
            self.daemon.json("/api/v2/alerts", wire.alerts(batch))
            self.sent.append((ts, batch))
        for change in changes:
            self.daemon.json("/api/v1/changes", wire.change(change))


def story(world: World) -> tuple[float, float]:
    """When what is played by the clock begins and ends, UTC seconds."""
    sc = world.scenario
    return sc.start + min(f.at for f in world.faults) - BEFORE, sc.start + sc.length


def find(daemon: Daemon, truth: Truth) -> dict[str, Any] | None:
    """Wait for the paged incident that names the cause; else the paged one with most alerts, else none.

    One that was over before the fault is not about it; one that was open already may have taken it in.
    """
    until = time.monotonic() + PAGE_SECONDS
    best: dict[str, Any] | None = None
    while time.monotonic() < until:
        incidents = daemon.get("/api/v1/incidents")["incidents"]
        paged = [i for i in incidents if i["paged"] and not over(i, truth.start)]
        named = [i for i in paged if i["cause"] and i["cause"]["service"] == truth.root]
        if named or paged:
            best = max(named or paged, key=lambda i: (i["alerts"], i["id"]))
        if named:
            break
        time.sleep(0.25)
    if best is None:
        return None
    found: dict[str, Any] = daemon.get(f"/api/v1/incidents/{best['id']}")
    return found


def over(incident: dict[str, Any], ts: float) -> bool:
    """Whether it was resolved before `ts`."""
    return incident["resolved_at"] is not None and seconds(incident["resolved_at"]) < ts


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def clock(text: str | None) -> str:
    return (text or "?")[11:19]


def evidence_line(e: dict[str, Any]) -> str:
    """`cart: latency_p99_seconds 0.9, normally 0.1..0.2, since 12:00:01`."""
    side = f"normally {e['low']:.2g}..{e['high']:.2g}" if e["low"] is not None and e["high"] is not None else ""
    since = f", since {clock(e['onset'])}" if e["onset"] else ""
    return f"{e['service']}: {e['metric']} {e['level']:.3g}, {side}{since}"


def tell(
    out: Terminal,
    world: World,
    truth: Truth,
    incident: dict[str, Any] | None,
    sent: Sent,
    pages: list[dict[str, Any]],
) -> bool:
    """Print the story; was the true cause named?"""
    named = incident is not None and bool(incident["causes"]) and incident["causes"][0]["service"] == truth.root
    if incident is None:
        out.head("No incident was paged.")
    else:
        tell_incident(out, incident)
    tell_pages(out, world, truth, sent, pages)
    out.head("What really happened")
    what = truth.kind.replace("_", " ")
    reached = ", ".join(truth.affected)
    out.say(f"The simulator broke {truth.root} ({what}) at {clock(iso(truth.start))} UTC; it reached: {reached}.")
    print("  " + (out.good("The incident names it.") if named else out.bad("No incident names it.")))
    return named


def tell_incident(out: Terminal, incident: dict[str, Any]) -> None:
    """What the daemon says of it: what broke, and why it thinks so."""
    out.head("What broke")
    out.say(f"{incident['title']}")
    out.say(
        f"{incident['severity']}, since {clock(incident['started_at'])} UTC; {incident['firing']} of"
        f" {incident['alerts']} alerts and anomalies still fire; services: {', '.join(incident['services'])}"
    )
    out.head("Why it thinks so")
    for rank, cause in enumerate(incident["causes"][:3], 1):
        name = out.bold(cause["service"]) if rank == 1 else cause["service"]
        print(f"  {rank}. {name}, {cause['confidence']:.0%}")
        out.say(cause["reason"], 5)
        if rank > 1:
            continue
        for link in cause["chain"]:
            text = link["text"] or f"{link['share']:.0%} explained"
            out.say(f"{link['symptom']} -> {link['cause']} ({link['edge']}): {text}", 5, 2)
        for text in list(dict.fromkeys(evidence_line(e) for e in cause["evidence"]))[:4]:
            out.say("- " + text, 5, 2)
        for c in cause["changes"]:
            out.say(f"- {c['kind']} at {clock(c['at'])}: {c['summary']} by {c['actor']}", 5, 2)


def tell_pages(out: Terminal, world: World, truth: Truth, sent: Sent, pages: list[dict[str, Any]]) -> None:
    """Who was woken for the outage, how often, and how often they would have been; then what else paged."""
    hit = {truth.root, *truth.affected}
    told: dict[str, list[dict[str, Any]]] = {}  # dedup_key -> its messages
    for page in (p["data"] for p in pages if p["data"]["action"] == "trigger"):
        told.setdefault(page["dedup_key"], []).append(page)
    about = {k: v for k, v in told.items() if any(hit.intersection(page["incident"]["services"]) for page in v)}
    other = {k: v for k, v in told.items() if k not in about}
    end = world.scenario.start + world.scenario.length
    ours = [(at, [a for a in batch if a["labels"].get("service") in hit]) for at, batch in sent]
    out.head("Who was woken")
    out.say(f"{plural(sum(len(batch) for _, batch in ours), 'alert message')} of the outage came in.")
    out.say(f"{plural(len(about), 'page')} went out for it:")
    out.pages(about)
    out.say(
        f"Without aiopsd you would have had {plural(pages_without(ours, end), 'page')}:"
        " Alertmanager's defaults, group_by [alertname, service]."
    )
    if other:
        out.say("What had nothing to do with it paged as well:")
        out.pages(other)


def plural(n: int, word: str) -> str:
    """`1 page`, `2 pages`."""
    return f"{n} {word}" + ("s" if n != 1 else "")


def main(argv: list[str]) -> int:
    """0: the true cause was named; 1: it was not, or something failed."""
    p = argparse.ArgumentParser(prog="python -m simulations demo", description=__doc__.split("\n")[0])
    p.add_argument("--scenario", default="demo", help="name in simulations/scenarios, or a file")
    p.add_argument("--no-wait", action="store_true", help="end after the story even on a terminal")
    args = p.parse_args(argv)
    out = Terminal()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: the daemon is stopped first
    world, pace = set_out(scenario(args.scenario))
    print(out.bold("aiopsd demo: an outage, played through the real daemon"))
    out.say(
        f"A shop of {len(world.names)} services on {len(world.nodes)} nodes, {len(world.series)} series. One breaks."
    )
    folder = Path(tempfile.mkdtemp(prefix="aiopsd-demo-"))
    pager = Pager()
    behind = time.time() - pace()
    daemon = Daemon(folder, CONFIG.format(pager=pager.port), ("simulations", "hurry", "--behind", f"{behind:.3f}"))
    try:
        daemon.ready()
        out.say(f"the daemon answers at {daemon.url}/ (data in {folder})")
        daemon.json("/api/v1/topology", wire.topology(world.edges(), world.vertices()))
        player = Player(world, daemon, pace, out)
        player.play()
        truth = world.truth()[0]
        incident = find(daemon, truth)
        named = tell(out, world, truth, incident, player.sent, pager.pages)
        if sys.stdin.isatty() and sys.stdout.isatty() and not args.no_wait:
            page = f"{daemon.url}/incidents/{incident['id']}" if incident else f"{daemon.url}/"
            out.head(f"See it at {page}")
            out.say("Ctrl-C ends the demo and removes its data.")
            while daemon.process.poll() is None:
                time.sleep(0.5)
        return 0 if named else 1
    except KeyboardInterrupt:
        print()
        return 0
    except (Failure, OSError) as e:
        end = daemon.log.read_text(errors="replace")[-3000:] if daemon.process.poll() is not None else ""
        print(f"the demo failed: {e}\n{end}", file=sys.stderr)
        return 1
    finally:
        daemon.stop()
        pager.close()
        shutil.rmtree(folder, ignore_errors=True)


def set_out(sc: Scenario) -> tuple[World, Pace]:
    """The world with its story about to begin by a clock that shows the real time when the story is over."""
    start, end = story(World(sc))
    clock = Pace(behind=(end - start) * (1.0 - 1.0 / SPEED))
    began = np.floor((clock() - (start - sc.start)) / sc.step) * sc.step
    return World(msgspec.structs.replace(sc, start=float(began))), clock
