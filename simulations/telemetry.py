"""Services that never were: metrics of the kinds that real ones export, what happens to them, and what is wrong.

A service has a load (daily and weekly rhythm, noise, a crowd now and then) and 5 to 40 metrics that follow it, each in
its own way: shares of a processor, memory that is collected, rates, counters that restart, latencies with a heavy
tail, error ratios that are zero, queues, jobs, disks. Harmless things happen to it: deploys that move levels and
restart counters, jobs at set hours, holes in the recording, restarts. And incidents, of which the truth is known.

An incident moves a metric by deviations of its own: of what is left of it beside its rhythm, or half of those with it,
whichever is more, so that what is asked of a detector is the same whatever the kind of metric. A deploy moves levels
by up to four of them: what it does is an incident of the weakest kind, and whether it is one only people can tell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

F64 = NDArray[np.float64]
Rng = np.random.Generator
HOUR, DAY = 3600.0, 86400.0
START = 1_704_067_200.0  # a Monday, 00:00 UTC
MOVED = 0.1  # of the levels of a service, by a deploy
#: sampling interval in seconds -> (services of it, days of recording, days before the first incident)
FLEET = {300.0: (12, 21.0, 6.0), 60.0: (6, 11.0, 4.0), 15.0: (3, 5.0, 2.0)}


def remembered(pushes: F64, keep: float) -> F64:
    """What pushes come to when of each a share `keep` is left a step later."""
    out: F64 = lfilter([1.0], [1.0, -keep], pushes)
    return out


@dataclass(frozen=True)
class Span:
    """Something that happened to a service; UTC seconds. `metrics` are the rows of those that it moved."""

    kind: str
    start: float
    end: float
    metrics: tuple[int, ...] = ()


@dataclass(frozen=True)
class Service:
    """values float64[metrics, rows] at ts; NaN: no sample. `names` are those of the metrics."""

    name: str
    ts: F64
    names: tuple[str, ...]
    values: F64
    incidents: tuple[Span, ...]
    harmless: tuple[Span, ...]
    quiet: float  # seconds before the first incident


class Setting:
    """What the metrics of one service share."""

    def __init__(self, rng: Rng, ts: F64, restarts: Sequence[float]) -> None:
        self.rng, self.ts, self.step = rng, ts, float(ts[1] - ts[0])
        self.restarts = [int(np.searchsorted(ts, t)) for t in restarts]
        day, week = ts % DAY / DAY, (ts - START) // DAY % 7
        swing, peak = rng.uniform(0.0, 0.8), rng.uniform(0.3, 0.9)
        rhythm = 1 + swing * np.cos(2 * np.pi * (day - peak)) + 0.3 * swing * np.cos(4 * np.pi * (day - peak))
        rhythm *= np.where(week >= 5, rng.uniform(0.4, 1.1), 1.0)
        self.load: F64 = np.maximum(rhythm, 0.05) * np.exp(rng.uniform(0.02, 0.1) * self.wander(HOUR))

    def wander(self, memory: float) -> F64:
        """Stationary noise of variance 1 that remembers for so many seconds."""
        phi = float(np.exp(-self.step / memory))
        shocks = self.rng.normal(size=len(self.ts)) * np.sqrt(1 - phi * phi)
        out: F64 = lfilter([1.0], [1.0, -phi], shocks, zi=[phi * self.rng.normal()])[0]
        return out

    def white(self) -> F64:
        out: F64 = self.rng.normal(size=len(self.ts))
        return out


def _cpu(s: Setting) -> F64:
    idle, part = s.rng.uniform(2, 15), s.rng.uniform(5, 35)
    return np.clip(idle + part * s.load + s.rng.uniform(0.3, 3) * s.wander(300) + s.white(), 0, 100)


def _heap(s: Setting) -> F64:
    """Filled by the load, collected when it is full; a part is never freed, until a restart."""
    full, period = s.rng.uniform(2e8, 4e9), s.rng.uniform(900, 4 * HOUR)
    filled = np.cumsum(s.load) * s.step / period
    left = 0.1 * s.rng.random() * (s.ts - s.ts[0]) / (7 * DAY)
    for at in s.restarts:
        left[at:] -= left[at] if at < len(left) else 0
    used: F64 = full * (0.3 + left + 0.5 * (filled % 1.0)) * (1 + 0.01 * s.white())
    return used


def _resident(s: Setting) -> F64:
    level = np.full(len(s.ts), s.rng.uniform(1e8, 8e9))
    for at in s.restarts:
        level[at:] *= s.rng.uniform(0.95, 1.05)
    return level * (1 + 0.02 * s.load + 0.003 * s.wander(2 * HOUR))


def _rate(s: Setting) -> F64:
    mean = s.rng.lognormal(3, 2) * s.load * np.exp(0.03 * s.wander(600))
    return s.rng.poisson(mean * s.step) / s.step


def _increments(s: Setting) -> F64:
    return s.rng.poisson(s.rng.lognormal(3, 2) * s.load * s.step).astype(float)


def _counted(increments: F64, restarts: Sequence[int]) -> F64:
    """A counter of these; it starts anew at the rows of restarts."""
    count = np.cumsum(increments)
    for at in restarts:
        count[at:] -= count[at - 1] if 0 < at < len(count) else 0
    return count


def _latency(s: Setting) -> F64:
    base, steep = s.rng.lognormal(-3, 1), s.rng.uniform(0, 0.4)
    tail = np.where(s.rng.random(len(s.ts)) < 0.003, s.rng.pareto(2.5, len(s.ts)), 0)
    seconds: F64 = base * (1 + steep * s.load**2) * np.exp(s.rng.uniform(0.05, 0.3) * s.white()) * (1 + tail)
    return seconds


def _errors(s: Setting) -> F64:
    calls = np.maximum(s.rng.poisson(s.rng.lognormal(4, 1) * s.load * s.step), 1)
    return s.rng.binomial(calls, 10 ** s.rng.uniform(-6, -3)) / calls


def _queue(s: Setting) -> F64:
    """Nearly empty, but for bursts that drain within minutes."""
    bursts = np.where(s.rng.random(len(s.ts)) < s.step / (6 * HOUR), s.rng.lognormal(3, 0.7, len(s.ts)), 0)
    drained = remembered(bursts, float(np.exp(-s.step / 240)))
    return np.floor(s.rng.poisson(s.rng.uniform(0.2, 4) * s.load) + drained)


def _job(s: Setting) -> F64:
    """A job at a set minute of each hour, six hours or day, whose work differs from run to run."""
    every, lasts = s.rng.choice([HOUR, 6 * HOUR, DAY]), s.rng.uniform(300, 1500)
    late = s.ts - s.rng.uniform(0, every)
    work = s.rng.uniform(0.7, 1.3, int(s.ts[-1] // every) - int(s.ts[0] // every) + 3)
    run = (late // every).astype(int) - int(late[0] // every)
    return np.where(late % every < lasts, s.rng.uniform(20, 200) * work[run], 0) + np.abs(s.white()) + 2 * s.load


def _disk(s: Setting) -> F64:
    """Fills through the day and is cleaned at night."""
    grown = (s.ts - s.rng.uniform(0, DAY)) % DAY / DAY
    return 100 * (s.rng.uniform(0.2, 0.6) + s.rng.uniform(0.01, 0.1) * grown) + 0.05 * s.wander(HOUR)


def _connections(s: Setting) -> F64:
    return np.rint(s.rng.uniform(10, 300) * (0.5 + 0.5 * s.load) + s.rng.uniform(1, 8) * s.wander(1800))


def _threads(s: Setting) -> F64:
    """Whole numbers that stay for hours."""
    moves = np.where(s.rng.random(len(s.ts)) < s.step / (3 * HOUR), s.rng.integers(-2, 3, len(s.ts)), 0)
    return np.maximum(s.rng.integers(20, 80) + remembered(moves, 0.999).round(), 1)


def _hits(s: Setting) -> F64:
    return np.clip(s.rng.uniform(0.7, 0.97) + 0.01 * s.wander(HOUR) + 0.005 * s.white(), 0, 1)


COUNTER = "http_requests_total"
#: name as an exporter would give it -> how it is made
METRICS: dict[str, Callable[[Setting], F64]] = {
    "process_cpu_percent": _cpu,
    "jvm_heap_used_bytes": _heap,
    "process_resident_memory_bytes": _resident,
    "request_rate": _rate,
    COUNTER: _increments,
    "request_latency_p99": _latency,
    "request_error_ratio": _errors,
    "queue_depth": _queue,
    "batch_rows": _job,
    "disk_used_percent": _disk,
    "db_connections": _connections,
    "threads": _threads,
    "cache_hit_ratio": _hits,
}


def _unit(values: F64, step: float) -> float:
    """One deviation: of what is left beside the mean of two hours, but at least half of that with the rhythm."""
    width = max(int(2 * HOUR / step), 3)
    smooth = np.convolve(values, np.full(width, 1 / width), "valid")
    first = width // 2
    off = np.abs(values[first : first + len(smooth)] - smooth).mean()
    return float(max(1.25 * off, 0.5 * values.std(), 1e-3 * np.abs(values).mean(), 1e-9))


def _shape(kind: str, share: F64, rng: Rng) -> F64:
    """How far an incident has a metric, from 0 to 1, at these shares (0 to 1) of its time."""
    if kind == "ramp":
        return np.minimum(1.5 * share, 1.0)
    if kind == "variance":
        return rng.normal(size=len(share))
    return np.ones(len(share))


#: kind -> (how often, shortest and longest in seconds, least and most deviations, how many metrics)
INCIDENTS: dict[str, tuple[float, float, float, float, float, str]] = {
    "cascade": (3.0, 900, 2 * HOUR, 4, 20, "half"),
    "spike": (2.0, 300, 1200, 6, 25, "one"),
    "level": (2.0, HOUR, 8 * HOUR, 4, 15, "few"),
    "ramp": (2.0, HOUR, 6 * HOUR, 5, 20, "few"),
    "variance": (1.0, HOUR, 6 * HOUR, 4, 10, "few"),
    "one metric": (2.0, 1800, 3 * HOUR, 5, 15, "one"),
    "many weakly": (2.0, HOUR, 4 * HOUR, 2, 3.5, "most"),
    "flatline": (1.0, 2 * HOUR, 8 * HOUR, 0, 0, "few"),
    "rhythm lost": (1.0, 8 * HOUR, DAY, 0, 0, "load"),
    "outage": (2.0, 300, HOUR, 0, 0, "load"),
}
_FOLLOW = {"process_cpu_percent", "request_rate", COUNTER, "db_connections"}  # the load, closely


def _chosen(rng: Rng, names: Sequence[str], how_many: str) -> list[int]:
    n = len(names)
    if how_many == "load":
        return [i for i, name in enumerate(names) if name in _FOLLOW]
    count = {"one": 1, "few": min(int(rng.integers(1, 4)), n), "half": (n + 1) // 2, "most": -(-3 * n // 4)}[how_many]
    return sorted(rng.permutation(n)[:count].tolist())


def _strike(rng: Rng, service: F64, names: Sequence[str], ts: F64, span: Span, least: float, most: float) -> None:
    """Change `service` (counters as increments) in place by what happened."""
    at = slice(int(np.searchsorted(ts, span.start)), int(np.searchsorted(ts, span.end)))
    share = (ts[at] - span.start) / (span.end - span.start)
    how_far = np.exp(rng.uniform(np.log(least), np.log(most))) if most else 0.0
    for m in span.metrics:
        x = service[m]
        before = x[at].copy()
        if span.kind == "flatline":
            x[at] = x[at.start - 1] if names[m] != COUNTER else 0.0
        elif span.kind == "rhythm lost":
            x[at] = np.median(x[: at.start]) + (before - before.mean()) * 0.1
        elif span.kind == "outage":
            x[at] *= 0.03 * rng.random()
        else:
            unit = _unit(x[: at.start], float(ts[1] - ts[0]))
            down = rng.random() < 0.2 and names[m] not in ("request_latency_p99", "request_error_ratio", "queue_depth")
            x[at] += (-1 if down else 1) * how_far * unit * rng.uniform(0.7, 1.3) * _shape(span.kind, share, rng)
        if x.min() < 0 <= before.min():
            x[at] = np.maximum(x[at], 0.0)


def service(rng: Rng, name: str, step: float, days: float, quiet: float) -> Service:
    """One service; an incident begins about every day and a half after the days of `quiet`."""
    ts: F64 = START + step * np.arange(int(days * DAY / step), dtype=np.float64)
    end = START + days * DAY
    harmless = []
    at = START
    while (at := at + rng.exponential(2.5 * DAY)) < end:
        harmless.append(Span("deploy", at, at + 600))
    deploys = [s.start for s in harmless]
    setting = Setting(rng, ts, deploys)
    kinds = list(METRICS)
    count = int(np.clip(rng.lognormal(2.6, 0.6), 5, 40))
    picked = [*kinds[:5], *rng.choice(kinds, max(count - 5, 0)).tolist()]
    values = np.stack([METRICS[k](setting) for k in picked])
    for m, kind in enumerate(picked):  # a deploy moves some levels for good
        for d in deploys:
            if kind not in (COUNTER, "request_error_ratio") and rng.random() < MOVED:
                row = int(np.searchsorted(ts, d))
                values[m, row:] += rng.uniform(-4, 4) * _unit(values[m, : max(row, int(DAY / step))], step)

    incidents: list[Span] = []
    odds = np.array([row[0] for row in INCIDENTS.values()])
    at = START + quiet * DAY
    while (at := at + rng.exponential(DAY)) < end - 9 * HOUR:
        kind = str(rng.choice(list(INCIDENTS), p=odds / odds.sum()))
        _, short, long, least, most, how_many = INCIDENTS[kind]
        span = Span(kind, at, min(at + rng.uniform(short, long), end - HOUR), tuple(_chosen(rng, picked, how_many)))
        _strike(rng, values, picked, ts, span, least, most)
        incidents.append(span)
        at = span.end + 8 * HOUR  # it is mended, and so is what it left behind

    for m, kind in enumerate(picked):
        if kind == COUNTER:
            values[m] = _counted(values[m], setting.restarts)
    at = START
    while (at := at + rng.exponential(2 * DAY)) < end:  # a hole: of one exporter's metrics, or of all of them
        lasts = float(rng.choice([2 * step, 1200.0, 2 * HOUR]))
        if any(s.start - HOUR < at + lasts and at < s.end + HOUR for s in incidents):
            continue
        some = rng.random(len(values)) < 0.4 if rng.random() < 0.5 else np.ones(len(values), bool)
        values[np.ix_(some, (ts >= at) & (ts < at + lasts))] = np.nan
        harmless.append(Span("hole", at, at + lasts))
    values[:, rng.random(len(ts)) < 0.001] = np.nan  # scrapes that failed
    return Service(name, ts, tuple(picked), values, tuple(incidents), tuple(harmless), quiet * DAY)


def fleet(seed: int) -> list[Service]:
    """The services of one seed, of all sampling intervals."""
    out = []
    for step, (count, days, quiet) in FLEET.items():
        for i in range(count):
            rng = np.random.default_rng([seed, int(step), i])
            out.append(service(rng, f"{int(step)}s/{seed}/{i}", step, days, quiet))
    return out
