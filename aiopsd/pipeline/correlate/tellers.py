"""Who tells an anomaly: one service may be seen in several sources, and a source in several partitions.

Each detect stage tells the beginning, the changes and the end of what it sees itself. To people that is one alert, so
it lasts until the last of them has told its end, and meanwhile says what is still told.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from aiopsd.model import Anomaly


class Tellers:
    """By alert: what each source and partition said of it last, the newest last; until it told the end."""

    def __init__(self, resume: Mapping[str, Any] | None = None) -> None:
        self._told = msgspec.convert(resume or {}, dict[str, dict[str, Anomaly]])

    def tells(self, fingerprint: str, event: Anomaly) -> None:
        """It fires, says this teller."""
        told = self._told.setdefault(fingerprint, {})
        told.pop(_teller(event), None)
        told[_teller(event)] = event

    def ends(self, fingerprint: str, event: Anomaly) -> Anomaly | None:
        """It is over, says this teller: what another one still tells, or None."""
        told = self._told.get(fingerprint, {})
        told.pop(_teller(event), None)
        if told:
            return next(reversed(told.values()))
        self._told.pop(fingerprint, None)
        return None

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        return {fp: {who: msgspec.to_builtins(e) for who, e in told.items()} for fp, told in self._told.items()}


def _teller(event: Anomaly) -> str:
    return "" if event.pos is None else f"{event.pos.source}/{event.pos.partition}"
