"""The bank: scores every sample of every series with numpy, one row per series, in time and memory of a counter.

Three questions are asked of a series, each by a family of channels: has this ever been seen (`ranges`), is it a peak,
though the like was seen before (`peaks`), does it still move (`stillness`). The channels are joined by max, without
weights (`judge`). The bar of those that judge hours is the series' own (`bars`).

What enters: rows, sample times (UTC seconds), raw values as float arrays. What leaves: a score in [0, 1) per sample,
0.5 is the decision point; the few samples that left their envelope, with all that an explanation needs (`Breaks`); and
the hours that ended (`Hours`), from which drift is judged. The bank knows nothing of labels, services or records.

Every operation is elementwise and uses + - * / min max only, so that the result of a sample does not depend on which
other samples stood beside it in the array: the bank is batch-invariant bit for bit. (exp and log are left out on
purpose: their vector loops may round differently from their scalar tails.)

`core` runs a pass over unique rows: `admit` says which samples count, `judge` what they come to, `breaks` writes down
those that matter, then everything is learned: `ranges` the envelopes, `normal` the level and scale, `recent` the last
samples, `seasons` the hours of the day. `layout` names the state, `store` holds it, `samples` is what one step hands to
the next, `view` is evidence on demand.
"""

from aiopsd.detect.bank.admit import LAST_TIME
from aiopsd.detect.bank.bars import MENTION
from aiopsd.detect.bank.breaks import Breaks, Outcome
from aiopsd.detect.bank.core import RangeBank
from aiopsd.detect.bank.layout import (
    CHANNELS,
    COUNTER,
    ENDED,
    F32,
    F64,
    HARM_BOTH,
    HARM_HIGH,
    HARM_LOW,
    HOUR,
    LARGEST,
    SLOTS,
    STILL,
    Mask,
    Rows,
)  # fmt: skip
from aiopsd.detect.bank.policy import Policy
from aiopsd.detect.bank.samples import rounds
from aiopsd.detect.bank.seasons import Hours
from aiopsd.detect.bank.view import View

__all__ = (
    "CHANNELS", "COUNTER", "ENDED", "F32", "F64", "HARM_BOTH", "HARM_HIGH", "HARM_LOW", "HOUR", "LARGEST", "LAST_TIME",
    "MENTION", "SLOTS", "STILL", "Breaks", "Hours", "Mask", "Outcome", "Policy", "RangeBank", "Rows", "View", "rounds",
)  # fmt: skip
