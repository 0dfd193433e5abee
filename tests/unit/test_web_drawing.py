"""Drawings: right places, no names that run, no crash on what detectors may hand over."""

import math
import re
import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.model import Candidate, Edge, Evidence, Incident, Link, Node, TopologyUpdate
from aiopsd.topology import Topology
from aiopsd.web import drawing

HOSTILE = "<script>alert(1)</script>\"'&"


def evidence(**more: object) -> Evidence:
    given = {
        "service": "db",
        "metric": "latency",
        "level": 9.0,
        "low": 1.0,
        "high": 2.0,
        "onset": 30.0,
        "recent": tuple((t * 10.0, 1.5 if t < 3 else 9.0) for t in range(6)),
    }
    return Evidence(**{**given, **more})  # type: ignore[arg-type]  # by its fields


def incident(services: tuple[str, ...], roots: tuple[Candidate, ...] = ()) -> Incident:
    return Incident(
        id="i", dedup_key="i", services=services, roots=roots, started_at=0.0, opened_at=0.0, updated_at=0.0
    )


def graph_of(*pairs: tuple[str, str]) -> Topology:
    topology = Topology(86400.0)
    topology.apply(TopologyUpdate(source="t", edges=tuple(Edge(caller=a, callee=b) for a, b in pairs)), 0.0)
    return topology


def test_the_break_starts_at_the_onset_and_the_band_lies_below_it() -> None:
    """The red part is the step out of the band and all points from the onset on; the band spans low to high."""
    root = ET.fromstring(str(drawing.series(evidence())))
    parts = {e.get("class"): e for e in root.iter()}

    assert len(re.findall("[ML]", parts["broken"].get("d", ""))) == 4
    assert len(re.findall("[ML]", parts["line"].get("d", ""))) == 6
    assert float(parts["band"].get("y", "0")) > float(parts["last"].get("cy", "0"))


def test_silence_is_drawn_as_what_is_missing() -> None:
    """A series without data has a mark where it ended and room for what did not come; it did not leave its band."""
    text = str(drawing.series(evidence(channel="no-data", onset=50.0)))
    parts = {e.get("class"): e for e in ET.fromstring(text).iter()}

    assert float(parts["missing"].get("width", "0")) > 50
    assert "no data since 00:00:50" in text
    assert "broken" not in parts


def test_a_hole_in_the_data_is_no_line() -> None:
    """A pause of more than five steps breaks the line."""
    points = tuple((float(t), 1.0) for t in (0, 1, 2, 3, 50, 51, 52))

    root = ET.fromstring(str(drawing.series(evidence(recent=points))))

    line = next(e for e in root.iter() if e.get("class") == "line")
    assert line.get("d", "").count("M") == 2


@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=12),
    st.floats(),
    st.floats(),
    st.floats(),
)
@settings(max_examples=150, deadline=None)
def test_any_numbers_draw_or_draw_nothing(
    recent: list[tuple[float, float]], low: float, high: float, onset: float
) -> None:
    """NaN, infinities, equal times and empty series give well-formed SVG without such numbers, or nothing."""
    text = str(drawing.series(evidence(recent=tuple(recent), low=low, high=high, onset=onset)))

    if text:
        for element in ET.fromstring(text).iter():
            for name in ("d", "x", "y", "cx", "cy", "height"):
                assert not re.search("nan|inf", element.get(name, ""))


def test_hostile_names_are_text() -> None:
    """Service and metric names cannot open a tag or leave an attribute."""
    text = str(drawing.series(evidence(service=HOSTILE, metric=HOSTILE)))
    topology = graph_of((HOSTILE, "db"))
    view = drawing.neighbourhood(topology, incident(("db", HOSTILE)), {})
    text += str(drawing.graph(view))

    assert "<script" not in text
    for svg in text.split("</svg>")[:-1]:
        assert {e.tag for e in ET.fromstring(svg + "</svg>").iter()} <= {
            *("svg", "rect", "path", "title", "text", "circle", "defs", "marker", "g"),
        }


