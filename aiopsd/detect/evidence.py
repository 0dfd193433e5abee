"""What the bank knows, in the words and units of an operator: evidence of series, and the sentence of an event.

What enters is views of the bank's rows and their labels; what leaves is `model.Evidence` and text. Nothing is decided.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np

from aiopsd.detect.bank import View
from aiopsd.model import Direction, Evidence, Labels

BAND = 4.0  # scales from normal; a series that is further out has left what is normal, whatever its envelope learned
KEEP_PER_SERVICE = 64  # evidences of one service in a digest: the digest is one journal record


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Who a row is."""

    service: str
    metric: str
    labels: Labels
    kind: str = "other"
    harm: str = "both"


Describe = Callable[[int], Series]


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


def from_view(view: View, describe: Describe, since: float) -> list[Evidence]:
    """Evidence of every row of the view, sub-threshold included, worst first within its service.

    The recent samples from `since` on are what is judged: the level is the one that a quarter of them reach or pass in
    the harmful direction, not the single worst sample. What the samples before `since` showed already is the lead-in;
    when none is left, the slow memory of what left the ring stands for them. A row without a recent sample is judged by
    its last one.
    """
    by_service: dict[str, list[Evidence]] = {}
    for i in range(len(view.rows)):
        if view.count[i] < 1:
            continue
        who = describe(int(view.rows[i]))
        normal, scale = float(view.normal[i]), float(view.scale[i])
        known = ~np.isnan(view.recent_ts[i])
        times = view.recent_ts[i][known].tolist()
        values = view.recent[i][known].tolist()
        bad = [harmful((v - normal) / scale, who.harm) for v in values]
        now = [k for k, t in enumerate(times) if t >= since] or ([len(times) - 1] if times else [])
        before = [k for k, t in enumerate(times) if t < since and k not in now[:1]]
        if now:
            worst_first = sorted(now, key=lambda k: (-bad[k], k))
            at = worst_first[math.ceil(len(now) / 4) - 1]
            level, deviation = values[at], bad[at]
        else:
            level, deviation = float(view.mean[i]), 0.0
        if len(before) >= 2:
            lead = sorted(bad[k] for k in before)[len(before) // 2]
        else:
            lead = harmful(float(view.lead[i]) / scale, who.harm)
        onset = 0.0
        for k in range(len(times) - 1, -1, -1):
            if bad[k] < 1.0:
                break
            onset = times[k]
        low, high = float(view.low[i]), float(view.high[i])
        if deviation > BAND:  # the envelope has learned of this trouble meanwhile; what is normal has not
            high = min(high, normal + BAND * scale) if level >= normal else high
            low = max(low, normal - BAND * scale) if level < normal else low
        by_service.setdefault(who.service, []).append(
            Evidence(
                service=who.service,
                metric=who.metric,
                kind=who.kind,
                labels=who.labels,
                channel="x",
                direction=Direction.HIGH if level >= normal else Direction.LOW,
                level=level,
                normal=normal,
                low=low,
                high=high,
                scale=scale,
                deviation=deviation,
                score=float(view.score[i]),
                onset=onset,
                lead_in=lead,
                traffic=float(view.mean[i]) if who.kind == "traffic" else 0.0,
                recent=tuple(zip(times, values, strict=True)),
            )
        )
    out: list[Evidence] = []
    for service in sorted(by_service):
        found = sorted(by_service[service], key=_worst_first)
        out += found[:KEEP_PER_SERVICE]
        # traffic weighs the edges of the graph: keep it even when it is calm
        out += [e for e in found[KEEP_PER_SERVICE:] if e.kind == "traffic"][:8]
    return out


def _worst_first(e: Evidence) -> tuple[float, str, list[tuple[str, str]]]:
    return -(e.deviation - min(e.lead_in, e.deviation)), e.metric, sorted(e.labels.items())


def number(x: float) -> str:
    """Four significant digits, no exponent where it reads better without.

    >>> number(840.0), number(0.01234567), number(8.1e9)
    ('840', '0.01235', '8.1e+09')
    """
    return f"{x:.4g}"


def clock(ts: float) -> str:
    """UTC time of day of a sample.

    >>> clock(8070.0)
    '02:14:30 UTC'
    """
    return datetime.fromtimestamp(ts, UTC).strftime("%H:%M:%S UTC")


def sentence(e: Evidence, onset: float) -> str:
    """`p99 latency 840, normally 110..190, since 02:14:30 UTC`."""
    return f"{e.metric or 'value'} {number(e.level)}, normally {number(e.low)}..{number(e.high)}, since {clock(onset)}"


def summary(evidence: Sequence[Evidence], onset: float, more: int = 0) -> str:
    """The sentence of an event: its strongest evidence, and how many others there are."""
    if not evidence:
        return f"since {clock(onset)}"
    text = sentence(evidence[0], onset)
    return text + (f"; and {more} more metric{'s' if more > 1 else ''}" if more > 0 else "")
