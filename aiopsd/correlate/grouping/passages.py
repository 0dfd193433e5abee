"""What settled troubles taught of each edge and direction: how often trouble crosses it, and after what time.

A *passage* is an edge in the direction in which trouble takes it: up from a callee to a caller, or down. Its chance is
a Beta that starts at what all passages of that direction show; its delay a Normal whose mean and spread start there,
too (normal inverse chi-squared, so one odd observation widens before it moves). What all of them show starts at the
constants of odds.py. Everything fades.

Counted are the troubles of its source that could have crossed it: those after which the target stayed well, and those
after which it was in trouble because of the source, as far as that is likely (lessons.py). A target in trouble for
other reasons tells nothing. Bounded: MOST passages of a direction, some 12 MB; beyond it the quarter seen least goes.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aiopsd.correlate.grouping.state import State, Tally

HALF_LIFE = 30 * 86400.0  # s; an edge sees few troubles a week, and its code changes within months
MOST = 32_768
HOUR = 3600.0  # s; grain of what is kept of a passage: it fades by .1 % in this time
ALL = ""  # key of what all passages of a direction show

CROSS = 0.4  # chance that trouble of a callee shows at a given caller, before anything is learned
DOWN = 0.001  # chance that trouble runs from a caller down to a callee (load, retries)
HOP_MEAN, HOP_SCALE = 22.0, 40.0  # s; delay from one trouble to the next, detection included (Student t, 3 degrees)

UP_WORTH, DOWN_WORTH = 3.0, 10.0  # troubles that what is usual counts for at a passage: a trouble that ran down may
# well be one that had another cause, which is less rare than such an edge
UP_USUAL, DOWN_USUAL = 50.0, 1000.0  # ... and that the constants count for: a few of the rarer kind must be seen
HOPS_USUAL = 50.0  # crossings that the constants of the delay count for
MEAN_WORTH = 2.0  # crossings that the usual delay counts for: edges differ in it by about as much as troubles of one do
FREEDOM = 3.0  # ... and that the usual spread counts for
SEEN = 0.5  # crossings below which there is no delay to speak of


class Passage(NamedTuple):
    """What is believed of a passage now."""

    share: float  # chance of crossing, over what is usual; down: over DOWN, where no trouble tells its own reach
    odds: float  # odds of crossing, over the usual ones
    mean: float  # s; of the delay
    scale: float  # s; of the delay
    top: float  # log-density (1/s) of the delay at its mean (Student t, 3 degrees)


class Passages:
    """Of the state it keeps `up` and `down`: source -> target -> tally."""

    def __init__(self, s: State) -> None:
        self.s = s
        self._known: dict[tuple[str, str, bool], Passage] = {}
        self._hour = -1.0
        self._held = {up: sum(map(len, self._rows(up).values())) for up in (True, False)}

    def of(self, source: str, target: str, up: bool) -> Passage:
        """The passage from one vertex to the next; one that nobody has seen is as all of them."""
        if self.s.now // HOUR != self._hour:
            self._anew()
        key = source, target, up
        known = self._known.get(key)
        if known is None:
            tally = self._rows(up).get(source, _NOTHING).get(target)
            known = self._known[key] = self._work_out(tally, up) if tally is not None else self.usual(up)
        return known

    def _rows(self, up: bool) -> dict[str, dict[str, Tally]]:
        return self.s.up if up else self.s.down

    def _anew(self) -> None:
        self._known.clear()
        self._hour = self.s.now // HOUR

    def usual(self, up: bool) -> Passage:
        """What all passages of a direction show."""
        key = ALL, ALL, up
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._work_out(Tally(), up)
        return known

    def _work_out(self, tally: Tally, up: bool) -> Passage:
        at = self.s.now // HOUR * HOUR
        usual, mean, scale = self._all(up, at)
        worth = UP_WORTH if up else DOWN_WORTH
        asked, crossed, gaps, squares = read(tally, at)
        chance = (crossed + worth * usual) / (asked + worth)
        square = scale * scale * MEAN_WORTH / (1.0 + MEAN_WORTH)  # of one passage, without how they differ
        if crossed > 0.0:
            middle = gaps / crossed
            apart = crossed * MEAN_WORTH / (crossed + MEAN_WORTH) * (middle - mean) ** 2
            square = (FREEDOM * square + max(0.0, squares - gaps * middle) + apart) / (FREEDOM + crossed)
            mean = (gaps + MEAN_WORTH * mean) / (crossed + MEAN_WORTH)
        sure = crossed + MEAN_WORTH
        scale = math.sqrt(square * (1.0 + sure) / sure)
        odds = chance * (1.0 - usual) / (usual * (1.0 - chance))
        return Passage(chance / (usual if up else DOWN), odds, mean, scale, -1.0007 - math.log(scale))

    def _all(self, up: bool, at: float) -> tuple[float, float, float]:
        """(chance, mean and scale of the delay) that is usual for a direction."""
        asked, crossed, gaps, squares = read(self._rows(up).get(ALL, _NOTHING).get(ALL, _NONE), at)
        chance, worth = (CROSS, UP_USUAL) if up else (DOWN, DOWN_USUAL)
        n = crossed + HOPS_USUAL
        mean = (gaps + HOPS_USUAL * HOP_MEAN) / n
        square = (squares + HOPS_USUAL * (HOP_SCALE**2 + HOP_MEAN**2)) / n - mean * mean
        return (crossed + worth * chance) / (asked + worth), mean, math.sqrt(square)

    # ----------------------------------------------------------------------- learning

    def crossed(self, source: str, target: str, up: bool, gap: float, likely: float) -> None:
        """Trouble of `source` was in trouble `gap` seconds later at `target`: because of it, as far as is likely."""
        self._count(source, (target,), up, likely, likely, gap)

    def stayed(self, source: str, target: str, up: bool, likely: float) -> None:
        """`target` stayed well although `source` was in trouble, as far as that is likely."""
        self._count(source, (target,), up, likely, 0.0, 0.0)

    def all_stayed(self, source: str, targets: Sequence[str], up: bool, likely: float) -> None:
        """The same of all of these."""
        if targets:
            self._count(source, targets, up, likely, 0.0, 0.0)

    def _count(self, source: str, targets: Iterable[str], up: bool, asked: float, crossed: float, gap: float) -> None:
        rows, now = self._rows(up), self.s.now
        row = rows.setdefault(source, {})
        every = self._tally(rows.setdefault(ALL, {}), ALL, up)
        for target in targets:
            add(self._tally(row, target, up), now, asked, crossed, gap)
            add(every, now, asked, crossed, gap)
        self._known.clear()

    def _tally(self, row: dict[str, Tally], target: str, up: bool) -> Tally:
        tally = row.get(target)
        if tally is None:
            tally = row[target] = Tally()
            self._held[up] += 1
        return tally

    def bound(self) -> None:
        """Forget what was seen least, when there is too much of it."""
        for up, held in self._held.items():
            if held <= MOST:
                continue
            rows = self._rows(up)
            seen = sorted((-read(t, self.s.now)[0], a, b) for a, row in rows.items() for b, t in row.items())
            for _, a, b in seen[3 * MOST // 4 :]:
                del rows[a][b]
                if not rows[a]:
                    del rows[a]
            self._held[up] = 3 * MOST // 4
            self._known.clear()

    def learned(self, caller: str, callee: str) -> dict[str, dict[str, float]]:
        """What history says of an edge, by direction: `climbs` to the caller, `runs_down` to the callee.

        Returns:
            `troubles` that could have crossed and how many `crossed`, both faded; the mean `delay` of these, s. A
            direction that nothing ever crossed is left out.
        """
        out = {}
        for name, source, target, up in (("climbs", callee, caller, True), ("runs_down", caller, callee, False)):
            tally = self._rows(up).get(source, _NOTHING).get(target)
            asked, crossed, gaps, _ = read(tally, self.s.now) if tally is not None else (0.0, 0.0, 0.0, 0.0)
            if crossed >= SEEN:
                out[name] = {
                    "troubles": round(max(asked, crossed), 2),
                    "crossed": round(crossed, 2),
                    "delay": round(gaps / crossed, 1),
                }
        return out

    def told(self, source: str, target: str, up: bool) -> str:
        """What history says of a passage, in words; "" while that is little."""
        tally = self._rows(up).get(source, _NOTHING).get(target)
        if tally is None:
            return ""
        asked, crossed, gaps, _ = read(tally, self.s.now)
        if crossed < 1.5:
            return ""
        mean = gaps / crossed
        when = f"{abs(mean):.0f} s {'after' if mean >= 0 else 'before'} it"
        return f"usually {when}, in {crossed:.0f} of {max(asked, crossed):.0f} troubles"


_NOTHING: dict[str, Tally] = {}
_NONE = Tally()


def read(tally: Tally, now: float) -> tuple[float, float, float, float]:
    """(asked, crossed, sum of delays, of their squares) that are left of it."""
    f = math.exp2((tally.at - now) / HALF_LIFE) if now > tally.at else 1.0
    return tally.asked * f, tally.crossed * f, tally.gaps * f, tally.squares * f


def add(tally: Tally, now: float, asked: float, crossed: float, gap: float) -> None:
    """Count one more, all before it faded."""
    if now > tally.at:
        tally.asked, tally.crossed, tally.gaps, tally.squares = read(tally, now)
        tally.at = now
    tally.asked += asked
    if crossed:
        tally.crossed += crossed
        tally.gaps += crossed * gap
        tally.squares += crossed * gap * gap
