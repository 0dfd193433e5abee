"""Loaders of labelled public series; the folder is always an argument, nothing is kept here.

Layouts: NAB (https://github.com/numenta/NAB: data/, labels/), Microsoft's cloud monitoring dataset
(https://github.com/microsoft/cloud-monitoring-dataset: data/*/*.csv) and JumpStarter's services as one .npz each
(values float32[rows, metrics], label uint8[rows], first_labelled int).
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.scoring import Labelled, windows_of_labels

F64 = NDArray[np.float64]


def _seconds(stamps: list[str]) -> F64:
    """UTC seconds of ISO 8601 stamps with a space or a T, with or without a Z."""
    clean = [s.strip().rstrip("Z").replace(" ", "T") for s in stamps]
    out: F64 = np.array(clean, dtype="datetime64[us]").astype(np.int64) / 1e6
    return out


def nab(root: Path) -> list[Labelled]:
    """The series of NAB with their combined windows, by name; windows are given by NAB as stamps of rows.

    Raises:
        OSError: a file is missing.
    """
    windows = json.loads((root / "labels" / "combined_windows.json").read_text())
    points = json.loads((root / "labels" / "combined_labels.json").read_text())
    out = []
    for name in sorted(windows):
        with (root / "data" / name).open(newline="") as f:
            rows = [(r["timestamp"], float(r["value"])) for r in csv.DictReader(f)]
        ts, values = _seconds([r[0] for r in rows]), np.array([r[1] for r in rows])
        first = {t: i for i, t in reversed(list(enumerate(ts.astype(np.int64).tolist())))}

        def row(stamp: str, first: dict[int, int] = first) -> int:
            return first[int(_seconds([stamp])[0])]

        out.append(
            Labelled(
                name=name,
                ts=ts,
                values=values,
                windows=tuple((row(a), row(b)) for a, b in windows[name]),
                points=tuple(row(p) for p in points[name]),
            )
        )
    return out


def cloud_monitoring(root: Path) -> list[Labelled]:
    """The series of the cloud monitoring dataset; an event is a run of labelled rows, one row early to three late."""
    out = []
    for path in sorted(root.glob("data/*/*.csv")):
        with path.open(newline="", encoding="utf-8-sig") as f:
            rows = list(csv.DictReader(f))
        ts = _seconds([r["TimeStamp"] for r in rows])
        values = np.array([float(r["Value"] or "nan") for r in rows])
        label = np.array([float(r["Label"] or 0) > 0 for r in rows])
        order = np.argsort(ts, kind="stable")
        order = order[np.isfinite(values[order])]
        ts, values, label = ts[order], values[order], label[order]
        out.append(windows_of_labels(str(path.relative_to(root / "data")), ts, values, label))
    return out


@dataclass(frozen=True)
class Services:
    """Services of several metrics each: values float64[rows, services, metrics] at ts float64[rows]."""

    ts: F64
    values: F64
    labelled: list[Labelled]  # one a service, its values left empty


def jumpstarter(root: Path) -> Services:
    """Services on one time axis of 5-minute rows; rows before `first_labelled` are the probation."""
    names, values, labelled = [], [], []
    for path in sorted(root.glob("*.npz")):
        with np.load(path) as z:
            values.append(z["values"].astype(float))
            names.append((path.stem, z["label"].astype(bool), int(z["first_labelled"])))
    if not values:
        raise OSError(f"no .npz file in {root}")
    rows = min(len(v) for v in values)
    ts: F64 = np.arange(rows, dtype=np.float64) * 300.0 + 1_577_836_800.0  # the recordings carry no dates; a midnight
    for name, label, first in names:
        labelled.append(windows_of_labels(name, ts, np.zeros(rows), label[:rows], probation=first))
    return Services(ts, np.stack([v[:rows] for v in values], axis=1), labelled)
