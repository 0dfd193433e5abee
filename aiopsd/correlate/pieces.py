"""How much of what is told here is a piece of something else: a measure of difficulty that needs nobody's verdict.

Where outages come in pieces, most pieces name a victim: the cause is in another one, or says nothing. Two things show
it. Incidents that were told of as problems of their own merge into others later: the share that did so is how often
the first guess at what belongs together is wrong at this place. And pieces of one outage open within minutes of each
other. Enter: openings and ends of incidents. Leaves: the share, and the company that an incident came in.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from typing import Any

from aiopsd.correlate.rootcause.knowledge import SHATTER

DOUBT = 10.0  # ends that what is usual counts for
KEEP = 60.0  # ends after which one counts a third: places change, and a bad week is over
SPAN = 300.0  # s before an incident opened in which others count as its company
OPENINGS = 1024  # that are kept: company of what is still open when so many more have opened is forgotten


class Pieces:
    """Counts with decay, and the seconds in which the latest incidents opened.

    What opens and is part of another one before its second is over was never told of, and depends on the order in which
    alerts of one second came: it is as if it had never been. For the same reason an end counts from a second later on.
    """

    def __init__(self, resume: Mapping[str, Any] | None = None) -> None:
        known = resume or {"merged": DOUBT * SHATTER, "ended": DOUBT, "ends": [], "opened": {}}
        self._merged, self._ended = float(known["merged"]), float(known["ended"])
        self._ends = [(float(at), bool(merged)) for at, merged in known["ends"]]  # that do not count yet
        self._opened: dict[str, float] = dict(known["opened"])
        self._seconds = sorted(self._opened.values())

    def share(self, now: float) -> float:
        """Share of the incidents over by a second before `now` (UTC seconds) that turned out to be pieces of others."""
        keep = 1.0 - 1.0 / KEEP
        for _, merged in sorted(end for end in self._ends if end[0] < now - 1.0):
            self._merged, self._ended = keep * self._merged + merged, keep * self._ended + 1.0
        self._ends = [end for end in self._ends if end[0] >= now - 1.0]
        return self._merged / self._ended

    def opened(self, incident: str, second: float) -> None:
        """An incident opened by what arrived within the second that begins at `second` (UTC)."""
        self._forget(incident)
        self._opened[incident] = second
        insort(self._seconds, second)
        if len(self._opened) > OPENINGS:
            self._forget(next(iter(self._opened)))

    def _forget(self, incident: str) -> None:
        second = self._opened.pop(incident, None)
        if second is not None:
            del self._seconds[bisect_left(self._seconds, second)]

    def ended(self, incident: str, now: float, merged: bool) -> None:
        """An incident is over at `now` (UTC seconds), by itself or because it is part of another one."""
        if now <= self._opened.get(incident, -math.inf) + 1.0:
            self._forget(incident)
            return
        self._ends.append((now, merged))

    def company(self, incident: str) -> int:
        """How many others opened within the SPAN before it, or with it; 0 when its opening is forgotten."""
        at = self._opened.get(incident)
        if at is None:
            return 0
        return bisect_right(self._seconds, at) - bisect_left(self._seconds, at - SPAN) - 1

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        return {"merged": self._merged, "ended": self._ended, "ends": list(self._ends), "opened": dict(self._opened)}
