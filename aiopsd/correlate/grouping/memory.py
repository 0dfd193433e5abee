"""What grouping has learned of alertnames and of pairs (vertex, alertname), with decay."""

import math
from collections.abc import Mapping

from aiopsd.correlate.grouping.state import HALF_LIFE, Count, State
from aiopsd.topology import Topology

BURST = 3.0  # further incidents that an incident comes with, on average over BURST_SPAN
BURST_KNOWN = 1.5  # ... in hindsight, when pieces of the same one no longer count as further ones
BURST_SPAN = 120.0  # s
SPREAD = 50  # vertices that these are spread over at least: a small graph does not have more faults per vertex
ORIGIN = 3e-6  # 1/s; rate at which a vertex gets a fault of its own, before anything is learned
NAMES = 8.0  # guess of how many alertnames there are, for the first hours
DOUBT = 8.0  # sightings that what is usual for a name counts for
LEAST = 0.002  # share that an unseen alertname may have: nothing is impossible


class Memory:
    """Rates and shares; `learned` of the state says when the shares changed last."""

    def __init__(self, s: State, topology: Topology) -> None:
        self.s = s
        self.topology = topology
        self.shares: dict[str, tuple[float, float]] = {}  # of alertnames; cleared when the counts change

    def read(self, counts: Mapping[str, Count], key: str) -> float:
        count = counts.get(key)
        return count.read(self.s.now) if count is not None else 0.0

    def log_share(self, counts: Mapping[str, Count], name: str) -> float:
        """Of a name that was seldom seen either way, both sides say the same: what it is worth must be learned."""
        at = self.s.learned  # not now: what is cached must not depend on when it was asked for
        total, seen = _at(counts, "", at), _at(counts, name, at)
        return math.log(max(LEAST, (seen + DOUBT * self.usual(name)) / (total + DOUBT)))

    def usual(self, name: str) -> float:
        """Share of an alertname among all that are at origins or passed on."""
        at, origin, passed = self.s.learned, self.s.origin, self.s.passed
        every = _at(origin, "", at) + _at(passed, "", at)
        return (_at(origin, name, at) + _at(passed, name, at) + 0.5) / (every + 0.5 * NAMES)

    def log_passed(self, name: str) -> float:
        return self.shares_of(name)[1]

    def shares_of(self, name: str) -> tuple[float, float]:
        """Log-shares of an alertname at origins and among passed-on symptoms, as of what was learned last."""
        known = self.shares.get(name)
        if known is None:
            if len(self.shares) > 20_000:
                self.shares.clear()
            known = (self.log_share(self.s.origin, name), self.log_share(self.s.passed, name))
            self.shares[name] = known
        return known

    def fault_rate(self, onset: float, counted: bool) -> float:
        """Rate (1/s) of faults of one vertex about `onset`; `counted`: its incident is among the recent ones itself."""
        near = sum(1 for at in self.s.bursts if abs(at - onset) <= BURST_SPAN) - counted
        return ORIGIN + (BURST_KNOWN / BURST_SPAN / max(SPREAD, len(self.topology)) if near > 0 else 0.0)

    def alone_rate(self, vertex: str, name: str) -> float:
        """Rate (1/s) at which this pair fires by itself: its own history, shrunk to what its vertex and name do."""
        alone, now = self.s.alone, self.s.now
        span = max(3600.0, min(now - self.s.began, HALF_LIFE))
        total, at_vertex = self.read(alone, ""), self.read(alone, f"v|{vertex}")
        usual = (total + 3.0) / max(SPREAD, len(self.topology))
        expected = (at_vertex * at_vertex + usual) / (at_vertex + 1.0)
        share = (self.read(alone, f"n|{name}") + 0.5) / (total + 4.0)
        return 1e-7 + (expected * share + self.read(alone, f"{vertex}|{name}")) / (2.0 * span)

    def burst(self, onset: float) -> float:
        """Added rate of faults about `onset`, if others began just before: they come together (a rollout, a bad hour).

        By onsets, not arrivals: a backlog of a day that is read within seconds is no burst.
        """
        recent = sum(1 for at in self.s.bursts if abs(at - onset) <= BURST_SPAN)
        return self.burst_rate(recent) if recent else 0.0

    def burst_rate(self, recent: int) -> float:
        """That rate (1/s) after so many."""
        return BURST * recent / BURST_SPAN / max(SPREAD, len(self.topology))


def _at(counts: Mapping[str, Count], key: str, at: float) -> float:
    count = counts.get(key)
    return count.read(at) if count is not None else 0.0
