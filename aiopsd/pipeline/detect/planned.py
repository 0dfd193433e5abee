"""Planned work on the series of one partition: which rows a window is about, and what that excuses them from."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aiopsd.config import MaintenanceRule
from aiopsd.detect.bank import F64, Mask, Rows
from aiopsd.detect.maintenance import Maintenance
from aiopsd.matchers import Matchers, needles
from aiopsd.model import Window
from aiopsd.pipeline.detect.roster import MOST_AWAY, Roster


class Planned:
    """Per row: `_windows` int32, the group of windows that concern it; follows from its labels."""

    def __init__(self, rules: Sequence[MaintenanceRule], roster: Roster) -> None:
        self._rules = rules
        self._roster = roster
        self._maintenance = Maintenance(rules)
        self._windows: NDArray[np.int32] = np.zeros(0, np.int32)
        self.room()

    def __bool__(self) -> bool:
        """Whether any work is planned."""
        return bool(self._maintenance)

    def room(self) -> None:
        """Make room for as many rows as the roster has."""
        more = len(self._roster.known) - len(self._windows)
        if more > 0:
            self._windows = np.concatenate((self._windows, np.zeros(more, np.int32)))

    def appear(self, row: int, labels: Mapping[str, str], service: str) -> None:
        """A series that is new; `service` is what it belongs to."""
        self._windows[row] = self._maintenance.group(labels, service)

    def forget(self, rows: Rows) -> None:
        """These series are gone."""
        self._windows[rows] = 0

    def inside(self, rows: Rows, ts: F64) -> Mask | None:
        """Which of these samples lie in a window of their series; None: none does."""
        return self._maintenance.inside(self._windows[rows], ts) if self and len(rows) else None

    def until(self, now: float) -> F64:
        """Per row: when its last window ends; -inf: there was none. Later than `now`: it is under maintenance."""
        return self._maintenance.until(self._windows, now, MOST_AWAY)

    def ask(self, windows: Sequence[Window]) -> None:
        """These are the windows that operators asked for, from the next sample on."""
        if tuple(windows) == self._maintenance.asked:
            return
        before, self._maintenance = self._maintenance, Maintenance(self._rules, windows)
        self._windows = self._maintenance.carried(before, self._windows)
        first = len(self._rules)  # the configuration's windows have the numbers before
        for number in self._maintenance.fresh(before):
            rows = self._concerned(number, windows[number - first])
            self._windows[rows] = self._maintenance.joined(self._windows[rows], number)

    def _concerned(self, number: int, window: Window) -> Rows:
        """The series that a window is about: first by their service, then by what their labels may hold.

        Most windows are about few series, and to read the labels of a million takes seconds.
        """
        roster, service = self._roster, self._roster.service
        by_service = Matchers(m for m in window.matchers if m.name == "service")
        by_label = [m for m in window.matchers if m.name != "service"]
        fits = np.array([by_service.matches({"service": name}) for name in roster.names], bool)
        unmapped = np.array([not name for name in roster.names], bool)  # may have a label of that name even so
        rows = np.flatnonzero(roster.known)
        rows = rows[(fits | unmapped)[service[rows]]]
        open_ = unmapped[service[rows]] | bool(by_label)  # by their service alone it is not decided
        asked: list[int] = rows[open_].tolist()
        for texts in filter(None, map(needles, by_label)):
            asked = roster.index.holding(asked, texts)
        concerns = self._maintenance.concerns
        found = [r for r in asked if concerns(number, roster.labels(r), roster.name(r))]
        return np.concatenate((rows[~open_], np.array(found, np.intp)))
