"""The service graph: sources, ages, distances, names, files, exports."""

import json
from xml.etree import ElementTree

import msgspec
import pytest

from aiopsd.model import Edge, Node, TopologyUpdate
from aiopsd.topology import DEEP, Topology, _Walks, fold


def edges(source: str, *pairs: str, replace: bool = False) -> TopologyUpdate:
    made = tuple(Edge(caller=p.split(">")[0], callee=p.split(">")[1]) for p in pairs)
    return TopologyUpdate(source=source, edges=made, replace=replace)


def test_one_source_never_erases_what_another_says() -> None:
    """A full update of one source removes only what no other source names."""
    graph = Topology(100.0)
    graph.apply(edges("traces", "a>b", "b>c"), 1.0)
    graph.apply(edges("mesh", "a>b"), 2.0)

    diff = graph.apply(edges("traces", "c>d", replace=True), 3.0)

    assert diff.added == (("c", "d"),)
    assert diff.removed == (("b", "c"),)
    assert graph.callees("a") == ("b",)


def test_what_runs_runs_on_a_node() -> None:
    """An edge tells the kind of its callee where nobody says it, before or after other edges named it; words win."""
    runs = TopologyUpdate(
        source="mesh",
        edges=(
            Edge(caller="web", callee="n1"),
            Edge(caller="web", callee="n1", kind="runs_on"),
            Edge(caller="n1", callee="z1", kind="located_in"),
            Edge(caller="db", callee="disk", kind="runs_on"),
        ),
        nodes=(Node(name="disk", kind="datastore"),),
    )
    graph = Topology(100.0)
    graph.apply(edges("traces", "probe>z1"), 1.0)
    graph.apply(runs, 2.0)

    assert [graph.kind(n) for n in ("web", "n1", "z1", "disk")] == ["service", "node", "zone", "datastore"]
    assert [graph.kind(n) for n in ("probe", "db")] == ["service", "service"]


def test_removed_edges_leave_and_count() -> None:
    """`removed` takes back what the same source said, and the version tells that the graph changed."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b"), 1.0)
    before = graph.version

    diff = graph.apply(TopologyUpdate(source="mesh", removed=(Edge(caller="a", callee="b"),)), 2.0)

    assert diff.removed == (("a", "b"),)
    assert graph.version > before
    assert graph.edge("a", "b") is None


def test_an_update_that_says_the_same_changes_nothing() -> None:
    """Repeats refresh the age and leave version and diff alone."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b"), 1.0)
    version = graph.version

    diff = graph.apply(edges("mesh", "a>b"), 50.0)

    assert not diff
    assert graph.version == version
    edge = graph.edge("a", "b")
    assert edge is not None
    assert (edge.first_seen, edge.last_seen) == (1.0, 50.0)


def test_edges_age_and_files_do_not() -> None:
    """What nobody names for `stale_after` leaves; what a person wrote stays."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b", "a>c"), 0.0)
    graph.apply(edges("file:shop.yaml", "a>c"), 0.0)

    assert graph.expire(100.0).removed == ()
    assert graph.expire(100.5).removed == (("a", "b"),)
    assert graph.callees("a") == ("c",)


def test_a_file_wins_over_other_sources() -> None:
    """Kind and weight of an edge and of a node come from the file when one speaks, whoever spoke last."""
    graph = Topology(100.0)
    wrote = TopologyUpdate(
        source="file:x",
        edges=(Edge(caller="a", callee="db", kind="reads", weight=3.0, confidence=1.0),),
        nodes=(Node(name="db", kind="datastore"),),
    )
    graph.apply(wrote, 1.0)
    guessed = TopologyUpdate(
        source="traces",
        edges=(Edge(caller="a", callee="db", confidence=0.5),),
        nodes=(Node(name="db", kind="service"),),
    )
    graph.apply(guessed, 9.0)

    edge = graph.edge("a", "db")
    assert edge is not None
    assert (edge.kind, edge.weight, edge.sources) == ("reads", 3.0, ("file:x", "traces"))
    assert graph.kind("db") == "datastore"


def test_confidence_grows_with_independent_sources() -> None:
    """Two sources of confidence one half make three quarters."""
    graph = Topology(100.0)
    for source in ("one", "two"):
        graph.apply(TopologyUpdate(source=source, edges=(Edge(caller="a", callee="b", confidence=0.5),)), 1.0)

    edge = graph.edge("a", "b")
    assert edge is not None
    assert edge.confidence == 0.75


def test_distances_on_a_cycle() -> None:
    """Distances are undirected for `near`, directed for `below` and `above`, and cycles end."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b", "b>c", "c>a", "d>a"), 1.0)

    assert graph.near("a", 1) == {"a": 0, "b": 1, "c": 1, "d": 1}
    assert graph.below("a", 5) == {"a": 0, "b": 1, "c": 2}
    assert graph.above("a", 1) == {"a": 0, "c": 1, "d": 1}
    assert graph.near("unknown", 3) == {"unknown": 0}


