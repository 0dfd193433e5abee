"""Scorecard: drift detection on synthetic streams with and without drift, through the shipped detect stage.

Each value stream is 6,000 samples five minutes apart; where it drifts, it does so at sample 4,000. A detection before
that, or anywhere in a stream without drift, is a false alarm; the first one after it is a hit. Error streams (0 or 1)
are declared as the errors of a model each. `--data` adds real metrics (a JumpStarter folder): drifts per series-week.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from aiopsd.config import Config, DetectConfig, DriftConfig, ModelRule
from simulations import datasets, detection

F64 = NDArray[np.float64]
N, CHANGE, STEP = 6000, 4000, 300.0
DAY = 288  # samples
START = 1_704_067_200.0  # a Monday, 00:00 UTC


def _ar1(rng: np.random.Generator, phi: float) -> F64:
    """Stationary first-order noise of variance 1."""
    shocks = rng.normal(size=N) * np.sqrt(1 - phi * phi)
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


def errors(rng: np.random.Generator) -> Iterator[tuple[str, F64, bool]]:
    """(name, error bits of a model, does it drift)."""
    t, u = np.arange(N), rng.random(N)
    ramp = np.clip((t - CHANGE) / 1000.0, 0.0, 1.0)
    yield "none: error 5 %", (u < 0.05).astype(float), False
    yield "none: error 20 %", (u < 0.20).astype(float), False
    yield "error 5 -> 10 %", (u < np.where(t < CHANGE, 0.05, 0.10)).astype(float), True
    yield "error 5 -> 20 %", (u < np.where(t < CHANGE, 0.05, 0.20)).astype(float), True
    yield "error 20 -> 40 % over 1000", (u < 0.2 + 0.2 * ramp).astype(float), True


def summary(drifting: bool, hits: list[list[int]]) -> dict[str, Any]:
    """False alarms per 10,000 stationary samples; share of drifts found and their median delay in samples.

    >>> summary(True, [[4010, 4500], [100, 4030], []])["median_delay"]
    20.0
    """
    false = sum(sum(k < CHANGE or not drifting for k in h) for h in hits)
    stationary = len(hits) * (CHANGE if drifting else N)
    first = [min((k - CHANGE for k in h if k >= CHANGE), default=None) for h in hits]
    found = [d for d in first if d is not None]
    return {
        "false_per_10k": 1e4 * false / stationary,
        "found": len(found) / len(hits) if drifting else None,
        "median_delay": float(np.median(found)) if drifting and found else None,
        "reports_after_change": sum(sum(k >= CHANGE for k in h) for h in hits) / len(hits) if drifting else None,
    }


def suite(make: Any, config: Config, seeds: int, metric: str) -> tuple[dict[str, Any], detection.Output]:
    """Every stream of `make` for every seed at once; figures by stream."""
    streams = [
        (name, xs, drifting) for seed in range(seeds) for name, xs, drifting in make(np.random.default_rng(seed))
    ]
    ts: F64 = np.arange(N, dtype=np.float64) * STEP + START
    subjects = [
        detection.Input(name, ({"__name__": metric, "model": f"m{i}"},), ts, xs[None, :])
        for i, (name, xs, _) in enumerate(streams)
    ]
    out = detection.play(subjects, config, sweep=False)
    hits: list[list[int]] = [[] for _ in streams]
    for i, at, _ in out.drifts:
        hits[i].append(round((at - START) / STEP))
    per = len(streams) // seeds
    return {
        streams[k][0]: summary(streams[k][2], [hits[i] for i in range(k, len(streams), per)]) for k in range(per)
    }, out


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    p = detection.parser("drift", __doc__.split("\n")[0], data=False)
    p.add_argument("--seeds", type=int, default=20, help="streams of each kind")
    p.add_argument("--data", type=str, default="", metavar="DIR", help="JumpStarter folder: drifts on real metrics")
    args = p.parse_args(argv)

    by_value, out = suite(values, Config(), args.seeds, "value")
    n = len(list(errors(np.random.default_rng(0)))) * args.seeds
    models = tuple(ModelRule(name=f"m{i}", errors={"model": f"m{i}"}) for i in range(n))
    watching = Config(detect=DetectConfig(drift=DriftConfig(models=models)))
    by_error, _ = suite(errors, watching, args.seeds, "prediction_wrong")
    result: dict[str, Any] = {
        "values": by_value,
        "errors": by_error,
        "cpu_us_per_sample": {"stage": 1e6 * out.stage_cpu / out.samples, "bank": 1e6 * out.bank_cpu / out.samples},
    }
    if args.data:
        try:
            services = datasets.jumpstarter(args.data)
        except OSError as e:
            print(f"cannot read {args.data}: {e}")
            return 2
        names = tuple({"__name__": "value", "metric": str(m)} for m in range(services.values.shape[2]))
        real = detection.play(
            [
                detection.Input(s.name, names, services.ts, np.ascontiguousarray(services.values[:, i].T))
                for i, s in enumerate(services.labelled)
            ],
            sweep=False,
        )
        weeks = services.values.shape[1] * services.values.shape[2] * len(services.ts) * STEP / detection.WEEK
        result["real_drifts_per_series_week"] = len(real.drifts) / weeks
    if args.json:
        return detection.finish(result, True, "", "")
    for title, part in (("values", by_value), ("error bits of a model", by_error)):
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
        print(f"real metrics: {result['real_drifts_per_series_week']:.3f} drifts a series-week")
    return 0
