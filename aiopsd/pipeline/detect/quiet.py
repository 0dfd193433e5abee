"""Series that no longer speak, and series that no longer move, as anomalies: the same for both are the rows that are
judged and the way it is told.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank import ENDED, F64, HARM_BOTH, STILL, Mask, RangeBank, Rows
from aiopsd.detect.evidence import clock, from_view
from aiopsd.detect.flatline import Flatline
from aiopsd.detect.join import Seen
from aiopsd.detect.signals import NAME
from aiopsd.detect.silence import Change, Silence
from aiopsd.model import Anomaly, Evidence, content_id
from aiopsd.pipeline.detect.planned import Planned
from aiopsd.pipeline.detect.policies import Policies
from aiopsd.pipeline.detect.roster import Roster

TOLD = 8  # evidences attached to an event, as of the join


class Quiet:
    """Looks at the whole bank whenever the watermark passes a multiple of one of `steps`.

    Args:
        given_up: seconds of silence after which nobody misses it any more.
    """

    def __init__(
        self, source: str, policies: Policies, roster: Roster, planned: Planned, bank: RangeBank, given_up: float
    ) -> None:
        self._source, self._roster, self._planned, self._bank = source, roster, planned, bank
        self._given_up = given_up
        self._no_data = np.array(policies.no_data, np.float64) if policies else None
        self._still = np.array(policies.still, np.float64)
        self._silence = Silence(policies.no_data[0], policies.no_data[1:])
        self._flatline = Flatline(policies.still[0], policies.still[1:])

    @property
    def steps(self) -> list[float]:
        """Seconds of the watermark between two looks, of each kind of look that is asked for, or was."""
        return [look.step for look in (self._silence, self._flatline) if look.looks]

    def learn(self, rows: Rows, ts: F64, values: F64, used: Mask) -> None:
        """Samples, of which the `used` ones count."""
        if self._flatline.on:
            self._flatline.ensure(self._bank.capacity)
            taken = np.flatnonzero(used)
            self._flatline.learn(rows[taken], ts[taken], values[taken])

    def tells(self, s: Seen) -> bool:
        """Whether that a series hardly moves is told already: it stands still."""
        return s.channel == STILL and self._roster.name(s.row) in self._flatline

    def forget(self, rows: Rows) -> None:
        """These series are gone."""
        self._flatline.forget(rows)

    # ------------------------------------------------------------------ the looks

    def silent(self, before: float, now: float) -> Iterator[Anomaly]:
        """What fell silent, or speaks again, at the watermark `now`, which was `before` until this record."""
        if not self._silence.boundary(before, now):
            return
        bank = self._bank
        last, live = bank.last, self._speaking()
        if self._planned:
            # who was away by plan is missed from the end of the plan on
            until = self._planned.until(now)
            live &= until <= now
            last = np.maximum(last, until)
        changes = self._silence.check(
            before,
            now,
            last=last,
            count=bank.count,
            age=bank.age,
            live=live,
            service=self._roster.service,
            names=self._roster.names,
            after=None if self._no_data is None else self._no_data[bank.rule],
            given_up=self._given_up,
        )
        for change in changes:
            yield self._hush(change, now)

    def stuck(self, before: float, now: float) -> Iterator[Anomaly]:
        """What stopped to move, or moves again, by the samples before the watermark passed from `before` to `now`."""
        if not self._flatline.boundary(before, now):
            return
        bank = self._bank
        live = self._speaking() & ((bank.flags & HARM_BOTH) != 0)
        if self._planned:
            live &= self._planned.until(now) <= now
        changes = self._flatline.check(
            before,
            last=bank.last,
            interval=bank.age / np.maximum(bank.count - 1, 1),
            live=live,
            after=self._still[bank.rule],
            service=self._roster.service,
            names=self._roster.names,
        )
        for change in changes:
            yield self._stand(change, before)

    def _speaking(self) -> Mask:
        """Rows of series that have not said goodbye (a staleness marker)."""
        out: Mask = self._roster.known & ((self._bank.flags & ENDED) == 0)
        return out

    # ------------------------------------------------------------------ words

    def _hush(self, change: Change, now: float) -> Anomaly:
        hush = change.hush
        service = hush.service or self._source
        what = "source" if not hush.service else "service"
        text = f"{what} {service} is not missed any more; there was no data since {clock(hush.onset)}"
        if change.rows:
            which = self._whose(np.array(change.rows, np.intp)) if hush.service else ""
            which = f" ({which})" if which else ""
            text = f"no data from {what} {service}{which}, {hush.told} series since {clock(hush.onset)}"
        return Anomaly(
            id=content_id("no-data", self._source, what, service, round(hush.onset)),
            service=service,
            signal="no-data",
            severity="critical" if not hush.service else "warning",
            state=change.state,
            onset=hush.onset,
            ts=now,
            score=0.75,
            revision=hush.revision,
            labels={"source": self._source},
            summary=text,
            evidence=self._evidence(change, now, "no-data"),
        )

    def _whose(self, rows: Rows) -> str:
        """What these series of a service share and its others do not: the target that is down; "": all are silent."""
        roster = self._roster
        shared = set.intersection(*(set(roster.labels(row).items()) for row in rows.tolist()))
        others = roster.known & (roster.service == roster.service[rows[0]])
        others[rows] = False
        own = set()
        for row in np.flatnonzero(others).tolist():
            labels = roster.labels(row)
            own |= {(name, value) for name, value in shared if labels.get(name) != value}
            if len(own) == len(shared):
                break
        metric = [value for name, value in own if name == NAME]
        return ", ".join([*metric, *sorted(f"{name}={value}" for name, value in own if name != NAME)])

    def _stand(self, change: Change, now: float) -> Anomaly:
        hush = change.hush
        evidence = self._evidence(change, now, "flatline")
        text = f"{hush.service} moves again"
        if evidence:
            more = f" and {hush.told - 1} more" if hush.told > 1 else ""
            what = f"{evidence[0].metric}{more} exactly {evidence[0].level:.6g}"
            text = f"{hush.service} does not move: {what} since {clock(hush.onset)}"
        return Anomaly(
            id=content_id("flatline", self._source, hush.service, round(hush.onset)),
            service=hush.service,
            signal="flatline",
            state=change.state,
            onset=hush.onset,
            ts=now,
            score=0.6,
            revision=hush.revision,
            labels={"source": self._source},
            summary=text,
            evidence=evidence,
        )

    def _evidence(self, change: Change, now: float, channel: str) -> tuple[Evidence, ...]:
        """Of the rows that it is about, in the order of their names."""
        if not change.rows:
            return ()
        found = from_view(self._bank.view(np.array(change.rows, np.intp)), self._roster.describe, now)
        found.sort(key=lambda e: (e.service, e.metric, sorted(e.labels.items())))
        return tuple(msgspec.structs.replace(e, channel=channel, onset=change.hush.onset) for e in found[:TOLD])

    # ------------------------------------------------------------------ snapshots

    def snapshot(self, rows: int) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
        """(plain data, arrays of the rows in use)."""
        flatline, arrays = self._flatline.snapshot(rows)
        return {"silence": self._silence.snapshot(), "flatline": flatline}, arrays

    def load(self, data: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on where the snapshot was taken."""
        self._silence.load(data["silence"])
        self._flatline.load(data["flatline"], arrays)
