"""How unlike its own past is the way in which a service's metrics move together?

What enters is vectors of features, each in deviations from its own level; what leaves is a distance that the envelope
of the second tier calibrates, and the feature that the others explain least. Latency that doubles with traffic is
nothing; latency that doubles alone is far, though both have been there before.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.protocols import Expected

F64 = NDArray[np.float64]
SHRINK = 0.1  # share of a covariance that is not believed: correlations of few vectors are mostly noise
FLOOR = 0.05  # of a deviation; a feature that never moved is not infinitely far when it does
CLIP = 4.0  # deviations of a feature that one vector may teach


class Joint:
    """Mahalanobis distance of a vector, by exponentially weighted means and covariances, shrunk to their diagonal.

    State: 8 bytes a pair of features. Of more than `most` features those are forgotten that were absent longest.
    """

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        memory: int = 2000  # vectors that weigh; about a day and a half of minutes
        most: int = 64  # features; a distance takes their number to the power of three

    def __init__(self, config: Config) -> None:
        if not 50 <= config.memory <= 1_000_000 or not 2 <= config.most <= 256:
            raise ValueError("memory is 50 to 1,000,000 vectors, most 2 to 256 features")
        self.config = config
        self.names: list[str] = []
        self.n = 0  # vectors learned
        self.seen = np.zeros(0)  # vector in which each feature was last
        self.mean = np.zeros(0)
        self.count = np.zeros((0, 0))  # vectors that taught each pair
        self.cov = np.zeros((0, 0))

    def statistic(self, ts: float, x: Mapping[str, float]) -> tuple[float | None, Expected | None]:
        """As `protocols.Model`: distance a feature; the feature that is least as the others say, and what they say."""
        known = {name: i for i, name in enumerate(self.names)}
        names = sorted(name for name in x if name in known)
        at = [i for i in (known[name] for name in names) if self.count[i, i] > 2]
        if len(at) < 2:
            return None, None
        names = [self.names[i] for i in at]
        cov = self.cov[np.ix_(at, at)]
        spread = np.diag(cov) + FLOOR * FLOOR
        cov = (1 - SHRINK) * cov
        np.fill_diagonal(cov, spread)
        off = np.array([x[name] for name in names]) - self.mean[at]
        precision = np.linalg.inv(cov)
        pull = precision @ off
        diagonal = np.maximum(np.diag(precision), 1e-9)  # of a covariance patched from gaps: perhaps not positive
        alone = np.abs(pull) / np.sqrt(diagonal)
        worst = int(np.argmax(alone))
        scale = 1 / math.sqrt(diagonal[worst])
        normal = float(off[worst] + self.mean[at[worst]] - pull[worst] / diagonal[worst])
        far = math.sqrt(max(float(off @ pull), 0.0) / len(at))
        return far, Expected(feature=names[worst], value=normal, scale=scale)

    def learn(self, ts: float, x: Mapping[str, float]) -> None:
        """As `protocols.Model`."""
        self.n += 1
        for name in sorted(x):
            if name not in self.names:
                self._admit(name)
        at = [i for i, name in enumerate(self.names) if name in x]
        if not at:
            return
        block = np.ix_(at, at)
        self.seen[at] = self.n
        self.count[block] += 1
        gain = 1 / np.minimum(self.count[block], self.config.memory)
        own = np.diag(gain)
        spread = np.sqrt(np.diag(self.cov)[at] + FLOOR * FLOOR)
        off = np.array([x[self.names[i]] for i in at]) - self.mean[at]
        off = np.where(np.diag(self.count)[at] > 20, np.clip(off, -CLIP * spread, CLIP * spread), off)
        self.mean[at] += own * off
        self.cov[block] += gain * ((1 - gain) * np.outer(off, off) - self.cov[block])

    def _admit(self, name: str) -> None:
        if len(self.names) < self.config.most:
            self.names.append(name)
            i = len(self.names) - 1
            self.seen, self.mean = np.append(self.seen, 0.0), np.append(self.mean, 0.0)
            self.count, self.cov = np.pad(self.count, (0, 1)), np.pad(self.cov, (0, 1))
        else:
            i = int(np.argmin(self.seen))
            if self.seen[i] >= self.n - 1:
                return  # all of them are there: no room
            self.names[i] = name
        self.seen[i] = self.n
        self.mean[i] = 0.0
        self.count[i, :] = self.count[:, i] = 0.0
        self.cov[i, :] = self.cov[:, i] = 0.0

    def state(self) -> Any:
        """As `protocols.Model`."""
        arrays = [a.tobytes() for a in (self.seen, self.mean, self.count, self.cov)]
        return [list(self.names), self.n, *arrays]

    def load(self, state: Any) -> None:
        """As `protocols.Model`."""
        names, n, seen, mean, count, cov = state
        self.names, self.n = list(names), int(n)
        d = len(self.names)
        self.seen, self.mean = np.frombuffer(seen).copy(), np.frombuffer(mean).copy()
        self.count, self.cov = (np.frombuffer(a).reshape(d, d).copy() for a in (count, cov))