def test_distances_follow_changes() -> None:
    """No cache outlives a change of the graph."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b"), 1.0)
    assert "c" not in graph.near("a", 2)
    assert graph.around(["a"], 1, 4, 10) == ("a", "b")

    graph.apply(edges("mesh", "b>c"), 2.0)

    assert graph.near("a", 2)["c"] == 2
    assert graph.around(["a"], 1, 4, 10) == ("a", "b", "c")


def test_what_is_around_comes_nearest_first() -> None:
    """Callers within the hops and callees within the depth, equals by name, and no more than asked."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "top>web", "web>z", "web>a", "a>deep", "deep>deeper"), 1.0)

    assert graph.around(["web"], 1, 2, 10) == ("web", "a", "top", "z", "deep")
    assert graph.around(["web"], 1, 2, 3) == ("web", "a", "top")
    assert graph.around(["z", "a"], 1, 2, 10) == ("a", "z", "deep", "web", "deeper")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("cart-service", "cart-service"),
        ("Cart_Service", "cart-service"),
        ("CART.SERVICE", "cart-service"),
        ("prod/cart-service", "cart-service"),
        ("cart-service.prod.svc.cluster.local", "cart-service"),
        ("cart-service:8080", "cart-service"),
        ("cart-service-7d9f8b6c5-x2x4z", "cart-service"),
        ("cart-service-679gsc6k2-6ncgc", "cart-service"),
        ("carts-service", "cart-service"),
        ("svc-12", "svc-0012"),
        ("svc-0013", "svc-0013"),
        ("svc-013", "svc-0013"),
        ("", ""),
    ],
)
def test_names_are_found_however_they_are_spelled(said: str, meant: str) -> None:
    """Case, separators, ports, namespaces, pod suffixes and one slip of a letter do not hide a service."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "cart-service>svc-0012", "payment>svc-0013"), 1.0)

    assert graph.resolve(said) == meant


@pytest.mark.parametrize("other", ["svc-0014", "svc-0113", "shipping", "x", "payment-gateway-cache"])
def test_a_name_is_never_bent_to_another_service(other: str) -> None:
    """Other digits or another word are another service: the name is returned as it is."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "cart-service>svc-0012", "payment>svc-0013"), 1.0)

    assert graph.resolve(other) == other


@pytest.mark.parametrize("said", ["cart-svc", "CART_SERVICE", "prod/cart-srv", "cart-svc-7d9f8b6c5-x2x4z"])
def test_a_word_for_service_hides_nobody(said: str) -> None:
    """Who calls it `cart-svc` means `cart`, where the graph has no other service of that name."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "cart>svc-0012", "payment-svc>pay", "payment-service>pay"), 1.0)

    assert graph.resolve(said) == "cart"
    assert graph.resolve("payment") == "payment"
    assert graph.resolve("service") == "service"


def test_two_names_that_fold_alike_are_not_guessed() -> None:
    """An ambiguous spelling means nothing."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a-b>x", "a_b>x"), 1.0)

    assert graph.resolve("A.B") == "A.B"
    assert fold("A.B") == "a-b"


def test_confidence_fades_until_a_source_says_it_again() -> None:
    """An edge that was not seen for long is doubted before it is dropped; a person's word is not."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b"), 0.0)
    graph.apply(edges("file:f", "c>d"), 0.0)
    seen = []
    for at, said in ((0.0, "x>y"), (50.0, "x>y"), (99.0, "x>y"), (100.0, "a>b")):
        graph.apply(edges("mesh", said), at)
        seen.append([round(e.confidence, 3) for e in (graph.edge("a", "b"), graph.edge("c", "d")) if e is not None])

    assert seen == [[1.0, 1.0], [0.75, 1.0], [0.505, 1.0], [1.0, 1.0]]
    again = Topology(100.0, json.loads(json.dumps(graph.snapshot())))
    assert again.edge("x", "y") == graph.edge("x", "y")


def test_a_change_is_kept_with_who_said_so() -> None:
    """The graph remembers what changed, when and by whose word; what changed nothing leaves no line."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b", "b>c"), 1.0)
    graph.apply(edges("mesh", "a>b"), 2.0)
    graph.apply(edges("mesh", "a>d", replace=True), 3.0)
    first, second = graph.history

    assert (first.version, first.stamp, first.source) == (1, 1.0, "mesh")
    assert (first.added, first.nodes) == ((("a", "b"), ("b", "c")), ("a", "b", "c"))
    assert (second.added, second.removed) == ((("a", "d"),), (("a", "b"), ("b", "c")))
    assert Topology(100.0, json.loads(json.dumps(graph.snapshot()))).history == graph.history


def test_a_change_is_said_in_a_sentence_of_bounded_length() -> None:
    """A few edges by name; a first graph of thousands by number."""
    graph = Topology(100.0)
    small = graph.apply(edges("mesh", "a>b"), 1.0)
    large = graph.apply(edges("mesh", *(f"s{i}>t{i}" for i in range(1000))), 2.0)

    assert str(small) == "1 edge added, 0 removed: + a -> b"
    assert str(large).startswith("1000 edges added, 0 removed: + s0 -> t0, ")
    assert str(large).endswith("and 988 more")
    assert (len(graph.history[-1].added), graph.history[-1].more) == (200, 2600)