def test_callers_stand_left_of_callees() -> None:
    """In a graph without cycles every call runs from left to right."""
    pairs = [("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")]

    column = drawing.layers(["a", "b", "c", "d"], pairs)

    assert all(column[caller] < column[callee] for caller, callee in pairs)
    assert column["d"] == 1  # right before what it calls


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_graph_is_drawn(pairs: list[tuple[int, int]]) -> None:
    """Cycles, parallel and long edges: every node is drawn once and inside the picture."""
    topology = graph_of(*((f"s{a}", f"s{b}") for a, b in pairs if a != b))
    view = drawing.neighbourhood(topology, incident(("s0", "s1", "s2")), {"s0": 2})

    root = ET.fromstring(str(drawing.graph(view)))

    width, height = (float(v) for v in root.get("viewBox", "").split()[2:])
    boxes = [g.find("rect") for g in root.iter("g")]
    assert len(boxes) == len(view.nodes)
    for box in boxes:
        assert box is not None
        x, y = float(box.get("x", "-1")), float(box.get("y", "-1"))
        assert 0 <= x <= width - drawing.NODE_W
        assert 0 <= y <= height - drawing.NODE_H


def test_the_root_and_its_chain_are_marked() -> None:
    """The explanation is highlighted, the affected are marked, neighbours are not, far ones are left out."""
    topology = graph_of(("web", "pay"), ("pay", "db"), ("far", "web"), ("farther", "far"), ("pay", "fraud"))
    chain = (Link(symptom="web", cause="pay"), Link(symptom="pay", cause="db"))
    view = drawing.neighbourhood(
        topology, incident(("web", "pay"), (Candidate(service="db", chain=chain),)), {"web": 1, "pay": 2}
    )

    roles = {n.name: n.role for n in view.nodes}
    assert roles == {"db": "root", "web": "affected", "pay": "affected", "far": "plain", "fraud": "plain"}
    assert {(e.caller, e.callee) for e in view.edges if e.role == "chain"} == {("web", "pay"), ("pay", "db")}


def test_nodes_that_are_well_are_not_drawn() -> None:
    """Everything runs somewhere: a node is drawn when it has an alert or is blamed, and not otherwise."""
    topology = graph_of(("web", "cart"), ("web", "n1"), ("cart", "n2"))
    nodes = (Node(name="n1", kind="node"), Node(name="n2", kind="node"))
    topology.apply(TopologyUpdate(source="t", nodes=nodes), 0.0)

    def drawn(item: Incident, firing: dict[str, int]) -> set[str]:
        return {n.name for n in drawing.neighbourhood(topology, item, firing).nodes}

    assert drawn(incident(("web",)), {"web": 1}) == {"web", "cart"}
    assert drawn(incident(("web", "cart")), {"web": 1, "n2": 1}) == {"web", "cart", "n2"}
    blamed = Candidate(service="n1", kind="node", score=1.0, confidence=0.9)
    assert drawn(incident(("web",), (blamed,)), {"web": 1}) == {"web", "cart", "n1"}


def test_a_crowd_is_cut_and_counted() -> None:
    """A service with two hundred callers is drawn with as many as can be read; the rest is counted."""
    topology = graph_of(*((f"caller{i:03d}", "db") for i in range(200)))
    view = drawing.neighbourhood(topology, incident(("db",)), {})

    assert drawing.MOST_NODES == len(view.nodes)
    assert view.hidden == 201 - drawing.MOST_NODES


def test_numbers_read_like_an_operator_writes_them() -> None:
    """Three digits and a unit."""
    shown = [drawing.number(v) for v in (0.0, 0.0123, 5.0, 1234.0, 5.6e9, 1e-7, math.inf, -math.inf, math.nan)]

    assert shown == ["0", "0.0123", "5", "1.23k", "5.6G", "1.00e-07", "∞", "-∞", "NaN"]
