"""Recorded faults through the real stages: fault-free time first, then one fault, then where the true cause ranks.

A case is two tables of the same columns (fault-free and faulty), a call graph and what a person was paged for. The
fault-free part goes through the detect stage once; each fault starts from the snapshot of that state, shifted by whole
days so that it follows (hours of the day stay). The page enters as an alert. Everything has its shipped default, and
one receiver: what its first notification says is what a person read, the incident at the end is what the API shows.
"""

import csv
import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiopsd.config import Config, load
from aiopsd.model import AlertBatch, AlertIn, Candidate, Edge, Incident, LogRecord, Node, Snapshot, TopologyUpdate
from aiopsd.pipeline import correlate, detect
from simulations import runner, wire

F64 = NDArray[np.float64]
DAY = 86400.0
PAGING = load("route: {receiver: oncall}\nreceivers: [{name: oncall, webhook_configs: [{url: 'http://127.0.0.1:9/'}]}]")
SOON = 300.0  # s after an alert: somebody is at work on it
MOMENTS = 120.0  # s after the last row: what is due at once has happened, nothing has resolved


@dataclass(frozen=True)
class Table:
    """`columns`: labels of each series; ts float64[rows] (UTC seconds), values float64[rows, columns], NaN: none."""

    columns: tuple[dict[str, str], ...]
    ts: F64
    values: F64


@dataclass(frozen=True)
class Page:
    """What a person was told: alert labels, when it came, and since when it says that it fires (recording's time)."""

    labels: dict[str, str]
    at: float
    since: float = math.nan  # NaN: `at`, however late it comes


@dataclass(frozen=True)
class Case:
    """One fault. Cases with an equal `ground` share fault-free data, graph and nodes, which are then played once."""

    name: str
    ground: Hashable
    normal: Table
    fault: Table
    edges: tuple[tuple[str, str], ...]
    nodes: tuple[Node, ...]
    page: Page | None  # None: nobody is told but by our own anomalies
    truth: str
    metric: str = ""  # name of the series that shows the cause, "" when nobody said


@dataclass(frozen=True)
class Outcome:
    """`position`: mean place of the true cause among candidates of its score (1 is first); inf: not named."""

    position: float
    first: bool  # its signal is right too
    hit1: float  # chance that it is the first, ties averaged
    hit3: float
    found: tuple[Candidate, ...]


