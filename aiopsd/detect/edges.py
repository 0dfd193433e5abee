"""Edges of the service graph that metrics bear: a series that names who calls whom is an edge while it moves.

What enters is the labels of new series and, when the watermark passes a boundary, what the bank holds of them. What
leaves is which edges to tell the correlate stage: new ones at the next boundary, the others again every so often while
their series have traffic, so that the graph can tell a living edge from one that was. One partition is one source: what
it no longer says grows stale by itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import EdgeRule
from aiopsd.detect.bank import COUNTER, F64
from aiopsd.detect.signals import NAME
from aiopsd.matchers import Match
from aiopsd.model import Edge, Node, TopologyUpdate
from aiopsd.services import ServiceMapper, fill, references

STEP = 60.0  # s of the watermark between two looks: a new edge is told within a minute, a thousand of them at once
REFRESH_PART = 4  # of topology.stale_after: an edge is confirmed so many times before it would be dropped
REFRESH_MOST = 3600.0  # s
PLACES = ("node", "zone")  # what a service runs on is no service: its name is taken as it is
TOLD_AT_ONCE = 1000  # edges of one journal record
# what meshes write for a peer that they do not know; `user` is Tempo's for whoever is outside: as a vertex it would
# make neighbours of all that the world can reach
NOBODY = frozenset(("", "unknown", "-", "none", "null", "user"))

_ISTIO = "istio_(requests|tcp_connections_opened)_total"
KNOWN: tuple[EdgeRule, ...] = (
    # Tempo's metrics-generator, the OpenTelemetry collector's servicegraph connector, Beyla:
    # https://grafana.com/docs/tempo/latest/metrics-from-traces/service_graphs/
    EdgeRule(
        match={NAME: "traces_service_graph_request_total", "connection_type": "database"},
        caller="$client",
        callee="$server",
        kind="reads",
        callee_kind="datastore",
    ),
    EdgeRule(
        match={NAME: "traces_service_graph_request_total", "connection_type": "messaging_system"},
        caller="$client",
        callee="$server",
        kind="publishes",
    ),
    EdgeRule(match={NAME: "traces_service_graph_request_total"}, caller="$client", callee="$server"),
    # https://istio.io/latest/docs/reference/config/metrics/
    EdgeRule(
        match={NAME: _ISTIO, "source_canonical_service": ".+", "destination_canonical_service": ".+"},
        caller="$source_canonical_service",
        callee="$destination_canonical_service",
    ),
    EdgeRule(match={NAME: _ISTIO}, caller="$source_workload", callee="$destination_workload"),
    # https://linkerd.io/2/reference/proxy-metrics/
    EdgeRule(
        match={NAME: "request_total", "direction": "outbound", "dst_deployment": ".+"},
        caller="$deployment",
        callee="$dst_deployment",
    ),
)
"""What the common meshes and tracers write; a metric of another name costs one look at its name."""


class _Told(msgspec.Struct):
    """One edge: its series, and the watermark at which it was told last (-inf: never)."""

    caller: str
    callee: str
    rule: EdgeRule
    rows: dict[int, float]  # -> raw value when the edge was told last; NaN: never
    at: float = float("-inf")


class Edges:
    """The edges that the series of a partition name.

    Args:
        rules: first match wins. An empty `caller` or `callee` is the service that the series belongs to.
        stale_after: seconds after which the graph drops an edge that nobody confirms.
    """

    def __init__(
        self, rules: Sequence[EdgeRule], mapper: ServiceMapper, stale_after: float, path: str = "$.topology.metrics"
    ) -> None:
        self._mapper = mapper
        self.refresh = max(STEP, min(stale_after / REFRESH_PART, REFRESH_MOST))
        self._rules = []
        for i, rule in enumerate(rules):
            Match(rule.match, f"{path}[{i}].match")  # names the key of what does not compile
            name = {k: v for k, v in rule.match.items() if k == NAME}
            rest = {k: v for k, v in rule.match.items() if k != NAME}
            wanted = frozenset(references(rule.caller) + references(rule.callee))
            self._rules.append((Match(name), Match(rest), wanted, rule))
        self.rules = tuple(rules)
        self._possible: dict[str, list[tuple[Match, frozenset[str], EdgeRule]]] = {}
        self._edges: dict[tuple[str, str, str], _Told] = {}
        self._of: dict[int, tuple[str, str, str]] = {}

    def __len__(self) -> int:
        """Series that name an edge."""
        return len(self._of)

    # ------------------------------------------------------------------ series come and go

    def appear(self, row: int, labels: Mapping[str, str], service: str) -> None:
        """A new series; `service` is the one that it belongs to."""
        metric = labels.get(NAME, "")
        possible = self._possible.get(metric)
        if possible is None:
            if len(self._possible) >= 100_000:
                self._possible.clear()  # a sender that invents names must not fill the memory
            possible = self._possible[metric] = [
                (rest, wanted, rule) for name, rest, wanted, rule in self._rules if name({NAME: metric})
            ]
        for rest, wanted, rule in possible:
            if not rest(labels) or any(labels.get(label, "").lower() in NOBODY for label in wanted):
                continue
            caller = self._service(fill(rule.caller, labels)) if rule.caller else service
            callee = fill(rule.callee, labels) if rule.callee else service
            if rule.callee_kind not in PLACES:
                callee = self._service(callee)
            if caller and callee and caller != callee:
                key = (caller, callee, rule.kind)
                told = self._edges.get(key)
                if told is None:
                    told = self._edges[key] = _Told(caller, callee, rule, {})
                told.rows[row] = float("nan")
                self._of[row] = key
            return

    def _service(self, name: str) -> str:
        """The name by which alerts know it: `services.strip` and `services.aliases` apply."""
        labels = self._mapper.config.labels
        return (self._mapper.service({labels[0]: name}) if labels else "") or name

    def vanish(self, row: int) -> None:
        """The series was evicted."""
        key = self._of.pop(row, None)
        if key is not None:
            told = self._edges[key]
            del told.rows[row]
            if not told.rows:
                del self._edges[key]

    # ------------------------------------------------------------------ time

    def boundary(self, before: float, now: float) -> bool:
        """Does the watermark's way from `before` to `now` call for a look?"""
        return bool(self._of) and before // STEP != now // STEP

    def due(self, now: float, last: F64, raw: F64, flags: NDArray[np.uint8]) -> list[tuple[list[Edge], list[Node]]]:
        """What to tell at the watermark `now`: edges in the order of their names, at most TOLD_AT_ONCE together.

        Args:
            last: time of each row's last sample. raw: its value. flags: the bank's, of which COUNTER counts here.
        """
        found = [told for told in self._edges.values() if now - told.at >= self.refresh]
        living = [told for told in found if self._lives(told, last, raw, flags)]
        living.sort(key=lambda t: (t.caller, t.callee, t.rule.kind))
        out = []
        for first in range(0, len(living), TOLD_AT_ONCE):
            edges, nodes = [], {}
            for told in living[first : first + TOLD_AT_ONCE]:
                told.at = now
                told.rows = {row: float(raw[row]) for row in told.rows}
                rule = told.rule
                edges.append(Edge(caller=told.caller, callee=told.callee, kind=rule.kind, confidence=rule.confidence))
                if rule.callee_kind:
                    nodes[told.callee] = Node(name=told.callee, kind=rule.callee_kind)
            out.append((edges, list(nodes.values())))
        return out

    @staticmethod
    def _lives(told: _Told, last: F64, raw: F64, flags: NDArray[np.uint8]) -> bool:
        """Did a series of it speak since it was told last: a counter by moving, a gauge by being there and not 0?"""
        for row, was in told.rows.items():
            value = float(raw[row])
            if last[row] <= told.at or not np.isfinite(value) or value == 0.0:
                continue
            if not int(flags[row]) & COUNTER or value != was:
                return True
        return False

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> dict[str, Any]:
        edges = [
            [*key, None if told.at == float("-inf") else told.at, [[r, v if v == v else None] for r, v in rows]]
            for key, told in sorted(self._edges.items())
            for rows in [sorted(told.rows.items())]
        ]
        return {"rules": [msgspec.to_builtins(rule) for rule in self.rules], "edges": edges}

    def rows(self, data: Mapping[str, Any]) -> list[int] | None:
        """Rows that name an edge, by a snapshot; None when it was taken under other rules: any row may."""
        if data["rules"] != [msgspec.to_builtins(rule) for rule in self.rules]:
            return None
        return [row for *_, rows in data["edges"] for row, _ in rows]

    def load(self, data: Mapping[str, Any]) -> None:
        """Take over when each edge was told last; call it once the series that name one have appeared."""
        for caller, callee, kind, at, rows in data["edges"]:
            told = self._edges.get((caller, callee, kind))
            if told is None:
                continue  # its rule is gone
            told.at = float("-inf") if at is None else at
            for row, value in rows:
                if row in told.rows:
                    told.rows[row] = float("nan") if value is None else value


def update(source: str, partition: int, edges: Sequence[Edge], nodes: Sequence[Node]) -> TopologyUpdate:
    """What one partition tells of the graph: it adds and confirms, and never takes back."""
    return TopologyUpdate(source=f"metrics:{source}/{partition}", edges=tuple(edges), nodes=tuple(nodes))
