"""Who depends on whom: edge records in JSON, and the operator's own file in YAML.

A record: {"edges": [{"caller", "callee", "kind"?, "weight"?, "confidence"?}], "nodes": [{"name", "kind"?, "labels"?}],
"removed": [edges], "replace": bool, "source": name}, or a bare list of edges: docs/reference/topology.schema.json.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.marks import Marked
from aiopsd.model import Edge, Labels, Node, TopologyUpdate


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    edges: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    removed: list[dict[str, Any]] = []
    replace: bool = False
    source: str = ""


class _Edge(msgspec.Struct, forbid_unknown_fields=True):
    caller: str
    callee: str
    kind: str = "calls"
    weight: float = 1.0
    confidence: float = 1.0


class _Node(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    kind: str = "service"
    labels: Labels = {}


class _Service(msgspec.Struct, forbid_unknown_fields=True):
    """A service of the YAML file. `calls` and the others take a name, or a list of names."""

    calls: str | list[str] = []
    runs_on: str | list[str] = []
    reads: str | list[str] = []
    writes: str | list[str] = []
    publishes: str | list[str] = []
    kind: str = "service"
    labels: Labels = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    services: dict[str, Any] = {}
    edges: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []


_RELATIONS = ("calls", "runs_on", "reads", "writes", "publishes")


class _Wrong(Exception):
    """(what is wrong, path of the key)."""


def decode_topology(value: bytes, source: str) -> TopologyUpdate:
    """The update in an edge record. `source` is who says so, unless the record names its source itself.

    Raises:
        DecodeError: MALFORMED, not JSON; SCHEMA or VALUE, with the key. Nothing of the record is taken then: half a
            topology, with `replace`, would drop the other half.
    """
    try:
        raw = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not JSON: {e}") from None
    bare = isinstance(raw, list)
    try:
        record = _convert({"edges": raw} if bare else raw, _Record, "$")
        return TopologyUpdate(
            source=record.source or source,
            edges=_edges(record.edges, "$" if bare else "$.edges"),
            nodes=_nodes(record.nodes, "$.nodes"),
            removed=_edges(record.removed, "$.removed"),
            replace=record.replace,
        )
    except _Wrong as e:
        raise DecodeError(DecodeReason.SCHEMA, f"{e.args[0]} - at `{e.args[1]}`") from None


def load_topology_yaml(text: str, path: str) -> TopologyUpdate:
    """The update in a topology file: `services` by name, and `edges` and `nodes` as in a record.

    The file is all that its source knows (`replace`); the source is `path`.

        services:
          checkout: {calls: [payments, orders], runs_on: node-1}
          orders-db: {kind: datastore, labels: {team: shop}}

    Raises:
        ConfigError: not YAML, or a key that is wrong or given twice; names file, line and key.
    """
    marked = Marked(text, path)
    raw = marked.value
    try:
        file = _convert({} if raw is None else raw, _File, "$")
        edges = list(_edges(file.edges, "$.edges"))
        nodes = list(_nodes(file.nodes, "$.nodes"))
        for name, given in file.services.items():
            where = f"$.services.{name}"
            if not name:
                raise _Wrong("a service without a name", where)
            service = _convert({} if given is None else given, _Service, where)
            nodes.append(Node(name=name, kind=_named(service.kind, f"{where}.kind"), labels=service.labels))
            for relation in _RELATIONS:
                edges += _related(name, relation, getattr(service, relation), f"{where}.{relation}")
    except _Wrong as e:
        raise marked.error(e.args[0], e.args[1]) from None
    return TopologyUpdate(source=path, edges=tuple(edges), nodes=tuple(nodes), replace=True)


def _related(name: str, relation: str, given: str | list[str], where: str) -> Iterable[Edge]:
    listed = [given] if isinstance(given, str) else given
    for i, other in enumerate(listed):
        at = where if isinstance(given, str) else f"{where}[{i}]"
        yield _edge(Edge(caller=name, callee=other, kind=relation), at)


def _named(text: str, where: str) -> str:
    if not text:
        raise _Wrong("an empty text", where)
    return text


def _edge(edge: Edge, where: str) -> Edge:
    if not edge.caller or not edge.callee:
        raise _Wrong("an edge needs a caller and a callee", where)
    if edge.caller == edge.callee:
        raise _Wrong(f"`{edge.caller}` cannot depend on itself", where)
    _named(edge.kind, f"{where}.kind")
    if not 0.0 <= edge.confidence <= 1.0:
        raise _Wrong(f"confidence {edge.confidence:g} is not between 0 and 1", f"{where}.confidence")
    if edge.weight < 0.0:
        raise _Wrong(f"weight {edge.weight:g} is negative", f"{where}.weight")
    return edge


def _edges(given: list[dict[str, Any]], where: str) -> tuple[Edge, ...]:
    out = []
    for i, raw in enumerate(given):
        at = f"{where}[{i}]"
        e = _convert(raw, _Edge, at)
        edge = Edge(caller=e.caller, callee=e.callee, kind=e.kind, weight=e.weight, confidence=e.confidence)
        out.append(_edge(edge, at))
    return tuple(out)


def _nodes(given: list[dict[str, Any]], where: str) -> tuple[Node, ...]:
    out = []
    for i, raw in enumerate(given):
        at = f"{where}[{i}]"
        n = _convert(raw, _Node, at)
        out.append(Node(name=_named(n.name, f"{at}.name"), kind=_named(n.kind, f"{at}.kind"), labels=n.labels))
    return tuple(out)


def _convert(raw: object, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as e:
        text, _, inner = str(e).partition(" - at `$")
        raise _Wrong(text, where + inner.rstrip("`")) from None
