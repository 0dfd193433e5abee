"""Edge records, the topology file, change records: what they say and how they are refused."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.decode import decode_changes, decode_topology, load_topology_yaml
from aiopsd.errors import ConfigError, DecodeError
from aiopsd.model import ChangeEvent, Edge, Node, TopologyUpdate

# ------------------------------------------------------------------ edge records


def test_a_record_has_edges_nodes_and_who_says_so() -> None:
    """Defaults are those of the model; the record may name its source and what is gone."""
    body = b"""{"source":"mesh","replace":true,
        "edges":[{"caller":"a","callee":"b"},{"caller":"a","callee":"n1","kind":"runs_on","weight":2,"confidence":0.5}],
        "nodes":[{"name":"n1","kind":"node","labels":{"zone":"z"}}],"removed":[{"caller":"a","callee":"old"}]}"""

    assert TopologyUpdate(
        source="mesh",
        edges=(
            Edge(caller="a", callee="b"),
            Edge(caller="a", callee="n1", kind="runs_on", weight=2.0, confidence=0.5),
        ),
        nodes=(Node(name="n1", kind="node", labels={"zone": "z"}),),
        removed=(Edge(caller="a", callee="old"),),
        replace=True,
    ) == decode_topology(body, "http")


def test_a_bare_list_is_edges_of_the_given_source() -> None:
    """The shortest record: a list of edges, which replaces nothing."""
    expected = TopologyUpdate(source="kafka", edges=(Edge(caller="a", callee="b"),))

    assert expected == decode_topology(b'[{"caller":"a","callee":"b"}]', "kafka")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "malformed: not JSON"),
        (b"\xff", "malformed: not JSON"),
        (b"5", "schema: Expected `object`, got `int` - at `$`"),
        (b'[{"caller":"a"}]', "missing required field `callee` - at `$[0]`"),
        (b'{"edges":[{"caller":"a","callee":"b","wait":1}]}', "unknown field `wait` - at `$.edges[0]`"),
        (b'{"edges":[{"caller":"a","callee":"b","weight":"x"}]}', "got `str` - at `$.edges[0].weight`"),
        (b'{"edges":[{"caller":"a","callee":"b","weight":-1}]}', "weight -1 is negative - at `$.edges[0].weight`"),
        (b'{"edges":[{"caller":"a","callee":"b","confidence":2}]}', "at `$.edges[0].confidence`"),
        (b'{"edges":[{"caller":"a","callee":"a"}]}', "`a` cannot depend on itself - at `$.edges[0]`"),
        (b'{"removed":[{"caller":"","callee":"a"}]}', "needs a caller and a callee - at `$.removed[0]`"),
        (b'{"nodes":[{"name":""}]}', "an empty text - at `$.nodes[0].name`"),
        (b'{"edge":[]}', "unknown field `edge`"),
    ],
)
def test_a_bad_edge_record_is_refused_at_its_key(body: bytes, words: str) -> None:
    """Half a topology could drop the other half: one bad edge refuses the record, by its key."""
    with pytest.raises(DecodeError) as caught:
        decode_topology(body, "x")

    assert words in str(caught.value)


# ------------------------------------------------------------------ the file


def test_the_file_names_services_and_what_they_depend_on() -> None:
    """Services by name, relations with one name or several, edges beside them; all that this source knows."""
    text = """
services:
  checkout: {calls: [payments, orders], runs_on: node-1, labels: {team: shop}}
  orders-db: {kind: datastore}
  payments:
edges:
  - {caller: node-1, callee: zone-a, kind: located_in}
nodes:
  - {name: node-1, kind: node}
