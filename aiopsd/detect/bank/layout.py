"""What the bank keeps of a series: which number is where.

State is one matrix of float32 with a column per row (series) of the bank, and some smaller arrays beside it; `Store`
holds them. Here are the names of the matrix' rows, the bits of a series' flags and the types that all modules share.
"""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

CHANNELS = ("x", "resid", "season", "hour", "still")
SEASON, HOUR, STILL = 2, 3, 4  # indices into CHANNELS; the first three have an envelope each

COUNTER, HARM_HIGH, HARM_LOW, ENDED, WATCHED = 1, 2, 4, 8, 16  # bits of a row's flags
HARM_BOTH = HARM_HIGH | HARM_LOW

SLOTS = 16  # recent samples kept per series; a power of two
LARGEST = 1e30  # values are clipped here, so that a width still fits float32
TINY = np.float32(1e-30)

# rows of the state matrix: samples scored, seconds fed, recent means of about 24 and 100 samples, envelopes (low and
# high of each of three signals), evidence under peak-hold
K, AGE, E24, E100, LO, HI, HELD = 0, 1, 2, 3, 4, 7, 10
# sums of this hour: values, how many, distances from the recent mean
ACC, CNT, SPREAD = 11, 12, 13
# robust level and scale, tail, what left the ring of recent samples
MID, DEV, TAIL, LEAD = 14, 15, 16, 17
# of the peaks: hours seen, their recent mean, mean distance from it, from the hour of day, bar, how many in a row were
# above it, the farthest of the run under way
HN, HMEAN, HDEV, HDAY, HBAR, HHIT, HRUN = range(18, 25)
# of stillness: the last value, sum of the steps of this hour; hours seen, their usual step, the least one before the
# last, bar, the last one
LAST, STEPS, SN, SUSUAL, SLEAST, SBAR, SWAS = range(25, 32)
FIELDS = 32
