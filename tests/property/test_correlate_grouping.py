"""Laws of grouping and ranking over random graphs and streams."""

from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiopsd.correlate.rootcause import rank
from aiopsd.model import Alert, Edge, Evidence, TopologyUpdate
from aiopsd.testing.grouping import Desk
from aiopsd.topology import Topology
from tests.property import strategies
from tests.property.strategies import Event

NAMES = ("Slow", "Down", "Errors")


EVENTS = strategies.events(services=10, names=len(NAMES), within=600, lead=60.0)
GRAPHS = strategies.graphs(services=10, most=20)


def calls(edges: list[tuple[int, int]], label: str = "s") -> str:
    return " ".join(f"{label}{a}>{label}{b}" for a, b in edges)


def play(
    events: list[Event],
    graph: str,
    *,
    label: str = "s",
    words: tuple[str, ...] = NAMES,
    restart: frozenset[int] = frozenset(),
    fps: dict[int, str] | None = None,
) -> Desk:
    """Each event fires and ends once; events keep the order that they are given within a second."""
    desk = Desk(graph)
    steps: list[tuple[int, int, Any]] = [(e.second, i, e) for i, e in enumerate(events)]
    ends = [(e.second + e.lasts, len(events) + i, i) for i, e in enumerate(events)]
    fps = {} if fps is None else fps
    for n, (at, i, what) in enumerate(sorted(steps + ends, key=lambda s: (s[0], s[1]))):
        if n in restart:
            desk.restart()
        if isinstance(what, Event):
            fps[i] = desk.fire(at, f"{label}{what.service}", words[what.name], starts=at - what.lead, one=what.content)
        else:
            desk.end(at, fps[what])
    desk.until(6000)
    return desk


def structure(desk: Desk, fps: dict[int, str]) -> list[list[int]]:
    """The partition as numbers of events."""
    number = {fp: i for i, fp in fps.items()}
    return sorted(sorted(number[fp] for fp in part) for part in desk.parts())


@settings(max_examples=40, deadline=None)
@given(EVENTS, GRAPHS, st.randoms(use_true_random=False))
def test_the_order_within_a_second_means_nothing(events: list[Event], edges: list[tuple[int, int]], rnd: Any) -> None:
    """Permuted arrival within the same second gives the same partition."""
    other = list(events)
    rnd.shuffle(other)

    assert play(events, calls(edges)).parts() == play(other, calls(edges)).parts()


@settings(max_examples=30, deadline=None)
@given(EVENTS, GRAPHS, st.frozensets(st.integers(0, 50), max_size=4))
def test_restarts_change_nothing(events: list[Event], edges: list[tuple[int, int]], restart: frozenset[int]) -> None:
    """A snapshot, through msgpack, at any moment is the whole state: same incidents, same ids."""
    straight, broken = play(events, calls(edges)), play(events, calls(edges), restart=restart)

    assert {fp: straight.of(fp) for fp in straight.home} == {fp: broken.of(fp) for fp in broken.home}


@settings(max_examples=30, deadline=None)
@given(EVENTS, GRAPHS)
@example(
    events=[Event(0, 0.0, 0, 0, 30), Event(0, 1e-07, 1, 0, 30), Event(80, 0.0, 2, 0, 31), Event(81, 0.0, 0, 0, 90)],
    edges=[],
)
def test_names_mean_nothing(events: list[Event], edges: list[tuple[int, int]]) -> None:
    """Services renamed one to one, and alertnames of which no word is known: the same structure."""
    events = strategies.told_apart(events)
    ours: dict[int, str] = {}
    theirs: dict[int, str] = {}
    plain = play(events, calls(edges), words=("Red", "Green", "Blue"), fps=ours)
    renamed = play(events, calls(edges, "q"), label="q", words=("Zeta", "Alpha", "Mu"), fps=theirs)

    assert structure(plain, ours) == structure(renamed, theirs)


@settings(max_examples=30, deadline=None)
@given(EVENTS, GRAPHS)
def test_every_alert_has_a_home_or_a_reason(events: list[Event], edges: list[tuple[int, int]]) -> None:
    """No alert is lost, no merge leads nowhere, and what was merged away stays away."""
    desk = play(events, calls(edges))

    for fp in desk.home:
        home = desk.of(fp)
        assert home == "" or home not in desk.into
        group = desk.grouper.group_of(fp)
        assert group == home or (home == "" and group != "")


# --------------------------------------------------------------------------- nodes and zones


class Fall(msgspec.Struct, frozen=True):
    """A service of a zone falls: with a label of its node, of its zone, of both, of none."""

    second: int
    lead: float
    service: int
    name: int
    told: int
    lasts: int