"""

    update = load_topology_yaml(text, "shop.yaml")

    assert ("shop.yaml", True) == (update.source, update.replace)
    assert [
        ("node-1", "located_in", "zone-a"),
        ("checkout", "calls", "payments"),
        ("checkout", "calls", "orders"),
        ("checkout", "runs_on", "node-1"),
    ] == [(e.caller, e.kind, e.callee) for e in update.edges]
    assert (
        Node(name="node-1", kind="node"),
        Node(name="checkout", labels={"team": "shop"}),
        Node(name="orders-db", kind="datastore"),
        Node(name="payments"),
    ) == update.nodes


def test_an_empty_file_knows_nothing() -> None:
    """An empty file takes back whatever it said before."""
    assert TopologyUpdate(source="t.yaml", replace=True) == load_topology_yaml("# nothing\n", "t.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: [a]", "at `$.services`"),
        ("services: {a: {call: [b]}}", "unknown field `call` - at `$.services.a`"),
        ("services: {a: {calls: [b, 5]}}", "at `$.services.a.calls[1]`"),
        ("services: {a: {calls: [b, a]}}", "`a` cannot depend on itself - at `$.services.a.calls[1]`"),
        ("services: {a: {labels: {n: 5}}}", "at `$.services.a.labels[...]`"),
        ("services: {5: {}}", "at `key` in `$.services`"),
        ("edges: [{caller: a}]", "missing required field `callee` - at `$.edges[0]`"),
        ("service: {}", "unknown field `service`"),
        ("- a", "at `$`"),
        ("services:\n  a: {}\n  a: {}\n", "t.yaml:3: `a` is given twice"),
        ("a: {", "not YAML"),
        ("a: 2026-13-45", "not YAML"),
    ],
)
def test_a_bad_file_names_file_line_and_key(text: str, words: str) -> None:
    """The operator is told which file, which line and which key."""
    with pytest.raises(ConfigError) as caught:
        load_topology_yaml(text, "t.yaml")

    assert words in str(caught.value)
    assert str(caught.value).startswith("t.yaml:")


# ------------------------------------------------------------------ changes


def test_a_change_says_what_was_done_to_which_service() -> None:
    """One object or a list; times as seconds or text; the sender's id is kept."""
    body = (
        b'[{"id":"d-1","service":"cart","kind":"deploy","ts":"2026-01-05T00:00:00Z","version":"v2","labels":{"a":"b"}}]'
    )

    assert [
        ChangeEvent(id="d-1", service="cart", kind="deploy", ts=1767571200.0, version="v2", labels={"a": "b"})
    ] == decode_changes(body)


def test_an_id_comes_from_the_content() -> None:
    """The same report twice is one change; another version is another."""
    a, b, c = (
        decode_changes(b'{"service":"cart","ts":1767571200,"kind":"deploy","version":"%b"}' % v)[0].id
        for v in (b"v1", b"v1", b"v2")
    )

    assert a == b != c


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "malformed"),
        (b'{"service":"a"}', "missing required field `ts`"),
        (b'{"service":"","ts":1}', "an empty text - at `$.service`"),
        (
            b'[{"service":"a","ts":1},{"service":"a","ts":"soon"}]',
            "cannot read 'soon' as an RFC 3339 time - at `$[1].ts`",
        ),
        (b'{"service":"a","ts":1767571200000}', "`ts` counts seconds, these look like milliseconds"),
        (
            b'{"service":"a","ts":1,"kind":"explode"}',
            "Invalid enum value 'explode', expected one of: deploy, config, scale, other - at `$.kind`",
        ),
        (b'{"service":"a","ts":1,"sevrice":"b"}', "unknown field `sevrice`"),
    ],
)
def test_a_bad_change_is_refused_at_its_key(body: bytes, words: str) -> None:
    """The pipeline that reports is told which key, and nothing of its report is taken."""
    with pytest.raises(DecodeError) as caught:
        decode_changes(body)

    assert words in str(caught.value)


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_value_or_a_refusal(body: bytes) -> None:
    """Arbitrary bytes never do more than raise the error that names the record."""
    with contextlib.suppress(DecodeError):
        assert "x" == decode_topology(body, "x").source
    with contextlib.suppress(DecodeError):
        assert all(c.id and c.service for c in decode_changes(body))
    with contextlib.suppress(ConfigError):
        assert load_topology_yaml(body.decode(errors="replace"), "t.yaml").replace
