"""What the samples of one pass come to: the channels joined by max, without weights, and a short peak-hold.

The peak-hold keeps one incident from scoring sample after sample.
"""

import numpy as np

from aiopsd.detect.bank.bars import complete
from aiopsd.detect.bank.layout import AGE, HARM_HIGH, HARM_LOW, HELD, HOUR, SLEAST, STILL, K, Rows
from aiopsd.detect.bank.peaks import peaks
from aiopsd.detect.bank.policy import Policy
from aiopsd.detect.bank.ranges import beyond
from aiopsd.detect.bank.samples import Found, Signals, Taken
from aiopsd.detect.bank.stillness import stillness

_NONE: Rows = np.zeros(0, np.intp)


def judge(policy: Policy, taken: Taken, signals: Signals) -> Found:
    """How far each sample leaves the envelopes as they were, or its hour the bar, in a direction that harms."""
    s, flags = signals.s, taken.flags
    up, down, up_c, down_c = beyond(signals)
    hour, least = None, s[SLEAST]
    full = complete(taken, signals) if policy.alarms > 0 else _NONE
    if len(full):
        hour = peaks(policy, full, signals)
        least = least.copy()  # as it was before this hour
        still = stillness(policy, full, signals)
        for side, side_c, far, channel in (
            (up, up_c, hour.evidence, HOUR),
            (down, down_c, -hour.evidence, HOUR),
            (down, down_c, still, STILL),
        ):
            more = far > side[full]
            side[full[more]] = far[more]
            side_c[full[more]] = np.int8(channel)
    high = np.where(flags & HARM_HIGH, up, np.float32(0))
    low = np.where(flags & HARM_LOW, down, np.float32(0))
    upward = high >= low
    evidence = np.maximum(np.maximum(high, low), np.float32(0))
    if not signals.all_act:
        evidence = np.where(signals.act, evidence, np.float32(0))
    # a young envelope is still too narrow: of small samples by chance, of a part of a day by ignorance
    young = s[AGE] < 86400
    if young.any():
        k = s[K]
        trust = np.float32(0.4) + np.float32(0.6 / 86400) * s[AGE]
        evidence = np.where(young, evidence * trust * (k / (k + policy.warm)), evidence)
    np.minimum(evidence, np.float32(1e6), out=evidence)
    keep = 1 - np.minimum(np.float32(1 / policy.hold), signals.dt32 * np.float32(1 / 3600))
    held = s[HELD] * keep
    news = np.where(evidence > held, evidence, np.float32(0))
    return Found(evidence, held, news, upward, up_c, down_c, hour, least)
