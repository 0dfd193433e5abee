"""Law of the index of onsets: it has what a look through all that is kept would find, at any time."""

from hypothesis import given, settings

from aiopsd.correlate.grouping.graph import HORIZON
from aiopsd.testing.grouping import Desk
from tests.property import strategies
from tests.property.strategies import Event

SERVICES = 5
EVENTS = strategies.events(services=SERVICES, names=3, within=5000, lead=900.0, most=15)
GRAPHS = strategies.graphs(services=SERVICES, most=8)


def agrees(desk: Desk) -> bool:
    """Whether both ways find the same troubles around each vertex, at the onsets that there are."""
    s, graph = desk.grouper.s, desk.grouper.graph
    for vertex in s.kept:
        spot = graph.spot(vertex)
        near = [s.troubles[tid] for other in sorted(s.kept) if other in spot.looks for tid in s.kept[other]]
        for trouble in (s.troubles[tid] for tid in s.kept[vertex]):
            found = [other.id for other, _ in graph.near_kept(spot, trouble.onset)]
            if found != sorted(other.id for other in near if abs(other.onset - trouble.onset) <= HORIZON):
                return False
    return True


@settings(max_examples=60, deadline=None)
@given(EVENTS, GRAPHS)
def test_what_began_about_then_is_found(events: list[Event], edges: list[tuple[int, int]]) -> None:
    """As alerts come, join with older onsets, end, part and are forgotten, and after a restart."""
    desk = Desk(" ".join(f"s{a}>s{b}" for a, b in edges), retention=3600.0)
    ends = [(e.second + e.lasts, 1, e) for e in events]
    fps: dict[Event, str] = {}
    for at, over, e in sorted([(e.second, 0, e) for e in events] + ends, key=lambda one: one[:2]):
        if over:
            desk.end(at, fps[e])
        else:
            fps[e] = desk.fire(at, f"s{e.service}", f"N{e.name}", starts=at - e.lead, one=e.content)
        assert agrees(desk)
    for at in range(7000, 14_000, 500):
        desk.until(at)
        assert agrees(desk)
    desk.restart()
    assert agrees(desk)
