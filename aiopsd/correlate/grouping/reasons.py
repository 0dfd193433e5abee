"""Sentences that a person can check: why an alert is where it is."""

from collections.abc import Mapping

from aiopsd.correlate.grouping.graph import Graph, Link
from aiopsd.correlate.grouping.memory import Memory
from aiopsd.correlate.grouping.state import HALF_LIFE, Trouble, Waiting

CHRONIC = 4.0  # firings alone (decayed) that make a pair chronic ...
CHRONIC_RATE = 0.5 / 3600.0  # ... at this rate or above, 1/s
NOTHING = "nothing near it is in trouble"


def why(graph: Graph, vertex: str, onset: float, other: Trouble, how: str) -> str:
    gap = onset - other.onset
    when = f"{abs(gap):.0f} s {'after' if gap >= 0 else 'before'} it"
    a, b = vertex.lstrip("?"), other.vertex.lstrip("?")
    if how == "same":
        return f"a further symptom of {b}, {when.removesuffix(' it')} the first"
    if how == "again":
        return f"the same alert of {b} again"
    if how == "before":
        return (
            f"{a} and {b} were in one incident before and began {abs(gap):.0f} s apart; no path between them is known"
        )
    if how == "alike":
        return f"{a} and {b} say the same and began {abs(gap):.0f} s apart; no path between them is known"
    if how == "at once":
        return f"{a} and {b} began {abs(gap):.0f} s apart; whether one depends on the other is not known"
    link = graph.around(vertex).get(other.vertex, Link(0, 0, ()))
    if how == "climbed" and not other.names:
        on = graph.verb(other.vertex)
        a = a if link.down == 1 else f"what {a} calls"
        return f"{a} {on} on {b}, of which {other.followers} others got into trouble within minutes"
    if how == "climbed":
        return f"{a} depends on {b}{_steps(link.down)} and started {when}{_usually(graph, other, vertex, link.down)}"
    if how == "loaded":
        return f"{a} gets most of its load from {b}, as others that began within minutes"
    if how == "ran down":
        usually = _usually(graph, other, vertex, link.up, up=False)
        return f"{b} depends on {a}{_steps(link.up)}, and {a} started {when}{usually}"
    shared = ", ".join(name for name, _ in link.shared[:3])
    return f"{a} and {b} both depend on {shared} and started {abs(gap):.0f} s apart"


def at_once(vertex: str, other: str) -> str:
    """Of an alert that is told of together with one of the same second, before either is weighed."""
    a, b = vertex.lstrip("?"), other.lstrip("?")
    if a == b:
        return f"a further symptom of {b}, within a second of the first"
    return f"{a} is near {b} and began within a second of it"


def alone_reason(memory: Memory, item: Waiting, votes: Mapping[str, float]) -> tuple[bool, str]:
    """(whether an alert that nothing explains is kept quiet, why)."""
    s, name, vertex = memory.s, item.name, item.vertex
    pair = f"{vertex}|{name}"
    if pair in s.noise:
        return True, f"an operator called {name} of {vertex} noise, and nothing near it is in trouble"
    fired = memory.read(s.alone, pair)
    span = max(3600.0, min(memory.s.now - s.began, HALF_LIFE))
    if fired >= CHRONIC and fired / span >= CHRONIC_RATE:
        return True, f"chronic: {name} of {vertex} fired alone {fired:.0f} times in the last {span / 3600:.0f} h"
    if not item.known:
        return False, "it names nothing that the topology knows, and nothing else fits"
    if votes:
        return False, "what is in trouble near it does not explain it"
    return False, NOTHING


def _usually(graph: Graph, other: Trouble, vertex: str, steps: int, *, up: bool = True) -> str:
    told = graph.passages.told(other.vertex, vertex, up) if steps == 1 else ""
    return f"; {told}" if told else ""


def _steps(n: int) -> str:
    return "" if n <= 1 else f" ({n} steps away)"
