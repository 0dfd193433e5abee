"""What each constant of the bank and the join is worth: figures with it 30 % lower and 30 % higher, on all sets.

A constant that was fitted shows as an edge: a figure that falls on one side of it. `--data` is a folder with nab/,
cloud-monitoring/ and jumpstarter/; the synthetic services stand beside them. "kept" is the mean onset recall within
budgets of .02 to .2 false alarms a day, at thresholds of the configuration: where a figure at one threshold jumps, it
says whether something was lost or only moved.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec
import numpy as np

from aiopsd.detect import join
from aiopsd.detect.bank import Policy, bars, breaks, peaks, ranges, seasons, stillness
from aiopsd.detect.join import JoinPolicy
from simulations import datasets, detection, jumpstarter, replay, synthetic, telemetry
from simulations.detection import THRESHOLDS, rows_of
from simulations.scoring import Labelled, Sweep, score_alarms

_P = TypeVar("_P", Policy, JoinPolicy)
BUDGETS = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
SWEPT = THRESHOLDS[::2]

BANK = (bars, breaks, peaks, ranges, seasons, stillness)
JOIN = (join,)
#: constants of modules; those that follow from another one are computed from it there
OF_BANK = ("BAR_FIRST", "BAR_LEAST", "BAR_STEP", "PART", "ADOPTED", "CLIP", "BRIEF", "SEASON_DAYS", "MENTION")
OF_JOIN = ("HALF_LIFE", "ADOPT", "WIDE", "RENEW", "RAMP", "ECHO", "WEARY", "MOST", "RESTED", "NOISE")
POLICY = ("samples", "growth", "warm", "warm_seconds", "hold", "theta", "alarms")
JOIN_POLICY = ("threshold", "resolve_after")


@dataclass
class Set:
    """A corpus and what its bank said at the shipped constants."""

    name: str
    corpus: Sequence[Labelled]
    columns: replay.Columns
    heard: replay.Heard


@contextmanager
def changed(modules: Sequence[ModuleType], name: str, times: float) -> Iterator[None]:
    """The constant, wherever it is used, so many times as large; a whole number stays one and moves by at least 1."""
    places = [module for module in modules if hasattr(module, name)]
    was = getattr(places[0], name)
    for module in places:
        setattr(module, name, _times(was, times))
    try:
        yield
    finally:
        for module in places:
            setattr(module, name, was)


def _times(value: Any, times: float) -> Any:
    if isinstance(value, int):
        return max(round(value * times), 1) if round(value * times) != value else value + (1 if times > 1 else -1)
    return type(value)(value * times)


def figures(s: Set, heard: replay.Heard, policy: JoinPolicy) -> dict[str, float]:
    """At the threshold of the policy, and kept within the budgets."""
    now = score_alarms(s.corpus, rows_of(s.corpus, replay.tell(heard, policy)))
    swept = [replay.tell(heard, msgspec.structs.replace(policy, threshold=t)) for t in SWEPT]
    sweep = Sweep(s.corpus, SWEPT, [rows_of(s.corpus, alarms) for alarms in swept])
    within = [sweep.within(b) for b in BUDGETS]
    kept = [0.0 if i is None else sweep.figures(i).onset_recall for i in within]
    return {
        "onset_recall": now.onset_recall,
        "onset_false_per_day": now.onset_false_per_day,
        "f1": now.f1,
        "kept": float(np.mean(kept)),
    }


def load(root: Path, seeds: Sequence[int]) -> list[Set]:
    """All sets, heard at the shipped constants.

    Raises:
        OSError: a folder cannot be read.
    """
    services = datasets.jumpstarter(root / "jumpstarter")
    made = [s for seed in seeds for s in telemetry.fleet(seed)]
    nab, cloud = datasets.nab(root / "nab"), datasets.cloud_monitoring(root / "cloud-monitoring")
    out = []
    for name, corpus, inputs in (
        ("nab", nab, detection.single(nab)),
        ("cloud", cloud, detection.single(cloud)),
        ("jumpstarter", services.labelled, jumpstarter.inputs(services)),
        ("synthetic", synthetic.labelled(made), synthetic.inputs(made)),
    ):
        columns = replay.columns(inputs)
        out.append(Set(name, corpus, columns, replay.hear(columns)))
    return out


def constants() -> Iterator[tuple[str, float, Callable[[Set], dict[str, float]]]]:
    """(constant, its factor, the figures of a set with it)."""
    yield "as shipped", 1.0, lambda s: figures(s, s.heard, JoinPolicy())
    for times in (0.7, 1.3):
        for name in JOIN_POLICY:
            yield name, times, partial(_with_join_policy, name, times)
        for name in OF_JOIN:
            yield name, times, partial(_with_constant, JOIN, name, times)
        for name in OF_BANK:
            yield name, times, partial(_with_constant, BANK, name, times)
        for name in POLICY:
            yield name, times, partial(_with_policy, name, times)


def _with_join_policy(name: str, times: float, s: Set) -> dict[str, float]:
    return figures(s, s.heard, _moved(JoinPolicy(), name, times))


def _with_constant(modules: Sequence[ModuleType], name: str, times: float, s: Set) -> dict[str, float]:
    with changed(modules, name, times):
        return figures(s, s.heard if modules is JOIN else replay.hear(s.columns), JoinPolicy())


def _with_policy(name: str, times: float, s: Set) -> dict[str, float]:
    policy = _moved(Policy(), name, times)
    return figures(s, replay.hear(s.columns, policy), JoinPolicy(theta=policy.theta))


def _moved(policy: _P, name: str, times: float) -> _P:
    return msgspec.structs.replace(policy, **{name: _times(getattr(policy, name), times)})


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    p = argparse.ArgumentParser(prog="python -m simulations sensitivity", description=__doc__.split("\n")[0])
    p.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the three data sets")
    p.add_argument("--only", metavar="NAME", help="this constant alone")
    p.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the synthetic fleet")
    p.add_argument("--json", action="store_true", help="print one JSON object per line instead of a table")
    args = p.parse_args(argv)
    try:
        sets = load(args.data, [args.first])
    except OSError as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    if not args.json:
        print(f"{'constant':14s} {'x':>4s}" + "".join(f" | {s.name:>11s} R  false   F1 kept" for s in sets))
    for name, times, of in constants():
        if args.only in (None, name) or name == "as shipped":
            found = {s.name: of(s) for s in sets}
            if args.json:
                print(json.dumps({"constant": name, "times": times, **found}), flush=True)
                continue
            cells = (f" | {f['onset_recall']:13.3f} {f['onset_false_per_day']:.4f} {f['f1']:.2f} {f['kept']:.2f}"
                     for f in found.values())  # fmt: skip
            print(f"{name:14s} {times:4.1f}" + "".join(cells), flush=True)
    return 0
