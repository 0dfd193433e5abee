"""Edges that metrics bear: what a service mesh counts draws the graph."""

from collections.abc import Sequence

import msgspec
import pytest

from aiopsd.config import Config, load
from aiopsd.errors import ConfigError
from aiopsd.model import Append, Effect, LogRecord, TopologyUpdate
from aiopsd.pipeline.detect import DetectStage, build

T0 = 1_700_006_400.0
Sample = tuple[str, dict[str, str], float]  # metric, labels, value


def record(minute: float, samples: Sequence[Sample]) -> LogRecord:
    ts = T0 + 60 * minute
    body = [{"name": name, "labels": labels, "ts": ts, "value": value} for name, labels, value in samples]
    value = msgspec.json.encode(body)
    return LogRecord(source="m", partition=1, offset=round(minute * 10), value=value, format="json", stamp=ts)


def calls(client: str, server: str, value: float, **more: str) -> Sample:
    return "traces_service_graph_request_total", {"client": client, "server": server, "job": "tempo"} | more, value


def told(effects: Sequence[Effect]) -> list[TopologyUpdate]:
    return [e.body for e in effects if isinstance(e, Append) and isinstance(e.body, TopologyUpdate)]


def edges(effects: Sequence[Effect]) -> list[tuple[str, str, str]]:
    return [(e.caller, e.callee, e.kind) for update in told(effects) for e in update.edges]


def fresh(text: str = "") -> DetectStage:
    return build(load(text) if text else Config(), "m", 1)


def test_a_service_graph_metric_is_an_edge_within_a_minute() -> None:
    """New edges are told together, once, by a source that is the partition's own."""
    stage = fresh()
    first = stage.step([record(0, [calls("web", "cart", 5), calls("web", "pay", 3)])])
    then = stage.step([record(k, [calls("web", "cart", 5 + k), calls("web", "pay", 3 + k)]) for k in (1, 2, 3)])

    assert edges(first) == []
    assert [u.source for u in told(then)] == ["metrics:m/1"]
    assert edges(then) == [("web", "cart", "calls"), ("web", "pay", "calls")]
    assert {e.confidence for e in told(then)[0].edges} == {0.9}
    assert not told(then)[0].replace


@pytest.mark.parametrize(
    ("sample", "edge"),
    [
        (calls("web", "orders-db", 1, connection_type="database"), ("web", "orders-db", "reads")),
        (calls("web", "events", 1, connection_type="messaging_system"), ("web", "events", "publishes")),
        (
            ("istio_requests_total", {"source_workload": "web-v1", "destination_workload": "cart-v2"}, 1.0),
            ("web-v1", "cart-v2", "calls"),
        ),
        (
            (
                "istio_requests_total",
                {
                    "source_workload": "web-v1",
                    "source_canonical_service": "web",
                    "destination_workload": "cart-v2",
                    "destination_canonical_service": "cart",
                },
                1.0,
            ),
            ("web", "cart", "calls"),
        ),
        (
            ("request_total", {"direction": "outbound", "deployment": "web", "dst_deployment": "cart"}, 1.0),
            ("web", "cart", "calls"),
        ),
    ],
)
def test_common_meshes_are_read_without_a_rule(sample: Sample, edge: tuple[str, str, str]) -> None:
    """Tempo, the OpenTelemetry connector, Istio and Linkerd name both ends in their labels."""
    stage = fresh()

    assert edges(stage.step([record(0, [sample]), record(1, [sample])])) == [edge]


@pytest.mark.parametrize(
    "sample",
    [
        calls("unknown", "cart", 1),
        calls("", "cart", 1),
        calls("user", "web", 1, connection_type="virtual_node"),
        calls("cart", "cart", 1),
        calls("web", "cart", 0),
        ("request_total", {"direction": "inbound", "deployment": "web"}, 1.0),
        ("http_requests_total", {"client": "web", "server": "cart"}, 1.0),
    ],
)
def test_what_names_nobody_is_no_edge(sample: Sample) -> None:
    """An unknown peer, a call to itself, a counter that never counted and a metric that is no graph say nothing."""
    stage = fresh()

    assert edges(stage.step([record(k, [sample]) for k in range(4)])) == []


def test_an_edge_is_confirmed_while_it_has_traffic() -> None:
    """Well before the graph would drop it; one whose counter stands still is left to grow stale."""
    stage = fresh("topology: {stale_after: 1h}")
    effects = stage.step([record(k, [calls("web", "cart", k), calls("web", "old", 7)]) for k in range(1, 60)])

    confirmed = edges(effects)
    assert confirmed.count(("web", "cart", "calls")) == 4  # at first, then each quarter of an hour
    assert confirmed.count(("web", "old", "calls")) == 1


def test_an_own_rule_comes_first_and_may_name_a_node() -> None:
    """A template that is left out is the service of the series; aliases apply to services, not to nodes."""
    stage = fresh(
        """
services: {aliases: {cart: basket, node-1: nobody}}
topology:
  known_metrics: false
  metrics:
    - {match: {__name__: calls_total}, caller: $from, callee: $to, confidence: 0.5}
    - {match: {__name__: pod_info, node: .+}, callee: $node, kind: runs_on, callee_kind: node}
"""
    )
    samples: list[Sample] = [
        ("calls_total", {"from": "web", "to": "cart"}, 1.0),
        ("pod_info", {"service": "cart", "node": "node-1"}, 1.0),
        calls("a", "b", 1),
    ]
    effects = stage.step([record(0, samples), record(1, samples)])

    assert edges(effects) == [("basket", "node-1", "runs_on"), ("web", "basket", "calls")]
    assert [(n.name, n.kind) for n in told(effects)[0].nodes] == [("node-1", "node")]


def test_many_edges_are_told_in_records_of_bounded_size() -> None:
    """A mesh of thousands of edges does not make one journal record of all of them."""
    stage = fresh()
    samples = [calls(f"s{i % 50}", f"t{i}", 1) for i in range(2500)]
    effects = stage.step([record(0, samples), record(1, samples)])

    assert [len(u.edges) for u in told(effects)] == [1000, 1000, 500]


def test_a_resumed_stage_does_not_tell_an_edge_again() -> None:
    """What was told, and when, is in the snapshot; under other rules every series is looked at anew."""
    stage = fresh()
    stage.step([record(k, [calls("web", "cart", 1 + k)]) for k in range(3)])
    snapshot = stage.snapshot()
    same = build(Config(), "m", 1, snapshot)
    other = build(load("topology: {metrics: [{match: {job: tempo}, caller: $server, callee: x}]}"), "m", 1, snapshot)
    later = [record(k, [calls("web", "cart", 1 + k)]) for k in (3, 4)]

    assert edges(same.step(later)) == []
    assert edges(other.step(later)) == [("cart", "x", "calls")]


def test_a_broken_rule_names_its_key() -> None:
    """What is not RE2 is refused before it is used."""
    with pytest.raises(ConfigError, match=r"\$\.topology\.metrics\[0\]\.match\.__name__"):
        fresh("topology: {metrics: [{match: {__name__: '('}, caller: $a, callee: $b}]}")
