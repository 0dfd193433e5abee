"""Scorecard: a stream of alerts with topology through the shipped correlate stage, one line at a time, in virtual time.

Lines in: {"kind": "topology", "nodes": {name: {"kind": ...}}, "edges": [[caller, callee], ...]}, then {"kind": "alert",
"t": arrival, "ts": the sender's clock, "id", "service", "alertname", "severity", "state": firing | resolved, ...} by
arrival, and {"kind": "change", "t", "id", "service", "change": deploy | config | ..., "version"} for rollouts. Lines of
another kind, and keys that begin with `_`, are not looked at: truth may lie in the same file.

Lines out, flushed before the next line is read: {"kind": "assign", "i", "incident"} for each firing line (the last one
wins), {"kind": "incident", "incident", "opened": time or null when nobody is told, "roots": [...]}, and {"kind":
"merge", "from", "into"}.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from typing import IO, Any

from aiopsd.config import Config
from aiopsd.model import (
    Alert,
    AlertBatch,
    AlertIn,
    AlertState,
    Audit,
    Body,
    ChangeEvent,
    Edge,
    Effect,
    Incident,
    IncidentState,
    JournalRecord,
    Node,
    Tick,
    TopologyUpdate,
    Upsert,
    fingerprint,
)
from aiopsd.pipeline import correlate
from aiopsd.topology import FILE_PREFIX

UNKNOWN = "unknown upstream"  # a cause that is in no graph, as an answer names it
FOREVER = 30 * 86400.0  # s; a line says when it ends by a line of its own, not by silence
AFTER = 3600.0  # s of virtual time after the last line, for second thoughts
LABELS: tuple[str, ...] = (
    "alertname",
    "service",
    "severity",
    "cluster",
    "namespace",
    "node",
    "host",
    "zone",
    "pod",
    "job",
    "instance",
)
LABELS += ("target", "deployment", "app", "workload", "container", "region")
EDGE_KINDS = {"host": "runs_on", "node": "runs_on", "machine": "runs_on", "zone": "located_in", "region": "located_in"}


def topology_of(line: dict[str, Any]) -> TopologyUpdate:
    """The graph that a line tells."""
    given = line.get("nodes", {})
    nodes = {n: str((given[n] or {}).get("kind", "service")) for n in given} if isinstance(given, dict) else {}
    edges = []
    for raw in line.get("edges", ()):
        caller, callee = str(raw[0]), str(raw[1])
        edges.append(Edge(caller=caller, callee=callee, kind=EDGE_KINDS.get(nodes.get(callee, ""), "calls")))
    return TopologyUpdate(
        source=FILE_PREFIX + "stream",  # said once, it does not age
        edges=tuple(edges),
        nodes=tuple(Node(name=n, kind=k) for n, k in nodes.items()),
    )


def labels_of(line: dict[str, Any], i: Any) -> dict[str, str]:
    """The labels of an alert line; two that fire side by side have two label sets."""
    return {k: str(line[k]) for k in LABELS if line.get(k)} | {"id": str(line.get("id", i))}


def change_of(line: dict[str, Any]) -> ChangeEvent:
    """The rollout that a line tells."""
    return ChangeEvent(
        id=str(line["id"]),
        service=str(line["service"]),
        kind=str(line.get("change", "other")),
        ts=float(line["t"]),
        version=str(line.get("version", "")),
    )


class Player:
    """The stage behind the stream: lines in, answer lines out. `seconds` is the stream's time of the last line.

    What failed inside the stage is said on standard error and kept in `bugs`; the stream goes on, as the daemon would.
    """

    def __init__(self, config: Config, write: Callable[[dict[str, Any]], None]) -> None:
        self.stage = correlate.build(config)
        self.write = write
        self.seconds = 0.0
        self.bugs: list[str] = []
        self._early: list[TopologyUpdate] = []  # before the first alert, whose time starts the clock
        self._begun = False
        self._offset = 0
        self._lines: dict[str, list[Any]] = {}  # fingerprint -> the lines of its present firing
        self._home: dict[str, str] = {}  # fingerprint -> incident it was last assigned to
        self._said: dict[str, tuple[float | None, tuple[str, ...]]] = {}  # incident -> what we said of it
        self._merged: dict[str, str] = {}

    def topology(self, line: dict[str, Any]) -> None:
        """Take the graph."""
        update = topology_of(line)
        if self._begun:
            self._step(update, self.seconds)
        else:
            self._early.append(update)

    def alert(self, line: dict[str, Any], i: Any) -> None:
        """Take one alert line; `i` is what the answer calls it."""
        self._begin(float(line["t"]))
        labels = labels_of(line, i)
        fp = fingerprint(labels)
        firing = line.get("state", "firing") == "firing"
        starts = float(line.get("ts", line["t"]))
        if firing:
            known = self.stage.alerts.get(fp)
            again = known is None or known.state is not AlertState.FIRING
            if again:
                self._lines[fp] = []
                self._home.pop(fp, None)
            self._lines[fp].append(i)
        given = AlertIn(
            labels=labels,
            annotations={k: str(line[k]) for k in ("summary", "description") if line.get(k)},
            starts_at=starts if firing else 0.0,
            ends_at=self.seconds + FOREVER if firing else self.seconds,
        )
        self._step(AlertBatch(alerts=(given,), sender="storm"), self.seconds)
        if firing and fp in self._home and not again:
            self.write({"kind": "assign", "i": i, "incident": self._home[fp]})

    def change(self, line: dict[str, Any]) -> None:
        """Take a rollout; one before the first alert starts the clock as that would."""
        self._begin(float(line["t"]))
        self._step(change_of(line), self.seconds)

    def _begin(self, ts: float) -> None:
        """Time goes on; the first line's starts the clock, and what was known before it comes first."""
        self.seconds = max(self.seconds, ts) if self._begun else ts
        self._begun = True
        for update in self._early:
            self._step(update, self.seconds)
        self._early.clear()

    def finish(self) -> None:
        """Let the timers of the next hour fire."""
        until = self.seconds + AFTER
        while (due := self.stage.wake_at()) is not None and due <= until:
            self.seconds = max(self.seconds, due)
            self._step(Tick(), self.seconds)

    def _step(self, body: Body, stamp: float) -> None:
        record = JournalRecord(offset=self._offset, stamp=stamp, body=body)
        self._offset += 1
        self._answer(self.stage.step([record]))

    def _answer(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Audit) and effect.entry.kind == "bug":
                self.bugs.append(f"{effect.entry.text} at {effect.entry.reason}")
                print(self.bugs[-1], file=sys.stderr)
            if not isinstance(effect, Upsert):
                continue
            if isinstance(effect.item, Alert):
                self._assign(effect.item)
            elif isinstance(effect.item, Incident):
                self._incident(effect.item)

    def _assign(self, alert: Alert) -> None:
        fp = alert.fingerprint
        home = alert.incident
        if not home:
            home = "quiet-" + self.stage.grouper.group_of(fp)
            if home not in self._said:
                self._said[home] = (None, ())
                self.write({"kind": "incident", "incident": home, "opened": None, "roots": []})
        if self._home.get(fp) != home:
            self._home[fp] = home
            for i in self._lines.get(fp, ()):
                self.write({"kind": "assign", "i": i, "incident": home})

    def _incident(self, incident: Incident) -> None:
        if incident.state is IncidentState.MERGED:
            if self._merged.get(incident.id) != incident.merged_into:
                self._merged[incident.id] = incident.merged_into
                self.write({"kind": "merge", "from": incident.id, "into": incident.merged_into})
            return
        roots = tuple(c.service or UNKNOWN for c in incident.roots)
        said = (round(incident.opened_at, 3), roots)
        if self._said.get(incident.id) != said:
            self._said[incident.id] = said
            self.write({"kind": "incident", "incident": incident.id, "opened": said[0], "roots": list(roots)})


