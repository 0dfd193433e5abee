"""The recent samples of each series, and the memory of what left them: what led up to a break."""

import numpy as np

from aiopsd.detect.bank.layout import DEV, F32, F64, LEAD, SLOTS, Rows
from aiopsd.detect.bank.samples import Signals, Taken
from aiopsd.detect.bank.store import Store

PACE = np.uint32(60)  # s; sixteen slots reach a quarter of an hour back at any faster sampling


def remember(store: Store, taken: Taken, signals: Signals, normal: F32) -> None:
    """Keep the recent samples, at most one a minute; those that leave the ring are what led up to it."""
    s, at, rows = signals.s, taken.at, taken.rows
    p = store.ring_p[at]
    ring_v, ring_t = store.ring_v.reshape(-1), store.ring_t.reshape(-1)
    sec = taken.ts.astype(np.uint32)
    there = ring_t[p * np.intp(store.capacity) + rows]
    move = (there == 0) | (sec - there >= PACE)
    p = (p + move) & np.uint8(SLOTS - 1)
    place = p * np.intp(store.capacity) + rows
    old = ring_t[place]
    leaves = move & (old != 0)
    if leaves.any():
        cap = 50 * s[DEV]
        lead = np.minimum(np.maximum(ring_v[place] - normal, -cap), cap)
        s[LEAD] += np.where(leaves, np.float32(1 / 32), np.float32(0)) * (lead - s[LEAD])
    ring_v[place] = signals.each[0]
    # the slot keeps the time of its first sample until the next slot is due
    ring_t[place] = np.where(move, sec, old)
    store.ring_p[at] = p


def recall(store: Store, rows: Rows, anchor: F64) -> tuple[F64, F64]:
    """(times, values), each [rows, 16] oldest first, NaN where there is none."""
    order = (store.ring_p[rows, None].astype(np.intp) + 1 + np.arange(SLOTS)) % SLOTS
    place = order, rows[:, None]
    times = store.ring_t[place].astype(np.float64)
    known = times > 0
    values = anchor[:, None] + store.ring_v[place].astype(np.float64)
    return np.where(known, times, np.nan), np.where(known, values, np.nan)
