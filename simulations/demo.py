"""Plays an outage through the real daemon over HTTP, says what it made of it, and serves its page until Ctrl-C.

A day of metrics of a simulated shop is pushed quickly, ending now; then the outage, its first six minutes in some
twenty seconds. The daemon is `python -m aiopsd run` in a process of its own with a fresh data folder; pages go to a
receiver in this process. Without a terminal it ends by itself: 0 when an incident named the true cause, else 1.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from simulations import wire
from simulations.process import Daemon, Failure, Pager
from simulations.world import Truth, World, iso, pages_without, scenario

LEAD = 300.0  # s of ordinary alerts before what is played slowly, so that there is something to tell it from
BEFORE = 60.0  # s played slowly before the outage begins
PLAY_SECONDS = 18.0  # what is played slowly takes so long
PAGE_SECONDS = 30.0
EARLY = 60.0  # s; an incident that began earlier than this before the fault is not about it
VALID = 240.0  # s; endsAt of a firing alert, as Prometheus sets it

CONFIG = """\
metric_log: {{sync: normal}}
services: {{labels: [service, node]}}
# the outage is played twenty times as fast as life, and so are these
route: {{receiver: oncall, group_wait: 4s, group_interval: 10s, repeat_interval: 4h}}
receivers:
  - name: oncall
    webhook_configs:
      - url: "http://127.0.0.1:{pager}/page"
"""


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


def steps(world: World) -> Iterator[tuple[float, Any, list[list[dict[str, Any]]], list[dict[str, Any]]]]:
    """(ts, values of all series, batches of alerts, changes) of every step of the scenario."""
    gap = float(world.scenario.step)
    for chunk in world.play():
        for k, ts in enumerate(chunk.ts.tolist()):
            batches = [batch for at, batch in chunk.alerts if at == ts]
            changes = [change for at, change in chunk.changes if ts <= at < ts + gap]
            yield ts, chunk.values[:, k], batches, changes


def until_now(batch: list[dict[str, Any]], ts: float) -> list[dict[str, Any]]:
    """What fires at `ts` of the story fires now: the sender's promise counts from the moment it is given."""
    return [a | {"endsAt": iso(time.time() + VALID)} if a["endsAt"] > iso(ts) else a for a in batch]


def play(world: World, daemon: Daemon, out: Terminal) -> list[tuple[float, list[dict[str, Any]]]]:
    """History fast, outage slowly; the requests with alerts that were sent, at their times in the story."""
    sc = world.scenario
    labels = [wire.label_bytes(s) for s in world.series]
    fault = min(f.at for f in world.faults)
    slow = sc.start + fault - BEFORE
    pace = PLAY_SECONDS / ((sc.start + sc.length - slow) / sc.step)
    sent: list[tuple[float, list[dict[str, Any]]]] = []
    held_ts: list[float] = []
    held: list[Any] = []
    started = time.monotonic()
    count = 0

    def flush() -> None:
        if held:
            daemon.write(wire.remote_write(labels, np.array(held_ts), np.stack(held, axis=1)))
            held_ts.clear()
            held.clear()

    for ts, values, batches, changes in steps(world):
        held_ts.append(ts)
        held.append(values)
        if ts < slow and len(held) < 240:
            if ts < slow - LEAD:
                continue
        elif ts < slow:
            out.progress("a day of metrics, ending now", (ts - sc.start) / (slow - sc.start))
        flush()
        for batch in batches if ts >= slow - LEAD else []:
            daemon.json("/api/v2/alerts", wire.alerts(until_now(batch, ts)))
            sent.append((ts, batch))
        for change in changes if ts >= slow - LEAD else []:
            daemon.json("/api/v1/changes", wire.change(change))
        if ts >= slow:
            if count == 0:
                out.progress("a day of metrics, ending now", 1.0)
                daemon.wait_for_samples(ts)
                started = time.monotonic()
            count += 1
            out.progress("the outage", min(1.0, count * pace / PLAY_SECONDS))
            time.sleep(max(0.0, started + count * pace - time.monotonic()))
    return sent


