"""Does it still move? The mean step from sample to sample of each hour, against the least that an hour has shown.

A job that stopped, a cache that froze, a load that lost its rhythm all stay within their range. What they no longer do
is move. Distances are in widths from the least step to the usual one; only what is below counts, as a fall. A series
that is often still has shown it, and is not told of.
"""

import numpy as np

from aiopsd.detect.bank.bars import BAR_STEP, MENTION, sunk
from aiopsd.detect.bank.layout import CNT, F32, SN, STEPS, SWAS, TINY, Rows
from aiopsd.detect.bank.policy import Policy
from aiopsd.detect.bank.samples import Signals

STILL_DENSE = 4.0  # samples that make an hour's mean step
STILL_WARM = 24.0  # hours: a night is stiller than the day
STILL_FIRST = 3.0  # widths below the least step that a new series has to show: it takes a week, with a weekend, to sink
STILL_LEAST = 0.5  # and one that has been quiet for long
STILL_WIDTH = 0.25  # of the usual step: so far chance moves the mean of twelve steps, however regular they were so far
STILL_FADE = 1 - 0.5 ** (1 / (14 * 24))  # of the least towards the usual step an hour: in 14 days, as the envelopes


def stillness(policy: Policy, at: Rows, signals: Signals) -> F32:
    """Judge and learn how much the series moved in the hours that are complete at these places; the evidence.

    An hour of few samples says nothing of how much they move: it is neither judged nor learned.
    """
    s = signals.s
    evidence = np.zeros(len(at), np.float32)
    dense = np.flatnonzero(s[CNT, at] >= STILL_DENSE)
    if not len(dense):
        return evidence
    at = at[dense]
    h = s[SN : SWAS + 1, at]
    n, usual, least, bar, was = h
    step = s[STEPS, at] / s[CNT, at]
    first = n == 0
    bar = sunk(np.where(first, np.float32(STILL_FIRST), bar), np.float32(1 / 24), STILL_LEAST, policy.alarms)
    width = np.maximum(np.maximum(usual - least, np.float32(STILL_WIDTH) * usual), TINY)
    ratio = np.minimum(np.maximum(least - step, 0) / width / bar, np.float32(10))
    ready = (n >= STILL_WARM) & signals.act[at]
    far = np.float32(policy.theta) * ratio * ratio * ratio
    evidence[dense] = np.where(ready & (far > np.float32(MENTION)), far, np.float32(0))

    n += 1
    bar *= np.where(ready & (ratio > 1), np.float32(BAR_STEP), np.float32(1))
    usual += np.maximum(1 / n, np.float32(1 / 100)) * (np.where(first, step, np.minimum(step, 3 * usual)) - usual)
    # what begins within an hour leaves it half still: that must not teach what the next one is judged by
    least = np.where(first, step, np.minimum(least, np.where(n > 2, was, step)))
    h[2] = least + np.float32(STILL_FADE) * (usual - least)
    h[3], h[4] = bar, step
    np.minimum(n, np.float32(1e6), out=n)
    s[SN : SWAS + 1, at] = h
    return evidence
