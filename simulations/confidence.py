"""What a confidence means: of the causes that were given p, about p should be right. The table, and the fit.

Every incident of a fault is looked at twice: when its first page is due (group_wait after it opened), and at the end.
`--storms FILE...` are streams with their truth (lines of kind "truth", `_gt` of each alert); `--worlds A-B` are seeds
of simulated worlds with metrics, alerts and one fault each (simulations/world.py); `--petshop` and `--sockshop` are
folders of recorded faults. `--fit` finds the weights for `aiopsd.correlate.rootcause` on what is given; without it the
shipped ones are judged. Judge them on what they were not fitted on.
"""

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from aiopsd.config import Config, Duration
from aiopsd.correlate.rootcause import SIGNS, confidence
from aiopsd.model import Candidate, Effect, Incident, Upsert
from aiopsd.routing import GROUP_WAIT
from simulations import petshop, recorded, runner, sockshop, storm
from simulations.world import FaultKind, FaultSpec, Scenario, TopologySpec, World

F64 = NDArray[np.float64]
KINDS: tuple[FaultKind, ...] = (
    "slow", "errors", "crash", "memory_leak", "bad_deploy", "bad_config", "pool_exhaustion", "disk_full",
    "noisy_neighbour", "zone_network",
)  # fmt: skip
LENGTH, FAULT_AT, FAULT_FOR = 6 * 3600.0, 5 * 3600.0, 1200.0  # s
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.01)
RIDGE = 1e-2  # of the fit: few observations must not make a weight run away


@dataclass(frozen=True)
class Seen:
    """One look at the causes of one incident."""

    source: str
    when: str  # page | end
    roots: tuple[Candidate, ...]
    right: bool


class _Watching(storm.Player):
    """Remembers the causes of every incident as they stood when its page was due, and as they stand now."""

    def __init__(self, config: Config, write: Any) -> None:
        super().__init__(config, write)
        self.paged: dict[str, Incident] = {}
        self.last: dict[str, Incident] = {}

    def _answer(self, effects: Iterable[Effect]) -> None:
        taken = list(effects)
        for effect in taken:
            if isinstance(effect, Upsert) and isinstance(effect.item, Incident):
                incident = effect.item
                self.last[incident.id] = incident
                if incident.updated_at <= incident.opened_at + GROUP_WAIT:
                    self.paged[incident.id] = incident
        super()._answer(taken)


def of_storm(path: Path) -> Iterator[Seen]:
    """Looks at the main group of every true incident.

    Raises:
        OSError: the stream cannot be read.
        ValueError, KeyError: a line is not of this format.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    home: dict[Any, str] = {}
    into: dict[str, str] = {}

    def write(line: dict[str, Any]) -> None:
        if line["kind"] == "assign":
            home[line["i"]] = line["incident"]
        elif line["kind"] == "merge":
            into[line["from"]] = line["into"]

    player = _Watching(Config(), write)
    where: dict[Any, Counter[str]] = defaultdict(Counter)
    truth: dict[Any, str] = {}
    mine: list[tuple[Any, Any]] = []
    n = 0
    for line in map(json.loads, lines):
        if line["kind"] == "topology":
            player.topology(line)
        elif line["kind"] == "truth":
            truth[line["incident"]] = line["root"]
        elif line["kind"] == "alert":
            key, n = line.get("i", n), n + 1
            player.alert(line, key)
            if line["state"] == "firing" and line["_gt"]["incident"] is not None:
                mine.append((line["_gt"]["incident"], key))
    player.finish()
    for incident, key in mine:
        if (group := home.get(key)) is not None:
            while group in into:
                group = into[group]
            where[incident][group] += 1
    for incident, groups in where.items():
        group = groups.most_common(1)[0][0]
        for when, kept in (("page", player.paged), ("end", player.last)):
            found = kept.get(group)
            if found is not None and found.roots:
                yield Seen("storms", when, found.roots, found.roots[0].service == truth[incident])


def of_world(seed: int) -> Iterator[Seen]:
    """Looks at the incident of the one fault of a world: the one that holds most of what fires meanwhile."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    scenario = Scenario(
        name=f"world-{seed}",
        seed=seed,
        length=Duration(LENGTH),
        topology=TopologySpec(size=int(rng.integers(12, 40))),
        faults=(FaultSpec(kind=kind, at=Duration(FAULT_AT), duration=Duration(FAULT_FOR)),),
    )
    world = World(scenario)
    result = runner.run(recorded.PAGING, runner.events(world), until=scenario.start + LENGTH + 60.0)
    (truth,) = world.truth()
    named = set(truth.affected) | {truth.root}
    during = [
        i for i in result.incidents.values() if truth.start <= i.opened_at <= truth.end and named & set(i.services)
    ]
    if not during:
        return
    incident = max(during, key=lambda i: (len(i.alerts), i.id))
    pages = [n.incident for n in result.notifications if n.incident is not None and n.incident.id == incident.id]
    for when, found in (("page", pages[0] if pages else None), ("end", incident)):
        if found is not None and found.roots:
            yield Seen("worlds", when, found.roots, found.roots[0].service == truth.root)


