"""Who depends on whom: the service graph, fed by several sources that each know a part of it.

In come `TopologyUpdate` records (YAML files, edge records, edges read from metrics); out go neighbours, distances and
diffs. An edge runs caller -> callee; a node that a service runs on and the zone of a node are callees too, so trouble
of a shared node climbs to its services as trouble of a callee climbs to its callers. One source never erases what
another one says. This module refuses to know alerts and clocks.
"""

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from aiopsd.model import Node, TopologyUpdate

if TYPE_CHECKING:
    import networkx as nx

FILE_PREFIX = "file:"  # sources that start with it were written by a person: they win over others and never age
OPERATOR = "operator"  # the source of edges that verdicts drew: a person's word, so it does not age either
IMPLIED = {"runs_on": "node", "located_in": "zone"}  # kind of edge -> kind of its callee, where nobody says it
LASTING = (FILE_PREFIX, OPERATOR)
DEEP = 20  # steps along the calls at which one still depends on the other
SHOWN = 12  # edges that the sentence of a diff names
HISTORY, LISTED = 100, 200  # changes that are kept, and how many edges (and nodes) of each
MOSTLY = 0.4  # share of what reaches a vertex that counts as a share of one above it: with less of its load from there,
# it bears that load multiplied
UPWARDS = 3  # steps up the calls in which it is asked who sent a load
FAINT = 0.02  # share below which a path upwards is not followed: bounds the walk where very many call
FADE = 0.5  # of a word's confidence that is gone when it is about to grow stale
EXPIRED = "expired"  # what stands for the source of a change that came from nobody's word for long
FUZZY_BAR = 90.0  # RapidFuzz ratio of two names with the same digits; below it two names are two services
_WORD = re.compile(r"[a-z]+|\d+")
# Pods of Kubernetes: hash of the template and of the pod, neither of which has a vowel (apimachinery util/rand), and
# hexadecimal hashes of others; a lone hash (daemon sets, jobs); an ordinal (stateful sets).
_SERVICE = re.compile(r"(?<=.)-(?:svc|srv|service)$")
_POD = re.compile(r"-(?:[bcdfghjklmnpqrstvwxz2456789]{6,10}|[a-f0-9]{6,10})-[a-z0-9]{5}$|-[a-z0-9]{5}$|-\d+$")


# (caller, callee) -> direction -> figures of what history says of that edge
Learned: TypeAlias = Callable[[str, str], Mapping[str, Mapping[str, float]]]


class EdgeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What all sources together say of one edge. Times are the stamps of the first and last update that named it."""

    kind: str
    weight: float
    confidence: float  # 1 - product of the sources' doubts; a word fades to half until it leaves
    first_seen: float
    last_seen: float
    sources: tuple[str, ...]


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """What an update changed in the merged graph: pairs (caller, callee) and node names, sorted."""

    added: tuple[tuple[str, str], ...] = ()
    removed: tuple[tuple[str, str], ...] = ()
    nodes: tuple[str, ...] = ()  # new ones
    gone: tuple[str, ...] = ()  # nodes

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.nodes or self.gone)

    def __str__(self) -> str:
        """`2 edges added, 1 removed: + web -> cart, + web -> pay, - web -> old`."""
        signs = [f"+ {u} -> {v}" for u, v in self.added] + [f"- {u} -> {v}" for u, v in self.removed]
        more = f" and {len(signs) - SHOWN} more" if len(signs) > SHOWN else ""
        counts = f"{len(self.added)} edge{'s' if len(self.added) != 1 else ''} added, {len(self.removed)} removed"
        return f"{counts}: {', '.join(signs[:SHOWN])}{more}" if signs else counts


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the merged graph: to which version, when (stamp), by which source's word (or for want of it)."""

    version: int
    stamp: float
    source: str
    added: tuple[tuple[str, str], ...]
    removed: tuple[tuple[str, str], ...]
    nodes: tuple[str, ...]
    gone: tuple[str, ...]
    more: int  # edges and nodes that are not listed: a first graph of thousands is kept as a number


class _Seen(msgspec.Struct):
    """One source's word on one edge."""

    kind: str
    weight: float
    confidence: float
    first: float
    last: float


