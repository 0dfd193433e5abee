"""Scorecard: drift detection on synthetic streams with and without drift, through the shipped detect stage.

Each value stream is 6,000 samples five minutes apart; where it drifts, it does so at sample 4,000, which lies anywhere
in an hour: the streams of a seed begin at a minute of its own. A detection before that, or anywhere in a stream without
drift, is a false alarm; the first one after it is a hit. Error streams (0 or 1) are declared as the errors of a model
each; river's ADWIN on the same bits stands beside, and on the squared errors of an exponential mean where the spread
doubles or halves. The shapes are days and weeks that change for good on the fourth Friday of six weeks, or do not: of
these only drifts of season count, while `requests` are what the drifts of any kind come to. The wanderers are six weeks
each of what looks like drift and is none: long memory, weekly seasons, batch jobs, incidents, bursts. `--still` plays
nothing but the six weeks without a drift, shapes and wanderers, and tells their drifts by kind.

`--data` adds real metrics (a JumpStarter folder): drifts per series-week, and how many of the confirmed changes of
level lasted, that is, the median day of the week after lies outside of all days of the week before.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN
from scipy.signal import lfilter

from aiopsd.config import Config, DetectConfig, DriftConfig, ModelRule, RetrainingConfig
from aiopsd.detect.drift import KINDS
from aiopsd.model import DriftDetected
from aiopsd.retraining import Retraining
from simulations import datasets, detection, jumpstarter

F64 = NDArray[np.float64]
N, CHANGE, STEP = 6000, 4000, 300.0
HOUR, DAY = 12, 288  # samples
START = 1_704_067_200.0  # a Monday, 00:00 UTC


LONG, RESHAPED = 42 * DAY, 25 * DAY + 100
SHIFTED = ("none: +2 sigma", "none: variance x2")  # among the shapes: these do drift, but not in season


def _ar1(rng: np.random.Generator, phi: float, n: int = N) -> F64:
    """Stationary first-order noise of variance 1."""
    shocks = rng.normal(size=n) * np.sqrt(1 - phi * phi)
    out: F64 = lfilter([1.0], [1.0, -phi], shocks, zi=[phi * rng.normal()])[0]
    return out


def values(rng: np.random.Generator) -> Iterator[tuple[str, F64, bool]]:
    """(name, stream, does it drift): six stationary kinds of noise, then ten changes."""
    t = np.arange(N)
    after = (t >= CHANGE).astype(float)
    ramp = np.clip((t - CHANGE) / 1000.0, 0.0, 1.0)
    noise = rng.normal(size=N)
    day = 3.0 * np.sin(2 * np.pi * t / DAY)
    yield "none: gaussian", noise, False
    yield "none: heavy tail t3", rng.standard_t(3, N), False
    yield "none: AR(1) 0.9", _ar1(rng, 0.9), False
    yield "none: daily season 3 sigma", day + noise, False
    yield "none: season + AR(1) 0.7", day + _ar1(rng, 0.7), False
    yield "none: spikes 0.5 %", noise + 10.0 * (rng.random(N) < 0.005), False
    yield "abrupt +0.5 sigma", noise + 0.5 * after, True
    yield "abrupt +1 sigma", noise + after, True
    yield "abrupt +3 sigma", noise + 3.0 * after, True
    yield "gradual +2 sigma over 1000", noise + 2.0 * ramp, True
    yield "variance x2", noise * (1.0 + after), True
    yield "variance x0.5", noise * (1.0 - 0.5 * after), True
    yield "season 3 sigma, variance x0.5", day + noise * (1.0 - 0.5 * after), True
    yield "AR(1) 0.9, +2 sigma", _ar1(rng, 0.9) + 2.0 * after, True
    yield "season 3 sigma, +2 sigma", day + noise + 2.0 * after, True
    yield "season amplitude x1.5", day * (1.0 + 0.5 * after) + noise, True


def shapes(rng: np.random.Generator) -> Iterator[tuple[str, F64, bool]]:
    """(name, stream, does its season drift): days and weeks that stay as they are, then those that change for good."""
    t = np.arange(LONG)
    after = (t >= RESHAPED).astype(float)
    noise = rng.normal(size=LONG)
    weekend = (t // DAY) % 7 >= 5
    holiday = (t // DAY >= 29) & (t // DAY < 31)

    def day(hours: F64 | float = 0.0) -> F64:
        return np.sin(2 * np.pi * (t / DAY + np.asarray(hours) / 24.0))

    yield "none: daily season 3 sigma", 3 * day() + noise, False
    yield "none: noise louder by day", 3 * day() + np.exp(0.8 * day(3.0)) * noise, False
    yield "none: weekend at 40 %", 10 * (1 + 0.3 * day()) * np.where(weekend, 0.4, 1.0) + noise, False
    yield "none: two holidays at 40 %", 10 * (1 + 0.3 * day()) * np.where(holiday, 0.4, 1.0) + noise, False
    yield "none: +2 sigma", 3 * day() + noise + 2 * after, False
    yield "none: variance x2", 3 * day() + noise * (1 + after), False
    yield "season 2 hours later", 3 * day(2 * after) + noise, True
    yield "season 6 hours later", 3 * day(6 * after) + noise, True
    yield "season gone", 3 * day() * (1 - after) + noise, True
    yield "season 1 sigma gone", day() * (1 - after) + noise, True
    yield "season comes", 2 * day() * after + noise, True
    yield "weekend falls to 80 %", 10 * (1 + 0.3 * day()) * (1 - 0.2 * weekend * after) + noise, True
    yield "weekend falls to 40 %", 10 * (1 + 0.3 * day()) * (1 - 0.6 * weekend * after) + noise, True


def wanderers(rng: np.random.Generator) -> Iterator[tuple[str, F64, bool]]:
    """(name, stream, False): none of them drifts, though each looks like it for a while."""
    t = np.arange(LONG)
    noise = rng.normal(size=LONG)
    day = np.sin(2 * np.pi * t / DAY)
    weekend = (t // DAY) % 7 >= 5
    yield "AR(1) 0.99", _ar1(rng, 0.99, LONG), False
    yield "AR(1) 0.998", _ar1(rng, 0.998, LONG), False
    yield "1/f", sum((_ar1(rng, p, LONG) for p in (0.5, 0.9, 0.98, 0.995)), np.zeros(LONG)), False
    yield "weekend at 85 %", 10 * (1 + 0.8 * day) * np.where(weekend, 0.85, 1.0) + noise, False
    yield "weekend at 40 %", 10 * (1 + 0.8 * day) * np.where(weekend, 0.4, 1.0) + noise, False
    on = np.zeros(LONG)
    at = 0
    while at < LONG:
        at += int(rng.exponential(DAY / 2))
        lasts = int(rng.exponential(30)) + 3
        on[at : at + lasts] = 5.0
        at += lasts
    yield "batch jobs at random", on + noise, False
    on = np.zeros(LONG)
    for start in range(24, LONG, DAY):
        at = max(start + int(rng.integers(-6, 7)), 0)
        on[at : at + 36 + int(rng.integers(-12, 13))] = 8.0
    yield "batch job every night", on + noise, False
    yield "multiplicative noise", np.exp(0.8 * day + 0.5 * _ar1(rng, 0.95, LONG) + 0.2 * noise), False
    yield "random volatility", np.exp(0.8 * _ar1(rng, 0.99, LONG)) * noise, False
    yield "counts with a season", rng.poisson(20 * (1 + 0.8 * day)).astype(float), False
    yield "rare counts", rng.poisson(0.05, LONG).astype(float), False
    period = int(rng.integers(200, 500))
    yield "sawtooth", 10.0 * (t % period) / period + 0.3 * noise, False
    yield "two levels", 3.0 * (np.cumsum(rng.random(LONG) < 1 / 150) % 2) + noise, False
    yield "constant with spikes", np.where(rng.random(LONG) < 0.003, rng.exponential(5, LONG), 0.0), False
    for name, count, shortest, longest, size in (
        ("4 incidents under 2 h", 4, 6, 24, 20.0), ("6 incidents of 2 to 7 h", 6, 24, 84, 4.0),
    ):  # fmt: skip
        high = np.zeros(LONG)
        for _ in range(count):
            at = int(rng.integers(0, LONG))
            high[at : at + int(rng.integers(shortest, longest))] = size
        yield name, high + noise, False


def errors(rng: np.random.Generator) -> Iterator[tuple[str, F64, bool]]:
    """(name, error bits of a model, does it drift)."""
    t, u = np.arange(N), rng.random(N)
    ramp = np.clip((t - CHANGE) / 1000.0, 0.0, 1.0)
    yield "none: error 5 %", (u < 0.05).astype(float), False
    yield "none: error 20 %", (u < 0.20).astype(float), False
    bursts = np.convolve(rng.random(N) < 0.005, np.ones(10))[:N] > 0
    yield "none: bursts of 10, 5 %", bursts.astype(float), False
    yield "error 5 -> 10 %", (u < np.where(t < CHANGE, 0.05, 0.10)).astype(float), True
    yield "error 5 -> 20 %", (u < np.where(t < CHANGE, 0.05, 0.20)).astype(float), True
    yield "error 20 -> 40 % over 1000", (u < 0.2 + 0.2 * ramp).astype(float), True


def adwin(values: F64, rises: bool) -> list[int]:
    """Samples at which river's ADWIN at its default says that the stream changed, or that it rose."""
    detector = ADWIN()  # type: ignore[no-untyped-call]  # river has no types
    hits = []
    for k, value in enumerate(values.tolist()):
        before = detector.estimation
        detector.update(value)  # type: ignore[no-untyped-call]  # as above
        if detector.drift_detected and (detector.estimation > before or not rises):
            hits.append(k)
    return hits


