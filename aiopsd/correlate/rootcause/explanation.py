"""Candidates as a person reads them: what each shows, and the chain of shares that leads from a symptom to it."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from aiopsd.correlate.place import name_of, place_of
from aiopsd.correlate.rootcause.certainty import confidence, share_of_rest, signs_of
from aiopsd.correlate.rootcause.flow import LOOK_THROUGH
from aiopsd.correlate.rootcause.graph import Graph
from aiopsd.correlate.rootcause.knowledge import Knowledge
from aiopsd.correlate.rootcause.symptoms import Vertex, against_normal, onset_of, signature
from aiopsd.model import VERBS, Alert, Candidate, ChangeEvent, Link
from aiopsd.topology import Topology


def candidates(
    chosen: Sequence[str],
    order: Sequence[str],
    total: Mapping[str, float],
    vertices: Mapping[str, Vertex],
    why: Mapping[str, Mapping[str, tuple[float, str]]],
    near: Mapping[str, tuple[float, list[ChangeEvent]]],
    topology: Topology,
    graph: Graph,
    onset: float,
    page: Alert | None,
    known: Knowledge,
) -> tuple[Candidate, ...]:
    """The chosen ones with their reasons, the first one with how sure it is."""
    mass = sum(max(0.0, total[n]) for n in order) or 1.0
    rest = mass - max(0.0, total[order[0]])
    start = place_of(page, topology).vertex if page is not None else ""
    callers: dict[str, list[tuple[str, float]]] = {}
    for u in sorted(why):
        for c, (f, _) in why[u].items():
            callers.setdefault(c, []).append((u, f))
    out = []
    for name in chosen:
        vertex = vertices.get(name)
        found = vertex.evidence[:5] if vertex is not None else []
        moved = near.get(name, (0.0, []))[1]
        chain = _chain(start, name, why, callers, vertices, topology, graph)
        out.append(
            Candidate(
                service=name,
                kind=graph.kind(name),
                score=round(total[name], 6),
                metric=found[0][1].metric if found else "",
                reason=_reason(name, vertex, why, moved, onset, topology),
                chain=chain,
                evidence=tuple(e for _, e in found),
                changes=tuple(moved),
            )
        )
    signs = signs_of(out, vertices, callers, graph, known)
    sure = confidence(signs, known.trust)
    out[0] = replace(out[0], confidence=round(sure, 4), signs=tuple(round(x, 4) for x in signs))
    return (out[0], *(replace(c, confidence=round(share_of_rest(c.score, rest, sure), 4)) for c in out[1:]))


def _chain(
    start: str,
    goal: str,
    why: Mapping[str, Mapping[str, tuple[float, str]]],
    callers: Mapping[str, Sequence[tuple[str, float]]],
    vertices: Mapping[str, Vertex],
    topology: Topology,
    graph: Graph,
) -> tuple[Link, ...]:
    """The path of the largest shares to the cause: from the page, else from the most distant symptom.

    A page about the cause itself is no symptom of it: what it made of others is what is worth seeing.
    """
    if goal not in callers:
        return ()
    best: dict[str, tuple[float, str]] = {goal: (1.0, "")}  # vertex -> (product of shares to the goal, next vertex)
    front = [goal]
    for _ in range(8):
        further = []
        for c in front:
            for u, f in callers.get(c, ()):
                value = f * best[c][0]
                if u not in best or (value > best[u][0] and u != goal):
                    if _leads_back(best, c, u):
                        continue
                    best[u] = (value, c)
                    further.append(u)
        front = further
    if start not in best or start == goal:
        reach = [u for u in best if u != goal]
        if not reach:
            return ()
        start = max(reach, key=lambda u: (_steps_to(best, u, goal), best[u][0], u))
    out: list[Link] = []
    here = start
    while here != goal and len(out) < 16:
        nxt = best[here][1]
        share, kind = why[here][nxt]
        edge = topology.edge(here, nxt)
        if edge is None and here in topology.below(nxt, LOOK_THROUGH):
            name = "called_by"
        elif nxt and not graph.callers(nxt):
            name = "suspected"  # nobody is known to call it
        else:
            name = edge.kind if edge is not None else "runs_on" if not topology.callees(here) else "calls"
        out.append(
            Link(
                symptom=here,
                cause=nxt,
                edge=name,
                share=round(share, 4),
                text=_link_text(here, nxt, name, share, kind, vertices),
            )
        )
        here = nxt
    return tuple(out)


def _leads_back(best: Mapping[str, tuple[float, str]], here: str, to: str) -> bool:
    for _ in range(16):
        if here == to:
            return True
        if here not in best or not best[here][1]:
            return False
        here = best[here][1]
    return True


def _steps_to(best: Mapping[str, tuple[float, str]], here: str, goal: str) -> int:
    n = 0
    while here != goal and n < 16:
        here, n = best[here][1], n + 1
    return n


def _link_text(u: str, c: str, edge: str, share: float, kind: str, vertices: Mapping[str, Vertex]) -> str:
    mine = vertices[u].symptoms.get(kind)
    how = VERBS.get(edge, "depends on")
    other = vertices.get(c)
    its = None
    if other is not None:
        shown = sorted(other.symptoms.items(), key=lambda kv: (-kv[1].strength, kv[0]))
        its = other.symptoms.get(kind) or other.own or (shown[0][1] if shown else None)
    left = f"{u} ({mine.text})" if mine is not None and mine.text else u
    if not c:
        return (
            f"{left} began with others that depend on nothing in common with it; something unknown explains {share:.0%}"
        )
    if its is None:
        e = max(other.evidence, key=lambda item: item[0])[1] if other is not None and other.evidence else None
        says = f" ({against_normal(signature(e), e)})" if e is not None else ", which says nothing"
        return f"{left} {how} {c}{says}; it may explain {share:.0%}"
    gap = (mine.onset if mine is not None else its.onset) - its.onset
    when = f"{abs(gap):.0f} s {'earlier' if gap >= 0 else 'later'}"
    return f"{left} {how} {c} ({its.text}, {when}), which explains {share:.0%}"


def _reason(
    name: str,
    vertex: Vertex | None,
    why: Mapping[str, Mapping[str, tuple[float, str]]],
    moved: Sequence[ChangeEvent],
    onset: float,
    topology: Topology,
) -> str:
    explains = sorted(u for u, parts in why.items() if name in parts)
    if not name:
        text = (
            f"{_list(explains)} are in trouble together and depend on nothing in common: the cause is not in the graph"
        )
    elif vertex is None and explains and not topology.loaded(name).keys().isdisjoint(explains):
        text = (
            f"{name} says nothing itself, but {_list(explains)} get their load from it and nothing else explains them"
        )
    elif vertex is None:
        text = f"{name} says nothing itself, but {_list(explains)} depend on it and nothing else explains them"
    else:
        facts = []
        if vertex.own is not None:
            facts.append(vertex.own.text)
        facts += [s.text for _, s in sorted(vertex.symptoms.items(), key=lambda kv: (-kv[1].strength, kv[0]))[:2]]
        text = f"{name}: {', '.join(f for f in facts if f) or _in_its_words(vertex)}"
        if explains:
            text += f"; explains {_list(explains)}"
        handed = why.get(name)
        if not handed:
            text += "; nothing that it depends on explains it" if explains else ""
    if moved:
        change = moved[0]
        ago = max(0.0, onset_of(vertex, onset) - change.ts)
        text += f"; {change.kind}{' ' + change.version if change.version else ''} {ago / 60:.0f} min before the onset"
    return text


def _in_its_words(vertex: Vertex) -> str:
    """Of a vertex without a symptom (it fell silent, say): what its alert says, else its strongest evidence."""
    said = [alert.annotations.get("summary") or name_of(alert) for alert in vertex.alerts]
    said += [against_normal(signature(e), e) for _, e in vertex.evidence]
    return said[0] if said else "deviates most"


def _list(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"
