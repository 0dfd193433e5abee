"""How the recent samples of a series are judged: the level reached since a time, what was there before, since when.

What enters is samples and the ruler of their series; what leaves is numbers and `model.Evidence`. The detect side
judges when it is asked; the correlate side judges again when an incident proves older than thought, and joins answers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from aiopsd.model import Direction, Evidence

RATES = ("errors", "availability")  # kinds of signals that are shares of requests
KEEP = 48  # recent samples that a joined evidence remembers
_BYTES = ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"))
_SECONDS = ((1.0, " s"), (1e-3, " ms"), (1e-6, " us"))
_EPOCH = 1e8  # s; so many are a date, not a duration
_NOTHING = 1e-4  # of the largest of some numbers that are read together


class Judged(NamedTuple):
    """`level` is in the metric's unit, `deviation` and `lead` in scales; `lead` is None without samples before."""

    level: float
    deviation: float
    lead: float | None
    onset: float  # of the run of bad samples that reached the level; 0: it is calm


def about(signal: str) -> str:
    """What an anomaly is of, as a person reads it: `service` is the join's word for several metrics of one.

    >>> about("service"), about("cpu_percent")
    ('several metrics', 'cpu_percent')
    """
    return "several metrics" if signal == "service" else signal


def readings(metric: str, values: Sequence[float], *, rate: bool = False, digits: int = 4) -> tuple[list[str], str]:
    """(numbers, unit) as a person reads them side by side: one unit for all, which the metric's name tells.

    Seconds and bytes are Prometheus' base units. What is nothing beside the others is 0.

    Args:
        rate: of a counter, per second.

    >>> readings("http_request_duration_seconds_p99", [0.6395, 0.1734, 0.241])
    (['639.5', '173.4', '241'], ' ms')
    >>> readings("http_requests_errors_total", [0.3984, 2.9e-06, 0.1679], rate=True)
    (['0.3984', '0', '0.1679'], '/s')
    >>> readings("process_resident_memory_bytes", [2433375688.1], digits=3), readings("value", [8.1e9])
    ((['2.43'], ' GB'), (['8.1e+09'], ''))
    """
    largest = max(map(abs, values), default=0.0)
    words = metric.lower().split("_")
    size, unit = 1.0, ""
    if "bytes" in words:
        size, unit = next(((s, u) for s, u in _BYTES if largest >= s), (1.0, " B"))
    elif "seconds" in words and rate:
        unit = " s"  # of time in a second: processors, say
    elif "seconds" in words and largest < _EPOCH:
        size, unit = next(((s, u) for s, u in _SECONDS if largest >= s), (1.0, " s"))
    shown = [0.0 if abs(v) < _NOTHING * largest else v / size for v in values]
    return [f"{v:.{digits}g}" for v in shown], f"{unit}/s" if rate else unit


def harmful(deviation: float, harm: str) -> float:
    """Deviation in the harmful direction, 0 when it goes the harmless way.

    >>> harmful(-3.0, "low"), harmful(-3.0, "high"), harmful(-3.0, "both")
    (3.0, 0.0, 3.0)
    """
    if harm == "high":
        return max(deviation, 0.0)
    if harm == "low":
        return max(-deviation, 0.0)
    return abs(deviation) if harm == "both" else 0.0


def harm_of(e: Evidence) -> str:
    """The harmful direction of its series; by its kind when nobody said."""
    if e.harm:
        return e.harm
    if e.kind == "availability":
        return "low"
    return "high" if e.kind in ("latency", "errors", "saturation") else "both"


def judge(
    times: Sequence[float], values: Sequence[float], normal: float, scale: float, harm: str, since: float
) -> Judged:
    """Judge samples (oldest first, at least one).

    The level is the one that a quarter of the samples from `since` on reach or pass in the harmful direction, not the
    single worst sample; the lead is the median of those before. Without a sample since, the last one is judged.
    """
    bad = [harmful((v - normal) / scale, harm) for v in values]
    first = next((k for k, t in enumerate(times) if t >= since), len(times) - 1)
    worst_first = sorted(range(first, len(times)), key=lambda k: (-bad[k], k))
    at = worst_first[math.ceil(len(worst_first) / 4) - 1]
    lead = sorted(bad[:first])[first // 2] if first >= 2 else None
    onset = 0.0
    for k in range(at, -1, -1):
        if bad[k] < 1.0:
            break
        onset = times[k]
    return Judged(values[at], bad[at], lead, onset)


def rate_ruler(normal: float, before: Sequence[float], longest: float) -> float:
    """Scale of a share of requests (percent or fraction): what it did before, at least a tenth of a point.

    A share that is nearly always 100 % has no spread of its own, and 5 % of its level is an outage, not a scale.

    Args:
        normal: its level when all is well.
        before: samples from before the trouble; fewer than four tell nothing.
        longest: what the series itself learned, trouble included.

    >>> rate_ruler(99.9, [], 0.4), rate_ruler(99.9, [99.9] * 9, 0.4), rate_ruler(0.999, [0.99, 0.98, 1, 1, 1], 0.4)
    (0.4, 0.1, 0.009000000000000008)
    """
    point = 0.1 if abs(normal) > 1.5 else 0.001
    if len(before) < 4:
        return max(point, longest)
    off = sorted(abs(v - normal) for v in before)
    return max(point, min(longest, max(1.4826 * off[len(off) // 2], off[int(0.7 * len(off))])))


def rejudged(e: Evidence, since: float) -> Evidence:
    """The same series as if asked about the time since `since`."""
    if not e.recent or e.scale <= 0.0:
        return e
    ruler = e.scale
    if e.kind in RATES:
        ruler = rate_ruler(e.normal, [v for t, v in e.recent if t < since], ruler)
    found = judge([t for t, _ in e.recent], [v for _, v in e.recent], e.normal, ruler, harm_of(e), since)
    lead = found.lead if found.lead is not None else e.lead_in
    way = Direction.HIGH if found.level > e.normal else Direction.LOW
    way = way if found.deviation > 0.0 else e.direction
    return replace(
        e, level=found.level, deviation=found.deviation, lead_in=lead, onset=found.onset, scale=ruler, direction=way
    )


def joined(old: Evidence, new: Evidence, since: float) -> Evidence:
    """Two answers about one series: the newer samples, judged by the older ruler.

    Trouble that lasts teaches its series that it is normal; what was normal when the incident began is what counts.
    """
    if not old.recent or not new.recent or old.scale <= 0.0:
        return new
    recent = tuple(sorted((dict(old.recent) | dict(new.recent)).items()))[-KEEP:]
    told = replace(new, recent=recent, normal=old.normal, scale=old.scale, lead_in=old.lead_in)
    return rejudged(told, since)
