"""Scorecard: drift detection on synthetic streams with and without drift, through the shipped detect stage.

Each value stream is 6,000 samples five minutes apart; where it drifts, it does so at sample 4,000. A detection before
that, or anywhere in a stream without drift, is a false alarm; the first one after it is a hit. Error streams (0 or 1)
are declared as the errors of a model each; river's ADWIN on the same bits stands beside. The wanderers are six weeks
each of what looks like drift and is none: long memory, weekly seasons, batch jobs, incidents, bursts.

`--data` adds real metrics (a JumpStarter folder): drifts per series-week, and how many of the confirmed changes of
level lasted, that is, the median day of the week after lies outside of all days of the week before.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN
from scipy.signal import lfilter

from aiopsd.config import Config, DetectConfig, DriftConfig, ModelRule
from simulations import datasets, detection, jumpstarter

F64 = NDArray[np.float64]
N, CHANGE, STEP = 6000, 4000, 300.0
DAY = 288  # samples
START = 1_704_067_200.0  # a Monday, 00:00 UTC


LONG = 42 * DAY


def _ar1(rng: np.random.Generator, phi: float, n: int = N) -> F64:
    """Stationary first-order noise of variance 1."""
    shocks = rng.normal(size=n) * np.sqrt(1 - phi * phi)
    out: F64 = lfilter([1.0], [1.0, -phi], shocks, zi=[phi * rng.normal()])[0]
    return out


def values(rng: np.random.Generator) -> Iterator[tuple[str, F64, bool]]:
    """(name, stream, does it drift): six stationary kinds of noise, then eight changes."""
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
    yield "AR(1) 0.9, +2 sigma", _ar1(rng, 0.9) + 2.0 * after, True
    yield "season 3 sigma, +2 sigma", day + noise + 2.0 * after, True
    yield "season amplitude x1.5", day * (1.0 + 0.5 * after) + noise, True


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


def adwin(streams: Iterator[tuple[str, F64, bool]]) -> list[list[int]]:
    """Samples at which river's ADWIN at its default says that each stream rose."""
    hits = []
    for _, bits, _ in streams:
        detector = ADWIN()  # type: ignore[no-untyped-call]  # river has no types
        mine = []
        for k, bit in enumerate(bits.tolist()):
            before = detector.estimation
            detector.update(bit)  # type: ignore[no-untyped-call]  # as above
            if detector.drift_detected and detector.estimation > before:
                mine.append(k)
        hits.append(mine)
    return hits


