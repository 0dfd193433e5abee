"""Streams of outages out of physics: the same seed, the same lines; a truth that follows; all sorts of weather."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from simulations import outages, storm, storms
from simulations.storm import UNKNOWN


@cache
def made(preset: str, seed: int = 1) -> outages.Simulated:
    return outages.simulate(replace(outages.PRESETS[preset], hours=2.0, rate=8.0), 50, seed)


def firing(preset: str) -> list[dict[str, Any]]:
    return [line for line in made(preset).alerts if line["state"] == "firing"]


def kinds(preset: str) -> set[str]:
    return {truth["fault"] for seed in (1, 2) for truth in made(preset, seed).truth}


def test_a_seed_is_a_stream() -> None:
    """The same arguments give the same lines; another seed gives others."""
    weather = replace(outages.PRESETS["labels"], hours=1.0)

    assert outages.simulate(weather, 40, 1) == outages.simulate(weather, 40, 1)
    assert outages.simulate(weather, 40, 1) != outages.simulate(weather, 40, 2)


@pytest.mark.parametrize("preset", list(outages.PRESETS))
def test_every_alert_has_its_fault_or_is_noise(preset: str) -> None:
    """An incident's alerts begin in its time, its root is named by the graph or a label, or said to be unknown."""
    stream = made(preset)
    truth = {t["incident"]: t for t in stream.truth}
    named = set(stream.topology["nodes"])
    named |= {line[label] for line in stream.alerts for label in ("node", "zone") if label in line}
    named |= {line["_gt"]["vertex"] for line in stream.alerts}

    assert truth
    for line in {line["_gt"]["episode"]: line for line in reversed(firing(preset))}.values():
        if (incident := line["_gt"]["incident"]) is not None:
            assert truth[incident]["t0"] - 60.0 < line["ts"] < truth[incident]["t1"] + 1200.0
            assert line["_gt"]["vertex"] in truth[incident]["affected"]
    for t in stream.truth:
        assert (t["root"] == t["target"]) == (t["target"] in named)
        assert t["root"] in (t["target"], UNKNOWN)


def test_the_graph_of_the_truth_holds_the_cause_of_every_symptom() -> None:
    """Whoever is affected by a fault is connected with its target in the true graph."""
    for preset in outages.PRESETS:
        for t in made(preset).truth:
            assert max(t["affected"].values()) < 20


@pytest.mark.parametrize(
    ("feature", "occurs"),
    [
        ("faults of services", lambda: kinds("plain") & {"slow", "errors", "crash", "bad_deploy", "disk_full"}),
        ("node and zone faults", lambda: {"node_down", "noisy_neighbour"} < kinds("infra") | kinds("labels")),
        ("load that runs down", lambda: {"batch", "traffic_surge"} < kinds("noisy") | kinds("hard")),
        ("an unknown upstream", lambda: any(t["root"] == UNKNOWN for k in (1, 2) for t in made("stale", k).truth)),
        (
            "a silent cause in the graph",
            lambda: any(t["root"] not in t["affected"] and t["root"] != UNKNOWN for t in made("plain").truth),
        ),
        ("hosts and zones in the graph", lambda: {"host", "zone"} < {n["kind"] for n in graph("infra")}),
        ("hosts and zones in labels only", lambda: {n["kind"] for n in graph("labels")}.isdisjoint({"host", "zone"})),
        (
            "labels of pods",
            lambda: {"node", "zone", "pod", "instance", "job"} < {k for a in firing("labels") for k in a},
        ),
        ("no service", lambda: any(not a["service"] and "node" not in a["_gt"]["vertex"] for a in firing("labels"))),
        ("other spellings", lambda: any(a["service"] not in ("", a["_gt"]["vertex"]) for a in firing("labels"))),
        ("lines sent again", lambda: max(Counter(a["id"] for a in firing("labels")).values()) > 1),
        ("numbers of their own", lambda: all("i" in a for a in firing("labels"))),
        ("alerts that come and go", lambda: max(Counter(a["_gt"]["episode"] for a in firing("noisy")).values()) > 3),
        ("noise", lambda: any(a["_gt"]["incident"] is None for a in firing("plain"))),
        ("rollouts", lambda: len(made("stale").changes) > 5),
        ("wrong edges", lambda: edges("stale") - edges("stale", true=True)),
        ("missing edges", lambda: edges("stale", true=True) - edges("stale")),
        ("a cluster that says nothing", lambda: clusters("silent") < clusters("plain")),
    ],
)
def test_the_weather_has_it(feature: str, occurs: Callable[[], object]) -> None:
    """What the presets promise is there."""
    assert occurs()


def graph(preset: str) -> list[dict[str, Any]]:
    return list(made(preset).topology["nodes"].values())


def edges(preset: str, *, true: bool = False) -> set[tuple[str, str]]:
    topology = made(preset).topology
    return {(a, b) for a, b in (topology["_gt"] if true else topology)["edges"]}


def clusters(preset: str) -> set[str]:
    return {a["cluster"] for a in firing(preset) if a["service"]}


def test_trouble_without_a_fault_is_noise() -> None:
    """A world in which nothing breaks has no incident, and still its alerts."""
    calm = outages.simulate(replace(outages.PRESETS["plain"], rate=0.001, hours=2.0), 40, 3)

    assert calm.truth == []
    assert calm.alerts
    assert {line["_gt"]["incident"] for line in calm.alerts} == {None}


def test_the_stage_takes_a_stream() -> None:
    """Every firing line of a stream is assigned by its own name, and no truth is shown."""
    stream = storms.of_world("labels", 1, 40)
    text = list(stream.lines())
    told: list[dict[str, Any]] = []

    player = storm.play(text, told.append)

    assert not player.bugs
    assert "_gt" not in "".join(text)
    assert {a["i"] for a in stream.alerts if a["state"] == "firing"} == {x["i"] for x in told if x["kind"] == "assign"}


def test_lines_come_by_arrival() -> None:
    """Alerts and changes of a stream are merged by time."""
    times = [line["t"] for line in list(storms.of_world("stale", 1, 40).whole())[1:]]

    assert all(a <= b for a, b in pairwise(times))
