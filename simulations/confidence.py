"""What a confidence means: of the causes given p, about p should be right. Fitted on one thing, judged on another.

Every incident that is told of is looked at twice: when its first page is due (group_wait after it opened), and at the
end. It is right when its first cause is the root of what most of its alerts stem from; so a piece of an outage that
names a victim is wrong, as it is for whoever is paged. What most alerts of which are noise has no root: how sure that
is of itself is shown apart.
A source of faults is named by `GENERATOR:PRESETS:SEEDS` (alert streams, as simulations/storms.py makes or finds them),
`worlds:SEEDS` (simulated worlds with metrics, alerts and one fault each), `petshop:DIR` or `sockshop:DIR` (recorded).
`--fit` finds the weights for `aiopsd.correlate.rootcause` on its sources, `--judge` shows on its own how far what was
given is from what was right: with those weights after a fit, else with the shipped ones. `--foreign` judges each
generator that was fitted on by weights that the others give. `--verdicts N`: of every N-th
incident that is judged, an operator says whether its first cause was right, and the next ones are told accordingly.
"""

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
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
from aiopsd.model import Candidate, Effect, Incident, IncidentState, Upsert, fingerprint
from aiopsd.routing import GROUP_WAIT
from simulations import petshop, recorded, runner, sockshop, storm, storms
from simulations.stream import Stream
from simulations.world import FaultKind, FaultSpec, Scenario, TopologySpec, World

F64 = NDArray[np.float64]
KINDS: tuple[FaultKind, ...] = (
    "slow", "errors", "crash", "memory_leak", "bad_deploy", "bad_config", "pool_exhaustion", "disk_full",
    "noisy_neighbour", "zone_network",
)  # fmt: skip
LENGTH, FAULT_AT, FAULT_FOR = 6 * 3600.0, 5 * 3600.0, 1200.0  # s
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.01)
# Which way each of `rootcause.SIGNS` may move a confidence: a weight that a generator would turn round is none.
WAYS = {"gap": 1, "heard gap": 1, "foreign": -1, "below": -1, "travels": -1, "shatter": -1, "company": -1}
SAY = 300.0  # looks after which a generator has half of its say: they come in bunches, some ten to an outage
RIDGE = 2e-4  # of the fit: few observations must not make a weight run away


@dataclass(frozen=True)
class Seen:
    """One look at the causes of one incident."""

    source: str
    when: str  # page | end
    roots: tuple[Candidate, ...]
    right: bool | None  # None: most of its alerts are noise, and there is nothing to be right about


class _Watching(storm.Player):
    """Remembers every incident as it stood when its page was due, and as it stands now; and whose each alert is."""

    def __init__(self, owners: Mapping[Hashable, Hashable]) -> None:
        super().__init__(Config(), lambda line: None)
        self.owners = owners  # line -> true incident, None for noise
        self.owner: dict[str, Hashable] = {}  # the same by fingerprint
        self.paged: dict[str, Incident] = {}
        self.last: dict[str, Incident] = {}

    def alert(self, line: dict[str, Any], i: Any) -> None:
        if i in self.owners:
            self.owner[fingerprint(storm.labels_of(line, i))] = self.owners[i]
        super().alert(line, i)

    def stems_from(self, incident: Incident) -> Hashable:
        """The true incident of most of its alerts; None: noise."""
        counts = Counter(self.owner.get(fp) for fp in incident.alerts)
        return max(counts, key=counts.__getitem__, default=None)

    def _answer(self, effects: Iterable[Effect]) -> None:
        taken = list(effects)
        for effect in taken:
            if isinstance(effect, Upsert) and isinstance(effect.item, Incident):
                incident = effect.item
                self.last[incident.id] = incident
                if incident.updated_at <= incident.opened_at + GROUP_WAIT:
                    self.paged[incident.id] = incident
        super()._answer(taken)


def of_stream(stream: Stream) -> Iterator[Seen]:
    """Looks at every incident of a stream."""
    player = _Watching({fired.key: fired.truth for fired in stream.fired})
    storm.play(stream.lines(), player.write, player=player)
    for key, last in player.last.items():
        for when, incident in (("page", player.paged[key]), ("end", last)):
            if incident.state is IncidentState.MERGED or not incident.roots:
                continue
            true = player.stems_from(incident)
            named = incident.roots[0].service or storm.UNKNOWN
            right = None if true is None else named == stream.roots.get(true)
            yield Seen(stream.name.rpartition("-")[0], when, incident.roots, right)


