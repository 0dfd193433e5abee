"""A day or a week that takes another shape for good is told once, as a change of season; anything else is not."""

from collections.abc import Iterator

import numpy as np
import pytest

from aiopsd.detect.bank import Hours, RangeBank
from aiopsd.detect.drift import KINDS, SeriesDrift

START = 1_704_067_200.0  # a Monday
STEP, DAY, LENGTH, CHANGE = 900.0, 96, 44, 26  # s, samples, days, days
T = np.arange(LENGTH * DAY)[:, None]
AFTER = T >= CHANGE * DAY + 30
WEEKEND = T // DAY % 7 >= 5
SERIES = 8


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, size=(len(T), SERIES))


def wave(hours_later: np.ndarray | float = 0.0) -> np.ndarray:
    return np.sin(2 * np.pi * (T / DAY + np.asarray(hours_later) / 24 + np.arange(SERIES) / SERIES))


def played(values: np.ndarray, there: np.ndarray | None = None) -> Iterator[Hours]:
    """The hours of these series (a column each); `there`: which samples exist."""
    bank, heard = RangeBank(capacity=values.shape[1]), []
    bank.on_hours = heard.append
    rows = np.arange(values.shape[1], dtype=np.intp)
    for t, v in enumerate(values):
        if there is None or there[t]:
            bank.step(rows, np.full(len(rows), START + STEP * t), v)
            yield from heard
            heard.clear()


def told(hours: Iterator[Hours], drift: SeriesDrift | None = None) -> list[tuple[str, int, float, float, float, float]]:
    """(kind, row, day, day since when, before, after) of each drift."""
    drift, out = drift or SeriesDrift(), []
    for h in hours:
        drift(h)
        found = drift.take()
        if found is not None:
            out += [
                (KINDS[k], int(row), (ts - START) / 86400, (since - START) / 86400, before, after)
                for k, row, ts, since, before, after in zip(
                    found.kind, found.rows, found.ts, found.since, found.before, found.after, strict=True
                )
            ]
    return out


@pytest.mark.parametrize(
    ("values", "within"),
    [
        pytest.param(3 * wave(6.0 * AFTER) + noise(1), 5, id="moved by six hours"),
        pytest.param(3 * wave(2.0 * AFTER) + noise(2), 6, id="moved by two hours"),
        pytest.param(3 * wave() * ~AFTER + noise(3), 5, id="gone"),
        pytest.param(3 * wave() * AFTER + noise(4), 5, id="came"),
        pytest.param(10 * (1 + 0.3 * wave()) * (1 - 0.6 * (WEEKEND & AFTER)) + noise(5), 18, id="weekends came"),
    ],
)
def test_another_shape_is_told_once_as_such(values: np.ndarray, within: int) -> None:
    """A day moved, gone or come, and weekends that begin to differ, are one change of season each, soon after."""
    found = [f for f in told(played(values)) if f[0] == "season"]
    assert sorted(row for _, row, *_ in found) == list(range(SERIES))
    for _, _, day, since, before, after in found:
        assert CHANGE < day <= CHANGE + within
        assert CHANGE - 3 <= since < day  # chance may have raised the sum a little before
        assert after > 1.5 * before


def test_a_shape_that_stays_is_no_change() -> None:
    """Days and weeks of a shape of their own, noise that is louder by day, a lasting level and spread: no season."""
    loud = np.exp(0.8 * wave())
    quiet_weekend = 10 * (1 + 0.3 * wave()) * (1 - 0.6 * WEEKEND)
    still = [3 * wave() + noise(6), quiet_weekend + noise(7), 4 * wave() + loud * noise(8)]
    changed = [3 * wave() + noise(9) + 2 * AFTER, noise(10) * (1 + AFTER)]
    assert [f for f in told(played(np.hstack(still + changed))) if f[0] == "season"] == []


@pytest.mark.parametrize("days", [1, 2, 3])
def test_a_holiday_is_no_change_of_shape(days: int) -> None:
    """Odd days that are over teach the hours of day something false; to miss it on the days after is no new shape."""
    odd = (T // DAY >= CHANGE) & (T // DAY < CHANGE + days)
    values = 10 * (1 + 0.3 * wave()) * (1 - 0.5 * odd) + noise(11)
    assert [f for f in told(played(values)) if f[0] == "season"] == []


def test_a_hole_is_no_change_and_hides_none() -> None:
    """Four days without samples raise nothing; a shape that changed before them is found after them."""
    there = (T[:, 0] // DAY < CHANGE + 2) | (T[:, 0] // DAY >= CHANGE + 6)
    same, moved = 3 * wave() + noise(12), 3 * wave(6.0 * AFTER) + noise(13)
    found = [f for f in told(played(np.hstack([same, moved]), there)) if f[0] == "season"]
    assert sorted(row for _, row, *_ in found) == list(range(SERIES, 2 * SERIES))


def test_a_changed_level_is_named_so() -> None:
    """Under a daily season a lasting shift is one drift of level, and no other."""
    found = told(played(3 * wave() + noise(14) + 2 * AFTER))
    assert [("level", row) for row in range(SERIES)] == sorted((kind, row) for kind, row, *_ in found)


def test_rows_do_not_touch_each_other() -> None:
    """Whether a series comes alone or among others, each hour leaves the same bits."""
    values = np.hstack([3 * wave(6.0 * AFTER) + noise(16), noise(17)])
    whole, apart = SeriesDrift(), SeriesDrift()
    for h in played(values):
        whole(h)
        for part in (np.arange(3), np.arange(3, 4), np.arange(4, len(h.rows))):
            apart(Hours(**{name: getattr(h, name)[part] for name in h.__struct_fields__}))
    one, two = whole.take(), apart.take()
    assert one is not None
    assert two is not None
    n = values.shape[1]
    assert {k: a.tobytes() for k, a in whole.arrays(n).items()} == {k: a.tobytes() for k, a in apart.arrays(n).items()}
    assert sorted(zip(one.ts, one.rows, one.after, strict=True)) == sorted(
        zip(two.ts, two.rows, two.after, strict=True)
    )


def test_it_goes_on_from_its_arrays() -> None:
    """Taken over in the middle of a changed shape, another says the same at the same hour."""
    hours = list(played(3 * wave(6.0 * AFTER) + noise(18)))
    cut = (CHANGE + 2) * 24 + 7
    one, two = SeriesDrift(), SeriesDrift()
    told(iter(hours[:cut]), one)
    two.load(one.arrays(SERIES))
    rest = told(iter(hours[cut:]), one)
    assert any(kind == "season" for kind, *_ in rest)
    assert rest == told(iter(hours[cut:]), two)