def find(daemon: Daemon, truth: Truth) -> dict[str, Any] | None:
    """Wait for the paged incident that names the cause; else the paged one with most alerts, else none."""
    until = time.monotonic() + PAGE_SECONDS
    best: dict[str, Any] | None = None
    while time.monotonic() < until:
        incidents = daemon.get("/api/v1/incidents")["incidents"]
        paged = [i for i in incidents if i["paged"] and seconds(i["started_at"]) >= truth.start - EARLY]
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
    daemon: Daemon,
    world: World,
    truth: Truth,
    incident: dict[str, Any] | None,
    sent: list[tuple[float, list[dict[str, Any]]]],
    pages: list[dict[str, Any]],
) -> bool:
    """Print the story; was the true cause named?"""
    named = incident is not None and bool(incident["causes"]) and incident["causes"][0]["service"] == truth.root
    if incident is None:
        out.head("No incident was paged.")
    else:
        out.head("What broke")
        out.say(f"{incident['title']}")
        out.say(
            f"{incident['severity']}, since {clock(incident['started_at'])} UTC; {incident['firing']} of"
            f" {incident['alerts']} alerts fire; services: {', '.join(incident['services'])}"
        )
        out.head("Why we think so")
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
    requests = sum(len(batch) for _, batch in sent)
    firing = {
        (a["labels"]["alertname"], a["labels"].get("service") or a["labels"].get("node"))
        for at, batch in sent
        for a in batch
        if a["endsAt"] > iso(at)
    }
    given = [page["data"] for page in pages]
    triggers = list(dict.fromkeys(page["dedup_key"] for page in given if page["action"] == "trigger"))
    before = pages_without(sent, world.scenario.start + world.scenario.length)
    anomalies = daemon.metric("aiopsd_detect_anomalies_total")
    out.head("What was suppressed")
    out.say(
        f"{requests} alert messages of {len(firing)} alerts, and {anomalies:.0f} anomaly events of the day, came in."
    )
    out.say(f"{len(triggers)} pages went out, in {len(given)} messages (an update of a page is not a new page):")
    for key in triggers:
        mine = [page for page in given if page["dedup_key"] == key]
        reasons = ", ".join(dict.fromkeys(page["reason"] for page in mine))
        out.say(f"- {mine[-1]['title']} ({reasons})", 4, 2)
    out.say(
        f"Without aiopsd you would have had {before} pages: group_by [alertname, service], Alertmanager's defaults."
    )
    out.head("What really happened")
    what = truth.kind.replace("_", " ")
    out.say(f"The simulator broke {truth.root} ({what}) at {clock(iso(truth.start))} UTC; it reached: "
            f"{', '.join(truth.affected)}.")  # fmt: skip
    print("  " + (out.good("The incident names it.") if named else out.bad("No incident names it.")))
    return named


def main(argv: list[str]) -> int:
    """0: the true cause was named; 1: it was not, or something failed."""
    p = argparse.ArgumentParser(prog="python -m simulations demo", description=__doc__.split("\n")[0])
    p.add_argument("--scenario", default="demo", help="name in simulations/scenarios, or a file")
    p.add_argument("--no-wait", action="store_true", help="end after the story even on a terminal")
    args = p.parse_args(argv)
    out = Terminal()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: the daemon is stopped first
    sc = scenario(args.scenario)
    now = time.time()
    start = float(np.floor(now / sc.step) * sc.step - sc.length)
    world = World(msgspec.structs.replace(sc, start=start))
    print(out.bold("aiopsd demo: an outage, played through the real daemon"))
    out.say(f"{len(world.names)} services on {len(world.nodes)} nodes, {len(world.series)} series, seed {sc.seed}")
    folder = Path(tempfile.mkdtemp(prefix="aiopsd-demo-"))
    pager = Pager()
    daemon = Daemon(folder, CONFIG.format(pager=pager.port))
    try:
        daemon.ready()
        out.say(f"the daemon answers at {daemon.url}/ (data in {folder})")
        daemon.json("/api/v1/topology", wire.topology(world.edges(), world.vertices()))
        sent = play(world, daemon, out)
        truth = world.truth()[0]
        incident = find(daemon, truth)
        named = tell(out, daemon, world, truth, incident, sent, pager.pages)
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
