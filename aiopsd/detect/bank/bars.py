"""The bar of a channel that judges hours: the series' own, high at first, lower for having been quiet.

It rises with every alarm and sinks with time, so that the channel speaks up to `Policy.alarms` times a day where it
can, and earns a lower bar only by having been quiet.
"""

import numpy as np

from aiopsd.detect.bank.layout import F32, Rows
from aiopsd.detect.bank.samples import Signals, Taken

MENTION = 0.02  # envelope widths; smaller breaks widen the envelope but are no evidence for anybody
BAR_STEP = 1.5  # times higher after each alarm
BAR_LOG = 0.405  # its logarithm: a bar that is cleared `alarms` times a day stays where it is


def complete(taken: Taken, signals: Signals) -> Rows:
    """Places of the samples that complete their hour: the next one, as far away, is of another.

    They are rare: a series has one such sample an hour.
    """
    return np.flatnonzero((taken.ts - signals.h64 * 3600.0) + signals.dt32 >= 3599.0)


def sunk(bar: F32, days: F32 | np.float32, least: float, alarms: float) -> F32:
    """A bar after so many days: it sinks with time, and never below what chance alone would clear now and then."""
    out: F32 = np.maximum(bar / (1 + np.float32(BAR_LOG * alarms) * days), np.float32(least))
    return out
