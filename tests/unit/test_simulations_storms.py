"""The scorecard of many storms, on a generator small enough to know the answer."""

import json
from pathlib import Path

import pytest

from simulations import oracle, partition, storms
from simulations.stream import Stream

GENERATOR = """
import argparse

def parser():
    p = argparse.ArgumentParser()
    p.add_argument("--services", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--loss", type=float, default=0.0)
    return p

def simulate(a):
    nodes = {n: {} for n in ("web", "cart", "db", "billing", "ledger", "mail")}
    topo = {"kind": "topology", "nodes": nodes, "edges": [["web", "cart"], ["cart", "db"], ["billing", "ledger"]]}
    alerts, truth = [], []
    for k in range(6):
        t0 = 1e9 + a.seed + 9000.0 * k
        story = [("db", "Full", 0), ("cart", "Slow", 1), ("web", "Slow", 2)]
        if k % 2:
            story = [("ledger", "Full", 0), ("billing", "Slow", 1)]
        for hop, (service, name, _) in enumerate(story):
            for state, t in (("firing", t0 + 20.0 * hop), ("resolved", t0 + 900.0 + hop)):
                gt = {"incident": k, "hop": hop, "episode": 10 * k + hop}
                alerts.append({"kind": "alert", "t": t, "ts": t - 1, "id": 10 * k + hop, "service": service,
                               "alertname": name, "severity": "warning", "state": state, "cluster": "c", "_gt": gt})
        truth.append({"kind": "truth", "incident": k, "root": story[0][0]})
        gt = {"incident": None, "hop": None, "episode": 1000 + k}
        for state, t in (("firing", t0 + 5.0), ("resolved", t0 + 100.0)):
            alerts.append({"kind": "alert", "t": t, "ts": t, "id": 1000 + k, "service": "mail", "alertname": "Noise",
                           "severity": "warning", "state": state, "cluster": "c", "_gt": gt})
    alerts.sort(key=lambda e: (e["t"], e["id"]))
    return topo, alerts, truth
"""


@pytest.fixture
def generator(tmp_path: Path) -> str:
    path = tmp_path / "small.py"
    path.write_text(GENERATOR)
    return str(path)


def test_an_easy_generator_is_solved_and_the_ceiling_is_one(generator: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Six clear incidents: result and ceiling are both perfect, in the table and as JSON."""
    options = ["--generator", generator, "--preset", "default", "--seeds", "1-2", "--oracle"]

    assert storms.main([*options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["default"]
    for row in ("result", "ceiling"):
        assert {k: rows[row][k] for k in ("ari", "frag", "over", "hidden", "top1")} == {
            "ari": 1.0,
            "frag": 1.0,
            "over": 0.0,
            "hidden": 0.0,
            "top1": 1.0,
        }
    assert storms.main([*options, "--worst", "3"]) == 0
    said = capsys.readouterr().out
    assert "ceiling" in said
    assert "incident" not in said.replace("incidents", "")


def test_the_player_sees_no_truth(generator: str) -> None:
    """What the stage reads holds no underscored key."""
    stream = storms.make(storms.load(generator), "default", 1, 6)

    assert "_gt" not in "".join(stream.lines())
    assert len(stream.fired) == 21


def test_presets_turn_only_knobs_that_are_there(generator: str) -> None:
    """A generator without a knob keeps its weather."""
    assert storms.make(storms.load(generator), "storm", 1, 6).truth


def test_the_oracle_leaves_the_truth_where_another_story_is_likelier(generator: str) -> None:
    """Two incidents that look like one climbing fault are judged one: nobody could tell them apart."""
    stream = storms.make(storms.load(generator), "default", 1, 6)
    knowledge = oracle.learn([stream])
    for line in stream.alerts:
        if line["_gt"]["incident"] == 0 and line["service"] == "web":
            line["_gt"] = line["_gt"] | {"incident": 99, "hop": 0}
    told = Stream("default-1", stream.topology, stream.alerts, [*stream.truth, {"incident": 99, "root": "web"}])

    row = partition.figures(told.fired, told.roots, oracle.answer(told, knowledge))

    assert row["hidden"] == pytest.approx(1 / 7)


def test_a_generator_that_is_not_there_is_exit_code_2(tmp_path: Path) -> None:
    """Named, not a traceback."""
    assert storms.main(["--generator", str(tmp_path / "none.py")]) == 2


def test_streams_can_be_played_without_a_graph_or_with_a_stale_one(generator: str) -> None:
    """The graph is emptied, or loses and gains edges, the same ones each time; alerts and truth stay as they are."""
    ((whole,),) = (tuple(made) for made in storms.streams(generator, ["default"], [5]).values())
    ((bare,),) = (tuple(made) for made in storms.streams(generator, ["default"], [5]).values())
    storms.without_topology(bare)

    assert not bare.topology["nodes"]
    assert not bare.topology["edges"]
    assert (bare.alerts, bare.roots) == (whole.alerts, whole.roots)

    edges = [[f"a{i}", f"b{i}"] for i in range(100)]
    nodes = {name: {} for edge in edges for name in edge}
    one, again = (Stream("s-1", {"nodes": nodes, "edges": edges}, [], []) for _ in range(2))
    storms.with_stale_topology(one)
    storms.with_stale_topology(again)

    assert one.topology == again.topology
    assert 55 < sum(edge in edges for edge in one.topology["edges"]) < 85
    assert sum(edge not in edges for edge in one.topology["edges"]) in (9, 10)