def of_cases(source: str, cases: Sequence[recorded.Case]) -> Iterator[Seen]:
    """Looks at recorded faults: what was told soon after the page (metrics lag behind it), and the end."""
    player = recorded.Player()
    for case in cases:
        played = player.play(case)
        for when, roots in (("page", played.updated), ("end", played.roots)):
            if roots:
                yield Seen(source, when, roots, roots[0].service == case.truth)


def fit(seen: Sequence[Seen]) -> tuple[float, ...]:
    """Weights of a logistic regression of `right` on `rootcause.SIGNS`; a source weighs as the root of its size."""
    x = np.array([s.roots[0].signs for s in seen])
    y = np.array([s.right for s in seen], np.float64)
    count = Counter(s.source for s in seen)
    w = np.array([1.0 / math.sqrt(count[s.source]) for s in seen])
    w *= len(seen) / w.sum()

    def loss(weights: F64) -> tuple[float, F64]:
        z = x @ weights
        value = float(np.sum(w * (np.logaddexp(0.0, z) - y * z)) + RIDGE * len(seen) / 10.0 * np.sum(weights**2))
        slope = x.T @ (w * (1.0 / (1.0 + np.exp(-z)) - y)) + 2.0 * RIDGE * len(seen) / 10.0 * weights
        return value, slope

    found = minimize(loss, np.zeros(x.shape[1]), jac=True)
    return tuple(round(float(v), 3) for v in found.x)


def table(name: str, seen: Sequence[Seen], weights: Sequence[float] | None) -> dict[str, Any]:
    """Figures of one source: given and right in bins of what was given, and the mean gap between them."""
    given = np.array([_given(s.roots, weights) for s in seen])
    right = np.array([s.right for s in seen], np.float64)
    bins = []
    gap = 0.0
    for low, high in pairwise(BINS):
        at = (given >= low) & (given < high)
        if at.any():
            bins.append(
                {"from": low, "n": int(at.sum()), "given": float(given[at].mean()), "right": float(right[at].mean())}
            )
            gap += float(at.mean()) * abs(bins[-1]["given"] - bins[-1]["right"])
    return {
        "source": name,
        "n": len(seen),
        "given": float(given.mean()),
        "right": float(right.mean()),
        "gap": gap,
        "brier": float(np.mean((given - right) ** 2)),
        "bins": bins,
    }


def _given(roots: Sequence[Candidate], weights: Sequence[float] | None) -> float:
    if weights is None:
        return confidence(roots[0].signs)
    z = float(np.dot(roots[0].signs, weights))
    return min(0.99, max(0.01, 1.0 / (1.0 + math.exp(-z))))


def _show(figures: dict[str, Any]) -> None:
    head = f"{figures['source']:16s} n {figures['n']:4d}  given {figures['given']:.3f}  right {figures['right']:.3f}"
    print(f"{head}  gap {figures['gap']:.3f}  Brier {figures['brier']:.3f}")
    for b in figures["bins"]:
        print(f"    given {b['given']:.2f}  right {b['right']:.2f}  of {b['n']}")


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when nothing could be read."""
    parser = argparse.ArgumentParser(prog="simulations confidence", description=__doc__.split("\n")[0])
    parser.add_argument("--storms", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--worlds", default="", metavar="A-B", help="seeds")
    parser.add_argument("--petshop", type=Path, metavar="DIR")
    parser.add_argument("--sockshop", type=Path, metavar="DIR")
    parser.add_argument("--fit", action="store_true", help="find weights on what is given")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    seen: list[Seen] = []
    try:
        for path in args.storms:
            seen += of_storm(path)
        if args.worlds:
            first, _, last = args.worlds.partition("-")
            for seed in range(int(first), int(last or first) + 1):
                seen += of_world(seed)
        if args.petshop is not None:
            seen += of_cases("petshop", [each for _, each in petshop.cases(args.petshop)])
        if args.sockshop is not None:
            seen += of_cases("sockshop", sockshop.cases(args.sockshop))
    except (OSError, ValueError, KeyError) as e:
        print(f"cannot read: {e}")
        return 2
    if not seen:
        print("nothing to look at: name some storms, worlds or recordings")
        return 2
    weights = fit(seen) if args.fit else None
    parts = [
        table(f"{source} {when}", part, weights)
        for source in dict.fromkeys(s.source for s in seen)
        for when in ("page", "end")
        if (part := [s for s in seen if s.source == source and s.when == when])
    ]
    parts.append(table("all", seen, weights))
    if args.json:
        print(json.dumps({"weights": weights, "tables": parts}))
        return 0
    for figures in parts:
        _show(figures)
    if weights is not None:
        print("\n".join(f"{w:8.3f}  {name}" for w, name in zip(weights, SIGNS, strict=True)))
        print("CONFIDENCE =", weights)
    return 0