class Homes:
    """Where each line is, from answer lines as they come."""

    def __init__(self) -> None:
        self._home: dict[Any, str] = {}
        self._into: dict[str, str] = {}

    def take(self, line: dict[str, Any]) -> None:
        """An answer line of any kind."""
        if line["kind"] == "assign":
            self._home[line["i"]] = line["incident"]
        elif line["kind"] == "merge":
            self._into[line["from"]] = line["into"]

    def all(self) -> dict[Any, str]:
        """Incident of each line: the last word, merges followed."""
        found = {}
        for i, home in self._home.items():
            while home in self._into:
                home = self._into[home]
            found[i] = home
        return found


def play(lines: Iterable[str], write: Callable[[dict[str, Any]], None], player: Player | None = None) -> Player:
    """Run a whole stream; `write` gets every answer line before the next input line is asked for.

    Args:
        lines: JSON, one each.
        write: where answers go.
        player: another one than of the shipped configuration.

    Raises:
        ValueError: a line is not JSON or lacks what an alert must have; names the line.
    """
    player = player or Player(Config(), write)
    n = 0
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            kind = line.get("kind")
            if kind == "topology":
                player.topology(line)
            elif kind == "change":
                player.change(line)
            elif kind == "alert":
                player.alert(line, line.get("i", n))
                n += 1
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as e:
            raise ValueError(f"line {number}: {e!r}") from e
    player.finish()
    return player


def _each(stream: IO[str]) -> Iterable[str]:
    """Lines without read-ahead: a file's iterator would take a block before the first answer is out."""
    while line := stream.readline():
        yield line


def main(argv: list[str]) -> int:
    """Exit code 0; 1 when something failed inside the stage; 2 when the stream cannot be read."""
    parser = argparse.ArgumentParser(prog="simulations storm", description=__doc__.split("\n")[0])
    parser.add_argument("--stream", required=True, metavar="FILE", help="JSON lines; - for standard input")
    parser.add_argument("--answer", required=True, metavar="FILE", help="where answers go; - for standard output")
    args = parser.parse_args(argv)
    try:
        stream = sys.stdin if args.stream == "-" else open(args.stream, encoding="utf-8")  # noqa: SIM115
        answer = sys.stdout if args.answer == "-" else open(args.answer, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as e:
        print(e, file=sys.stderr)
        return 2

    def write(line: dict[str, Any]) -> None:
        answer.write(json.dumps(line, separators=(",", ":")) + "\n")
        answer.flush()

    try:
        player = play(_each(stream), write)
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    finally:
        if stream is not sys.stdin:
            stream.close()
        if answer is not sys.stdout:
            answer.close()
    return 1 if player.bugs else 0
