"""Laws of what is not looked at because it cannot matter: looking at it would change nothing."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.correlate.grouping import story
from aiopsd.correlate.grouping.passages import Passages
from aiopsd.correlate.grouping.state import State
from aiopsd.correlate.grouping.story import Story
from aiopsd.model import Edge, TopologyUpdate
from aiopsd.testing.grouping import Desk
from aiopsd.topology import Topology
from tests.property import strategies
from tests.property.strategies import Event

SERVICES = 8
EVENTS = strategies.events(services=SERVICES, names=3, within=400, lead=60.0, least=6, most=20)
GRAPHS = strategies.graphs(services=SERVICES, most=20)


def explained(desk: Desk) -> list[dict[str, tuple[float, str, str]]]:
    """What explains each vertex of each incident, as told at once, and when it came one trouble after the other."""
    s, g = desk.grouper.s, desk.grouper
    out = []
    for group in s.groups.values():
        troubles = [s.troubles[tid] for tid in group.troubles]
        whole, grown = (Story(s, g.graph, g.memory, g.strangers, some) for some in (troubles, troubles[:1]))
        for trouble in troubles[1:]:
            grown.add(trouble)
        out += [whole.passed, grown.passed]
    return out


@settings(max_examples=60, deadline=None)
@given(EVENTS, GRAPHS)
def test_what_explains_a_trouble_is_found_without_looking_at_all(
    events: list[Event], edges: list[tuple[int, int]]
) -> None:
    """Neighbours that only share a callee are left out where they cannot be the likeliest: the same one is found."""
    desk = Desk(" ".join(f"s{a}>s{b}" for a, b in edges))
    for e in sorted(events, key=lambda e: e.second):
        desk.fire(e.second, f"s{e.service}", f"N{e.name}", starts=e.second - e.lead, one=e.content)
    desk.until(500)

    short = explained(desk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "_SHARED_TOP", math.inf)
        assert explained(desk) == short


@settings(max_examples=100, deadline=None)
@given(
    strategies.graphs(services=12, most=30),
    st.sets(st.integers(0, 12), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(1, 14),
)
def test_who_is_asked_about_is_the_nearest_of_all(
    calls: list[tuple[int, int]], asked: set[int], hops: int, depth: int, most: int
) -> None:
    """Although nobody is looked for farther away than `most` others are: nearest first, of equals by name."""
    graph = Topology(1e9)
    graph.apply(TopologyUpdate(source="x", edges=tuple(Edge(caller=f"s{a}", callee=f"s{b}") for a, b in calls)), 1.0)
    names = [f"s{i}" for i in sorted(asked)]
    distance: dict[str, int] = {}
    for name in names:
        for found in (graph.near(name, hops), graph.below(name, depth)):
            for other, steps in found.items():
                distance[other] = min(steps, distance.get(other, steps))

    assert graph.around(names, hops, depth, most) == tuple(sorted(distance, key=lambda n: (distance[n], n))[:most])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 1.0), st.floats(0.0, 1e6)), max_size=6))
def test_several_that_stayed_well_count_as_one_after_the_other(lessons: list[tuple[int, float, float]]) -> None:
    """Of one trouble, whatever was learned before, bit for bit."""
    states = State(now=1e9), State(now=1e9)
    together, apart = map(Passages, states)
    for n, likely, later in lessons:
        targets = [f"t{k}" for k in range(n)]
        for s in states:
            s.now += later
        together.all_stayed("db", targets, True, likely)
        for target in targets:
            apart.stayed("db", target, True, likely)

    assert states[0].up == states[1].up
