"""Scorecard: PetShop's injected faults (arXiv 2311.04806) through both stages; recall of the true root at 1 and 3.

`--data` holds folders (low_traffic, ...) with graph.csv, noissue/metrics.csv and issues in train/ and test/. A folder
without fault-free days borrows those of the first that has them, and is named. `--late MINUTES` delays the page;
`--stress` plays the issues with what monitoring systems lose, rename and delay (simulations/stress.py).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from aiopsd.model import Node
from simulations import recorded, stress
from simulations.petshop_data import Frame, Issue, Scenario, scenarios


def table(frame: Frame) -> recorded.Table:
    """Series as an exporter would name them: metric, service, statistic."""
    columns = tuple({"__name__": m, "service": node, "statistic": stat} for node, m, stat in frame.columns)
    return recorded.Table(columns, frame.ts, frame.values)


def nodes(scenario: Scenario) -> tuple[Node, ...]:
    """Every node; those that were only seen from the other end of a call say so."""
    names = sorted({node for node, _, _ in scenario.normal.columns} | set(scenario.nodes))
    return tuple(Node(name=n, labels={"inferred": "true"} if scenario.inferred(n) else {}) for n in names)


def case(scenario: Scenario, issue: Issue, normal: recorded.Table) -> recorded.Case:
    """The target of the data set is the page: node, metric and time."""
    labels = {"alertname": f"objective of {issue.metric} missed", "service": issue.node, "severity": "critical"}
    return recorded.Case(
        name=f"{scenario.name}/{issue.name}",
        ground=scenario.name,
        normal=normal,
        fault=table(issue.frame),
        edges=scenario.edges,
        nodes=nodes(scenario),
        page=recorded.Page(labels, issue.ts),
        truth=issue.root,
    )


def cases(data: Path) -> list[tuple[Issue, recorded.Case]]:
    """Every issue below `data`.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not of this data set.
    """
    out = []
    for scenario in scenarios(data):
        normal = table(scenario.normal)
        out += [(issue, case(scenario, issue, normal)) for issue in scenario.issues]
    return out


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    parser = argparse.ArgumentParser(prog="simulations petshop", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, metavar="DIR")
    parser.add_argument("--late", type=float, default=0.0, metavar="MINUTES", help="the page comes so much later")
    stress.arguments(parser)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        found = cases(args.data)
        for scenario in scenarios(args.data) if not args.json else ():
            if scenario.borrowed:
                print(f"{scenario.name}: no fault-free days of its own, those of {scenario.borrowed} stand in")
    except (OSError, ValueError, KeyError, IndexError) as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    if not found:
        print(f"no scenario with fault-free days in {args.data}")
        return 2
    if args.stress is not None:
        table_of = stress.run([each for _, each in found], args.stress, args.seeds, quiet=args.json)
        if args.json:
            print(json.dumps(table_of))
        return 0
    player = recorded.Player()
    rows: list[dict[str, Any]] = []
    for issue, each in found:
        late = stress.page_moved(args.late * 60.0)(each, np.random.default_rng(0))
        rows.append(recorded.row(late, player.play(late)) | {"page": issue.metric})
    figures = recorded.figures(rows)
    del figures["metric1"]  # the data set does not name a metric of the cause
    for metric in sorted({r["page"] for r in rows}):
        part = [r for r in rows if r["page"] == metric]
        figures |= {f"{metric}_top{k}": float(np.mean([r[f"top{k}"] for r in part])) for k in (1, 3)}
    recorded.show([{k: v for k, v in r.items() if k != "metric_right"} for r in rows], figures, args.json)
    return 0