def read_csv(path: Path, header: int) -> tuple[list[list[str]], F64]:
    """(header rows, numbers of the other rows); what is no number is NaN.

    Raises:
        OSError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.reader(f))
    body = [[_number(x) for x in row] for row in rows[header:] if row and _number(row[0]) == _number(row[0])]
    return rows[:header], np.array(body, np.float64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Ground:
    """The state after the fault-free part, from which each fault starts afresh."""

    def __init__(
        self,
        normal: Table,
        edges: Sequence[tuple[str, str]],
        *,
        nodes: Sequence[Node] = (),
        config: Config = PAGING,
    ) -> None:
        self.config = config
        playing = runner.Run(self.config)
        start = float(normal.ts[0])
        made = tuple(Edge(caller=a, callee=b) for a, b in edges)
        playing.feed((start, TopologyUpdate(source="file:recorded", edges=made, nodes=tuple(nodes))))
        self.offset = feed(playing, normal, 0.0, 0)
        self.end = float(normal.ts[-1])
        self.detect: Snapshot = playing.detect.snapshot()
        self.correlate: Snapshot = playing.correlate.snapshot()

    def play(self, fault: Table, page: Page | None) -> "Played":
        """The incident that holds the page; without one, the one with most alerts."""
        playing = runner.Run(self.config)
        playing.detect = detect.build(self.config, runner.SOURCE, 0, self.detect)
        playing.correlate = correlate.build(self.config, self.correlate)
        before = set(playing.correlate.incidents)
        shift = math.ceil((self.end - float(fault.ts[0])) / DAY) * DAY
        if float(fault.ts[0]) + shift <= self.end:
            shift += DAY
        label = ""
        last = float(fault.ts[-1]) + shift + MOMENTS
        if page is not None:
            at = page.at + shift
            starts = at if math.isnan(page.since) else page.since + shift
            alert = AlertIn(labels=page.labels, starts_at=starts, ends_at=at + DAY)
            label = page.labels["alertname"]
            rows = [i for i in range(len(fault.ts)) if fault.ts[i] + shift <= at]
            feed(playing, _rows(fault, rows), shift, self.offset)
            playing.feed((at, AlertBatch(alerts=(alert,), sender="page")))
            rest = [i for i in range(len(fault.ts)) if fault.ts[i] + shift > at]
            feed(playing, _rows(fault, rest), shift, self.offset + len(rows))
            last = max(last, at + MOMENTS)
        else:
            feed(playing, fault, shift, self.offset)
        playing.advance(last)
        stage = playing.correlate
        if page is not None:
            home = next((a.incident for a in stage.alerts.values() if a.labels.get("alertname") == label), "")
            notes = playing.result.notifications
            told = [n for n in notes if n.incident and any(a.labels.get("alertname") == label for a in n.alerts)]
            soon = [n for n in told if n.stamp <= at + SOON]
            said = told[0].incident.roots if told and told[0].incident else ()
            update = soon[-1].incident.roots if soon and soon[-1].incident else said
            after = told[0].stamp - at if told else math.inf
            return Played(stage.incidents.get(home), said, update, after, playing)
        fresh = [i for key, i in stage.incidents.items() if key not in before and not i.merged_into and i.firing]
        return Played(max(fresh, key=lambda i: (len(i.alerts), -i.opened_at), default=None), (), (), math.inf, playing)


@dataclass(frozen=True)
class Played:
    """What came of one fault."""

    incident: Incident | None  # as it is when the recording ends
    paged: tuple[Candidate, ...]  # causes in the first notification of the page
    updated: tuple[Candidate, ...]  # causes in the last notification within SOON of the alert
    after: float  # s from the alert to that notification
    run: runner.Run

    @property
    def roots(self) -> tuple[Candidate, ...]:
        return self.incident.roots if self.incident is not None else ()


@dataclass
class Player:
    """Plays cases one after another; the fault-free part of equal grounds is played once."""

    key: Hashable = None
    ground: Ground | None = field(default=None, repr=False)

    def play(self, case: Case) -> Played:
        if self.ground is None or self.key != case.ground:
            self.ground = Ground(case.normal, case.edges, nodes=case.nodes)
            self.key = case.ground
        return self.ground.play(case.fault, case.page)


def row(case: Case, played: Played) -> dict[str, Any]:
    """One line of a scorecard: where the cause stands at the end, in the first page, and in what followed it soon.

    When nobody was paged, all of them are the end.
    """
    end = outcome(played.roots, case.truth, case.metric)
    page = outcome(played.paged, case.truth, case.metric) if case.page is not None else end
    soon = outcome(played.updated, case.truth, case.metric) if case.page is not None else end
    return {
        "case": case.name,
        "truth": case.truth,
        "place": "-" if math.isinf(end.position) else end.position,
        "top1": end.hit1,
        "top3": end.hit3,
        "paged1": page.hit1,
        "paged3": page.hit3,
        "soon1": soon.hit1,
        "first": end.found[0].service if end.found else "",
        "metric": end.found[0].metric if end.found else "",
        "metric_right": end.first,
        "confidence": end.found[0].confidence if end.found else 0.0,
    }


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Recall of the true root at the end (1, 3, 5), in the first page (1, 3), soon after (1), of its signal at the end.

    Ties are averaged.
    """
    place = np.array([math.inf if r["place"] == "-" else r["place"] for r in rows], np.float64)
    return {
        "top1": float(np.mean([r["top1"] for r in rows])),
        "top3": float(np.mean([r["top3"] for r in rows])),
        "top5": float(np.mean(place <= 5)),
        "avg5": float(np.mean([np.mean(place <= k) for k in range(1, 6)])),
        "paged_top1": float(np.mean([r["paged1"] for r in rows])),
        "paged_top3": float(np.mean([r["paged3"] for r in rows])),
        "soon_top1": float(np.mean([r["soon1"] for r in rows])),
        "metric1": float(np.mean([r["metric_right"] for r in rows])),
        "cases": float(len(rows)),
    }


def _rows(table: Table, rows: Iterable[int]) -> Table:
    picked = list(rows)
    return Table(table.columns, table.ts[picked], table.values[picked])


def feed(playing: runner.Run, table: Table, shift: float, offset: int) -> int:
    """Feed every row as a remote-write body at its time; the next offset."""
    labels = [wire.label_bytes(c) for c in table.columns]
    for k in range(len(table.ts)):
        ts = table.ts[k : k + 1] + shift
        body = wire.remote_write(labels, ts, table.values[k : k + 1].T)
        at = max(float(ts[0]), playing.now)
        record = LogRecord(
            source=runner.SOURCE, partition=0, offset=offset, value=body, format=wire.REMOTE_WRITE, stamp=float(ts[0])
        )
        playing.feed((at, record))
        offset += 1
    return offset


def outcome(found: Sequence[Candidate], truth: str, metric: str = "") -> Outcome:
    """Where the true cause stands; candidates of equal score share their places."""
    place = next((c for c in found if c.service == truth), None)
    if place is None:
        return Outcome(math.inf, False, 0.0, 0.0, tuple(found))
    above = sum(c.score > place.score for c in found)
    equal = sum(c.score == place.score for c in found)
    hit1 = max(0.0, min(1.0, (1 - above) / equal))
    hit3 = max(0.0, min(1.0, (3 - above) / equal))
    right = found[0].service == truth and (not metric or found[0].metric == metric)
    return Outcome(above + (equal + 1) / 2, right, hit1, hit3, tuple(found))


def show(rows: Sequence[dict[str, Any]], figures: dict[str, float], as_json: bool) -> None:
    """Print a table of cases and the figures, or all of it as JSON."""
    if as_json:
        print(json.dumps({"figures": figures, "cases": list(rows)}))
        return
    if rows:
        keys = list(rows[0])
        widths = [max(len(k), *(len(str(r[k])) for r in rows)) for k in keys]
        for line in ([*keys], *([str(r[k]) for k in keys] for r in rows)):
            print("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip())
    print("\n" + "  ".join(f"{k} {v:.3f}" for k, v in figures.items()))
