"""What the bank knows, in the words and units of an operator: evidence of series, and the sentence of an event.

What enters is views of the bank's rows and their labels; what leaves is `model.Evidence` and text. Nothing is decided.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np

from aiopsd.detect.bank import View
from aiopsd.evidence import RATES, Judged, harmful, judge, rate_ruler, readings
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
    counter: bool = False


Describe = Callable[[int], Series]


def from_view(view: View, describe: Describe, since: float) -> list[Evidence]:
    """Evidence of every row of the view, sub-threshold included, worst first within its service.

    The recent samples are judged as `evidence.judge` says; when the ring holds none from before `since`, the slow
    memory of what left it stands for the lead-in.
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
        if who.kind in RATES:
            scale = rate_ruler(normal, [v for t, v in zip(times, values, strict=True) if t < since], scale)
        if times:
            found = judge(times, values, normal, scale, who.harm, since)
        else:
            found = Judged(float(view.mean[i]), 0.0, None, 0.0)
        lead = found.lead if found.lead is not None else harmful(float(view.lead[i]) / scale, who.harm)
        low, high = float(view.low[i]), float(view.high[i])
        if found.deviation > BAND:  # the envelope has learned of this trouble meanwhile; what is normal has not
            high = min(high, normal + BAND * scale) if found.level >= normal else high
            low = max(low, normal - BAND * scale) if found.level < normal else low
        by_service.setdefault(who.service, []).append(
            Evidence(
                service=who.service,
                metric=who.metric,
                kind=who.kind,
                labels=who.labels,
                channel="x",
                direction=Direction.HIGH if found.level >= normal else Direction.LOW,
                harm=who.harm,
                level=found.level,
                normal=normal,
                low=low,
                high=high,
                scale=scale,
                deviation=found.deviation,
                score=float(view.score[i]),
                onset=found.onset,
                lead_in=lead,
                traffic=float(view.mean[i]) if who.kind == "traffic" else 0.0,
                recent=tuple(zip(times, values, strict=True)),
                rate=who.counter,
            )
        )
    out: list[Evidence] = []
    for service in sorted(by_service):
        ranked = sorted(by_service[service], key=_worst_first)
        out += ranked[:KEEP_PER_SERVICE]
        # traffic weighs the edges of the graph: keep it even when it is calm
        out += [e for e in ranked[KEEP_PER_SERVICE:] if e.kind == "traffic"][:8]
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
    """`latency_seconds 1.84 s, normally 0.11..0.19 s, since 02:14:30 UTC`."""
    what = e.metric or "value"
    if e.low <= e.level <= e.high and e.opinion:  # it is not the value that is strange
        (level,), unit = readings(what, [e.level], rate=e.rate)
        return f"{what} {level}{unit} ({e.opinion}), since {clock(onset)}"
    (level, low, high), unit = readings(what, [e.level, e.low, e.high], rate=e.rate)
    return f"{what} {level}{unit}, normally {low}..{high}{unit}, since {clock(onset)}"


def summary(evidence: Sequence[Evidence], onset: float, more: int = 0) -> str:
    """The sentence of an event: its strongest evidence, and how many others there are."""
    if not evidence:
        return f"since {clock(onset)}"
    text = sentence(evidence[0], onset)
    return text + (f"; and {more} more metric{'s' if more > 1 else ''}" if more > 0 else "")
