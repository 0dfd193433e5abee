"""Samples as the steps of one pass hand them on: rows that are unique, what is judged of them, what it comes to."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank.layout import F32, F64, Mask, Rows


class Taken(NamedTuple):
    """Samples of one pass that say something; rows are unique."""

    pos: Rows  # places in the call
    rows: Rows
    at: Rows | slice  # the same rows; a slice when they lie side by side
    ts: F64
    v: F64  # the rate, for a counter
    dt: F64  # s since the row's previous sample; inf: there was none
    flags: NDArray[np.uint8]


class Signals(NamedTuple):
    """What is judged of the samples of one pass; arrays of one length."""

    s: F32  # [FIELDS, n]: the state of the rows; a view of it where they lie side by side
    anchor: F64
    each: tuple[F32, F32, F32]  # x, resid, season: relative to the anchor, the recent mean, the hour of day
    dt32: F32  # s, at most a day
    h64: F64  # hours since 1970
    level: F32  # size of what the row shows
    floor: F32  # the least width of an envelope
    usual: F32  # mean of this hour of day on the days before, relative to the anchor
    days: NDArray[np.uint8]  # how many those are
    act: Mask  # warm
    all_act: bool


class Peaks(NamedTuple):
    """What the means of the hours that are complete come to; arrays of one length."""

    at: Rows  # places in the pass
    evidence: F32  # signed: above normal is positive
    low: F32  # the normal band of the hour's mean
    high: F32


class Found(NamedTuple):
    """What the samples of one pass come to."""

    evidence: F32
    held: F32  # evidence of late
    news: F32  # evidence, where it is more than that
    upward: Mask
    up_c: NDArray[np.int8]  # channel that is farthest above, and below
    down_c: NDArray[np.int8]
    peaks: Peaks | None  # of the hours that are complete
    least: F32  # mean step that an hour has shown


def rounds(rows: Rows, scratch: Rows) -> Iterator[Rows | None]:
    """Index arrays in which rows are unique: the k-th yields the k-th sample of each row. None: all, as they are.

    `scratch` has an element per row of the bank; its content does not matter.
    """
    n = len(rows)
    if n < 2 or bool((rows[1:] > rows[:-1]).all()):
        yield None
        return
    order = np.arange(n)
    scratch[rows] = order
    if bool((scratch[rows] == order).all()):
        yield None
        return
    by_row = np.argsort(rows, kind="stable")
    sorted_rows = rows[by_row]
    first = np.empty(n, bool)
    first[0] = True
    np.not_equal(sorted_rows[1:], sorted_rows[:-1], out=first[1:])
    start = np.maximum.accumulate(np.where(first, order, 0))
    nth = order - start
    by_round = np.argsort(nth, kind="stable")
    cuts = np.searchsorted(nth[by_round], np.arange(1, int(nth.max()) + 1))
    for part in np.split(by_round, cuts):
        yield np.sort(by_row[part])


def place(rows: Rows) -> Rows | slice:
    """Where rows are: a slice when each is the next one, which is many times cheaper to read and write."""
    first, n = int(rows[0]), len(rows)
    if int(rows[-1]) - first == n - 1 and bool((rows[1:] - rows[:-1] == 1).all()):
        return slice(first, first + n)
    return rows
