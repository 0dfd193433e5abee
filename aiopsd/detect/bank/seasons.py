"""What each hour of day usually shows, learned from the hours as they end; and those hours, for who wants to know."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank.layout import ACC, CNT, F32, F64, HDAY, HI, LO, SPREAD, STEPS, TINY, Rows
from aiopsd.detect.bank.peaks import CLIP
from aiopsd.detect.bank.samples import Taken
from aiopsd.detect.bank.store import Store


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of unique rows that ended because a sample of another hour arrived; means relative to the row's anchor."""

    pos: Rows  # the sample that ended it
    rows: Rows
    ts: F64  # of that sample
    count: F32  # samples in the hour
    mean: F32
    spread: F32  # mean distance from the recent mean
    base: F32  # mean of this hour of day on the days before
    days: NDArray[np.uint8]  # how many days `base` rests on


def ended(store: Store, taken: Taken, s: F32, roll: Rows) -> Hours:
    """The hours that end with the samples at these places: `store` knows no other hour of their rows yet."""
    rows = taken.rows[roll]
    slot = store.hour[rows], rows
    count = np.maximum(s[CNT, roll], 1)
    return Hours(
        pos=taken.pos[roll],
        rows=rows,
        ts=taken.ts[roll],
        count=count,
        mean=s[ACC, roll] / count,
        spread=s[SPREAD, roll] / count,
        base=store.season[slot],
        days=store.days[slot],
    )


def learn(store: Store, hours: Hours, s: F32, roll: Rows, level: F32, clipped: bool) -> None:
    """Take the mean of each hour into its slot of the day.

    `clipped`: by no more than a few of the distances that are usual, where these are known.
    """
    base, days = hours.base, hours.days
    gain = np.maximum(1 / (days + np.float32(1)), np.float32(0.1))
    step = hours.mean - base
    if clipped:
        span = s[HI, roll] - s[LO, roll]
        least = np.float32(0.005) * span + np.float32(1e-3) * level[roll] + TINY
        clip = CLIP * (np.float32(1.25) * s[HDAY, roll] + least)
        step = np.where(days >= 2, np.minimum(np.maximum(step, -clip), clip), step)
    slot = store.hour[hours.rows], hours.rows
    store.season[slot] = base + gain * step
    store.days[slot] = np.minimum(days, 254) + 1


def begin(s: F32, roll: Rows) -> None:
    """Another hour: nothing is summed yet."""
    for total in (ACC, CNT, SPREAD, STEPS):
        s[total, roll] = 0
