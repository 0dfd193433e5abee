"""Scorecard: sock-shop-data of the RCD paper ("Sock Shop 1" of RCAEval) through both stages; AC@1, AC@3 and the metric.

`--data` holds <service>-<cpu|mem>/<run>/{normal,anomalous}.csv, a sample a second. As in the published tables the time
of the fault is known: the page says that the front end is in trouble since the first faulty row, and comes at the end.
`--stress` plays the first run of each with what monitoring systems lose, rename and delay (simulations/stress.py).
"""

import argparse
import json
from pathlib import Path

from simulations import recorded, stress

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


def case(path: Path, edges: tuple[tuple[str, str], ...]) -> recorded.Case:
    """The run whose anomalous.csv this is."""
    service, fault = path.parts[-3].rsplit("-", 1)
    faulty = table(path)
    labels = {"alertname": "objective missed", "service": "front-end", "severity": "critical"}
    return recorded.Case(
        name="/".join(path.parts[-3:-1]),
        ground="/".join(path.parts[-3:]),
        normal=table(path.parent / "normal.csv"),
        fault=faulty,
        edges=edges,
        nodes=(),
        page=recorded.Page(labels, float(faulty.ts[-1]), float(faulty.ts[0])),
        truth=service,
        metric=KINDS[fault],
    )


def cases(data: Path) -> list[recorded.Case]:
    """Every run below `data`.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not of this data set.
    """
    calls = tuple(pair.split() for pair in CALLS.replace("\n", " ").split(","))
    edges = tuple((a, b) for a, b in calls)
    found = sorted(data.glob("*/*/anomalous.csv"), key=lambda p: (p.parts[-3], p.parts[-2]))
    return [case(path, edges) for path in found]


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    parser = argparse.ArgumentParser(prog="simulations sockshop", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, metavar="DIR")
    stress.arguments(parser)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        found = cases(args.data)
    except (OSError, ValueError, KeyError) as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    if not found:
        print(f"no case in {args.data}")
        return 2
    if args.stress is not None:
        first = {c.name.split("/")[0]: c for c in reversed(found)}
        table_of = stress.run([first[name] for name in sorted(first)], args.stress, args.seeds, quiet=args.json)
        if args.json:
            print(json.dumps(table_of))
        return 0
    player = recorded.Player()
    rows = [recorded.row(each, player.play(each)) for each in found]
    recorded.show(
        rows,
        {{"top1": "ac1", "top3": "ac3", "top5": "ac5"}.get(k, k): v for k, v in recorded.figures(rows).items()},
        args.json,
    )
    return 0
