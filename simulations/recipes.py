"""What each recipe of the second tier is worth on NAB and cloud-monitoring, beside the bank alone, and at best.

`--data` is a folder with nab/ and cloud-monitoring/. "by hindsight" is NAB's score if somebody who knows the labels
chose for each file whether it gets the bank alone or one of the recipes: at the threshold that is best for each of them
over all files, then with a threshold for each file, too. "of halves": every other series, and the rest.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiopsd.config import Config, load
from simulations import datasets, detection
from simulations.detection import F64
from simulations.scoring import PROFILES, Labelled, Nab, score_alarms

RECIPES = Path(__file__).parent.parent / "docs" / "how-to" / "tier-2"
NONE = "no second tier"
PROFILE = "standard"


def recipes(names: Sequence[str] = ()) -> dict[str, Config]:
    """The bank alone, and each shipped recipe for series (those for services need services); `names`: only these.

    Raises:
        OSError: there is none of that name.
    """
    paths = [RECIPES / f"{name}.yaml" for name in names] or sorted(RECIPES.glob("*.yaml"))
    found = {path.stem: load(path.read_text(encoding="utf-8")) for path in paths}
    return {NONE: Config()} | {k: c for k, c in found.items() if not any(rule.features for rule in c.detect.online)}


def _halves(corpus: Sequence[Labelled]) -> tuple[range, range, range]:
    """All series, every other one, the rest."""
    n = len(corpus)
    return range(n), range(0, n, 2), range(1, n, 2)


def hindsight(nab: Nab, scores: Mapping[str, Sequence[F64]]) -> tuple[float, float]:
    """(at one threshold for each recipe, at one for each file): the score of the best choice for each file."""
    gain, miss, _ = PROFILES[PROFILE]
    windows = sum(len(s.windows) for s in nab.corpus)
    common = {name: nab.best(each, PROFILE)[1] for name, each in scores.items()}
    chosen = free = 0.0
    for f in range(len(nab.corpus)):
        swept = {name: nab.sweep(each, PROFILE, [f]) for name, each in scores.items()}
        chosen += max(float(total[(at >= common[name]).nonzero()[0][-1]]) for name, (at, total) in swept.items())
        free += max(float(total.max()) for _, total in swept.values())
    most = (gain + miss) * windows
    return 100.0 * (chosen + miss * windows) / most, 100.0 * (free + miss * windows) / most


def events(corpus: Sequence[Labelled], out: detection.Output) -> str:
    """The cells of a recipe's events as shipped, F1 of both halves last."""
    alarms = detection.rows_of(corpus, out.alarms)
    whole, one, two = (score_alarms([corpus[i] for i in h], [alarms[i] for i in h]) for h in _halves(corpus))
    return (
        f"{whole.precision:5.2f} {whole.recall:5.2f} {whole.f1:5.2f} {whole.onset_recall:8.2f}"
        f" {whole.onset_false_per_day:6.3f} {one.f1:7.2f} {two.f1:5.2f}"
    )


def scored(nab: Nab, scores: Sequence[F64]) -> str:
    """The cells of NAB's own score: threshold swept on all and on each half, and the threshold of other halves."""
    swept = " ".join(f"{nab.best(scores, PROFILE, half)[0]:6.1f}" for half in _halves(nab.corpus))
    return f"{swept} {nab.halves(scores, PROFILE)[0]:11.1f}"


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data or a recipe cannot be read."""
    p = argparse.ArgumentParser(prog="python -m simulations recipes", description=__doc__.split("\n")[0])
    p.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    p.add_argument("--only", nargs="+", default=(), metavar="NAME", help="these recipes alone")
    args = p.parse_args(argv)
    try:
        chosen = recipes(args.only)
        nab = Nab(datasets.nab(args.data / "nab"))
        cloud = datasets.cloud_monitoring(args.data / "cloud-monitoring")
    except OSError as e:
        print(f"cannot read: {e}")
        return 2
    print(f"{'':22s}     P     R    F1  onset R  false F1 of halves  swept     of halves  other half   us")
    said: dict[str, list[F64]] = {}
    bare = 0.0  # CPU of the stage without a second tier, us a sample
    for name, config in chosen.items():
        out = detection.play(detection.single(nab.corpus), config, sweep=False)
        said[name] = [s[0] for s in out.scores]
        each = 1e6 * out.stage_cpu / out.samples
        bare = bare or each
        cells = events(nab.corpus, out), scored(nab, said[name]), f"{each - bare:4.0f}"
        print(f"{name:16s} {'nab':5s} ", *cells, flush=True)
    print("by hindsight     nab    {:.1f} choosing a recipe, {:.1f} and a threshold".format(*hindsight(nab, said)))
    for name, config in chosen.items():
        out = detection.play(detection.single(cloud), config, sweep=False)
        print(f"{name:16s} {'cloud':5s} ", events(cloud, out), flush=True)
    return 0
