"""What a confidence means: of the causes given p, about p should be right. Fitted on one thing, judged on another.

Every incident of a fault is looked at twice: when its first page is due (group_wait after it opened), and at the end.
A source of faults is named by `GENERATOR:PRESETS:SEEDS` (alert streams, as simulations/storms.py makes or finds them),
`worlds:SEEDS` (simulated worlds with metrics, alerts and one fault each), `petshop:DIR` or `sockshop:DIR` (recorded).
`--fit` finds the weights for `aiopsd.correlate.rootcause` on its sources, `--judge` shows on its own how far what was
given is from what was right: with those weights after a fit, else with the shipped ones. `--verdicts N`: of every N-th
incident that is judged, an operator says whether its first cause was right, and the next ones are told accordingly.
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
from aiopsd.correlate.trust import Trust
from aiopsd.model import Candidate, Effect, Incident, Upsert
from aiopsd.routing import GROUP_WAIT
from simulations import petshop, recorded, runner, sockshop, storm, storms
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


def of_stream(stream: storms.Stream) -> Iterator[Seen]:
    """Looks at the main group of every true incident."""
    homes = storm.Homes()
    player = _Watching(Config(), homes.take)
    storm.play(stream.lines(), homes.take, player=player)
    home = homes.all()
    where: dict[Any, Counter[str]] = defaultdict(Counter)
    for fired in stream.fired:
        if fired.truth is not None and (group := home.get(fired.key)) is not None:
            where[fired.truth][group] += 1
    for incident, groups in where.items():
        group = groups.most_common(1)[0][0]
        for when, kept in (("page", player.paged), ("end", player.last)):
            found = kept.get(group)
            if found is not None and found.roots and incident in stream.roots:
                named = found.roots[0].service or storm.UNKNOWN
                yield Seen(stream.name.rpartition("-")[0], when, found.roots, named == stream.roots[incident])


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


def looks(source: str) -> Iterator[Seen]:
    """Looks at a source by its name.

    Raises:
        OSError, ImportError, ValueError, KeyError: it cannot be read.
    """
    kind, _, rest = source.partition(":")
    if kind == "worlds":
        for seed in storms.seeds(rest):
            yield from of_world(seed)
    elif kind == "petshop":
        yield from of_cases(kind, [each for _, each in petshop.cases(Path(rest))])
    elif kind == "sockshop":
        yield from of_cases(kind, sockshop.cases(Path(rest)))
    else:
        presets, _, numbers = rest.partition(":")
        for made in storms.streams(kind, presets.split(","), storms.seeds(numbers)).values():
            for stream in made:
                yield from of_stream(stream)


def fit(parts: Sequence[Sequence[Seen]]) -> tuple[float, ...]:
    """Weights of a logistic regression of `right` on `rootcause.SIGNS`; a part weighs as the root of its size."""
    seen = [look for part in parts for look in part]
    x = np.array([s.roots[0].signs for s in seen])
    y = np.array([s.right for s in seen], np.float64)
    w = np.array([1.0 / math.sqrt(len(part)) for part in parts for _ in part])
    w *= len(seen) / w.sum()

    def loss(weights: F64) -> tuple[float, F64]:
        z = x @ weights
        value = float(np.sum(w * (np.logaddexp(0.0, z) - y * z)) + RIDGE * len(seen) / 10.0 * np.sum(weights**2))
        slope = x.T @ (w * (1.0 / (1.0 + np.exp(-z)) - y)) + 2.0 * RIDGE * len(seen) / 10.0 * weights
        return value, slope

    found = minimize(loss, np.zeros(x.shape[1]), jac=True)
    return tuple(round(float(v), 3) for v in found.x)


def given(seen: Sequence[Seen], weights: Sequence[float] | None = None, verdicts: int = 0) -> list[float]:
    """What is given at each look; an operator judges every `verdicts`-th incident of a source at its end (0: none)."""
    out: list[float] = []
    trusts: dict[str, Trust] = defaultdict(Trust)
    ended: Counter[str] = Counter()
    for look in seen:
        trust = trusts[look.source]
        out.append(_given(look.roots, weights, trust.shift))
        ended[look.source] += look.when == "end"
        if verdicts and look.when == "end" and ended[look.source] % verdicts == 0:
            trust.learn(out[-1], look.right)
    return out


def table(name: str, seen: Sequence[Seen], said: Sequence[float]) -> dict[str, Any]:
    """Figures of one source: given (`said`, one a look) and right in bins of what was given.

    `ece`: the mean gap between them, weighed by the size of the bins (expected calibration error, Naeini et al. 2015).
    """
    given = np.array(said)
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
        "ece": gap,
        "brier": float(np.mean((given - right) ** 2)),
        "bins": bins,
    }


def _given(roots: Sequence[Candidate], weights: Sequence[float] | None, trust: float) -> float:
    if weights is None:
        return confidence(roots[0].signs, trust)
    z = trust + float(np.dot(roots[0].signs, weights))
    return min(0.99, max(0.01, 1.0 / (1.0 + math.exp(-z))))


def _show(figures: dict[str, Any]) -> None:
    head = f"{figures['source']:16s} n {figures['n']:4d}  given {figures['given']:.3f}  right {figures['right']:.3f}"
    print(f"{head}  ECE {figures['ece']:.3f}  Brier {figures['brier']:.3f}")
    for b in figures["bins"]:
        print(f"    given {b['given']:.2f}  right {b['right']:.2f}  of {b['n']}")


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when nothing could be read."""
    parser = argparse.ArgumentParser(prog="simulations confidence", description=__doc__.split("\n")[0])
    parser.add_argument("--fit", nargs="+", default=[], metavar="SOURCE", help="find weights on these")
    parser.add_argument("--judge", nargs="+", default=[], metavar="SOURCE", help="what is given and right on these")
    parser.add_argument("--verdicts", type=int, default=0, metavar="N", help="every N-th judged incident has a verdict")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        parts = [found for source in args.fit if (found := list(looks(source)))]
        judged = [look for source in args.judge for look in looks(source)]
    except (OSError, ImportError, ValueError, KeyError) as e:
        print(f"cannot read: {e}")
        return 2
    fitted = [look for part in parts for look in part]
    if not fitted and not judged:
        print("nothing to look at: name some sources")
        return 2
    weights = fit(parts) if fitted else None
    tables = [table("fitted on", fitted, given(fitted, weights))] if fitted else []
    said = list(zip(judged, given(judged, weights, args.verdicts), strict=True))
    tables += [
        table(f"{source} {when}", [s for s, _ in part], [p for _, p in part])
        for source in dict.fromkeys(s.source for s in judged)
        for when in ("page", "end")
        if (part := [(s, p) for s, p in said if s.source == source and s.when == when])
    ]
    tables += [table("judged on", judged, [p for _, p in said])] if judged else []
    if args.json:
        print(json.dumps({"weights": weights, "tables": tables}))
        return 0
    for figures in tables:
        _show(figures)
    if weights is not None:
        print("\n".join(f"{w:8.3f}  {name}" for w, name in zip(weights, SIGNS, strict=True)))
        print("CONFIDENCE =", weights)
    return 0
