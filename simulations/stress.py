"""The same recorded faults, worse: what a monitoring system in the field loses, renames, delays or rounds.

Each perturbation makes another case of a case, from a seed; the scorecards of recorded faults play all of them with
`--stress`. A rule that only fits the recording as it is falls with one of these.
"""

import argparse
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aiopsd.model import Node
from simulations import storms
from simulations.recorded import Case, Player, Table, figures, row

Change = Callable[[Case, np.random.Generator], Case]


def page_moved(seconds: float) -> Change:
    """The alert comes so much later (earlier: negative)."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        page = case.page
        return replace(case, page=replace(page, at=page.at + seconds)) if page is not None else case

    return change


def no_page(case: Case, rng: np.random.Generator) -> Case:
    """Nobody is paged: our own anomalies are all there is."""
    return replace(case, page=None)


def page_elsewhere(case: Case, rng: np.random.Generator) -> Case:
    """Another service between the paged one and the cause is the one that alerts."""
    if case.page is None:
        return case
    above = _reach(case.truth, [(b, a) for a, b in case.edges])
    between = sorted((_reach(case.page.labels["service"], case.edges) & above) - {case.truth})
    if not between:
        return case
    named = case.page.labels | {"service": str(rng.choice(between))}
    return replace(case, page=replace(case.page, labels=named))


def edges_missing(share: float) -> Change:
    """Some of the graph is not known."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        kept = tuple(e for e in case.edges if rng.random() >= share)
        return replace(case, edges=kept)

    return change


def services_silent(share: float) -> Change:
    """Some of the services other than the cause and the paged one export nothing."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        keep = {case.truth, case.page.labels["service"] if case.page is not None else ""}
        others = sorted({c["service"] for c in case.normal.columns} - keep)
        silent = {s for s in others if rng.random() < share}
        case = replace(case, ground=(case.ground, case.truth))
        return _tables(case, lambda t: _columns(t, [i for i, c in enumerate(t.columns) if c["service"] not in silent]))

    return change


def services_renamed(case: Case, rng: np.random.Generator) -> Case:
    """Names of services that say nothing."""
    names = sorted({c["service"] for c in case.normal.columns} | {n for e in case.edges for n in e} | {case.truth})
    order = rng.permutation(len(names))
    new = {name: f"s{int(k):03d}" for name, k in zip(names, order, strict=True)}
    nodes = tuple(Node(name=new.get(n.name, n.name), kind=n.kind, labels=n.labels) for n in case.nodes)
    page = case.page
    if page is not None:
        page = replace(page, labels=page.labels | {"service": new[page.labels["service"]]})
    case = replace(
        case,
        edges=tuple((new[a], new[b]) for a, b in case.edges),
        nodes=nodes,
        page=page,
        truth=new[case.truth],
    )
    return _tables(case, lambda t: _relabel(t, "service", new))


def metrics_renamed(case: Case, rng: np.random.Generator) -> Case:
    """Names of metrics that say nothing of their kind, nor of their direction."""
    names = sorted({c["__name__"] for c in case.normal.columns})
    new = {name: f"m{int(k):02d}" for name, k in zip(names, rng.permutation(len(names)), strict=True)}
    page = replace(case.page, labels=case.page.labels | {"alertname": "page"}) if case.page is not None else None
    case = replace(case, page=page, metric=new.get(case.metric, ""))
    return _tables(case, lambda t: _relabel(t, "__name__", new))


def noise(share: float) -> Change:
    """Every sample is off by about so much of its value; of what is nearly always 100 %, by so much of what is lost."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        percent = _percentages(case.normal)

        def noisy(t: Table) -> Table:
            whole = np.array([100.0 * (c["__name__"] in percent) for c in t.columns])
            factor = np.exp(rng.normal(0.0, share, t.values.shape))
            return _values(t, np.where(whole > 0.0, whole - (whole - t.values) * factor, t.values * factor))

        return _tables(case, noisy)

    return change


def other_units(case: Case, rng: np.random.Generator) -> Case:
    """Each metric in a unit of its own: milliseconds, kilobytes; a share of requests as a fraction."""
    names = sorted({c["__name__"] for c in case.normal.columns})
    unit = {name: 10.0 ** float(rng.integers(-3, 4)) for name in names}
    unit |= dict.fromkeys(_percentages(case.normal), 0.01)
    return _tables(case, lambda t: _values(t, t.values * np.array([unit[c["__name__"]] for c in t.columns])))