def test_a_node_without_edges_is_forgotten_in_time() -> None:
    """Names that come and go (pods, nodes of a cluster that scales) do not fill the graph for ever; files stay."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "web>pod-1"), 0.0)
    graph.apply(TopologyUpdate(source="mesh", nodes=(Node(name="node-1", kind="node"),)), 0.0)
    graph.apply(TopologyUpdate(source="file:f", nodes=(Node(name="db", kind="datastore"),)), 0.0)
    gone = [graph.expire(at).gone for at in (101.0, 150.0, 202.0)]

    assert gone == [("node-1",), (), ("pod-1", "web")]
    assert graph.names == ("db",)
    assert graph.resolve("node_1") == "node_1"


def test_a_file_that_says_no_more_lets_go_of_its_nodes() -> None:
    """A replacing file unpins what it no longer names; an empty one leaves nothing that never ages."""
    graph = Topology(100.0)
    graph.apply(
        TopologyUpdate(source="file:f", edges=(Edge(caller="a", callee="b"),), nodes=(Node(name="a"),), replace=True),
        0.0,
    )
    assert graph.files == ["f"]

    assert graph.apply(TopologyUpdate(source="file:f", replace=True), 1.0).removed == (("a", "b"),)
    graph.expire(2.0)
    assert graph.expire(110.0).gone == ("a", "b")
    assert graph.files == []


def test_a_snapshot_restores_everything() -> None:
    """Through JSON and back: same answers, same order, same age."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "z>b", "a>b", "b>c"), 1.0)
    graph.apply(edges("traces", "c>b", "a>c"), 2.0)
    graph.apply(edges("file:f", "a>b"), 3.0)

    again = Topology(100.0, msgspec.json.decode(msgspec.json.encode(graph.snapshot())))

    assert again.to_json() == graph.to_json()
    assert again.callers("b") == graph.callers("b")
    assert again.expire(500.0) == graph.expire(500.0)


def test_exports_hold_all_nodes_and_edges() -> None:
    """JSON and GraphML name what the graph knows."""
    graph = Topology(100.0)
    graph.apply(edges("mesh", "a>b", "b>c"), 1.0)

    data = json.loads(json.dumps(graph.to_json()))
    assert [(e["caller"], e["callee"]) for e in data["edges"]] == [("a", "b"), ("b", "c")]
    root = ElementTree.fromstring(graph.to_graphml())
    tags = [e.tag.rsplit("}", 1)[1] for e in root.iter()]
    assert (tags.count("node"), tags.count("edge")) == (3, 2)
    assert sorted(graph.graph.edges) == [("a", "b"), ("b", "c")]


def test_walks_of_a_deep_graph_are_kept_in_a_bounded_memory() -> None:
    """However many names are asked for, the distances that are kept are bounded: the oldest walks go first."""
    walks, walk = _Walks(), {f"s{i}": i for i in range(2500)}  # half of a deep graph of 5,000
    for i in range(5000):
        walks.keep(f"s{i}", DEEP, walk)

    kept = [i for i in range(5000) if walks.get(f"s{i}", DEEP) is not None]
    assert kept == list(range(kept[0], 5000))
    assert len(kept) == _Walks.MOST // (len(walk) + _Walks.EMPTY)
    walks.clear()
    assert walks.get("s4999", DEEP) is None
    for i in range(100_000):
        walks.keep(f"unknown{i}", DEEP, {})
    assert sum(walks.get(f"unknown{i}", DEEP) is not None for i in range(100_000)) <= 50_000


def test_load_comes_from_above_in_shares() -> None:
    """Callers call alike: each vertex above one has a share of its load, by all paths; small shares are left out."""
    graph = Topology(100.0)
    graph.apply(
        edges("mesh", "web>cart", "web>pay", "cart>db", "pay>db", "job>db", "db>disk", "a>b", "b>a", "b>c"), 1.0
    )

    assert graph.senders("cart") == {"web": 1.0}
    assert graph.senders("db") == {"web": pytest.approx(2 / 3)}
    assert graph.senders("disk") == {"db": 1.0, "web": pytest.approx(2 / 3)}
    assert graph.senders("a") == {"b": 1.0}
    assert graph.senders("c") == {"b": 1.0, "a": 1.0}
    assert graph.loaded("web") == {v: graph.senders(v)["web"] for v in ("cart", "pay", "db", "disk")}
    assert graph.loaded("job") == {}

    graph.apply(edges("mesh", "x>db", "y>db"), 2.0)
    assert graph.senders("db") == {"web": pytest.approx(0.4)}
    assert "db" in graph.loaded("web")
    graph.apply(edges("mesh", "z>db"), 3.0)
    assert graph.loaded("web") == {"cart": 1.0, "pay": 1.0}
