"""Which samples of a pass say something, and what they say: the value, or the rate of a counter."""

import numpy as np

from aiopsd.detect.bank.breaks import Run
from aiopsd.detect.bank.layout import COUNTER, ENDED, F64, LARGEST, Mask, Rows
from aiopsd.detect.bank.samples import Taken, place
from aiopsd.detect.bank.store import Store
from aiopsd.model import STALE_BITS

_STALE = np.uint64(STALE_BITS)
LAST_TIME = 4.2e9  # s; later than this is not a sample time (year 2103, and it fits uint32)


def admit(
    store: Store, run: Run, pos: Rows, rows: Rows, ts: F64, v: F64, learn: bool, skip: Mask | None
) -> Taken | None:
    """Those samples that say something: finite, newer than what their rows have, and of a counter not the first.

    Nor its first after a reset. What it counted before it went is not known: what it shows now is the least that it can
    have been (Prometheus' rate takes it for all), and a restart would be a fall of the traffic. Of a sum of counters,
    one of which was reset, it would be a rise to all that they ever counted.
    """
    at = place(rows)
    last = store.d[0][at]
    finite = np.isfinite(v)
    in_time = (ts >= 0) & (ts < LAST_TIME)
    fresh = ts > last
    use = finite & fresh & in_time
    if skip is not None and skip.any():
        passed = use & skip
        store.d[0][rows[passed]] = ts[passed]
        store.d[1][rows[passed]] = v[passed]
        use &= ~skip
    if not use.all():
        if learn:
            stale = (v.view(np.uint64) == _STALE) & fresh
            if stale.any():
                ended = rows[stale]
                store.flags[ended] |= np.uint8(ENDED)
                store.d[0][ended] = ts[stale]
            run.late += int((finite & in_time & ~fresh).sum())
            run.invalid += int((~finite & ~stale).sum() + (finite & ~in_time).sum())
        pos, rows, ts, v, last = pos[use], rows[use], ts[use], v[use], last[use]
        if not len(rows):
            return None
        at = place(rows)
    flags = store.flags[at]
    dt = ts - last
    raw = v
    if (flags & COUNTER).any():
        counter = (flags & COUNTER) != 0
        known = np.isfinite(dt)
        gain = v - store.d[1][at]
        v = np.where(counter, gain / np.where(known, dt, 1.0), v)
        use = ~counter | (known & (gain >= 0))
        if learn:
            store.d[0][at] = ts
            store.d[1][at] = raw
        if not use.all():
            run.used[pos] = True
            pos, rows, ts, v, dt = pos[use], rows[use], ts[use], v[use], dt[use]
            flags, raw = flags[use], raw[use]
            if not len(rows):
                return None
            at = place(rows)
    run.used[place(pos)] = True
    if learn:
        if (flags & ENDED).any():
            store.flags[at] = flags & np.uint8(0xFF & ~ENDED)
        store.d[0][at] = ts
        store.d[1][at] = raw
    return Taken(pos, rows, at, ts, np.clip(v, -LARGEST, LARGEST), dt, flags)
