"""How much of what is told here is a piece of something else: a measure of difficulty that needs nobody's verdict.

Where outages come in pieces, most pieces name a victim: the cause is in another one, or says nothing. Two things show
it. Incidents that were told of as problems of their own merge into others later: the share that did so is how often
the first guess at what belongs together is wrong at this place. And pieces of one outage open within minutes of each
other. Enter: openings and ends of incidents. Leaves: the share, and the company that an incident came in.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from typing import Any

from aiopsd.correlate.rootcause.knowledge import SHATTER

DOUBT = 10.0  # ends that what is usual counts for
KEEP = 60.0  # ends after which one counts a third: places change, and a bad week is over
SPAN = 300.0  # s before an incident opened in which others count as its company
OPENINGS = 1024  # that are kept: company of what is still open when so many more have opened is forgotten


class Pieces:
    """Counts with decay, and when the latest incidents opened."""

    def __init__(self, resume: Mapping[str, Any] | None = None) -> None:
        known = resume or {"merged": DOUBT * SHATTER, "ended": DOUBT, "opened": ()}
        self._merged, self._ended = float(known["merged"]), float(known["ended"])
        self._opened: list[float] = list(known["opened"])

    @property
    def share(self) -> float:
        """Share of the incidents that turned out to be pieces of others."""
        return self._merged / self._ended

    def opened(self, at: float) -> None:
        """An incident opened at `at` (UTC seconds)."""
        insort(self._opened, at)
        del self._opened[:-OPENINGS]

    def ended(self, merged: bool) -> None:
        """An incident is over, by itself or because it is part of another one."""
        keep = 1.0 - 1.0 / KEEP
        self._merged, self._ended = keep * self._merged + merged, keep * self._ended + 1.0

    def company(self, at: float) -> int:
        """How many others opened within SPAN before one that opened at `at`."""
        return max(0, bisect_right(self._opened, at) - bisect_left(self._opened, at - SPAN) - 1)

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        return {"merged": self._merged, "ended": self._ended, "opened": list(self._opened)}
