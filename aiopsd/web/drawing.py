"""SVG, computed here and drawn by any browser: a series with its normal band, and the neighbourhood of an incident.

Pure functions of their arguments; every text that came from outside is escaped. Colours are classes of the style
sheet, so the drawings follow light and dark.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TypeAlias

import msgspec
from markupsafe import Markup, escape

from aiopsd.evidence import readings
from aiopsd.model import Evidence, Incident, Node
from aiopsd.topology import Topology

# --------------------------------------------------------------------------- a series and its band

WIDTH, HEIGHT = 460.0, 132.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 10.0, 16.0, 20.0  # room for the scale, the last dot, the onset's label, the times

SINCE = {"no-data": "no data since", "flatline": "has not moved since"}  # channel -> what the mark of the onset says
Sample: TypeAlias = tuple[float, float]  # UTC seconds, value
_HUGE = 1e150  # what is larger overflows the arithmetic of the scale and means nothing to a reader


def number(value: float) -> str:
    """Three significant digits, with k, M, G above a thousand.

    >>> number(0.01234), number(12345.0), number(2.0), number(float("nan"))
    ('0.0123', '12.3k', '2', 'NaN')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    if value and abs(value) < 1e-4:
        return f"{value:.2e}"
    return f"{value:.3g}"


def figures(e: Evidence, *values: float) -> list[str]:
    """Values of a signal, each with the unit that the name of its metric tells: one unit for all.

    >>> figures(Evidence(service="a", metric="wait_seconds"), 0.0312, 0.0104)
    ['31.2 ms', '10.4 ms']
    >>> figures(Evidence(service="a", metric="waiting", rate=True), 12e3)
    ['12k/s']
    """
    if all(map(math.isfinite, values)):
        numbers, unit = readings(e.metric, values, rate=e.rate, digits=3)
        if unit.removesuffix("/s"):
            return [f"{n}{unit}" for n in numbers]
    return [number(v) + ("/s" if e.rate else "") for v in values]


def clock(ts: float) -> str:
    """HH:MM:SS in UTC; "" when it is no time."""
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ts):%H:%M:%S}"
    except (OverflowError, ValueError):
        return ""


