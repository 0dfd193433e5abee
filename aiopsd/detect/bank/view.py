"""What the bank knows of its rows, in the metric's own unit: evidence on demand."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank.layout import E100, F64, HELD, HI, LEAD, LO, MID, K, Rows
from aiopsd.detect.bank.normal import ruler
from aiopsd.detect.bank.recent import recall
from aiopsd.detect.bank.store import Store


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the bank as numbers that people read: everything in the metric's own unit, one element per row."""

    rows: Rows
    last: F64  # time of the last sample, -inf: none
    count: F64  # samples seen
    normal: F64  # robust level expected at the hour of the last sample
    low: F64
    high: F64
    scale: F64  # robust scale, lengthened by the normal tail, with a floor of 5 % of the level
    mean: F64  # mean of about the last hundred samples
    lead: F64  # mean distance from normal before the recent samples
    score: F64
    recent_ts: F64  # [rows, 16] oldest first, NaN: none
    recent: F64  # [rows, 16]
    flags: NDArray[np.uint8]


def view(store: Store, rows: Rows, theta: float) -> View:
    """What the bank knows of these rows now; copies. `theta`: evidence at which a score is 0.5."""
    s = store.f[:, rows]
    anchor = store.d[2][rows]
    hour = np.maximum(store.hour[rows], 0)
    slot = hour, rows
    base = np.where(store.days[slot] >= 2, store.season[slot], s[MID]).astype(np.float64)
    level = np.abs(anchor.astype(np.float32) + s[E100])
    times, values = recall(store, rows, anchor)
    return View(
        rows=rows,
        last=store.d[0][rows],
        count=s[K].astype(np.float64),
        normal=anchor + base,
        low=anchor + s[LO],
        high=anchor + s[HI],
        scale=ruler(s, level),
        mean=anchor + s[E100],
        lead=s[LEAD].astype(np.float64),
        score=(s[HELD] / (s[HELD] + np.float32(theta))).astype(np.float64),
        recent_ts=times,
        recent=values,
        flags=store.flags[rows],
    )