def of_world(seed: int) -> Iterator[Seen]:
    """Looks at the incidents of the one fault of a world: those that open meanwhile and hold what it reaches."""
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
    first = {n.incident.id: n.incident for n in reversed(result.notifications) if n.incident is not None}
    for incident in during:
        for when, found in (("page", first.get(incident.id)), ("end", incident)):
            if found is not None and found.roots and found.state is not IncidentState.MERGED:
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


def generator_of(source: str) -> str:
    """What made a source, whatever its presets and seeds."""
    return source.partition(":")[0]


def fit(parts: Mapping[str, Sequence[Seen]]) -> tuple[float, ...]:
    """Weights of a logistic regression of `right` on `rootcause.SIGNS`, each as its WAYS allow.

    Args:
        parts: source (GENERATOR:...) -> its looks. Generators weigh nearly alike, however many their looks are beyond
            SAY; within one, a preset or a recording as the root of their number.
    """
    seen = [(generator_of(source), s) for source, part in parts.items() for s in part if s.right is not None]
    sizes = Counter((generator, s.source) for generator, s in seen)
    raw = [1.0 / math.sqrt(sizes[generator, s.source]) for generator, s in seen]
    whole: dict[str, float] = defaultdict(float)
    for (generator, _), weight in zip(seen, raw, strict=True):
        whole[generator] += weight
    many = Counter(generator for generator, _ in seen)
    say = {generator: n / (n + SAY) / whole[generator] for generator, n in many.items()}
    w = np.array([weight * say[generator] for (generator, _), weight in zip(seen, raw, strict=True)])
    w /= w.sum()
    x = np.array([s.roots[0].signs for _, s in seen])
    y = np.array([s.right for _, s in seen], np.float64)

    def loss(weights: F64) -> tuple[float, F64]:
        z = x @ weights
        value = float(np.sum(w * (np.logaddexp(0.0, z) - y * z)) + RIDGE * np.sum(weights**2) / 2.0)
        return value, x.T @ (w * (1.0 / (1.0 + np.exp(-z)) - y)) + RIDGE * weights

    bounds = [(0.0 if WAYS.get(n) == 1 else None, 0.0 if WAYS.get(n) == -1 else None) for n in SIGNS]
    found = minimize(loss, np.zeros(x.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B")
    return tuple(round(float(v), 3) for v in found.x)


def given(seen: Sequence[Seen], weights: Sequence[float] | None = None, verdicts: int = 0) -> list[float]:
    """What is given at each look; an operator judges every `verdicts`-th incident of a source at its end (0: none)."""
    out: list[float] = []
    trusts: dict[str, Trust] = defaultdict(Trust)
    ended: Counter[str] = Counter()
    for look in seen:
        trust = trusts[look.source]
        out.append(_given(look.roots, weights, trust.shift))
        ended[look.source] += look.when == "end" and look.right is not None
        if verdicts and look.right is not None and look.when == "end" and ended[look.source] % verdicts == 0:
            trust.learn(out[-1], look.right)
    return out


def table(name: str, seen: Sequence[Seen], said: Sequence[float]) -> dict[str, Any]:
    """Figures of one source: given (`said`, one a look) and right in bins of what was given.

    `ece`: the mean gap between them, weighed by the size of the bins (expected calibration error, Naeini et al. 2015).
    `skill`: part of the Brier score of saying the share that is right every time which is avoided; 1 is perfect, below
    0 is worse than that share. What is noise counts in `noise` and its mean, `noise_given`, and in nothing else.
    """
    noise = [p for s, p in zip(seen, said, strict=True) if s.right is None]
    given = np.array([p for s, p in zip(seen, said, strict=True) if s.right is not None])
    right = np.array([s.right for s in seen if s.right is not None], np.float64)
    bins = []
    gap = 0.0
    for low, high in pairwise(BINS):
        at = (given >= low) & (given < high)
        if at.any():
            bins.append(
                {"from": low, "n": int(at.sum()), "given": float(given[at].mean()), "right": float(right[at].mean())}
            )
            gap += float(at.mean()) * abs(bins[-1]["given"] - bins[-1]["right"])
    brier, usual = float(np.mean((given - right) ** 2)), float(right.mean() * (1.0 - right.mean()))
    return {
        "source": name,
        "n": len(given),
        "given": float(given.mean()),
        "right": float(right.mean()),
        "ece": gap,
        "brier": brier,
        "skill": 1.0 - brier / usual if usual > 0.0 else None,
        "noise": len(noise),
        "noise_given": float(np.mean(noise)) if noise else None,
        "bins": bins,
    }


def _given(roots: Sequence[Candidate], weights: Sequence[float] | None, trust: float) -> float:
    if weights is None:
        return confidence(roots[0].signs, trust)
    z = trust + float(np.dot(roots[0].signs, weights))
    return min(0.99, max(0.01, 1.0 / (1.0 + math.exp(-z))))


def _show(figures: dict[str, Any]) -> None:
    head = f"{figures['source']:16s} n {figures['n']:4d}  given {figures['given']:.3f}  right {figures['right']:.3f}"
    skill = "" if figures["skill"] is None else f"  skill {figures['skill']:.2f}"
    noise = f"  noise {figures['noise']}, given {figures['noise_given']:.2f}" if figures["noise"] else ""
    print(f"{head}  ECE {figures['ece']:.3f}  Brier {figures['brier']:.3f}{skill}{noise}")
    for b in figures["bins"]:
        print(f"    given {b['given']:.2f}  right {b['right']:.2f}  of {b['n']}")


def tables_of(looks: Sequence[Seen], said: Sequence[float]) -> list[dict[str, Any]]:
    """One for each source and look that has anything to be right about."""
    parts: dict[tuple[str, str], tuple[list[Seen], list[float]]] = {}
    for look, p in zip(looks, said, strict=True):
        part = parts.setdefault((look.source, look.when), ([], []))
        part[0].append(look)
        part[1].append(p)
    return [
        table(f"{source} {when}", *part)
        for (source, when), part in parts.items()
        if any(s.right is not None for s in part[0])
    ]


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when nothing could be read."""
    parser = argparse.ArgumentParser(prog="simulations confidence", description=__doc__.split("\n")[0])
    parser.add_argument("--fit", nargs="+", default=[], metavar="SOURCE", help="find weights on these")
    parser.add_argument("--judge", nargs="+", default=[], metavar="SOURCE", help="what is given and right on these")
    parser.add_argument("--foreign", action="store_true", help="judge each fitted generator by weights of the others")
    parser.add_argument("--verdicts", type=int, default=0, metavar="N", help="every N-th judged incident has a verdict")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        parts = {source: found for source in args.fit if (found := list(looks(source)))}
        judged = [look for source in args.judge for look in looks(source)]
    except (OSError, ImportError, ValueError, KeyError) as e:
        print(f"cannot read: {e}")
        return 2
    fitted = [look for part in parts.values() for look in part]
    if not fitted and not judged:
        print("nothing to look at: name some sources")
        return 2
    weights = fit(parts) if fitted else None
    tables = [table("fitted on", fitted, given(fitted, weights))] if fitted else []
    for out in dict.fromkeys(map(generator_of, parts)) if args.foreign else ():
        others = {source: part for source, part in parts.items() if generator_of(source) != out}
        there = [look for source, part in parts.items() if generator_of(source) == out for look in part]
        if others:
            tables += [
                t | {"source": f"foreign {t['source']}"}
                for t in tables_of(there, given(there, fit(others), args.verdicts))
            ]
    said = given(judged, weights, args.verdicts)
    tables += tables_of(judged, said)
    tables += [table("judged on", judged, said)] if judged else []
    if args.json:
        print(json.dumps({"weights": weights, "tables": tables}))
        return 0
    for figures in tables:
        _show(figures)
    if weights is not None:
        print("\n".join(f"{w:8.3f}  {name}" for w, name in zip(weights, SIGNS, strict=True)))
        print("CONFIDENCE =", weights)
    return 0
