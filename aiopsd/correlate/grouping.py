"""Alerts into incidents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from aiopsd.config import CorrelateConfig
from aiopsd.correlate.place import place_of
from aiopsd.model import Alert, Verdict, content_id
from aiopsd.topology import Topology


class Placement(NamedTuple):
    """Where an alert went and why.

    `incident` is "" when the alert is kept quiet (chronic, flapping, noise): nobody is told, the reason still says why.
    `merged` holds (from, into) pairs that this alert's arrival made one; `into` survives.
    """

    incident: str
    reason: str
    opened: bool = False
    merged: tuple[tuple[str, str], ...] = ()
    score: float = 0.0


class Revision(NamedTuple):
    """A second thought: `kind` "merge" (all of `source` goes into `target`) or "move" (`fingerprints` go there).

    `target` "" in a move: the alerts are kept quiet from now on. `opened`: `target` did not exist before.
    """

    kind: str
    source: str
    target: str
    fingerprints: tuple[str, ...]
    opened: bool
    reason: str


class Grouper:
    """Online grouping of alerts by graph, time and history. Deterministic; time comes with every call."""

    def __init__(self, config: CorrelateConfig, topology: Topology, resume: dict[str, Any] | None = None) -> None:
        self.config = config
        self.topology = topology
        self._where: dict[str, list[Any]] = dict(resume["where"]) if resume else {}  # fp: [vertex, onset, incident]
        self._at: dict[str, dict[str, float]] = {k: dict(v) for k, v in resume["at"].items()} if resume else {}

    def place(self, alert: Alert, stamp: float) -> Placement:
        """Place a firing alert: first time, or again after it resolved."""
        fp = alert.fingerprint
        known = self._where.get(fp)
        if known is not None:
            return Placement(known[2], "fires again", score=1.0)
        vertex, _ = place_of(alert, self.topology)
        onset = min(stamp, alert.starts_at)
        near = self.topology.near(vertex, self.config.hops)
        best: tuple[float, str, str] | None = None
        for name in sorted(self._at.keys() & near.keys()) if vertex else ():
            for incident, seen in self._at[name].items():
                gap = abs(onset - seen)
                if gap <= self.config.window:
                    key = (near[name] * 60.0 + gap, incident, name)
                    best = key if best is None or key < best else best
        if best is None:
            incident, opened, why = content_id("incident", fp, alert.starts_at), True, "nothing near it is in trouble"
        else:
            incident, opened = best[1], False
            why = f"{vertex} is {near[best[2]]} steps from {best[2]} in the graph and started {self._gap(onset, best)}"
        self._where[fp] = [vertex, onset, incident]
        if vertex:
            self._at.setdefault(vertex, {}).setdefault(incident, onset)
        return Placement(incident, why, opened)

    def _gap(self, onset: float, best: tuple[float, str, str]) -> str:
        gap = onset - self._at[best[2]][best[1]]
        return f"{abs(gap):.0f} s {'after' if gap >= 0 else 'before'} it"

    def resolved(self, fingerprint: str, stamp: float) -> None:
        """The alert no longer fires."""

    def reassess(self, stamp: float) -> list[Revision]:
        """Second thoughts that are due at `stamp`."""
        return []

    def wake_at(self) -> float | None:
        """When `reassess` has something to do; None: nothing is pending."""
        return None

    def forget(self, incident: str) -> None:
        """Drop an incident and its alerts."""
        for fp in [fp for fp, row in self._where.items() if row[2] == incident]:
            vertex = self._where.pop(fp)[0]
            self._at.get(vertex, {}).pop(incident, None)
            if not self._at.get(vertex, {1: 1}):
                del self._at[vertex]

    def verdict(self, v: Verdict, stamp: float) -> list[Revision]:
        """What an operator said."""
        return []

    def snapshot(self) -> dict[str, Any]:
        return {"where": {k: list(v) for k, v in self._where.items()}, "at": {k: dict(v) for k, v in self._at.items()}}


__all__: Sequence[str] = ("Grouper", "Placement", "Revision")