def squared(values: F64) -> F64:
    """Squared errors of an exponential mean of about a hundred samples: what there is to see of a spread."""
    mean = lfilter([0.01], [1.0, -0.99], values, zi=[0.99 * values[0]])[0]
    out: F64 = np.square(values[1:] - mean[:-1])
    return out


def beside(make: Any, seeds: range, rises: bool, only: str = "", view: Any = None) -> dict[str, Any]:
    """ADWIN on the streams of `make` whose name holds `only`, or on what `view` sees in them; figures by stream."""
    hits: dict[str, list[list[int]]] = {}
    drifting = {}
    for seed in seeds:
        for name, xs, drifts in make(np.random.default_rng(seed)):
            if only in name:
                hits.setdefault(name, []).append(adwin(xs if view is None else view(xs), rises))
                drifting[name] = drifts
    return {name: summary(drifting[name], h) for name, h in hits.items()}


def lasted(values: F64, at: int) -> bool | None:
    """Whether the median day of the week after lies outside of all days of the week before; None: too near an end."""
    before, after = values[at - 7 * DAY - DAY // 8 : at - DAY // 8], values[at : at + 7 * DAY]
    if at < 8 * DAY or len(after) < 2 * DAY:
        return None
    was = np.nanmedian(before.reshape(-1, DAY), axis=1)
    level = np.median(np.nanmedian(after[: len(after) // DAY * DAY].reshape(-1, DAY), axis=1))
    return bool(level < was.min() or level > was.max())


def requests(drifts: list[DriftDetected]) -> list[float]:
    """Times (UTC seconds) at which these drifts of a subject ask for its retraining, by the shipped cooldown."""
    policy = Retraining(RetrainingConfig(budget=len(drifts)))
    asked: list[float] = []
    for drift in drifts:
        asked += [request.requested_at for request in policy.due(drift.ts)]
        request, _ = policy.decide(drift, drift.ts)
        asked += [] if request is None else [request.requested_at]
    return asked


def summary(drifting: bool, hits: list[list[int]], length: int = N, change: int = CHANGE) -> dict[str, Any]:
    """False alarms per 10,000 stationary samples; share of drifts found and their median delay in samples.

    >>> summary(True, [[4010, 4500], [100, 4030], []])["median_delay"]
    20.0
    """
    false = sum(sum(k < change or not drifting for k in h) for h in hits)
    stationary = len(hits) * (change if drifting else length)
    first = [min((k - change for k in h if k >= change), default=None) for h in hits]
    found = [d for d in first if d is not None]
    return {
        "false_per_10k": 1e4 * false / stationary,
        "found": len(found) / len(hits) if drifting else None,
        "median_delay": float(np.median(found)) if drifting and found else None,
        "reports_after_change": sum(sum(k >= change for k in h) for h in hits) / len(hits) if drifting else None,
    }


def begin(seed: int) -> float:
    """When the streams of a seed begin: at each of the samples of an hour in turn, else a delay would rest on one."""
    return START + seed * 5 % HOUR * STEP


def suite(
    make: Any, config: Config, seeds: range, metric: str = "value", kind: str = "", change: int = CHANGE
) -> tuple[dict[str, Any], detection.Output]:
    """Every stream of `make` for every seed at once; figures by stream. `kind`: the drifts that count, "": all."""
    streams = [(name, xs, drifting) for seed in seeds for name, xs, drifting in make(np.random.default_rng(seed))]
    length = len(streams[0][1])
    per = len(streams) // len(seeds)
    ts: F64 = np.arange(length, dtype=np.float64) * STEP
    starts = [begin(seed) for seed in seeds for _ in range(per)]
    subjects = [
        detection.Input(name, ({"__name__": metric, "model": f"m{i}"},), starts[i] + ts, xs[None, :])
        for i, (name, xs, _) in enumerate(streams)
    ]
    out = detection.play(subjects, config, sweep=False)
    hits: list[list[int]] = [[] for _ in streams]
    found: list[list[DriftDetected]] = [[] for _ in streams]
    for i, at, d in out.drifts:
        found[i].append(d)
        if kind in ("", d.kind):
            hits[i].append(round((at - starts[i]) / STEP))
    asked = [sum(at >= starts[i] + change * STEP for at in requests(drifts)) for i, drifts in enumerate(found)]
    figures = {}
    for k in range(per):
        mine = range(k, len(streams), per)
        figures[streams[k][0]] = summary(streams[k][2], [hits[i] for i in mine], length, change)
        figures[streams[k][0]]["requests_after_change"] = float(np.mean([asked[i] for i in mine]))
    return figures, out


def told(make: Any, seeds: range, out: detection.Output) -> list[dict[str, Any]]:
    """One line for each drift of a suite: its stream, named with its seed; `score` is half at the limit."""
    names = [f"{name} #{seed}" for seed in seeds for name, _, _ in make(np.random.default_rng(seed))]
    return [
        {"series": names[i], "ts": at, "end": at, "score": round(d.statistic / (d.statistic + d.threshold), 4)}
        for i, at, d in out.drifts
    ]


def made(seeds: range, alarms: Path | None) -> dict[str, Any]:
    """Figures of all streams that are made here. `alarms`: a file for one JSON line per drift."""
    fewer = seeds[: max(len(seeds) // 4, 1)]
    count = len(list(errors(np.random.default_rng(0)))) * len(seeds)
    models = tuple(ModelRule(name=f"m{i}", errors={"model": f"m{i}"}) for i in range(count))
    watching = Config(detect=DetectConfig(drift=DriftConfig(models=models)))
    by_value, out = suite(values, Config(), seeds)
    by_shape, reshaped = suite(shapes, Config(), fewer, kind="season", change=RESHAPED)
    by_error, wrong = suite(errors, watching, seeds, "prediction_wrong")
    wandering, strayed = suite(wanderers, Config(), fewer)
    if alarms:
        told_by = ((values, seeds, out), (shapes, fewer, reshaped), (errors, seeds, wrong), (wanderers, fewer, strayed))
        lines = [line for make, of, said in told_by for line in told(make, of, said)]
        alarms.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {
        "values": by_value,
        "spreads_by_adwin": beside(values, seeds, rises=False, only="variance", view=squared),
        "shapes": by_shape,
        "errors": by_error,
        "errors_by_adwin": beside(errors, seeds, rises=True),
        "wanderers": wandering,
        "cpu_us_per_sample": {"stage": 1e6 * out.stage_cpu / out.samples, "bank": 1e6 * out.bank_cpu / out.samples},
    }


def still(seeds: range) -> dict[str, Any]:
    """Drifts a series-week of the six weeks without one, by stream and kind; ten seeds at a time, for memory's sake."""
    ts: F64 = np.arange(LONG, dtype=np.float64) * STEP
    kinds: dict[str, Counter[str]] = {}
    for first in range(0, len(seeds), 10):
        subjects: list[detection.Input] = []
        for seed in seeds[first : first + 10]:
            rng = np.random.default_rng(seed)
            for name, xs, drifts in (*shapes(rng), *wanderers(rng)):
                if not drifts and name not in SHIFTED:
                    labels = {"__name__": "value", "model": f"m{len(subjects)}"}
                    subjects.append(detection.Input(name, (labels,), begin(seed) + ts, xs[None, :]))
                    kinds.setdefault(name, Counter())
        for i, _, drift in detection.play(subjects, sweep=False).drifts:
            kinds[subjects[i].subject][drift.kind] += 1
    weeks = len(seeds) * LONG * STEP / detection.WEEK
    return {name: {kind: found[kind] / weeks for kind in KINDS} for name, found in kinds.items()}


def recorded(services: datasets.Services) -> dict[str, Any]:
    """Figures of real metrics: drifts a series-week by kind, and how many of the changes of level lasted."""
    real = detection.play(jumpstarter.inputs(services), sweep=False)
    steps, count, metrics = services.values.shape
    weeks = count * metrics * len(services.ts) * STEP / detection.WEEK
    kinds = Counter(d.kind for _, _, d in real.drifts)
    verdicts = [
        lasted(services.values[:, i, int(d.labels["metric"])], round((at - services.ts[0]) / STEP))
        for i, at, d in real.drifts
        if d.kind == "level"
    ]
    known = [v for v in verdicts if v is not None]
    rng = np.random.default_rng(0)
    picks = [
        lasted(services.values[:, rng.integers(count), rng.integers(metrics)], int(rng.integers(8 * DAY, steps)))
        for _ in range(2000)
    ]
    return {
        "real_drifts_per_series_week": len(real.drifts) / weeks,
        "real_by_kind": {kind: n / weeks for kind, n in sorted(kinds.items())},
        "real_levels_lasted": sum(known) / len(known) if known else None,
        "random_moments_lasted": float(np.mean([v for v in picks if v is not None])),
    }


def table(title: str, part: dict[str, Any]) -> None:
    """Print the figures of a suite."""
    print(f"{title:30s} {'false/10k':>9s} {'found':>6s} {'delay':>6s} {'reports':>8s} {'requests':>8s}")
    for name, f in part.items():
        found = "" if f["found"] is None else f"{f['found']:.2f}"
        delay = "" if f["median_delay"] is None else f"{f['median_delay']:.0f}"
        reports = "" if f["reports_after_change"] is None else f"{f['reports_after_change']:.2f}"
        asked = f"{f['requests_after_change']:.2f}" if reports and "requests_after_change" in f else ""
        print(f"{name:30s} {f['false_per_10k']:9.2f} {found:>6s} {delay:>6s} {reports:>8s} {asked:>8s}")
    print()


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    p = detection.parser("drift", __doc__.split("\n")[0], data=False)
    p.add_argument("--seeds", type=int, default=20, help="streams of each kind")
    p.add_argument("--data", type=Path, metavar="DIR", help="JumpStarter folder: drifts on real metrics")
    p.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first stream of each kind")
    p.add_argument("--alarms", type=Path, metavar="FILE", help="write one JSON line per drift of the streams")
    p.add_argument("--still", action="store_true", help="only six weeks without a drift, of each seed: drifts by kind")
    args = p.parse_args(argv)
    seeds = range(args.first, args.first + args.seeds)
    if args.still:
        figures = still(seeds)
        if args.json:
            return detection.finish(figures, True, "", "")
        print(f"{'drifts a series-week':30s} " + " ".join(f"{kind:>8s}" for kind in KINDS))
        for name, of in figures.items():
            print(f"{name:30s} " + " ".join(f"{of[kind]:8.4f}" for kind in KINDS))
        return 0
    try:
        services = datasets.jumpstarter(args.data) if args.data else None
    except OSError as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    result = made(seeds, args.alarms)
    if services:
        result |= recorded(services)
    if args.json:
        return detection.finish(result, True, "", "")
    for title, part in (
        ("values", "values"), ("squared errors, by ADWIN", "spreads_by_adwin"), ("shapes, six weeks each", "shapes"),
        ("error bits of a model", "errors"), ("the same bits, by ADWIN", "errors_by_adwin"),
        ("wanderers, six weeks each", "wanderers"),
    ):  # fmt: skip
        table(title, result[part])
    cpu = result["cpu_us_per_sample"]
    print(f"CPU {cpu['stage']:.2f} us a sample with decoding, {cpu['bank']:.2f} in the bank")
    if services:
        each = ", ".join(f"{kind} {rate:.3f}" for kind, rate in result["real_by_kind"].items())
        print(f"real metrics: {result['real_drifts_per_series_week']:.3f} drifts a series-week ({each})")
        print(f"of the changes of level {result['real_levels_lasted']:.2f} lasted", end=", ")
        print(f"of moments at random {result['random_moments_lasted']:.2f}")
    return 0
