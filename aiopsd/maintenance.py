"""Planned work that operators announce: which windows there are, and whether something lies in one.

Enters: commands and stamps. Leaves: the windows that hold, in the order in which they were asked for. A window is a
function of sample time: the detect side leaves its samples out, and an anomaly that was on its way already is none
here. It cannot begin before it was asked for, so that nothing that was decided is decided otherwise.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from aiopsd.matchers import Fault, Matchers, fault
from aiopsd.model import EndMaintenance, Labels, PutMaintenance, Window

KEEP = 30 * 86400.0  # s after its end: until then a replay of the metric log, and silence since, may ask for it
MOST = 1000  # windows: each is matched against every series


def window_id(command: PutMaintenance) -> str:
    """From content and request id: a request that is sent again is the same window."""
    return blake2b(msgspec.json.encode(command), digest_size=8).hexdigest()


_WORDS = {  # field, why; "": what RE2 says
    Fault.NONE: ("matchers", "say which series: at least one matcher"),
    Fault.NAMELESS: ("matchers[{}].name", "a matcher needs the name of a label"),
    Fault.PATTERN: ("matchers[{}].value", ""),
    Fault.EVERYTHING: ("matchers", "at least one matcher must not match the empty text: this is every series"),
}


def problem(command: PutMaintenance, stamp: float) -> tuple[str, str] | None:
    """(field, why) a command cannot be taken; None: it can."""
    wrong = fault(command.matchers)
    if wrong is not None:
        what, i, why = wrong
        field, text = _WORDS[what]
        return field.format(i), text or why
    if command.ends_at <= max(command.starts_at, stamp):
        return "ends_at", "the end is not after the beginning, or in the past"
    return None


class MaintenanceBook:
    """All windows of the domain. `put` and `end` say whether they changed anything; asking twice is fine."""

    def __init__(self, resume: Mapping[str, Any] | None = None) -> None:
        self._windows: dict[str, Window] = {}
        self._matchers: dict[str, Matchers] = {}
        for window in msgspec.convert((resume or {}).get("windows", []), list[Window]):
            self._keep(window)

    def put(self, command: PutMaintenance, stamp: float) -> Window | None:
        """The window that this makes; None when it cannot be taken, or is there already."""
        key = window_id(command)
        if problem(command, stamp) is not None or key in self._windows or len(self._windows) >= MOST:
            return None
        return self._keep(
            Window(
                id=key,
                matchers=command.matchers,
                starts_at=max(command.starts_at, stamp),
                ends_at=command.ends_at,
                created_by=command.created_by,
                comment=command.comment,
            )
        )

    def end(self, command: EndMaintenance, stamp: float) -> Window | None:
        """The window, which ends now; None when it is unknown or over already."""
        old = self._windows.get(command.id)
        if old is None or old.ends_at <= stamp:
            return None
        return self._keep(replace(old, starts_at=min(old.starts_at, stamp), ends_at=stamp))

    def forget(self, stamp: float) -> bool:
        """Drop the windows that ended long ago; whether there was one."""
        gone = [w.id for w in self._windows.values() if w.ends_at + KEEP <= stamp]
        for key in gone:
            del self._windows[key], self._matchers[key]
        return bool(gone)

    def covers(self, labels: Labels, ts: float) -> Window | None:
        """The first window that a series with these labels is in at the sample time `ts`."""
        for key, window in self._windows.items():
            if window.starts_at <= ts < window.ends_at and self._matchers[key].matches(labels):
                return window
        return None

    def all(self) -> tuple[Window, ...]:
        """In the order in which they were asked for."""
        return tuple(self._windows.values())

    def snapshot(self) -> dict[str, Any]:
        return {"windows": cast("list[Any]", msgspec.to_builtins(list(self._windows.values())))}

    def _keep(self, window: Window) -> Window:
        self._windows[window.id] = window
        self._matchers[window.id] = Matchers(window.matchers)
        return window
