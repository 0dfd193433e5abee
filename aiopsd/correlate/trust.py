"""How often the first cause is right at this place, from what operators said: it moves every confidence that is given.

What the ranking sees of an incident says which causes are surer than others. How sure all of them are depends on the
place: how much there alerts at all, how alike its alertnames are, whether its graph is true. That can only be learned
from those who know. Enter: the confidence that was given, and whether it was right. Leaves: a shift in log-odds.
"""

from collections.abc import Sequence

PRIOR = 2.0  # variance of the shift among places: fitted on one generator, another one is off by 1.3 or 2.2
MOST = 8.0  # information that is kept, at .2 a verdict the last forty: places change


class Trust:
    """The shift and what is known of it: an online logistic regression on the constant alone (Laplace's step)."""

    def __init__(self, resume: Sequence[float] | None = None) -> None:
        self.shift, self._known = resume or (0.0, 1.0 / PRIOR)

    def learn(self, given: float, right: bool) -> None:
        """A first cause of which `given` was said proved right or wrong."""
        self._known = min(MOST, self._known + given * (1.0 - given))
        self.shift += (right - given) / self._known

    def snapshot(self) -> tuple[float, float]:
        """Plain data for `resume`."""
        return self.shift, self._known
