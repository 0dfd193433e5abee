"""Scorecards of causes: perturbations keep what they promise to keep; a fit makes a confidence mean something."""

import json
from pathlib import Path

import numpy as np
import pytest

from aiopsd.correlate.rootcause import SIGNS
from aiopsd.model import Candidate
from simulations import causes, confidence, recorded, storms, stress
from simulations.stream import Stream

COLUMNS = tuple(
    {"__name__": metric, "service": service}
    for service in ("web", "cart", "db")
    for metric in ("latency", "availability")
)


def case(rows: int = 40) -> recorded.Case:
    """Three services in a row; `db` is at fault."""
    rng = np.random.default_rng(1)
    values = rng.normal(1.0, 0.01, (rows, len(COLUMNS)))
    values[:, 1::2] = 100.0
    ts = 1_700_000_000.0 + 300.0 * np.arange(rows)
    normal = recorded.Table(COLUMNS, ts[: rows - 5], values[: rows - 5])
    fault = recorded.Table(COLUMNS, ts[rows - 5 :], values[rows - 5 :])
    page = recorded.Page({"alertname": "Slow", "service": "web"}, float(ts[rows - 2]))
    return recorded.Case("c", "g", normal, fault, (("web", "cart"), ("cart", "db")), (), page, "db", "latency")


@pytest.mark.parametrize("name", list(stress.CHANGES))
def test_a_perturbed_case_is_still_a_case(name: str) -> None:
    """The true cause exports something, the page names a service of the graph, and both tables keep their shape."""
    worse = stress.CHANGES[name](case(), np.random.default_rng(3))

    for table in (worse.normal, worse.fault):
        assert table.values.shape == (len(table.ts), len(table.columns))
        assert worse.truth in {c["service"] for c in table.columns}
    known = {n for edge in worse.edges for n in edge} | {c["service"] for c in worse.normal.columns}
    assert worse.page is None or worse.page.labels["service"] in known


def test_renamed_services_have_the_same_structure() -> None:
    """Names say nothing any more, and who calls whom is as before."""
    before = case()
    worse = stress.CHANGES["services renamed"](before, np.random.default_rng(3))

    assert worse.edges[0][1] == worse.edges[1][0]
    assert worse.truth == worse.edges[1][1] != "db"
    assert worse.page is not None
    assert worse.page.labels["service"] == worse.edges[0][0]


def test_a_percentage_stays_one() -> None:
    """Neither noise nor another unit takes an availability above all of the requests."""
    for name, most in (("noise of 5 %", 100.0), ("other units", 1.0)):
        worse = stress.CHANGES[name](case(), np.random.default_rng(3))
        assert np.nanmax(worse.fault.values[:, 1::2]) == most


def seen(right: bool | None, lead: float) -> confidence.Seen:
    signs = tuple(1.0 if name == "constant" else lead if name == "gap" else 0.0 for name in SIGNS)
    return confidence.Seen("made", "end", (Candidate(service="a", signs=signs),), right)


def test_a_fit_gives_what_it_sees() -> None:
    """Of looks that are right in 90 and 30 of 100, by their lead, the fitted confidence says .9 and .3."""
    looks = [seen(i < 90, 2.0) for i in range(100)] + [seen(i < 30, 0.5) for i in range(100)]

    figures = confidence.table("made", looks, confidence.given(looks, confidence.fit({"made": looks})))

    assert figures["ece"] < 0.05
    assert [b["n"] for b in figures["bins"]] == [100, 100]


def test_a_generator_that_turns_a_sign_round_has_no_say() -> None:
    """Where a larger lead is right less often, the lead counts for nothing: confidence never falls with it."""
    looks = [seen(i < 90, 0.5) for i in range(100)] + [seen(i < 30, 2.0) for i in range(100)]

    assert confidence.fit({"made": looks})[SIGNS.index("gap")] == 0.0


def test_generators_weigh_alike() -> None:
    """Of one 90 % are right, of another, seen ten times as often, 30 %: what is given to both is half way between."""
    right, wrong = [seen(True, 1.0)], [seen(False, 1.0)]
    few, many = right * 2_700 + wrong * 300, right * 9_000 + wrong * 21_000

    said = confidence.given(right, confidence.fit({"one:a": few, "other:b": many}))

    assert said[0] == pytest.approx(0.6, abs=0.03)


