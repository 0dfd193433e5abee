"""Reader of the PetShop data set (arXiv 2311.04806): one scenario folder with graph.csv, noissue/, train/, test/.

A folder without fault-free days of its own (the temporal ones, in the public copies) borrows those of the first that
has them; say so when figures of it are shown.

metrics.csv has three header rows (node, metric, statistic), a fourth with the index's name, then one row every five
minutes: unix time and a value per column. Empty cells are no sample.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
DAY = 86400.0
NORMAL = Path("noissue") / "metrics.csv"


@dataclass(frozen=True)
class Frame:
    """Columns (node, metric, statistic), ts: float64[rows] in UTC seconds, values: float64[rows, columns],
    NaN: no sample. Rows are in order of time.
    """

    columns: tuple[tuple[str, str, str], ...]
    ts: F64
    values: F64


@dataclass(frozen=True)
class Issue:
    """An injected fault: where and when its target was alerted, and the node that caused it."""

    name: str  # e.g. test/issue_3
    frame: Frame
    node: str
    metric: str
    ts: float
    root: str


@dataclass(frozen=True)
class Scenario:
    """`edges`: (caller, callee)."""

    name: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]
    normal: Frame
    borrowed: str  # folder whose fault-free days these are; "": its own
    issues: tuple[Issue, ...]

    def inferred(self, node: str) -> bool:
        """Names are those of AWS X-Ray, `name_type`: a remote or a client was only seen from its other end."""
        return node.rsplit("_", 1)[-1] in ("remote", "client")


def frame(path: Path) -> Frame:
    """One metrics.csv.

    Raises:
        OSError: it is missing.
    """
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    nodes, metrics, statistics = rows[:3]
    body = [row for row in rows[3:] if row[0] and row[0][0].isdigit()]
    cells = [[float(cell) if cell else np.nan for cell in row[1:]] for row in body]
    return Frame(
        columns=tuple(zip(nodes[1:], metrics[1:], statistics[1:], strict=True)),
        ts=np.array([float(row[0]) for row in body]),
        values=np.array(cells),
    )


def scenario(folder: Path, days: Path | None = None) -> Scenario:
    """One scenario folder, e.g. low_traffic; issues in the order train, test, by number.

    Args:
        folder: where it is.
        days: the folder whose fault-free days stand in for its own.

    Raises:
        OSError: a file is missing.
    """
    with (folder / "graph.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    edges = [(row[0], callee) for row in rows for callee, x in zip(header[1:], row[1:], strict=True) if float(x)]
    issues = []
    for split in ("train", "test"):
        for path in sorted((folder / split).glob("issue_*"), key=lambda p: int(p.name.partition("_")[2])):
            said = json.loads((path / "target.json").read_text())
            issues.append(
                Issue(
                    name=f"{split}/{path.name}",
                    frame=frame(path / "metrics.csv"),
                    node=said["target"]["node"],
                    metric=said["target"]["metric"],
                    ts=float(said["target"]["timestamp"]),
                    root=said["root_cause"]["node"],
                )
            )
    return Scenario(
        name=folder.name,
        nodes=tuple(header[1:]),
        edges=tuple(edges),
        normal=frame((days or folder) / NORMAL),
        borrowed=days.name if days is not None else "",
        issues=tuple(issues),
    )


def scenarios(root: Path) -> list[Scenario]:
    """Every scenario below `root`; none when no folder has fault-free days."""
    folders = [path.parent for path in sorted(root.glob("*/graph.csv"))]
    own = [f for f in folders if (f / NORMAL).exists()]
    return [scenario(f, None if f in own else own[0]) for f in folders if own]


def days_after(normal: Frame, issue: Issue) -> float:
    """Seconds, a whole number of days, that move the issue behind the fault-free days: the time of day stays true."""
    return float(np.ceil((normal.ts[-1] + 1.0 - issue.frame.ts[0]) / DAY)) * DAY
