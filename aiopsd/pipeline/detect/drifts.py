"""What drifts, as events: hours of series that the bank ended, and error bits of the models that a team runs.

A drift of a series that models read is one event for each of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiopsd.config import DriftConfig
from aiopsd.detect.bank import Mask, RangeBank, Rows
from aiopsd.detect.drift import KINDS, LEVEL, SEASON, Drifts, ErrorDrift, Rise, SeriesDrift
from aiopsd.detect.evidence import Series
from aiopsd.matchers import Match
from aiopsd.model import DriftDetected, Labels, content_id, fingerprint
from aiopsd.pipeline.detect.order import DRIFT, ERRORS, Key, Segment
from aiopsd.pipeline.detect.roster import Roster

_PATH = "$.detect.drift.models"


class Drifting:
    """Which model reads which series, by the series' labels, and the drift detectors behind them.

    Raises:
        ConfigError: a matcher cannot be used.
    """

    def __init__(self, config: DriftConfig, roster: Roster, bank: RangeBank) -> None:
        self._roster, self._bank = roster, bank
        models = config.models if config.enabled else ()
        self._names = [m.name for m in models]
        self._reads = [Match(m.inputs, f"{_PATH}[{i}].inputs") if m.inputs else None for i, m in enumerate(models)]
        self._errs = [Match(m.errors, f"{_PATH}[{i}].errors") if m.errors else None for i, m in enumerate(models)]
        self._inputs: dict[int, tuple[int, ...]] = {}  # row -> models that read it
        self._errors: dict[int, int] = {}  # row -> model whose error bits it carries
        self._series = SeriesDrift()
        self._bits = ErrorDrift(config.error_limit)
        if config.enabled:
            bank.on_hours = self._series

    def __bool__(self) -> bool:
        """Whether any model may read a series."""
        return bool(self._names)

    def appear(self, row: int, labels: Labels) -> None:
        """A series that is new."""
        read = tuple(i for i, matches in enumerate(self._reads) if matches is not None and matches(labels))
        if read:
            self._inputs[row] = read
        carried = next((i for i, matches in enumerate(self._errs) if matches is not None and matches(labels)), None)
        if carried is not None:
            self._errors[row] = carried

    def forget(self, rows: Rows) -> None:
        """These series are gone."""
        for row in rows.tolist():
            self._inputs.pop(row, None)
            if self._errors.pop(row, None) is not None:
                self._bits.forget(row)
        self._series.reset(rows)

    def take(self, part: Segment, used: Mask) -> Iterator[tuple[Key, DriftDetected]]:
        """Drifts of the hours that these samples ended, and rises of the error rates that the `used` ones carry."""
        drifts = self._series.take()
        if drifts is not None:
            for i, sample in enumerate(drifts.pos.tolist()):
                for n, body in enumerate(self._of_series(drifts, i)):
                    yield part.key(sample, DRIFT, n), body
        if self._errors:
            carriers = np.array(sorted(self._errors), np.intp)
            for sample in np.flatnonzero(used & np.isin(part.rows, carriers)).tolist():
                row, ts = int(part.rows[sample]), float(part.ts[sample])
                rise = self._bits.update(row, ts, float(part.values[sample]))
                if rise is not None:
                    yield part.key(sample, ERRORS), self._of_errors(row, ts, rise)

    # ------------------------------------------------------------------ words

    def _of_series(self, drifts: Drifts, i: int) -> list[DriftDetected]:
        """One drift per model that reads the series, or one for the series itself."""
        row = int(drifts.rows[i])
        if row in self._errors and row not in self._inputs:
            return []  # error bits are watched as such: one rise is one drift
        who = self._roster.describe(row)
        kind = int(drifts.kind[i])
        ground = self._bank.anchor(row) if kind == LEVEL else 0.0
        return [
            _event(
                who,
                model,
                kind=KINDS[kind],
                detector="day-by-day" if kind == SEASON else "block-cusum",
                since=float(drifts.since[i]),
                ts=float(drifts.ts[i]),
                before=ground + float(drifts.before[i]),
                after=ground + float(drifts.after[i]),
                statistic=float(drifts.statistic[i]),
                threshold=float(drifts.threshold[i]),
            )
            for model in [self._names[m] for m in self._inputs.get(row, ())] or [""]
        ]

    def _of_errors(self, row: int, ts: float, rise: Rise) -> DriftDetected:
        return _event(
            self._roster.describe(row),
            self._names[self._errors[row]],
            kind="error-rate",
            detector="bernoulli-cusum",
            since=rise.since,
            ts=ts,
            before=rise.before,
            after=rise.after,
            statistic=rise.statistic,
            threshold=rise.threshold,
        )

    # ------------------------------------------------------------------ snapshots

    def snapshot(self, rows: int) -> tuple[list[Any], dict[str, NDArray[np.generic]]]:
        """(plain data of the error bits, arrays of the rows in use)."""
        return self._bits.snapshot(), self._series.arrays(rows)

    def load(self, errors: list[Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where the snapshot was taken, once the series have appeared."""
        self._series.load(arrays)
        self._bits.load([item for item in errors if item[0] in self._errors])


def _event(who: Series, model: str, *, ts: float, **found: Any) -> DriftDetected:
    """About the model, or without one about the series."""
    return DriftDetected(
        id=content_id("drift", model, fingerprint(who.labels), round(ts)),
        subject=model or f"{who.service}/{who.metric}",
        model=model,
        service=who.service,
        metric=who.metric,
        labels=who.labels,
        ts=ts,
        **found,
    )
