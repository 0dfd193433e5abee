"""Is it a peak, though the like was seen before? The mean of each hour, against the recent hours and its hour of day.

An envelope that knows a peak does not report the next one. Distances are counted in deviations of each; the lesser of
the two counts, so that neither a daily peak nor a lasting shift keeps the channel busy. What is compared with is
learned in clipped steps: a spike must not teach what is normal, or the calm hours after it look like breaks. A distance
of many deviations that is small beside what the series has ever shown counts for less. Within one excursion only an
hour farther out than those before speaks again.
"""

import numpy as np

from aiopsd.detect.bank.bars import BAR_STEP, MENTION, sunk
from aiopsd.detect.bank.layout import ACC, CNT, HI, HN, HRUN, LO, Rows
from aiopsd.detect.bank.policy import Policy
from aiopsd.detect.bank.samples import Peaks, Signals

BAR_FIRST = 12.0  # deviations asked of a new series
BAR_LEAST = 4.5  # and of one that has been quiet for long
PART = 0.3  # of all that the series has shown; a distance smaller than this part of it counts in proportion
ADOPTED = 3  # hours in a row beyond the bar after which their level is the recent one
CLIP = np.float32(3)  # deviations by which one hour may move what is taken for normal


def peaks(policy: Policy, at: Rows, signals: Signals) -> Peaks:
    """Judge and learn the means of the hours that are complete at these places."""
    s, dt = signals.s, signals.dt32
    days, usual, act, level, floor = signals.days, signals.usual, signals.act, signals.level, signals.floor
    h = s[HN : HRUN + 1, at]
    count, recent, dev, day_dev, bar, hit, run = h
    mean = s[ACC, at] / s[CNT, at]
    first = count == 0
    recent = np.where(first, mean, recent)
    known = days[at] >= 2
    of_day = np.where(known, usual[at], recent)
    off, day_off = mean - recent, mean - of_day
    span = s[HI, at] - s[LO, at]
    least = np.float32(0.005) * span + np.float32(1e-3) * level[at] + floor[at]
    scale, day_scale = np.float32(1.25) * dev + least, np.float32(1.25) * day_dev + least
    elapsed = np.maximum(dt[at], np.float32(3600)) * np.float32(1 / 86400)
    bar = sunk(np.where(first, np.float32(BAR_FIRST), bar), elapsed, BAR_LEAST, policy.alarms)
    same = (off > 0) == (day_off > 0)
    size, day_size = np.abs(off), np.abs(day_off)
    far = np.where(same, np.minimum(size / scale, day_size / day_scale), np.float32(0))
    part = np.float32(PART) * span
    far *= np.where(size < part, size / part, np.float32(1))
    ratio = np.minimum(far / bar, np.float32(10))
    ready = (count >= policy.warm) & act[at]
    # within an excursion only what goes farther is news; back below half of the bar it is over
    run = np.where(ratio < np.float32(0.5), np.float32(0), run / (1 + np.float32(1.2) * elapsed))
    evidence = np.float32(policy.theta) * ratio * ratio * ratio
    evidence = np.where(ready & (ratio > run) & (evidence > np.float32(MENTION)), evidence, np.float32(0))
    low = np.minimum(recent - bar * scale, of_day - bar * day_scale)
    high = np.maximum(recent + bar * scale, of_day + bar * day_scale)

    above = ready & (ratio > 1)
    h[4] = np.where(above & (hit == 0), bar * np.float32(BAR_STEP), bar)
    h[5] = np.where(above, np.minimum(hit + 1, np.float32(ADOPTED)), np.float32(0))
    h[6] = np.where(ready, np.maximum(run, ratio), np.float32(0))
    h[0] = np.minimum(count + 1, np.float32(1e6))
    share = 1 / h[0]
    clip = np.where(count > 20, CLIP * scale, np.float32(3e38))
    moved = recent + np.maximum(share, np.float32(1 / 20)) * np.minimum(np.maximum(off, -clip), clip)
    h[1] = np.where(h[5] >= ADOPTED, mean, moved)  # a level that stays is no spike: what follows is judged by it
    young = count < 30
    slow = np.maximum(share, np.float32(1 / 100))
    for i, was, distance in ((2, dev, size), (3, day_dev, day_size)):
        h[i] = was + slow * (np.where(young, distance, np.minimum(distance, 6 * was)) - was)
    s[HN : HRUN + 1, at] = h
    return Peaks(at, np.where(off > 0, evidence, -evidence), low, high)
