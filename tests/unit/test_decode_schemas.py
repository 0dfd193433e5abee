"""The published schemas and the decoders say the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from aiopsd.config import Config, plugin_config
from aiopsd.decode import (
    check_samples,
    decode_alerts,
    decode_changes,
    decode_samples,
    decode_topology,
    load_topology_yaml,
)
from aiopsd.detect.edges import Edges
from aiopsd.errors import ConfigError, DecodeError
from aiopsd.services import ServiceMapper
from aiopsd.testing.decode import index, records

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"
PAGE = (REFERENCE / "formats.md").read_text()


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((REFERENCE / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


METRIC, TOPOLOGY, FILE, CHANGE = map(validator, ("metric-record", "topology", "topology-file", "change"))


def taken_metric(given: Any) -> bool:
    return not decode_samples(records([json.dumps(given).encode()], "json"), index()).rejects


def taken_by(read: Any, given: Any) -> bool:
    try:
        read(given)
    except (DecodeError, ConfigError):
        return False
    return True


def examples(section: str, kind: str = "json") -> list[str]:
    part = PAGE.split(f"\n## {section}")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL)


def test_the_examples_of_the_page_are_valid_and_taken() -> None:
    """Every example that we print can be sent as it is."""
    metrics = examples("Metrics: our JSON record")
    assert 3 == len(metrics)
    for text in metrics:
        METRIC.validate(json.loads(text))
        assert check_samples(text.encode(), "json").taken > 0
        assert taken_metric(json.loads(text))
    (alerts,) = examples("Alerts: Prometheus' list")
    assert (1, []) == (
        len(decode_alerts(alerts.encode(), "prometheus")[0]),
        decode_alerts(alerts.encode(), "prometheus")[1],
    )
    (record,) = examples("Topology")
    TOPOLOGY.validate(json.loads(record))
    assert decode_topology(record.encode(), "x").edges
    (file,) = examples("Topology", "yaml")
    FILE.validate(yaml.safe_load(file))
    assert load_topology_yaml(file, "x").edges
    (rules,) = examples("Topology from metrics", "yaml")
    config = plugin_config(Config, yaml.safe_load(rules), "$")
    assert len(Edges(config.topology.metrics, ServiceMapper(config.services), 86400.0).rules) == 2
    (change,) = examples("Changes")
    CHANGE.validate(json.loads(change))
    assert decode_changes(change.encode())
    (services,) = examples("Which service", "yaml")
    mapper = ServiceMapper(plugin_config(Config, yaml.safe_load(services), "$").services)
    assert "basket" == mapper.service({"app": "cart-v7"})
    assert "web-ui" == mapper.service({"job": "kube-state-metrics", "pod": "web-ui-77f9-x2z1k"})


times = st.sampled_from([1767571200, 1767571200.5, "2026-01-05T00:00:00Z", 0, -1, 1.7e12, "", None, True, "soon"])
values = st.sampled_from(
    [1, -0.5, None, "NaN", "-Infinity", "+inf", "1.5e3", ".5", "x", "", "1_0", " 1", False, [], {}]
)
sets = st.dictionaries(
    st.sampled_from(["__name__", "job", "service", ""]), st.sampled_from(["up", "", 1, None]), max_size=2
)


@st.composite
def metric(draw: st.DrawFn) -> dict[str, Any]:
    record: dict[str, Any] = {"name": "up", "labels": {}, "ts": 1767571200, "value": 1}
    if draw(st.booleans()):
        del record["ts"], record["value"]
        record["points"] = draw(st.lists(st.tuples(times, values).map(list) | st.just([1]), min_size=1, max_size=2))
    for key in draw(st.lists(st.sampled_from(["name", "labels", "ts", "value"]), max_size=1)):
        record.pop(key, None)
    changed = draw(
        st.lists(
            st.sampled_from(["name", "metric", "labels", "service", "ts", "timestamp", "value", "odd"]), max_size=2
        )
    )
    for key in changed:
        kinds = {"ts": times, "timestamp": times, "value": values, "labels": sets | st.just([])}
        record[key] = draw(kinds.get(key, st.sampled_from(["up", "", 5])))
    return record


def contradicts(record: dict[str, Any]) -> bool:
    """What the schema says in words only: names have to agree, an empty __name__ is none."""
    labels = record.get("labels", {})
    labels = labels if isinstance(labels, dict) else {}
    given = [record[k] for k in ("name", "metric") if k in record] + [labels[k] for k in ("__name__",) if k in labels]
    services = [x["service"] for x in (record, labels) if "service" in x]
    return len(set(map(str, given))) > 1 or given == [""] or len(set(map(str, services))) > 1


@given(metric(), st.sampled_from(["alone", "listed", "samples"]))
@settings(max_examples=200, deadline=None)
def test_the_decoder_takes_what_the_schema_allows(record: dict[str, Any], how: str) -> None:
    """A metric record is valid by the schema exactly when the decoder refuses nothing of it."""
    if contradicts(record):
        return
    document: Any = {"alone": record, "listed": [record], "samples": {"samples": [record]}}[how]

    assert METRIC.is_valid(document) == taken_metric(document)


edge = {"caller": "a", "callee": "b"}


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ([], True),
        ([edge], True),
        ({"edges": [edge], "nodes": [{"name": "a", "labels": {"x": "y"}}], "removed": [edge], "replace": True}, True),
        ({"source": "mesh"}, True),
        ([edge | {"weight": 0, "confidence": 1, "kind": "reads"}], True),
        ([edge | {"weight": -1}], False),
        ([edge | {"confidence": 1.5}], False),
        ([edge | {"kind": ""}], False),
        ([edge | {"caller": ""}], False),
        ([edge | {"wait": 1}], False),
        ([{"caller": "a"}], False),
        ({"nodes": [{"name": ""}]}, False),
        ({"nodes": [{"name": "a", "labels": {"x": 1}}]}, False),
        ({"edge": []}, False),
        (5, False),
    ],
)
def test_topology_records(document: Any, valid: bool) -> None:
    """Schema and decoder agree on edge records."""
    body = json.dumps(document).encode()

    assert (valid, valid) == (TOPOLOGY.is_valid(document), taken_by(lambda b: decode_topology(b, "x"), body))


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        (None, True),
        ({"services": {"a": {"calls": "b", "runs_on": ["n"], "kind": "queue"}, "c": None}, "edges": [edge]}, True),
        ({"services": {"a": {"calls": [1]}}}, False),
        ({"services": {"a": {"calls": [""]}}}, False),
        ({"services": {"a": {"kind": ""}}}, False),
        ({"services": {"": {}}}, False),
        ({"services": []}, False),
        ({"service": {}}, False),
        ([], False),
    ],
)
def test_topology_files(document: Any, valid: bool) -> None:
    """Schema and loader agree on the topology file."""
    text = yaml.safe_dump(document)

    assert (valid, valid) == (FILE.is_valid(document), taken_by(lambda t: load_topology_yaml(t, "x"), text))


change = {"service": "a", "ts": 1767571200}


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        (change, True),
        ([], True),
        (
            [
                change,
                change | {"kind": "scale", "id": "x", "labels": {"a": "b"}, "link": "l", "ts": "2026-01-05T00:00:00Z"},
            ],
            True,
        ),
        (change | {"kind": "explode"}, False),
        (change | {"service": ""}, False),
        (change | {"ts": 1.7e12}, False),
        (change | {"ts": "soon"}, False),
        (change | {"labels": {"a": 1}}, False),
        (change | {"when": 1}, False),
        ({"service": "a"}, False),
        ("x", False),
    ],
)
def test_change_records(document: Any, valid: bool) -> None:
    """Schema and decoder agree on change records."""
    assert (valid, valid) == (CHANGE.is_valid(document), taken_by(decode_changes, json.dumps(document).encode()))