FALLS = st.lists(
    st.builds(
        Fall,
        second=st.integers(0, 120),
        lead=st.floats(0.0, 30.0),
        service=st.integers(0, 15),
        name=st.integers(0, 1),
        told=st.integers(0, 3),
        lasts=st.integers(30, 900),
    ),
    min_size=6,
    max_size=30,
)


def fell(events: list[Fall], *, restart: frozenset[int] = frozenset()) -> Desk:
    """Sixteen services on four nodes in two zones; the topology puts node 0 into its zone, labels the rest."""
    desk = Desk("s0>n0 n0>z0 s0>s4 s5>s9 s1>s2", kinds={"n0": "node", "z0": "zone"})
    steps = [(e.second, i, e) for i, e in enumerate(events)]
    ends = [(e.second + e.lasts, len(events) + i, i) for i, e in enumerate(events)]
    fps: dict[int, str] = {}
    for n, (at, i, what) in enumerate(sorted([*steps, *ends], key=lambda step: step[:2])):
        if n in restart:
            desk.restart()
        if isinstance(what, Fall):
            node = what.service // 4
            labels = {"node": f"n{node}"} if what.told & 1 else {}
            labels |= {"zone": f"z{node % 2}"} if what.told & 2 else {}
            subject = f"s{what.service}" if what.service % 4 else ""  # the first of each node is the node itself
            one = f"{what.second}/{what.lead}/{what.lasts}"
            fps[i] = desk.fire(at, subject, NAMES[what.name], starts=at - what.lead, one=one, **labels)
        else:
            desk.end(at, fps[what])
    desk.until(3000)
    return desk


@settings(max_examples=60, deadline=None)
@given(FALLS, st.randoms(use_true_random=False))
def test_the_order_within_a_second_means_nothing_on_a_node(events: list[Fall], rnd: Any) -> None:
    """Permuted arrival within the same second gives the same partition where nodes and zones fall."""
    events = list(dict.fromkeys(events))
    other = list(events)
    rnd.shuffle(other)

    assert fell(events).parts() == fell(other).parts()


@settings(max_examples=60, deadline=None)
@given(FALLS, st.frozensets(st.integers(0, 60), max_size=4))
def test_restarts_change_nothing_on_a_node(events: list[Fall], restart: frozenset[int]) -> None:
    """What is counted of hosts follows from the snapshot: same incidents, same ids."""
    events = list(dict.fromkeys(events))
    straight, broken = fell(events), fell(events, restart=restart)

    assert {fp: straight.of(fp) for fp in straight.home} == {fp: broken.of(fp) for fp in broken.home}


# --------------------------------------------------------------------------- ranking

SIGNALS = st.lists(
    st.builds(
        Evidence,
        service=st.sampled_from([f"s{i}" for i in range(8)]),
        metric=st.sampled_from(["p99", "errors", "cpu", "up"]),
        kind=st.sampled_from(["latency", "errors", "resource", "availability", "traffic", "other"]),
        level=st.floats(0, 100),
        normal=st.floats(0, 100),
        deviation=st.floats(0, 2000),
        lead_in=st.floats(0, 50),
        onset=st.floats(0, 100),
        traffic=st.floats(0, 10),
    ),
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(SIGNALS, EVENTS, GRAPHS, st.randoms(use_true_random=False))
def test_ranking_does_not_depend_on_order(
    evidence: list[Evidence], events: list[Event], edges: list[tuple[int, int]], rnd: Any
) -> None:
    """The same sets in another order give the same candidates, scores and chains; figures are sane."""
    topology = Topology(1e9)
    made = [Edge(caller=f"s{a}", callee=f"s{b}") for a, b in edges]
    topology.apply(TopologyUpdate(source="t", edges=tuple(made)), 0.0)
    alerts = [
        Alert(
            fingerprint=f"f{i}",
            labels={"alertname": NAMES[e.name], "severity": "warning"},
            starts_at=float(e.second),
            ends_at=0.0,
            updated_at=float(e.second),
            service=f"s{e.service}",
        )
        for i, e in enumerate(events)
    ]
    seen = list({(e.service, e.metric): e for e in evidence}.values())
    first = rank(alerts, topology, seen, onset=0.0, page=alerts[0])
    rnd.shuffle(seen)
    shuffled = list(alerts)
    rnd.shuffle(shuffled)
    second = rank(shuffled, topology, seen, onset=0.0, page=alerts[0])

    assert first == second
    assert first
    assert [c.score for c in first] == sorted((c.score for c in first), reverse=True)
    assert all(0.0 <= c.confidence <= 1.0 for c in first)
    assert sum(c.confidence for c in first) <= 1.0 + 1e-3
    for candidate in first:
        assert candidate.reason
        for a, b in zip(candidate.chain, candidate.chain[1:], strict=False):
            assert a.cause == b.symptom
        if candidate.chain:
            assert candidate.chain[-1].cause == candidate.service
