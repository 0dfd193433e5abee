"""What counts as normal, and for how long: of the whole bank, and of the rows that obey another policy."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank.layout import F32, Rows

LN2 = 0.6931471805599453


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as normal, and for how long. The defaults are one set for every kind of series.

    memory: half-life of the envelopes in seconds; 0: `samples`, but never less than 14 days, so that a series
        sampled every 15 s does not forget yesterday's peak.
    growth: largest widening of an envelope by one sample, in widths. Smaller: a repeat is an incident again.
    """

    memory: float = 0.0
    samples: int = 16_000  # half-life when memory is 0; with 4,000 noise alone made a third more false alarms
    growth: float = 1.0
    warm: int = 40  # samples before the first score
    warm_seconds: float = 3600.0  # and so much time, whatever the sampling interval
    hold: int = 40  # samples of peak-hold, at least one hour
    theta: float = 0.15  # evidence at which the score is 0.5
    alarms: float = 0.7  # of each of the channels that judge hours, per series and day; 0: they are off


class Terms:
    """The policy of the bank, with memory, growth and time of warm-up of each row by the number that it obeys."""

    def __init__(self, own: Policy, others: Sequence[Policy]) -> None:
        policies = (own, *others)
        self.own = own
        self.varied = len(policies) > 1
        self._memory = np.array([p.memory / LN2 for p in policies], np.float32)
        self._growth = np.array([p.growth for p in policies], np.float32)
        self._warm_seconds = np.array([p.warm_seconds for p in policies], np.float32)

    def warm_seconds(self, rule: NDArray[np.uint8], rows: Rows) -> F32 | float:
        return self._warm_seconds[rule[rows]] if self.varied else self.own.warm_seconds

    def growth(self, rule: NDArray[np.uint8], rows: Rows) -> F32 | np.float32:
        out: F32 | np.float32 = self._growth[rule[rows]] if self.varied else self._growth[0]
        return out

    def memory(self, rule: NDArray[np.uint8], rows: Rows) -> F32 | np.float32 | None:
        """Seconds over which an envelope shrinks by a share of e, 0: as `Policy.samples` says; None: so for all."""
        if not self.varied and self.own.memory <= 0:
            return None
        out: F32 | np.float32 = self._memory[rule[rows]] if self.varied else self._memory[0]
        return out