def test_noise_is_shown_apart() -> None:
    """What has no root to be right about is counted and its mean given, and moves no other figure."""
    looks = [seen(i < 5, 1.0) for i in range(10)]
    noise = [seen(None, 1.0) for _ in range(30)]

    with_noise = confidence.table("made", looks + noise, [0.5] * 10 + [0.9] * 30)

    assert (with_noise["noise"], with_noise["noise_given"]) == (30, pytest.approx(0.9))
    assert with_noise["ece"] == 0.0
    assert with_noise | {"noise": 0, "noise_given": None} == confidence.table("made", looks, [0.5] * 10)


def test_a_stream_is_looked_at_when_its_page_is_due_and_at_the_end(tmp_path: Path) -> None:
    """Of a stream with one true incident, the causes of its main group, before and after the late alert of the root."""
    lines: list[dict[str, object]] = [{"kind": "topology", "nodes": {}, "edges": [["web", "cart"], ["cart", "db"]]}]
    for i, (t, service) in enumerate(((100.0, "web"), (110.0, "cart"), (150.0, "db"))):
        lines.append(
            {"kind": "alert", "t": t, "ts": t, "id": i, "service": service, "alertname": "Slow", "severity": "warning",
             "state": "firing", "_gt": {"incident": 0, "hop": 0, "episode": i}}
        )  # fmt: skip
    lines.append({"kind": "truth", "incident": 0, "root": "db"})
    path = tmp_path / "stream.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    looks = list(confidence.of_stream(Stream.read(path)))

    assert [(s.when, s.roots[0].service, s.right) for s in looks] == [("page", "cart", False), ("end", "db", True)]


def test_a_fit_is_judged_on_what_it_did_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fitted on one seed and judged on another: a table for each look at the other, and weights for every sign."""
    for seed in (1, 2):
        storms.of_world("plain", seed, 30).write(tmp_path)

    assert confidence.main(["--fit", f"{tmp_path}:plain:1", "--judge", f"{tmp_path}:plain:2", "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert [t["source"] for t in said["tables"]] == ["fitted on", "plain page", "plain end", "judged on"]
    assert len(said["weights"]) == len(SIGNS)
    assert all(0.0 <= t["ece"] <= 1.0 and t["n"] == sum(b["n"] for b in t["bins"]) for t in said["tables"])


@pytest.mark.parametrize("source", ["nowhere.py:default:1", "world:sunny:1", "petshop:nowhere"])
def test_a_source_that_is_not_there_is_exit_code_2(source: str) -> None:
    """Named, not a traceback."""
    assert confidence.main(["--judge", source]) == 2


def test_causes_are_judged_on_the_true_groups() -> None:
    """Two faults side by side, each with its own alerts: both roots come first, in the page and in the end."""
    edges = [["web", "cart"], ["cart", "db"], ["app", "pay"], ["pay", "bank"]]
    rows = [(0.0, "db", 0), (1.0, "bank", 1), (20.0, "cart", 0), (21.0, "pay", 1), (90.0, "web", 0), (91.0, "app", 1)]
    alerts = [
        {"kind": "alert", "t": t, "ts": t, "id": i, "service": service, "alertname": "Slow", "severity": "warning",
         "state": "firing", "_gt": {"incident": owner, "hop": 0, "episode": i}}
        for i, (t, service, owner) in enumerate(rows)
    ]  # fmt: skip
    truth = [{"incident": k, "root": root, "fault": "slow", "t0": float(k)} for k, root in enumerate(("db", "bank"))]
    stream = Stream("two", {"kind": "topology", "nodes": {}, "edges": edges}, alerts, truth)

    found = list(causes.ranked(stream))

    assert [(r["root"], r["alerts"], r["page"], r["end"]) for r in found] == [("db", 3, 1, 1), ("bank", 3, 1, 1)]
    assert [(r["page_roots"][0], len(r["page_roots"])) for r in found] == [("db", 2), ("bank", 2)]
    assert causes.table(found)[-1] == {
        "fault": "all", "n": 2, "end_top1": 1.0, "end_top3": 1.0, "page_top1": 1.0, "page_top3": 1.0,
    }  # fmt: skip
