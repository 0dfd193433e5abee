"""Has this ever been seen? Each signal of a series keeps an envelope that forgets; evidence is how far it leaves it.

Evidence counts widths of that envelope, so that the number has no unit and means the same on every series. Leaving the
envelope widens it, so a stationary series falls silent by itself.
"""

import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank.layout import F32, HI, LO, SEASON, TINY, K, Mask
from aiopsd.detect.bank.policy import LN2, Terms
from aiopsd.detect.bank.samples import Signals, Taken
from aiopsd.detect.bank.store import Store

SEASON_DAYS = 3.0  # days on which an hour of the day rests when it is trusted half
WILD = np.float32(10)  # widths outside that a mean learns of one sample: one of 24 then moves by less than half a width


def beyond(signals: Signals) -> tuple[F32, F32, NDArray[np.int8], NDArray[np.int8]]:
    """Widths by which the signals are above and below their envelopes, and which signal is farthest out."""
    s, level, days = signals.s, signals.level, signals.days
    all_young = bool((days == 0).all())
    up: F32 | None = None
    for c, y in enumerate(signals.each):
        lo, hi = s[LO + c], s[HI + c]
        over, under = y - hi, lo - y
        width = hi - lo
        flat = width <= 0
        if flat.any():
            # nothing but one value so far: a change counts 1, one below 1 % of the level counts less
            least = np.maximum(np.maximum(over, under), level * np.float32(0.01))
            width = np.where(flat, np.maximum(least, TINY), width)
        width = np.maximum(width, signals.floor)
        if c == SEASON and not all_young:
            # what this hour usually shows rests on few days at first, and one odd day spoils it
            width = np.where(days >= 1, width * (1 + np.float32(SEASON_DAYS) / days), width)
        over, under = over / width, under / width
        if up is None:
            up, down = over, under
            up_c, down_c = np.zeros(len(y), np.int8), np.zeros(len(y), np.int8)
        else:
            np.copyto(up_c, np.int8(c), where=over > up)
            np.copyto(down_c, np.int8(c), where=under > down)
            up, down = np.maximum(up, over), np.maximum(down, under)
    assert up is not None
    return up, down, up_c, down_c


def bounded(x: F32, s: F32, act: Mask, all_act: bool) -> F32:
    """The values as means learn them: one that is absurd (a sensor's overflow) must not move them for weeks."""
    lo, hi = s[LO], s[HI]
    room = WILD * (hi - lo)
    known = room > 0
    if not (all_act and bool(known.all())):
        room = np.where(act & known, room, np.float32(3e38))
    out: F32 = np.minimum(np.maximum(x, lo - room), hi + room)
    return out


def widen(store: Store, terms: Terms, taken: Taken, signals: Signals) -> None:
    """Learn the envelopes: what left one widens it, and time narrows it."""
    policy, s, dt32 = terms.own, signals.s, signals.dt32
    k = s[K]
    forget = np.minimum(np.float32(LN2 / policy.samples), dt32 * np.float32(LN2 / (14 * 86400)))
    tau = terms.memory(store.rule, taken.rows)
    if tau is not None:
        forget = np.where(tau > 0, dt32 / (tau + dt32), forget)
    half = forget * np.float32(0.5)
    live = k > policy.warm // 4
    all_live = bool(live.all())
    birth = np.flatnonzero(k == policy.warm // 4 + 1)
    grow = terms.growth(store.rule, taken.rows)
    for c, y in enumerate(signals.each):
        lo, hi = s[LO + c], s[HI + c]
        if len(birth):
            lo[birth] = y[birth]
            hi[birth] = y[birth]
        width = hi - lo
        wide = width > 0
        limit = grow * width
        if not (signals.all_act and bool(wide.all())):
            limit = np.where(signals.act & wide, limit, np.float32(3e38))
        new_hi = np.maximum(hi, np.minimum(y, hi + limit))
        new_lo = np.minimum(lo, np.maximum(y, lo - limit))
        shrink = half * (new_hi - new_lo)
        new_hi -= shrink
        new_lo += shrink
        if all_live:
            s[HI + c], s[LO + c] = new_hi, new_lo
        else:
            np.copyto(hi, new_hi, where=live)
            np.copyto(lo, new_lo, where=live)