class _Plane:
    """Where moments and values lie in the drawing of a signal: `points` (two or more, in order), and its band."""

    def __init__(self, evidence: Evidence, points: Sequence[Sample]) -> None:
        least, most = min(v for _, v in points), max(v for _, v in points)
        room = 1.5 * (most - least) or math.inf  # a band far wider than what happened is cut: 103 of a limit of 100
        self.band = abs(evidence.low) < _HUGE and abs(evidence.high) < _HUGE and evidence.high > evidence.low
        self.floor = max(evidence.low, least - room) if self.band else least
        self.ceiling = min(evidence.high, most + room) if self.band else most
        self.low, self.high = min(least, self.floor), max(most, self.ceiling)
        span = (self.high - self.low) or abs(self.high) or 1.0
        self._bottom, self._top = self.low - 0.06 * span, self.high + 0.06 * span
        self.missing = evidence.channel == "no-data"  # the onset is the last sample, the break what is not there
        self.first, self.last = points[0][0], points[-1][0]
        if self.missing:
            self.last = max(self.last, evidence.onset) + 0.25 * (self.last - self.first)
        steps = sorted(b[0] - a[0] for a, b in pairwise(points))
        self._gap = 5 * steps[len(steps) // 2] or math.inf  # a longer pause is a hole in the data, not a line

    def x(self, t: float) -> float:
        return round(_LEFT + (t - self.first) / (self.last - self.first) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, v: float) -> float:
        return round(_TOP + (self._top - v) / (self._top - self._bottom) * (HEIGHT - _TOP - _BOTTOM), 1)

    def path(self, points: Sequence[Sample]) -> str:
        parts = []
        for i, (t, v) in enumerate(points):
            jump = i == 0 or t - points[i - 1][0] > self._gap
            parts.append(f"{'M' if jump else 'L'}{self.x(t)} {self.y(v)}")
        return "".join(parts)


def series(evidence: Evidence) -> Markup:
    """The recent values of one signal, the range that would be normal, and where it left it; "" below two points."""
    points = sorted((t, v) for t, v in evidence.recent if abs(t) < _HUGE and abs(v) < _HUGE)  # NaN compares false
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return Markup("")
    plane = _Plane(evidence, points)
    label = f"{evidence.metric} of {evidence.service}, last value {figures(evidence, points[-1][1])[0]}"
    out = [
        f'<svg class="series" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(label)}">',
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{WIDTH - _LEFT - _RIGHT:g}" '
        f'height="{HEIGHT - _TOP - _BOTTOM:g}"/>',
        _band(evidence, plane),
        f'<path class="line" d="{plane.path(points)}"/>',
        _break(evidence, plane, points),
        f'<circle class="last" cx="{plane.x(points[-1][0])}" cy="{plane.y(points[-1][1])}" r="3"/>',
        _scale(evidence, plane, points),
        "</svg>",
    ]
    return Markup("".join(out))


def _band(evidence: Evidence, plane: _Plane) -> str:
    """The range that would be normal; a thin one is drawn thick enough to be seen."""
    if not plane.band:
        return ""
    return (
        f'<rect class="band" x="{_LEFT}" y="{plane.y(plane.ceiling)}" width="{WIDTH - _LEFT - _RIGHT:g}" '
        f'height="{max(2.5, plane.y(plane.floor) - plane.y(plane.ceiling)):.1f}">'
        f"<title>normal: {' to '.join(figures(evidence, evidence.low, evidence.high))}</title></rect>"
    )


def _break(evidence: Evidence, plane: _Plane, points: Sequence[Sample]) -> str:
    """The mark of the onset, what came after it, or what is missing since."""
    out = ""
    if plane.missing:
        at = plane.x(max(points[-1][0], evidence.onset))
        out += (
            f'<rect class="missing" x="{at}" y="{_TOP}" width="{WIDTH - _RIGHT - at:.1f}" '
            f'height="{HEIGHT - _TOP - _BOTTOM:g}"/>'
        )
    if plane.first <= evidence.onset <= plane.last:
        at = plane.x(evidence.onset)
        shift, anchor = (-4, "end") if at > WIDTH * 0.7 else (4, "start")
        out += f'<path class="onset" d="M{at} {_TOP}V{HEIGHT - _BOTTOM:g}"/>'
        out += (
            f'<text class="note" x="{at + shift:.1f}" y="11" text-anchor="{anchor}">'
            f"{SINCE.get(evidence.channel, 'left normal')} {clock(evidence.onset)}</text>"
        )
        if not plane.missing:
            start = next(i for i, p in enumerate(points) if p[0] >= evidence.onset or i == len(points) - 1)
            out += f'<path class="broken" d="{plane.path(points[max(0, start - 1) :])}"/>'
    return out


def _scale(evidence: Evidence, plane: _Plane, points: Sequence[Sample]) -> str:
    """The range of values on the left, of moments below."""
    out = ""
    top, bottom = figures(evidence, plane.high, plane.low)
    for text, left, down, anchor in (
        (top, _LEFT - 6, plane.y(plane.high) + 3.5, "end"),
        (bottom, _LEFT - 6, plane.y(plane.low) + 3.5, "end"),
        (clock(plane.first), _LEFT, HEIGHT - 6, "start"),
        (f"{clock(points[-1][0])} UTC" if not plane.missing else "", WIDTH - _RIGHT, HEIGHT - 6, "end"),
    ):
        out += f'<text class="scale" x="{left:g}" y="{down:.1f}" text-anchor="{anchor}">{text}</text>'
    return out


# --------------------------------------------------------------------------- the neighbourhood

NODE_W, NODE_H, COLUMN, ROW, THIN = 172.0, 42.0, 236.0, 58.0, 18.0
EDGE_ROLES = ("plain", "affected", "chain")  # in the order of drawing: the explanation over the rest
MOST_NODES = 28  # more than that nobody reads at night; the rest is counted


class GraphNode(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    role: str  # root | candidate | affected | plain
    note: str


class GraphEdge(msgspec.Struct, frozen=True, kw_only=True):
    caller: str
    callee: str
    kind: str
    role: str  # one of EDGE_ROLES


class Neighbourhood(msgspec.Struct, frozen=True, kw_only=True):
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    hidden: int  # direct neighbours that were left out


def neighbourhood(topology: Topology, incident: Incident, firing: Mapping[str, int]) -> Neighbourhood:
    """The incident's services, its suspects and their direct neighbours; `firing` counts alerts per service.

    Costs the degrees of the services shown, not the size of the graph.
    """
    root = incident.root
    chain = [(link.symptom, link.cause) for link in root.chain] if root else []
    suspects = {r.service: i for i, r in reversed(list(enumerate(incident.roots))) if r.service}
    blamed = root.service if root else ""
    first = [blamed, *(n for pair in chain for n in pair), *incident.services, *list(suspects)[::-1][:3]]
    shown = dict.fromkeys([n for n in dict.fromkeys(first) if n][:MOST_NODES])
    score: dict[str, int] = {}
    for near in shown:
        for far in (*topology.callers(near), *topology.callees(near)):
            if far not in shown and not _well_host(topology.node(far), firing):
                score[far] = score.get(far, 0) + (3 if near == blamed else 1)
    more = sorted(score, key=lambda n: (-score[n], n))
    room = MOST_NODES - len(shown)
    shown.update(dict.fromkeys(more[:room]))
    affected = set(incident.services)

    nodes = []
    for name in shown:
        known = topology.node(name)
        kind = known.kind if known else next((r.kind for r in incident.roots if r.service == name), "service")
        count = firing.get(name, 0)
        if name == blamed:
            role, note = "root", "probable root cause"
        elif name in affected:
            role, note = "affected", f"{count} alert{'s' if count != 1 else ''}" if count else "affected"
        elif name in suspects:
            role, note = "candidate", f"candidate {suspects[name] + 1}"
        else:
            role, note = "plain", kind
        nodes.append(GraphNode(name=name, kind=kind, role=role, note=note))
    steps = {frozenset(pair) for pair in chain}
    edges: dict[tuple[str, str], GraphEdge] = {}
    for caller in shown:
        for callee in topology.callees(caller):
            info = topology.edge(caller, callee)
            if callee not in shown or callee == caller or info is None:
                continue
            inside = caller in affected and callee in affected
            role = "chain" if frozenset((caller, callee)) in steps else "affected" if inside else "plain"
            edges[caller, callee] = GraphEdge(caller=caller, callee=callee, kind=info.kind, role=role)
    for link in root.chain if root else ():  # a step of the explanation that is no edge of the graph is drawn too
        pair = (link.symptom, link.cause)
        if all(n in shown for n in pair) and pair[0] != pair[1] and pair not in edges and pair[::-1] not in edges:
            edges[pair] = GraphEdge(caller=pair[0], callee=pair[1], kind=link.edge, role="chain")
    return Neighbourhood(nodes=tuple(nodes), edges=tuple(edges.values()), hidden=max(0, len(more) - max(0, room)))


def _well_host(node: Node | None, firing: Mapping[str, int]) -> bool:
    """A node or zone without an alert: everything runs somewhere, and drawing that hides who calls whom."""
    return node is not None and node.kind in ("node", "zone") and not firing.get(node.name)


def layers(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Column of each name: callers left of callees; edges that close a cycle are ignored.

    >>> layers(["a", "b", "c"], [("a", "b"), ("b", "c"), ("c", "a")])
    {'a': 0, 'b': 1, 'c': 2}
    """
    down: dict[str, list[str]] = {n: [] for n in names}
    for caller, callee in pairs:
        down[caller].append(callee)
    called = {callee for _, callee in pairs}
    state: dict[str, int] = {}
    order: list[str] = []
    forward: list[tuple[str, str]] = []
    for start in sorted(names, key=lambda n: n in called):  # begin where nobody calls, as a reader would
        if start in state:
            continue
        state[start] = 1
        stack = [(start, iter(down[start]))]
        while stack:
            name, rest = stack[-1]
            for callee in rest:
                if state.get(callee) != 1:
                    forward.append((name, callee))
                if callee not in state:
                    state[callee] = 1
                    stack.append((callee, iter(down[callee])))
                    break
            else:
                state[name] = 2
                order.append(name)
                stack.pop()
    column = dict.fromkeys(names, 0)
    ahead: dict[str, list[str]] = {n: [] for n in names}
    entered: dict[str, int] = dict.fromkeys(names, 0)
    for caller, callee in forward:
        ahead[caller].append(callee)
        entered[callee] += 1
    for name in reversed(order):
        for callee in ahead[name]:
            column[callee] = max(column[callee], column[name] + 1)
    for name in order:  # a caller that nobody calls stands right before what it calls
        if not entered[name] and ahead[name]:
            column[name] = min(column[c] for c in ahead[name]) - 1
    return column


Point: TypeAlias = str | int  # a node by its name, or the number of a bend in a long edge


def _high(point: Point) -> float:
    return THIN if isinstance(point, int) else ROW


def graph(view: Neighbourhood) -> Markup:
    """The neighbourhood in columns, callers left of what they call; "" without nodes."""
    if not view.nodes:
        return Markup("")
    column = layers([n.name for n in view.nodes], [(e.caller, e.callee) for e in view.edges])
    rows, stops = _columns(view, column)
    _uncross(rows, stops)
    at, tallest = _places(rows)
    width, height = (len(rows) - 1) * COLUMN + NODE_W + 12, tallest + 8
    out = [
        f'<svg class="graph" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="services around the incident">',
        "<defs>"
        + "".join(
            f'<marker id="tip-{role}" class="tip {role}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="9" '
            'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.5L8 4L0 7.5z"/></marker>'
            for role in EDGE_ROLES
        )
        + "</defs>",
    ]
    for i, edge in sorted(enumerate(view.edges), key=lambda e: (EDGE_ROLES.index(e[1].role), e[0])):
        turn = column[edge.callee] - column[edge.caller]
        out.append(_edge(edge, [at[p] for p in stops[i]], turn))
    out += [_node(node, *at[node.name]) for node in view.nodes]
    out.append("</svg>")
    return Markup("".join(out))


def _columns(view: Neighbourhood, column: Mapping[str, int]) -> tuple[list[list[Point]], list[list[Point]]]:
    """What stands in each column, from the top, and where each edge passes, from its caller on.

    An edge over several columns bends around what stands between: one invisible point for each column.
    """
    rows: list[list[Point]] = [[] for _ in range(max(column.values()) + 1)]
    for node in view.nodes:
        rows[column[node.name]].append(node.name)
    stops: list[list[Point]] = []
    made = 0
    for edge in view.edges:
        left, right = sorted((edge.caller, edge.callee), key=lambda n: column[n])
        points: list[Point] = [left]
        for c in range(column[left] + 1, column[right]):
            rows[c].append(made)
            points.append(made)
            made += 1
        points.append(right)
        stops.append(points if left == edge.caller else points[::-1])
    return rows, stops


def _uncross(rows: list[list[Point]], stops: Sequence[Sequence[Point]]) -> None:
    """Order each column by barycentres, down and up in turn (Sugiyama 1981): fewer crossings."""
    column = {point: c for c, row in enumerate(rows) for point in row}
    up: dict[Point, list[Point]] = {}
    down: dict[Point, list[Point]] = {}
    for points in stops:
        for p, q in pairwise(points if column[points[0]] <= column[points[-1]] else points[::-1]):
            down.setdefault(p, []).append(q)
            up.setdefault(q, []).append(p)
    for sweep in range(8):
        side, walk = (up, range(1, len(rows))) if sweep % 2 == 0 else (down, range(len(rows) - 2, -1, -1))
        for c in walk:
            place = {n: i for row in rows for i, n in enumerate(row)}
            mean = {n: sum(place[m] for m in side[n]) / len(side[n]) if n in side else place[n] for n in rows[c]}
            rows[c].sort(key=lambda n: (mean[n], place[n]))


def _places(rows: Sequence[Sequence[Point]]) -> tuple[dict[Point, tuple[float, float]], float]:
    """The middle of each point, columns centred on each other, and the height of the tallest column."""
    at: dict[Point, tuple[float, float]] = {}
    tallest = max(sum(_high(n) for n in row) for row in rows)
    for c, row in enumerate(rows):
        y = (tallest - sum(_high(n) for n in row)) / 2
        for point in row:
            at[point] = (c * COLUMN + NODE_W / 2 + 6, y + _high(point) / 2 + 4)
            y += _high(point)
    return at, tallest


def _edge(edge: GraphEdge, stops: Sequence[tuple[float, float]], turn: int) -> str:
    """A curve through the stops; `turn`: columns from the caller to the callee, 0 beside each other."""
    back, same = turn < 0, turn == 0
    (x0, y0), (x1, y1) = stops[0], stops[-1]
    half = NODE_W / 2
    last = (x0 + (-half if back else half), y0)
    end = (x1 + (half if back or same else -half), y1)
    path = f"M{last[0]:.1f} {last[1]:.1f}"
    for point in [*stops[1:-1], end]:
        bend = 34.0 if same else (point[0] - last[0]) / 2
        path += f"C{last[0] + bend:.1f} {last[1]:.1f} {point[0] + (bend if same else -bend):.1f} {point[1]:.1f} "
        path += f"{point[0]:.1f} {point[1]:.1f}"
        last = point
    dashed = "" if edge.kind in ("calls", "reads", "writes") else " other"
    return (
        f'<path class="edge {edge.role}{dashed}" d="{path}" marker-end="url(#tip-{edge.role})">'
        f"<title>{escape(f'{edge.caller} {edge.kind} {edge.callee}')}</title></path>"
    )


def _node(node: GraphNode, x: float, y: float) -> str:
    """A box around (x, y) with the name, cut where it gets long, and what is to be said of it."""
    short = node.name if len(node.name) <= 21 else node.name[:20] + "…"
    corner = 21 if node.kind in ("datastore", "queue") else 4 if node.kind in ("node", "zone") else 9
    return (
        f'<g class="node {node.role}"><title>{escape(f"{node.name} ({node.kind})")}</title>'
        f'<rect x="{x - NODE_W / 2:.1f}" y="{y - NODE_H / 2:.1f}" width="{NODE_W:g}" height="{NODE_H:g}" '
        f'rx="{corner}"/><text class="name" x="{x:.1f}" y="{y - 2:.1f}">{escape(short)}</text>'
        f'<text class="what" x="{x:.1f}" y="{y + 13:.1f}">{escape(node.note)}</text></g>'
    )