def lasted(values: F64, at: int) -> bool | None:
    """Whether the median day of the week after lies outside of all days of the week before; None: too near an end."""
    before, after = values[at - 7 * DAY - DAY // 8 : at - DAY // 8], values[at : at + 7 * DAY]
    if at < 8 * DAY or len(after) < 2 * DAY:
        return None
    was = np.nanmedian(before.reshape(-1, DAY), axis=1)
    level = np.median(np.nanmedian(after[: len(after) // DAY * DAY].reshape(-1, DAY), axis=1))
    return bool(level < was.min() or level > was.max())


def summary(drifting: bool, hits: list[list[int]], length: int = N) -> dict[str, Any]:
    """False alarms per 10,000 stationary samples; share of drifts found and their median delay in samples.

    >>> summary(True, [[4010, 4500], [100, 4030], []])["median_delay"]
    20.0
    """
    false = sum(sum(k < CHANGE or not drifting for k in h) for h in hits)
    stationary = len(hits) * (CHANGE if drifting else length)
    first = [min((k - CHANGE for k in h if k >= CHANGE), default=None) for h in hits]
    found = [d for d in first if d is not None]
    return {
        "false_per_10k": 1e4 * false / stationary,
        "found": len(found) / len(hits) if drifting else None,
        "median_delay": float(np.median(found)) if drifting and found else None,
        "reports_after_change": sum(sum(k >= CHANGE for k in h) for h in hits) / len(hits) if drifting else None,
    }


def suite(make: Any, config: Config, seeds: range, metric: str) -> tuple[dict[str, Any], detection.Output]:
    """Every stream of `make` for every seed at once; figures by stream."""
    streams = [(name, xs, drifting) for seed in seeds for name, xs, drifting in make(np.random.default_rng(seed))]
    length = len(streams[0][1])
    ts: F64 = np.arange(length, dtype=np.float64) * STEP + START
    subjects = [
        detection.Input(name, ({"__name__": metric, "model": f"m{i}"},), ts, xs[None, :])
        for i, (name, xs, _) in enumerate(streams)
    ]
    out = detection.play(subjects, config, sweep=False)
    hits: list[list[int]] = [[] for _ in streams]
    for i, at, _ in out.drifts:
        hits[i].append(round((at - START) / STEP))
    per = len(streams) // len(seeds)
    return {
        streams[k][0]: summary(streams[k][2], [hits[i] for i in range(k, len(streams), per)], length)
        for k in range(per)
    }, out


def told(make: Any, seeds: range, out: detection.Output) -> list[dict[str, Any]]:
    """One line for each drift of a suite: its stream, named with its seed; `score` is half at the limit."""
    names = [f"{name} #{seed}" for seed in seeds for name, _, _ in make(np.random.default_rng(seed))]
    return [
        {"series": names[i], "ts": at, "end": at, "score": round(d.statistic / (d.statistic + d.threshold), 4)}
        for i, at, d in out.drifts
    ]


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    p = detection.parser("drift", __doc__.split("\n")[0], data=False)
    p.add_argument("--seeds", type=int, default=20, help="streams of each kind")
    p.add_argument("--data", type=Path, metavar="DIR", help="JumpStarter folder: drifts on real metrics")
    p.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first stream of each kind")
    p.add_argument("--alarms", type=Path, metavar="FILE", help="write one JSON line per drift of the streams")
    args = p.parse_args(argv)
    seeds = range(args.first, args.first + args.seeds)

    by_value, out = suite(values, Config(), seeds, "value")
    n = len(list(errors(np.random.default_rng(0)))) * args.seeds
    models = tuple(ModelRule(name=f"m{i}", errors={"model": f"m{i}"}) for i in range(n))
    watching = Config(detect=DetectConfig(drift=DriftConfig(models=models)))
    by_error, wrong = suite(errors, watching, seeds, "prediction_wrong")
    kinds = list(errors(np.random.default_rng(0)))
    by_adwin = [adwin(errors(np.random.default_rng(seed))) for seed in seeds]
    beside = {name: summary(drifting, [h[k] for h in by_adwin]) for k, (name, _, drifting) in enumerate(kinds)}
    fewer = seeds[: max(args.seeds // 4, 1)]
    wandering, strayed = suite(wanderers, Config(), fewer, "value")
    if args.alarms:
        lines = [*told(values, seeds, out), *told(errors, seeds, wrong), *told(wanderers, fewer, strayed)]
        args.alarms.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    result: dict[str, Any] = {
        "values": by_value,
        "errors": by_error,
        "errors_by_adwin": beside,
        "wanderers": wandering,
        "cpu_us_per_sample": {"stage": 1e6 * out.stage_cpu / out.samples, "bank": 1e6 * out.bank_cpu / out.samples},
    }
    if args.data:
        try:
            services = datasets.jumpstarter(args.data)
        except OSError as e:
            print(f"cannot read {args.data}: {e}")
            return 2
        real = detection.play(jumpstarter.inputs(services), sweep=False)
        weeks = services.values.shape[1] * services.values.shape[2] * len(services.ts) * STEP / detection.WEEK
        result["real_drifts_per_series_week"] = len(real.drifts) / weeks
        verdicts = [
            lasted(services.values[:, i, int(d.labels["metric"])], round((at - services.ts[0]) / STEP))
            for i, at, d in real.drifts
            if d.kind == "level"
        ]
        known = [v for v in verdicts if v is not None]
        result["real_levels_lasted"] = sum(known) / len(known) if known else None
        rng = np.random.default_rng(0)
        steps, count, metrics = services.values.shape
        picks = [
            lasted(services.values[:, rng.integers(count), rng.integers(metrics)], int(rng.integers(8 * DAY, steps)))
            for _ in range(2000)
        ]
        result["random_moments_lasted"] = float(np.mean([v for v in picks if v is not None]))
    if args.json:
        return detection.finish(result, True, "", "")
    for title, part in (
        ("values", by_value), ("error bits of a model", by_error), ("the same bits, by ADWIN", beside),
        ("wanderers, six weeks each", wandering),
    ):  # fmt: skip
        print(f"{title:28s} {'false/10k':>9s} {'found':>6s} {'delay':>6s} {'reports':>8s}")
        for name, f in part.items():
            found = "" if f["found"] is None else f"{f['found']:.2f}"
            delay = "" if f["median_delay"] is None else f"{f['median_delay']:.0f}"
            reports = "" if f["reports_after_change"] is None else f"{f['reports_after_change']:.2f}"
            print(f"{name:28s} {f['false_per_10k']:9.2f} {found:>6s} {delay:>6s} {reports:>8s}")
        print()
    cpu = result["cpu_us_per_sample"]
    print(f"CPU {cpu['stage']:.2f} us a sample with decoding, {cpu['bank']:.2f} in the bank")
    if "real_drifts_per_series_week" in result:
        print(
            f"real metrics: {result['real_drifts_per_series_week']:.3f} drifts a series-week; of the changes of level"
            f" {result['real_levels_lasted']:.2f} lasted, of moments at random {result['random_moments_lasted']:.2f}"
        )
    return 0
