"""Scorecard: PetShop's injected faults (arXiv 2311.04806) through both stages; recall of the true root at 1 and 3.

`--data` holds folders (low_traffic, ...) with graph.csv, noissue/metrics.csv and issues in train/ and test/. Folders
without fault-free data of their own are left out and named.
"""

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aiopsd.model import Node
from simulations import recorded


def table(path: Path) -> recorded.Table:
    """One metrics.csv: three header rows (node, metric, statistic), then rows by time."""
    head, body = recorded.read_csv(path, 3)
    columns = tuple(
        {"__name__": metric, "service": node, "statistic": stat}
        for node, metric, stat in zip(*(row[1:] for row in head), strict=True)
    )
    return recorded.Table(columns, body[:, 0], body[:, 1:])


def edges(path: Path) -> list[tuple[str, str]]:
    """graph.csv is an adjacency matrix, caller in the row."""
    head, _ = recorded.read_csv(path, 1)
    names = head[0][1:]
    out = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        cells = line.rsplit(",", len(names))
        out += [
            (cells[0].strip('"'), name)
            for name, x in zip(names, cells[1:], strict=True)
            if x.strip() not in ("", "0", "0.0")
        ]
    return out


def nodes(names: Iterable[str]) -> list[Node]:
    """Names are those of AWS X-Ray, `name_type`: what is of type remote or client was only seen from its other end."""
    out = []
    for name in sorted(names):
        seen = {"inferred": "true"} if name.rsplit("_", 1)[-1] in ("remote", "client") else {}
        out.append(Node(name=name, labels=seen))
    return out


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    parser = argparse.ArgumentParser(prog="simulations petshop", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--late", type=float, default=0.0, metavar="MINUTES", help="the page comes so much later")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    try:
        for folder in sorted(p for p in Path(args.data).iterdir() if (p / "graph.csv").exists()):
            if not (folder / "noissue" / "metrics.csv").exists():
                print(f"{folder.name}: no fault-free data, left out")
                continue
            rows += _folder(folder, args.late * 60.0)
    except (OSError, ValueError, KeyError) as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    if not rows:
        print(f"no scenario in {args.data}")
        return 2
    figures = {f"top{k}": float(np.mean([r[f"top{k}"] for r in rows])) for k in (1, 3)}
    for metric in sorted({r["page"] for r in rows}):
        for k in (1, 3):
            figures[f"{metric}_top{k}"] = float(np.mean([r[f"top{k}"] for r in rows if r["page"] == metric]))
    recorded.show(rows, figures | {"issues": float(len(rows))}, args.json)
    return 0


def _folder(folder: Path, late: float) -> list[dict[str, Any]]:
    calls = edges(folder / "graph.csv")
    normal = table(folder / "noissue" / "metrics.csv")
    ground = recorded.Ground(normal, calls, nodes=nodes({c["service"] for c in normal.columns}))
    rows = []
    for target in sorted(
        folder.glob("*/issue_*/target.json"), key=lambda p: (p.parts[-3], len(p.parts[-2]), p.parts[-2])
    ):
        data = json.loads(target.read_text(encoding="utf-8"))
        node, metric = data["target"]["node"], data["target"]["metric"]
        page = recorded.Page(
            {"alertname": f"objective of {metric} missed", "service": node, "severity": "critical"},
            float(data["target"]["timestamp"]),
        )
        incident, _ = ground.play(table(target.parent / "metrics.csv"), page, late=late)
        truth = data["root_cause"]["node"]
        found = recorded.outcome(incident.roots if incident is not None else (), truth)
        rows.append(
            {
                "issue": "/".join(target.parts[-4:-1]),
                "page": metric,
                "truth": truth,
                "place": "-" if math.isinf(found.position) else found.position,
                "top1": found.hit1,
                "top3": found.hit3,
                "first": found.found[0].service if found.found else "",
                "confidence": found.found[0].confidence if found.found else 0.0,
            }
        )
    return rows
