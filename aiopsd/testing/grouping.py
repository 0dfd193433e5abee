"""A grouper on a clock, for tests: alerts in by time, and who is with whom afterwards."""

from collections.abc import Sequence
from typing import Any

import msgspec

from aiopsd.config import CorrelateConfig
from aiopsd.correlate.grouping import Grouper, Placement, Revision
from aiopsd.model import Alert, Edge, Node, TopologyUpdate, Verdict, fingerprint
from aiopsd.topology import Topology

START = 1_700_000_000.0


class Desk:
    """Times are seconds after START. `home` and `reasons` follow placements and revisions as a stage would."""

    def __init__(self, calls: str = "", kinds: dict[str, str] | None = None, **config: Any) -> None:
        pairs = [p.split(">") for p in calls.split()]
        self.topology = Topology(1e9)
        nodes = tuple(Node(name=n, kind=k) for n, k in (kinds or {}).items())
        made = tuple(Edge(caller=a, callee=b) for a, b in pairs)
        self.topology.apply(TopologyUpdate(source="test", edges=made, nodes=nodes), START)
        self.grouper = Grouper(CorrelateConfig(**config), self.topology)
        self.home: dict[str, str] = {}
        self.into: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.opened: list[str] = []
        self.last: Placement | None = None

    def until(self, at: float) -> list[Revision]:
        """Let every timer due by `at` fire."""
        out: list[Revision] = []
        while (due := self.grouper.wake_at()) is not None and due <= START + at:
            out += self._take(self.grouper.reassess(due))
        return out

    def _take(self, revisions: Sequence[Revision]) -> list[Revision]:
        for r in revisions:
            if r.kind == "merge":
                self.into[r.source] = r.target
            else:
                self.home.update(dict.fromkeys(r.fingerprints, r.target))
            self.reasons.update(dict.fromkeys(r.fingerprints, r.reason))
        return list(revisions)

    def fire(
        self,
        at: float,
        service: str,
        name: str = "Slow",
        *,
        late: float = 0.0,
        starts: float | None = None,
        says: str = "",
        **labels: str,
    ) -> str:
        """An alert that began at `at` (or `starts`), arrives `late` seconds after and `says` so; its fingerprint."""
        arrives = at + late
        self.until(arrives)
        every = {"alertname": name, **({"service": service} if service else {}), **labels}
        fp = fingerprint(every)
        alert = Alert(
            fingerprint=fp,
            labels=every,
            annotations={"summary": says} if says else {},
            starts_at=START + (at if starts is None else starts),
            ends_at=0.0,
            updated_at=START + arrives,
            service=service,
            anomaly=labels.get("aiopsd_kind") == "anomaly",
        )
        self.last = placed = self.grouper.place(alert, START + arrives)
        self.home[fp], self.reasons[fp] = placed.incident, placed.reason
        if placed.opened:
            self.opened.append(placed.incident)
        return fp

    def blame(self, at: float, fp: str, cause: str) -> None:
        """The evidence names `cause` as that of an alert's incident."""
        self.until(at)
        self._take(self.grouper.caused(self.of(fp), cause, START + at))

    def end(self, at: float, *fps: str, told: float | None = None) -> None:
        """These alerts end at `at`, or did at `told`, of which we hear at `at`."""
        self.until(at)
        for fp in fps:
            self.grouper.resolved(fp, START + at, None if told is None else START + told)

    def say(self, at: float, kind: str, incident: str, **more: Any) -> list[Revision]:
        """An operator's verdict."""
        self.until(at)
        v = Verdict(request_id=f"{kind}-{at}", incident=incident, kind=kind, actor="ann", **more)
        return self._take(self.grouper.verdict(v, START + at))

    def of(self, fp: str) -> str:
        """The incident of an alert now; "" when it is kept quiet."""
        found = self.home[fp]
        while found in self.into:
            found = self.into[found]
        return found

    def together(self, *fps: str) -> bool:
        return len({self.of(fp) for fp in fps}) == 1 and self.of(fps[0]) != ""

    def parts(self) -> list[tuple[str, ...]]:
        """The partition of all alerts, sorted; a quiet one stands alone."""
        found: dict[str, list[str]] = {}
        for fp in self.home:
            found.setdefault(self.of(fp) or f"quiet-{fp}", []).append(fp)
        return sorted(tuple(sorted(fps)) for fps in found.values())

    def restart(self) -> None:
        """Snapshot, through msgpack, and a new grouper from it."""
        raw = msgspec.msgpack.encode(self.grouper.snapshot())
        self.grouper = Grouper(self.grouper.config, self.topology, msgspec.msgpack.decode(raw))
