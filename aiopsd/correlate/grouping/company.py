"""Which pairs (vertex, alertname) came in one incident before, although the graph knows no path between them.

Counted when a trouble has settled, with decay. Bounded: ROWS pairs, each with PARTNERS others, some 12 MB at most; of
the partners the one seen least goes first, of the pairs the quarter seen least.
"""

from collections.abc import Iterable, Set

from aiopsd.correlate.grouping.state import Count, State, Trouble

ROWS = 4096
PARTNERS = 16
DOUBT = 4.0  # times of standing alone that everybody is given: once together may be chance

_NOBODY: frozenset[str] = frozenset()


class Company:
    """Of the state it keeps `met`: pair -> partner -> times together; under "" the times that the pair was seen."""

    def __init__(self, s: State) -> None:
        self.s = s

    def learn(self, trouble: Trouble, mates: Iterable[Trouble]) -> None:
        """Count a settled trouble with those of its incident that are strangers to it, nearest first."""
        met, now = self.s.met, self.s.now
        others = [f"{mate.vertex}|{name}" for mate in mates for name in mate.names][:PARTNERS]
        if not met and not others:
            return
        for name in trouble.names:
            pair = f"{trouble.vertex}|{name}"
            if not others and pair not in met:
                continue  # who never had company needs no row
            row = met.setdefault(pair, {})
            row.setdefault("", Count()).add(now)
            for other in others:
                if other not in row and len(row) > PARTNERS:
                    del row[min((c.read(now), key) for key, c in row.items() if key)[1]]
                row.setdefault(other, Count()).add(now)
        if len(met) > ROWS:
            often = sorted(met, key=lambda pair: (-met[pair][""].read(now), pair))
            for pair in often[3 * ROWS // 4 :]:
                del met[pair]

    def friends(self, vertex: str, names: Iterable[str]) -> Set[str]:
        """Vertices that these pairs were seen with; for membership only."""
        met = self.s.met
        if not met:
            return _NOBODY
        out: set[str] = set()
        for name in names:
            row = met.get(f"{vertex}|{name}")
            if row is not None:
                out.update(key.partition("|")[0] for key in row)
        return out

    def chance(self, vertex: str, names: Iterable[str], other: Trouble) -> float:
        """Chance by history that an incident of `other` has `vertex` in it as well, with one of these names."""
        best, now, met = 0.0, self.s.now, self.s.met
        for its in other.names if met else ():
            row = met.get(f"{other.vertex}|{its}")
            if row is not None:
                counts = [count.read(now) for name in names if (count := row.get(f"{vertex}|{name}")) is not None]
                best = max(best, max(counts, default=0.0) / (row[""].read(now) + DOUBT))
        return best