class _Walks:
    """Distances from a name within some hops, worked out before; what is oldest goes when all hold more than MOST.

    Counted by distances, not by walks: in a deep graph of 5,000 services one walk names half of them, in a shallow one
    ten, and a name that is not in the graph none.
    """

    MOST = 1_000_000  # distances, of 30 bytes each
    EMPTY = 20  # what a walk costs by itself, in distances

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], dict[str, int]] = {}
        self.size = 0

    def get(self, name: str, hops: int) -> dict[str, int] | None:
        return self._known.get((name, hops))

    def keep(self, name: str, hops: int, walk: dict[str, int]) -> None:
        self._known[name, hops] = walk
        self.size += len(walk) + self.EMPTY
        while self.size > self.MOST and len(self._known) > 1:
            self.size -= len(self._known.pop(next(iter(self._known)))) + self.EMPTY

    def clear(self) -> None:
        self._known.clear()
        self.size = 0


class Topology:
    """The merged graph and its memory of who said what.

    Args:
        stale_after: seconds after which an edge that no source has named again leaves the graph; files never age.
        resume: what `snapshot()` returned.
    """

    def __init__(self, stale_after: float, resume: dict[str, Any] | None = None) -> None:
        self.stale_after = stale_after
        self.version = 0
        self._now = 0.0  # newest stamp seen: what the age of a word is measured against
        self._said: dict[str, dict[tuple[str, str], _Seen]] = {}
        self._nodes: dict[str, Node] = {}
        self._pinned: dict[str, str] = {}  # node -> the file that described it
        self._described: dict[str, float] = {}  # node -> stamp of the last update that described it, files apart
        self._history: deque[Change] = deque(maxlen=HISTORY)
        self._down: dict[str, dict[str, None]] = {}
        self._up: dict[str, dict[str, None]] = {}
        self._graph: nx.DiGraph[str] | None = None
        self._near, self._below, self._above = _Walks(), _Walks(), _Walks()
        self._around: dict[tuple[tuple[str, ...], int, int, int], tuple[str, ...]] = {}
        self._senders: dict[str, dict[str, float]] = {}
        self._loaded: dict[str, dict[str, float]] = {}
        self._resolved: dict[str, str] = {}
        self.worked_out: dict[str, Any] = {}  # what others conclude from the names here; gone when they change
        self._folded: dict[str, str] | None = None
        self._plain: dict[str, str] | None = None
        if resume is not None:
            self._nodes = {n["name"]: msgspec.convert(n, Node) for n in resume["nodes"]}
            for source, rows in resume["said"].items():
                self._said[source] = {(u, v): _Seen(*rest) for u, v, *rest in rows}
            self._down = {u: dict.fromkeys(vs) for u, vs in resume["down"]}
            self._up = {v: dict.fromkeys(us) for v, us in resume["up"]}
            self._pinned = dict(resume["pinned"])
            self._described = dict(resume.get("described", {}))
            self._now = resume.get("now", 0.0)
            self._history.extend(msgspec.convert(resume.get("history", []), list[Change]))
            self.version = resume["version"]

    # ----------------------------------------------------------------------- change

    def apply(self, update: TopologyUpdate, stamp: float) -> Diff:
        """Take what one source says at `stamp`; the difference it makes to the merged graph."""
        self._now = max(self._now, stamp)
        said = self._said.setdefault(update.source, {})
        fresh: list[str] = []
        touched: dict[tuple[str, str], None] = {}
        for node in update.nodes:
            old = self._nodes.get(node.name)
            if old is None:
                fresh.append(node.name)
            if update.source.startswith(FILE_PREFIX):
                self._pinned[node.name] = update.source
            elif node.name in self._pinned:
                continue
            else:
                self._described[node.name] = stamp
            if old != node:
                self._nodes[node.name] = node
                self._graph = None
        if update.replace and update.source.startswith(FILE_PREFIX):
            named = {node.name for node in update.nodes}
            for name in [n for n, file in self._pinned.items() if file == update.source and n not in named]:
                del self._pinned[name]
                self._described[name] = stamp
        keep: dict[tuple[str, str], None] = {}
        for edge in update.edges:
            pair = (edge.caller, edge.callee)
            keep[pair] = None
            if edge.caller == edge.callee or not edge.caller or not edge.callee:
                continue
            have = said.get(pair)
            if have is None:
                said[pair] = _Seen(edge.kind, edge.weight, edge.confidence, stamp, stamp)
                touched[pair] = None
            else:
                have.kind, have.weight, have.confidence, have.last = edge.kind, edge.weight, edge.confidence, stamp
        gone = [(e.caller, e.callee) for e in update.removed]
        if update.replace:
            gone += [pair for pair in said if pair not in keep]
        for pair in gone:
            if said.pop(pair, None) is not None:
                touched[pair] = None
        if not said:
            del self._said[update.source]
        return self._settle(touched, fresh, stamp, update.source)

    def expire(self, stamp: float) -> Diff:
        """Drop edges, and nodes without one, that no source has named for `stale_after` seconds; files never age."""
        self._now = max(self._now, stamp)
        touched: dict[tuple[str, str], None] = {}
        for source, said in self._said.items():
            if source.startswith(LASTING):
                continue
            for pair in [p for p, seen in said.items() if stamp - seen.last > self.stale_after]:
                del said[pair]
                touched[pair] = None
                for name in pair:
                    self._described.setdefault(name, stamp)  # one that nobody described lives as long again
        for source in [s for s, said in self._said.items() if not said]:
            del self._said[source]
        return self._settle(touched, [], stamp, EXPIRED)

    def _settle(self, touched: Iterable[tuple[str, str]], fresh: list[str], stamp: float, source: str) -> Diff:
        added, removed, gone = [], [], []
        for pair in touched:
            u, v = pair
            have = v in self._down.get(u, ())
            want = any(pair in said for said in self._said.values())
            if want and not have:
                added.append(pair)
                self._down.setdefault(u, {})[v] = None
                self._up.setdefault(v, {})[u] = None
                fresh += [name for name in pair if name not in self._nodes]
                for name, kind in ((u, ""), (v, self._implied(pair))):
                    if name not in self._nodes or (kind and self._undescribed(name)):
                        self._nodes[name] = Node(name=name, kind=kind) if kind else Node(name=name)
            elif have and not want:
                removed.append(pair)
                del self._down[u][v]
                del self._up[v][u]
        if source == EXPIRED:
            for name in [n for n in self._nodes if not self._down.get(n) and not self._up.get(n)]:
                if name not in self._pinned and stamp - self._described.setdefault(name, stamp) > self.stale_after:
                    del self._nodes[name], self._described[name]
                    self._down.pop(name, None)
                    self._up.pop(name, None)
                    gone.append(name)
        diff = Diff(
            added=tuple(sorted(added)),
            removed=tuple(sorted(removed)),
            nodes=tuple(sorted(set(fresh))),
            gone=tuple(sorted(gone)),
        )
        if diff:
            self.version += 1
            self._remember(diff, stamp, source)
            self._graph = None
            for cache in (self._near, self._below, self._above, self._around, self._senders, self._loaded):
                cache.clear()
            if diff.nodes or diff.gone:
                self._resolved.clear()
                self.worked_out.clear()
                self._folded = self._plain = None
        return diff

    def _implied(self, pair: tuple[str, str]) -> str:
        """The kind of callee that its edge tells: what runs, runs on a node; "" when any kind may be called."""
        kinds = {IMPLIED.get(said[pair].kind, "") for said in self._said.values() if pair in said}
        return max(kinds, default="")

    def _undescribed(self, name: str) -> bool:
        """Nobody said of what kind it is: edges alone name it."""
        return self._nodes[name] == Node(name=name) and name not in self._pinned and name not in self._described

    def _remember(self, diff: Diff, stamp: float, source: str) -> None:
        listed = [part[:LISTED] for part in (diff.added, diff.removed)]
        names = [part[:LISTED] for part in (diff.nodes, diff.gone)]
        whole = len(diff.added) + len(diff.removed) + len(diff.nodes) + len(diff.gone)
        kept = sum(map(len, listed)) + sum(map(len, names))
        self._history.append(
            Change(
                version=self.version,
                stamp=stamp,
                source=source,
                added=listed[0],
                removed=listed[1],
                nodes=names[0],
                gone=names[1],
                more=whole - kept,
            )
        )

    # ----------------------------------------------------------------------- questions

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def lacks(self, names: Iterable[str]) -> set[str]:
        """Those that are not in the graph; many are asked for at once."""
        return set(names).difference(self._nodes)

    @property
    def history(self) -> Sequence[Change]:
        """The last changes of the merged graph, oldest first."""
        return tuple(self._history)

    @property
    def files(self) -> Sequence[str]:
        """Names of the files that say something, sorted."""
        said = {source for source in self._said if source.startswith(FILE_PREFIX)} | set(self._pinned.values())
        return sorted(source.removeprefix(FILE_PREFIX) for source in said)

    @property
    def edges(self) -> int:
        """How many edges the merged graph has."""
        return sum(map(len, self._down.values()))

    @property
    def names(self) -> Sequence[str]:
        """Every vertex, in order of appearance."""
        return tuple(self._nodes)

    def node(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def kind(self, name: str) -> str:
        """Kind of a vertex as its source named it; "" when unknown."""
        node = self._nodes.get(name)
        return node.kind if node else ""

    def callees(self, name: str) -> Sequence[str]:
        return tuple(self._down.get(name, ()))

    def callers(self, name: str) -> Sequence[str]:
        return tuple(self._up.get(name, ()))

    def edge(self, caller: str, callee: str) -> EdgeInfo | None:
        pair = (caller, callee)
        words = [(source, said[pair]) for source, said in self._said.items() if pair in said]
        if not words:
            return None
        words.sort(key=lambda w: (not w[0].startswith(FILE_PREFIX), -w[1].last, w[0]))
        doubt = 1.0
        for source, seen in words:
            faded = 0.0 if source.startswith(LASTING) else (self._now - seen.last) / self.stale_after
            trust = 1.0 - FADE * min(1.0, max(0.0, faded))
            doubt *= 1.0 - min(1.0, max(0.0, seen.confidence * trust))
        best = words[0][1]
        return EdgeInfo(
            kind=best.kind,
            weight=best.weight,
            confidence=1.0 - doubt,
            first_seen=min(seen.first for _, seen in words),
            last_seen=max(seen.last for _, seen in words),
            sources=tuple(source for source, _ in words),
        )

    def says(self, source: str, caller: str, callee: str) -> bool:
        """Whether this source names this edge."""
        return (caller, callee) in self._said.get(source, ())

    def near(self, name: str, hops: int) -> dict[str, int]:
        """Undirected distance of everything within `hops` of `name`, itself included with 0; nearest first.

        The dict is shared: do not change it.
        """
        return self._walk(self._near, name, hops, self._down, self._up)

    def below(self, name: str, hops: int) -> dict[str, int]:
        """Distance to what `name` depends on within `hops` steps along the calls, itself included with 0; shared."""
        return self._walk(self._below, name, hops, self._down)

    def above(self, name: str, hops: int) -> dict[str, int]:
        """Distance to what depends on `name` within `hops` steps, itself included with 0; shared."""
        return self._walk(self._above, name, hops, self._up)

    def senders(self, name: str) -> Mapping[str, float]:
        """Where the load of a vertex comes from: each vertex above it that sends at least MOSTLY of it -> its share.

        Callers of a vertex are taken to call it alike. Shared: do not change it.
        """
        known = self._senders.get(name)
        if known is None:
            if len(self._senders) > 20_000:  # bounds memory with names that are not in the graph
                self._senders.clear()
            found: dict[str, float] = {}
            front = {name: 1.0}
            for _ in range(UPWARDS):
                further: dict[str, float] = {}
                for here, share in front.items():
                    callers = self._up.get(here, ())
                    if callers and (part := share / len(callers)) >= FAINT:
                        for caller in callers:
                            if caller != name:
                                further[caller] = further.get(caller, 0.0) + part
                for caller, share in further.items():
                    found[caller] = found.get(caller, 0.0) + share
                front = further
            # a path through a cycle counts again
            known = {caller: min(1.0, share) for caller, share in found.items() if share >= MOSTLY}
            self._senders[name] = known
        return known

    def loaded(self, name: str) -> Mapping[str, float]:
        """What gets at least MOSTLY of its load from `name`, within UPWARDS steps -> that share. Shared."""
        known = self._loaded.get(name)
        if known is None:
            if len(self._loaded) > 20_000:
                self._loaded.clear()
            known = self._loaded[name] = {}
            front = [name]
            while front:
                for callee in self._down.get(front.pop(), ()):
                    if callee not in known and callee != name and (share := self.senders(callee).get(name)):
                        known[callee] = share
                        front.append(callee)
        return known

    def around(self, names: Iterable[str], hops: int, depth: int, most: int) -> tuple[str, ...]:
        """What is within `hops` of any of `names`, or within `depth` steps below, themselves first: the `most` nearest.

        Kept for single names, which are asked for most, while the graph stays.
        """
        key = (tuple(names), hops, depth, most)
        known = self._around.get(key)
        if known is None:
            near = self._flood(key[0], hops, self._down, self._up, most=most)
            for name, distance in self._flood(key[0], depth, self._down, most=most).items():
                if distance < near.get(name, math.inf):
                    near[name] = distance
            known = tuple(sorted(sorted(near), key=near.__getitem__)[:most])
            if len(key[0]) == 1:
                if len(self._around) > 20_000:  # bounds memory with names that are not in the graph
                    self._around.clear()
                self._around[key] = known
        return known

    def needed(self, names: Iterable[str]) -> Mapping[str, int]:
        """Distance to what any of `names` depends on within DEEP steps along the calls; themselves with 0."""
        return self._flood(tuple(names), DEEP, self._down)

    def _walk(self, walks: _Walks, name: str, hops: int, *steps: Mapping[str, Mapping[str, None]]) -> dict[str, int]:
        known = walks.get(name, hops)
        if known is None:
            known = self._flood((name,), hops, *steps)
            walks.keep(name, hops, known)
        return known

    @staticmethod
    def _flood(
        starts: Sequence[str], hops: int, *steps: Mapping[str, Mapping[str, None]], most: float = math.inf
    ) -> dict[str, int]:
        """Distance to all within `hops`; when `most` are found by some distance, to no more than all within that."""
        out, queue, level = dict.fromkeys(starts, 0), deque(starts), 0
        while queue:
            here = queue.popleft()
            distance = out[here] + 1
            if distance > level:
                if distance > hops or len(out) >= most:
                    break
                level = distance
            for step in steps:
                for other in step.get(here, ()):
                    if other not in out:
                        out[other] = distance
                        queue.append(other)
        return out

    # ----------------------------------------------------------------------- names

    def resolve(self, name: str) -> str:
        """The vertex that `name` means: exact, then folded spelling, then host and pod forms, then a near spelling.

        A name that is in no source is returned as it is; "" stays "". Two names whose numbers differ are never the
        same service, however near their spelling.
        """
        if not name or name in self._nodes:
            return name
        known = self._resolved.get(name)
        if known is None:
            known = self._find(name)
            if len(self._resolved) > 20_000:
                self._resolved.clear()
            self._resolved[name] = known
        return known

    def _find(self, name: str) -> str:
        folded = self._fold_table()
        forms = [name]
        if "/" in name:
            forms.append(name.rsplit("/", 1)[1])
        host = forms[-1].rsplit(":", 1)[0] if ":" in forms[-1] else forms[-1]
        forms.append(host)
        if "." in host:
            forms.append(host.split(".", 1)[0])
        for form in forms:
            hit = folded.get(fold(form))
            if hit:
                return hit
        for form in forms:
            short = form
            for _ in range(2):
                cut = _POD.sub("", short)
                if cut == short:
                    break
                short = cut
                if short in self._nodes:
                    return short
                hit = folded.get(fold(short))
                if hit:
                    return hit
        return self._undecorated(forms, folded) or self._fuzzy(name, folded) or name

    def _undecorated(self, forms: Iterable[str], folded: Mapping[str, str]) -> str:
        """The one vertex whose name differs by a word that only says that it is a service: two such are not guessed."""
        if self._plain is None:
            table: dict[str, str] = {}
            for key, known in folded.items():
                short = plain(key)
                table[short] = "" if short in table else known
            self._plain = table
        for form in forms:
            for short in (form, _POD.sub("", form)):
                if hit := self._plain.get(plain(fold(short))):
                    return hit
        return ""

    def _fold_table(self) -> dict[str, str]:
        if self._folded is None:
            table: dict[str, str] = {}
            for known in self._nodes:
                key = fold(known)
                table[key] = "" if key in table else known  # two names that fold alike: neither may be guessed
            self._folded = table
        return self._folded

    def _fuzzy(self, name: str, folded: Mapping[str, str]) -> str:
        from rapidfuzz import fuzz, process

        digits = [w for w in _WORD.findall(name.casefold()) if w.isdigit()]
        pool = [k for k, v in folded.items() if v and [w for w in _WORD.findall(k) if w.isdigit()] == digits]
        if not pool or len(name) < 4:
            return ""
        found = process.extract(fold(name), pool, scorer=fuzz.ratio, limit=2, score_cutoff=FUZZY_BAR)
        if not found or (len(found) > 1 and found[1][1] > found[0][1] - 3.0):
            return ""  # nothing, or two that are as near: no guess
        return folded[found[0][0]]

    # ----------------------------------------------------------------------- export

    @property
    def graph(self) -> "nx.DiGraph[str]":
        """A networkx view of the merged graph, rebuilt after a change; do not change it."""
        if self._graph is None:
            import networkx as nx

            g: nx.DiGraph[str] = nx.DiGraph()
            for name, node in self._nodes.items():
                g.add_node(name, kind=node.kind, **{f"label_{k}": v for k, v in node.labels.items()})
            for u, vs in self._down.items():
                for v in vs:
                    info = self.edge(u, v)
                    if info is not None:
                        attrs = msgspec.to_builtins(info)
                        attrs["sources"] = ",".join(info.sources)
                        g.add_edge(u, v, **attrs)
            self._graph = g
        return self._graph

    def to_json(self, learned: Learned | None = None) -> dict[str, Any]:
        """Nodes and edges as plain data, in order of appearance.

        `stale_at` is when an edge leaves if no source names it again; None: a file says it, it never ages. `learned`
        says what trouble showed of an edge (`Passages.learned`).
        """
        edges = []
        for u, vs in self._down.items():
            for v in vs:
                info = self.edge(u, v)
                if info is not None:
                    lasting = any(source.startswith(LASTING) for source in info.sources)
                    stale_at = None if lasting else info.last_seen + self.stale_after
                    edge = {"caller": u, "callee": v, **msgspec.to_builtins(info), "stale_at": stale_at}
                    edges.append(edge if learned is None else {**edge, "learned": learned(u, v)})
        nodes = [{"name": n.name, "kind": n.kind, "labels": dict(n.labels)} for n in self._nodes.values()]
        return {"version": self.version, "nodes": nodes, "edges": edges}

    def to_graphml(self, learned: Learned | None = None) -> str:
        """GraphML (graphml.graphdrawing.org), for yEd and Gephi; what was learned as `climbs_delay` and the like."""
        import networkx as nx

        graph = self.graph
        if learned is not None:
            graph = graph.copy()
            for u, v, attrs in graph.edges(data=True):
                for way, figures in learned(u, v).items():
                    attrs.update({f"{way}_{name}": value for name, value in figures.items()})
        return "\n".join(nx.generate_graphml(graph))

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        return {
            "version": self.version,
            "now": self._now,
            "nodes": [{"name": n.name, "kind": n.kind, "labels": dict(n.labels)} for n in self._nodes.values()],
            "said": {
                source: [[u, v, s.kind, s.weight, s.confidence, s.first, s.last] for (u, v), s in said.items()]
                for source, said in self._said.items()
            },
            "down": [[u, list(vs)] for u, vs in self._down.items() if vs],
            "up": [[v, list(us)] for v, us in self._up.items() if us],
            "pinned": dict(self._pinned),
            "described": dict(self._described),
            "history": msgspec.to_builtins(list(self._history)),
        }


def plain(folded: str) -> str:
    """A folded name without the word for "service" at its end; a name of that word alone stays.

    >>> plain("cart-svc"), plain("cart-service"), plain("cart"), plain("service")
    ('cart', 'cart', 'cart', 'service')
    """
    return _SERVICE.sub("", folded)


def fold(name: str) -> str:
    """A spelling-blind form: case, separators and leading zeros of numbers do not count.

    >>> fold("Cart_Service.v02") == fold("cart-service-v2")
    True
    """
    return "-".join(w.lstrip("0") or "0" if w.isdigit() else w for w in _WORD.findall(name.casefold()))