def _percentages(table: Table) -> set[str]:
    """Metrics that are a percentage and nearly always whole."""
    found = set()
    for name in {c["__name__"] for c in table.columns}:
        values = table.values[:, [c["__name__"] == name for c in table.columns]]
        if np.nanmax(values) <= 100.0 and np.nanmedian(values) == 100.0:
            found.add(name)
    return found


def coarser(every: int) -> Change:
    """Only each so-manieth sample was kept."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        def some(t: Table) -> Table:
            rows = np.arange(len(t.ts) - 1, -1, -every)[::-1]
            return Table(t.columns, t.ts[rows], t.values[rows])

        return _tables(case, some)

    return change


def samples_lost(share: float) -> Change:
    """Some samples never arrived."""

    def change(case: Case, rng: np.random.Generator) -> Case:
        return _tables(case, lambda t: _values(t, np.where(rng.random(t.values.shape) < share, np.nan, t.values)))

    return change


def other_hour(case: Case, rng: np.random.Generator) -> Case:
    """It happens at another hour of the day than it did."""
    seconds = float(rng.integers(1, 24)) * 3600.0
    fault = replace(case.fault, ts=case.fault.ts + seconds)
    page = case.page
    if page is not None:
        since = page.since + seconds if not math.isnan(page.since) else page.since
        page = replace(page, at=page.at + seconds, since=since)
    return replace(case, fault=fault, page=page)


def unlabelled(case: Case, rng: np.random.Generator) -> Case:
    """The graph says nothing of its nodes but their names."""
    return replace(case, nodes=tuple(Node(name=n.name) for n in case.nodes))


CHANGES: dict[str, Change] = {
    "as recorded": lambda case, rng: case,
    "page 5 min late": page_moved(300.0),
    "page 10 min late": page_moved(600.0),
    "page 15 min late": page_moved(900.0),
    "page 5 min early": page_moved(-300.0),
    "page on a service between": page_elsewhere,
    "no page": no_page,
    "10 % of edges missing": edges_missing(0.1),
    "30 % of edges missing": edges_missing(0.3),
    "no edges at all": edges_missing(1.0),
    "half of the others silent": services_silent(0.5),
    "nodes without labels": unlabelled,
    "services renamed": services_renamed,
    "metrics renamed": metrics_renamed,
    "noise of 5 %": noise(0.05),
    "other units": other_units,
    "10 % of samples lost": samples_lost(0.1),
    "every second sample": coarser(2),
    "another hour": other_hour,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """`--stress` and `--seeds`."""
    parser.add_argument("--stress", nargs="?", const="", metavar="NAME", help="perturbed; only those named like this")
    parser.add_argument("--seeds", type=storms.seeds, default=[0], metavar="FIRST-LAST", help="draws of --stress")


def run(cases: Sequence[Case], only: str, seeds: Sequence[int], *, quiet: bool = False) -> list[dict[str, Any]]:
    """One row of figures, over all seeds, for each perturbation whose name contains `only`; printed unless `quiet`."""
    out: list[dict[str, Any]] = []
    for name, change in CHANGES.items():
        if only not in name:
            continue
        rows = []
        for seed in seeds:
            player = Player()
            for case in cases:
                # one seed a ground: cases that share fault-free data still share it afterwards
                rng = np.random.default_rng([seed, zlib.crc32(repr(case.ground).encode())])
                worse = change(case, rng)
                rows.append(row(worse, player.play(worse)))
        out.append({"stress": name} | {k: round(v, 3) for k, v in figures(rows).items()})
        if not quiet:
            print("  ".join(f"{v:<26s}" if k == "stress" else f"{k} {v:.3f}" for k, v in out[-1].items()), flush=True)
    return out


def _reach(start: str, edges: Sequence[tuple[str, str]]) -> set[str]:
    found, front = {start}, [start]
    while front:
        here = front.pop()
        for a, b in edges:
            if a == here and b not in found:
                found.add(b)
                front.append(b)
    return found


def _tables(case: Case, change: Callable[[Table], Table]) -> Case:
    return replace(case, normal=change(case.normal), fault=change(case.fault))


def _columns(table: Table, kept: Sequence[int]) -> Table:
    return Table(tuple(table.columns[i] for i in kept), table.ts, table.values[:, list(kept)])


def _values(table: Table, values: Any) -> Table:
    return Table(table.columns, table.ts, values)


def _relabel(table: Table, label: str, new: dict[str, str]) -> Table:
    return Table(tuple(c | {label: new.get(c[label], c[label])} for c in table.columns), table.ts, table.values)
