"""Scorecard: sock-shop-data of the RCD paper ("Sock Shop 1" of RCAEval) through both stages; AC@1, AC@3 and the metric.

`--data` holds <service>-<cpu|mem>/<run>/{normal,anomalous}.csv, a sample a second. As in the published tables the time
of the fault is known: the page says that the front end is in trouble since the first faulty row, and comes at the end.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from simulations import recorded

# who calls whom, from the demo's public architecture (github.com/microservices-demo), not from the data
CALLS = """front-end catalogue, front-end carts, front-end user, front-end orders, catalogue catalogue-db,
carts carts-db, user user-db, orders orders-db, orders carts, orders user, orders payment,
orders shipping, shipping rabbitmq, queue-master rabbitmq"""
KINDS = {"cpu": "cpu_usage", "mem": "memory_bytes", "lod": "requests_rate"}


def table(path: Path) -> recorded.Table:
    """One CSV: `time`, then <service>_<signal>; a column given twice counts once."""
    head, body = recorded.read_csv(path, 1)
    columns, kept, seen = [], [], set()
    for i, name in enumerate(head[0][1:], 1):
        if name in seen:
            continue
        seen.add(name)
        service, signal = name.split("_", 1)
        labels = {"__name__": KINDS.get(signal, "latency_seconds"), "service": service}
        if signal.startswith("lat_"):
            labels["quantile"] = f"0.{signal.removeprefix('lat_')}"
        columns.append(labels)
        kept.append(i)
    return recorded.Table(tuple(columns), body[:, 0], body[:, kept])


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    parser = argparse.ArgumentParser(prog="simulations sockshop", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    edges = [(a, b) for a, b in (pair.split() for pair in CALLS.replace("\n", " ").split(","))]
    rows: list[dict[str, Any]] = []
    try:
        found = sorted(Path(args.data).glob("*/*/anomalous.csv"), key=lambda p: (p.parts[-3], p.parts[-2]))
        rows += [_case(path, edges) for path in found]
    except (OSError, ValueError) as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    if not rows:
        print(f"no case in {args.data}")
        return 2
    place = np.array([r["place"] if r["place"] != "-" else math.inf for r in rows], np.float64)
    figures = {f"ac{k}": float(np.mean(place <= k)) for k in (1, 3, 5)}
    figures["avg5"] = float(np.mean([np.mean(place <= k) for k in range(1, 6)]))
    figures["metric1"] = float(np.mean([r["metric_right"] for r in rows]))
    recorded.show(rows, figures | {"cases": float(len(rows))}, args.json)
    return 0


def _case(path: Path, edges: list[tuple[str, str]]) -> dict[str, Any]:
    service, fault = path.parts[-3].rsplit("-", 1)
    faulty = table(path)
    page = recorded.Page(
        {"alertname": "objective missed", "service": "front-end", "severity": "critical"},
        float(faulty.ts[-1]),
        float(faulty.ts[0]),
    )
    incident, _ = recorded.Ground(table(path.parent / "normal.csv"), edges).play(faulty, page)
    found = recorded.outcome(incident.roots if incident is not None else (), service, KINDS[fault])
    return {
        "case": "/".join(path.parts[-3:-1]),
        "truth": service,
        "place": "-" if math.isinf(found.position) else found.position,
        "metric_right": found.first,
        "first": found.found[0].service if found.found else "",
        "metric": found.found[0].metric if found.found else "",
        "confidence": found.found[0].confidence if found.found else 0.0,
    }
