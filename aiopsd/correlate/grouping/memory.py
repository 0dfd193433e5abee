"""What grouping has learned of alertnames and of pairs (vertex, alertname), with decay."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping

from aiopsd.correlate.grouping.roles import travels
from aiopsd.correlate.grouping.state import HALF_LIFE, Count, State, count
from aiopsd.topology import Topology

BURST = 3.0  # further incidents that an incident comes with, on average over BURST_SPAN
BURST_KNOWN = 1.5  # ... in hindsight, when pieces of the same one no longer count as further ones
BURST_SPAN = 120.0  # s
SPREAD = 50  # vertices that these are spread over at least: a small graph does not have more faults per vertex
ORIGIN = 3e-6  # 1/s; rate at which a vertex gets a fault of its own, before anything is learned
NAMES = 8.0  # guess of how many alertnames there are, for the first hours
DOUBT = 8.0  # sightings that what is usual for a name counts for
FRESH = 0.02  # of all sightings; shares need not be worked out anew for fewer new ones
LEAST = 0.0005  # share that an unseen alertname may have: nothing is impossible. With more, what is never passed on
# would be told no better after a thousand sightings of others than after a hundred
KNOWN = 1.0  # incidents that what a name says counts for: one is passed on or is not, few are in between
ROLES = 20_000  # alertnames whose role is kept
ROWS = 50_000  # counts of what fires alone, some 10 MB; beyond it the quarter seen least goes


class Memory:
    """Rates and shares."""

    def __init__(self, s: State, topology: Topology) -> None:
        self.s = s
        self.topology = topology
        self._version = -1
        self._spread = SPREAD
        self._after = 0.0

    @property
    def spread(self) -> int:
        """Vertices that faults are spread over."""
        if self._version != self.topology.version:
            self._anew()
        return self._spread

    @property
    def log_after(self) -> float:
        """Log-rate of faults of a vertex just after one of another."""
        if self._version != self.topology.version:
            self._anew()
        return self._after

    def _anew(self) -> None:
        self._version, self._spread = self.topology.version, max(SPREAD, len(self.topology))
        self._after = math.log(ORIGIN + self.burst_rate(1))

    def read(self, counts: Mapping[str, Count], key: str) -> float:
        count = counts.get(key)
        return count.read(self.s.now) if count is not None else 0.0

    def log_passed(self, name: str) -> float:
        return self.shares_of(name)[1]

    def shares_of(self, name: str) -> tuple[float, float, float]:
        """Log-shares of an alertname at origins, among passed-on symptoms and among both, as of what was learned last.

        Of a name that was seldom seen either way, both sides say the same: what it is worth must be learned.
        """
        shares = self.s.shares
        known = shares.get(name)
        if known is None:
            if len(shares) > 20_000:
                shares.clear()
            known = shares[name] = self._shares(name)
        return known

    def _shares(self, name: str) -> tuple[float, float, float]:
        at = self.s.learned  # not now: what is kept must not depend on when it was asked for
        origin, origins = _at(self.s.origin, name, at), _at(self.s.origin, "", at)
        passed, passes = _at(self.s.passed, name, at), _at(self.s.passed, "", at)
        usual = (origin + passed + 0.5) / (origins + passes + 0.5 * NAMES)
        return _log_share(origin, origins, usual), _log_share(passed, passes, usual), math.log(usual)

    def heed(self, name: str, role: str) -> None:
        """A rule pack gives this role to an alertname."""
        roles = self.s.roles
        if roles.get(name) != role:
            if len(roles) >= ROLES:
                del roles[next(iter(roles))]
            roles[name] = role

    def learn(self, names: Iterable[str], *, passed: bool, fell: bool) -> None:
        """Names were seen at an origin, or at a trouble that others seem to have caused.

        There a name counts as passed on as far as it ever is, else as one of an origin: a cause that was taken
        for the victim of another one must not teach that its name travels. Of what `fell` with its host any name is
        passed on. Shares of other names hold until the whole has grown by FRESH.
        """
        s, now = self.s, self.s.now
        for name in names:
            share = 1.0 if fell else self.travels(name) if passed else 0.0
            for counts, part in ((s.passed, share), (s.origin, 1.0 - share)):
                if part:
                    count(counts, name, now, part)
                    count(counts, "", now, part)
            s.shares.pop(name, None)
        s.learned = now
        every = _at(s.origin, "", now) + _at(s.passed, "", now)
        if not s.worked_out * (1.0 - FRESH) < every < s.worked_out * (1.0 + FRESH):
            s.worked_out = every
            s.shares.clear()

    def travels(self, name: str) -> float:
        """Chance that a name is one that is passed on: in incidents of several vertices, do others show it, too?"""
        common, lone = self.read(self.s.common, name), self.read(self.s.lone, name)
        return (common + KNOWN * travels(self.s.roles.get(name, ""), name)) / (common + lone + KNOWN)

    def fault_rate(self, onset: float, counted: bool) -> float:
        """Rate (1/s) of faults of one vertex about `onset`; `counted`: its incident is among the recent ones itself."""
        near = sum(1 for at in self.s.bursts if abs(at - onset) <= BURST_SPAN) - counted
        return ORIGIN + (BURST_KNOWN / BURST_SPAN / self.spread if near > 0 else 0.0)

    def alone_rate(self, vertex: str, name: str) -> float:
        """Rate (1/s) at which this pair fires by itself: its own history, shrunk to what its vertex and name do."""
        alone, now = self.s.alone, self.s.now
        span = max(3600.0, min(now - self.s.began, HALF_LIFE))
        total = c.read(now) if (c := alone.get("")) is not None else 0.0
        at_vertex = c.read(now) if (c := alone.get(f"v|{vertex}")) is not None else 0.0
        of_name = c.read(now) if (c := alone.get(f"n|{name}")) is not None else 0.0
        of_pair = c.read(now) if (c := alone.get(f"{vertex}|{name}")) is not None else 0.0
        usual = (total + 3.0) / self.spread
        expected = (at_vertex * at_vertex + usual) / (at_vertex + 1.0)
        share = (of_name + 0.5) / (total + 4.0)
        return 1e-7 + (expected * share + of_pair) / (2.0 * span)

    def bound(self) -> None:
        """Forget what was seen least of what fires alone, when there is too much of it."""
        alone, now = self.s.alone, self.s.now
        if len(alone) > ROWS:
            often = sorted(alone, key=lambda key: (-alone[key].read(now), key))
            for key in often[3 * ROWS // 4 :]:
                del alone[key]

    def burst(self, onset: float) -> float:
        """Added rate of faults about `onset`, if others began just before: they come together (a rollout, a bad hour).

        By onsets, not arrivals: a backlog of a day that is read within seconds is no burst. What began at the very same
        moment does not count: which of the two is taken in first must not matter.
        """
        bursts = self.s.bursts
        if not bursts or bursts[-1] < onset - BURST_SPAN:
            return 0.0  # as nearly always
        recent = bisect_right(bursts, onset + BURST_SPAN) - bisect_left(bursts, onset - BURST_SPAN)
        recent -= bisect_right(bursts, onset) - bisect_left(bursts, onset)
        return self.burst_rate(recent) if recent else 0.0

    def burst_rate(self, recent: int) -> float:
        """That rate (1/s) after so many."""
        return BURST * recent / BURST_SPAN / self.spread


def _log_share(seen: float, total: float, usual: float) -> float:
    return math.log(max(LEAST, (seen + DOUBT * usual) / (total + DOUBT)))


def _at(counts: Mapping[str, Count], key: str, at: float) -> float:
    count = counts.get(key)
    return count.read(at) if count is not None else 0.0
