"""Scorecard: which cause is named when the grouping is right? Ranking alone, on the true groups of many streams.

Each true incident of a stream (simulations/storms.py) is ranked with exactly its own alerts, at its end and as it stood
a minute after its first alert. What history teaches the ranking comes from the incidents before it, read as the ranking
itself read them: nothing of the truth but who belongs together.
"""

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiopsd.config import Config
from aiopsd.correlate.place import name_of, place_of
from aiopsd.correlate.rootcause import Knowledge, rank
from aiopsd.model import Alert, AlertState, fingerprint
from aiopsd.services import ServiceMapper
from aiopsd.topology import Topology
from simulations import storm, storms
from simulations.stream import Stream

PAGE = 60.0  # s after its first alert: about when a person is told
BEFORE = 3600.0  # s; changes before an incident that may have caused it
ALIKE = 2  # times that a name must have been seen before anything is concluded from it
NAMES = 20.0  # weight of the prior of a name's share, in names


@dataclass
class History:
    """What earlier incidents taught, as the grouper counts it: names at origins, names passed on, names alone."""

    origin: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    common: Counter[str] = field(default_factory=Counter)
    places: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    hosted: dict[str, dict[str, None]] = field(default_factory=dict)

    def knowledge(self) -> Knowledge:
        """As the ranking takes it."""
        every = {name for name in self.origin | self.passed if self.origin[name] + self.passed[name] > ALIKE}
        share = {
            name: math.log(
                (self.origin[name] + 0.5) / (self.origin.total() + NAMES)
                * (self.passed.total() + NAMES) / (self.passed[name] + 0.5)
            )
            for name in every
        }  # fmt: skip
        local = {
            name: math.log((self.alone[name] + 0.5) / (self.common[name] + 0.5))
            for name in self.alone | self.common
            if len(self.places[name]) > ALIKE and self.alone[name] + self.common[name] > ALIKE
        }
        return Knowledge(origin=share, local=local, hosted=self.hosted)

    def learn(self, alerts: Sequence[Alert], root: str, topology: Topology) -> None:
        """Take one incident with the cause that was named."""
        at: dict[str, set[str]] = defaultdict(set)
        for alert in alerts:
            place = place_of(alert, topology)
            at[name_of(alert)].add(place.vertex)
            for host in place.under:
                self.hosted.setdefault(host, {})[place.vertex] = None
        vertices = {v for places in at.values() for v in places}
        for name, places in at.items():
            self.places[name] |= places
            for v in places:
                (self.origin if v == root else self.passed)[name] += 1
            if len(vertices) > ALIKE:
                (self.alone if len(places) == 1 else self.common)[name] += 1


def groups(stream: Stream) -> dict[Hashable, list[Alert]]:
    """The alerts of each true incident, by first arrival."""
    mapper = ServiceMapper(Config().services)
    found: dict[Hashable, dict[str, Alert]] = defaultdict(dict)
    for n, line in enumerate(stream.alerts):
        if line["state"] != "firing" or line["_gt"]["incident"] is None:
            continue
        labels = storm.labels_of(line, n)
        print_ = fingerprint(labels)
        found[line["_gt"]["incident"]].setdefault(
            print_,
            Alert(
                fingerprint=print_, labels=labels, state=AlertState.FIRING, starts_at=line["ts"], ends_at=0.0,
                updated_at=line["t"], service=mapper.service(labels),
            ),
        )  # fmt: skip
    return {incident: list(alerts.values()) for incident, alerts in found.items()}


def ranked(stream: Stream) -> Iterator[dict[str, Any]]:
    """One row for each incident of a stream: where its true root stood, at the end and in the page."""
    topology = Topology(1e12)
    topology.apply(storm.topology_of(stream.topology), 0.0)
    changes = [storm.change_of(line) for line in stream.changes]
    history = History()
    found = groups(stream)
    for truth in sorted(stream.truth, key=lambda t: float(t["t0"])):
        alerts = found.get(truth["incident"], [])
        if not alerts:
            continue
        first = min(a.updated_at for a in alerts)
        row = {"stream": stream.name, "fault": truth["fault"], "root": truth["root"], "alerts": len(alerts)}
        knowledge = history.knowledge()
        for when, known in (("end", alerts), ("page", [a for a in alerts if a.updated_at <= first + PAGE])):
            onset = min(a.starts_at for a in known)
            near = [c for c in changes if onset - BEFORE <= c.ts <= max(a.updated_at for a in known)]
            roots = _names(rank(known, topology, changes=near, onset=onset, page=known[0], feedback=knowledge))
            row[when] = roots.index(truth["root"]) + 1 if truth["root"] in roots else 0
            row[f"{when}_roots"] = roots
        history.learn(alerts, row["end_roots"][0] if row["end_roots"] else "", topology)
        yield row


def _names(roots: Sequence[Any]) -> list[str]:
    return [c.service or storm.UNKNOWN for c in roots]


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of roots that stood first or among three, by kind of fault."""
    out = []
    for kind in (*sorted({r["fault"] for r in rows}), ""):
        part = [r for r in rows if kind in ("", r["fault"])]
        figures = {f"{w}_top{k}": sum(0 < r[w] <= k for r in part) / len(part) for w in ("end", "page") for k in (1, 3)}
        out.append({"fault": kind or "all", "n": len(part)} | figures)
    return out


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when there is no such generator."""
    p = argparse.ArgumentParser(prog="simulations causes", description=__doc__.split("\n")[0])
    storms.choose(p)
    p.add_argument("--wrong", action="store_true", help="list the incidents whose root did not come first")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    try:
        chosen = storms.chosen(args)
    except (OSError, ImportError, ValueError) as e:
        print(e)
        return 2
    report = {}
    for preset, streams in chosen.items():
        rows = [row for stream in streams for row in ranked(stream)]
        report[preset] = table(rows)
        if args.json:
            continue
        for row in rows if args.wrong else ():
            if row["end"] != 1:
                print(f"{row['stream']} {row['fault']} {row['root']}, {row['alerts']} alerts: {row['end_roots'][:4]}")
        print(f"\n{preset:18s}{'n':>5s}{'end: first':>12s}{'of three':>10s}{'page: first':>13s}{'of three':>10s}")
        for r in report[preset]:
            print(f"{r['fault']:18s}{r['n']:5d}{r['end_top1']:12.3f}{r['end_top3']:10.3f}", end="")
            print(f"{r['page_top1']:13.3f}{r['page_top3']:10.3f}", flush=True)
    if args.json:
        print(json.dumps(report, indent=1))
    return 0
