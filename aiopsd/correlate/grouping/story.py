"""One incident as a whole: how likely all its troubles are together, whatever the likeliest cause among them.

Pairs of troubles say where a new alert belongs at once; whole stories say, when more is known, whether it was right.
A story weighs what no pair sees: one cause per incident is enough, callers that stayed silent, ends that all fall
together, an alert that fires again in the middle of its incident. Troubles can be added and taken out again, each at
the cost of its neighbours in the graph, so that two stories can be compared before and after a move.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from aiopsd.correlate.grouping.graph import HORIZON, Graph, Link, Spot
from aiopsd.correlate.grouping.memory import Memory
from aiopsd.correlate.grouping.odds import LINGERS, SAME_MEAN, SAME_SCALE, Odds, delay
from aiopsd.correlate.grouping.passages import HOP_MEAN, HOP_SCALE
from aiopsd.correlate.grouping.state import State, Trouble, by_onset
from aiopsd.correlate.grouping.strangers import Strangers, share

STRANGE = -20.0  # nats; a trouble that nothing in the story explains, besides the one that is its cause
FIRST = 8  # vertices of a story that are asked whether they explain one that no path leads to
FOLLOWS, STAYS = 1.2, 1.8  # weights of a Beta prior: how many of its callers follow a callee into trouble
SILENT = math.log(0.3)  # chance that a vertex between two troubles stays silent (lost alert, no rule)
DOWN = math.log(0.002)  # chance that trouble runs from a caller down to a callee (load, retries)
SHARED = math.log(0.05)  # chance that a dependency that several share is the cause and says nothing itself
SHARED_SCALE = 55.0  # s; between two that share a cause
LATER = math.log(0.2 / 1800.0)  # 1/s; a further symptom long after the first one
AGAIN = 0.3  # chance that an alert that ended fires again while its incident lasts
AGAIN_MORE = 0.7  # ... when it has done so before
AGAIN_TAU = 400.0  # s; median time until it does
AT_ONCE = 120.0  # s; symptoms so soon after the first one say what a cause looks like
LASTS = math.log(1.0 / 2400.0)  # 1/s; density of when a cause ends
END_SCALE = 22.0  # s; the troubles of one cause end about so far apart
ASTRAY = 0.02  # chance that an alert ends for reasons of its own
OVER = 120.0  # s after most of it ended; what begins later is another story
GOING = 90.0  # s after its start in which silence of callers says little


class Part(NamedTuple):
    """What a story says of one vertex: how its symptoms fit each other, when it began, when it ended for good."""

    troubles: tuple[Trouble, ...]
    onset: float
    inner: float  # log-likelihood of names, offsets and spells
    ends: tuple[float, ...]  # of what ended and has not fired again
    firing: int
    gain: float  # log-odds of the names it began with as those of a cause
    load: float  # chance that load which it sends breaks what gets all its load from there


class Story:
    """Troubles of one incident; `value` is their log-likelihood (natural, up to what all partitions share)."""

    def __init__(
        self, s: State, graph: Graph, memory: Memory, strangers: Strangers, troubles: Iterable[Trouble] = ()
    ) -> None:
        self.s = s
        self.graph = graph
        self.memory = memory
        self.strangers = strangers
        self.parts: dict[str, Part] = {}
        self.ends: dict[str, float] = {}  # vertex -> log-likelihood of its ends
        self.silence: dict[str, float] = {}  # vertex -> log-likelihood of which of its callers are in the story
        self.passed: dict[str, tuple[float, str, str]] = {}  # vertex -> (log-likelihood, from where, how)
        self.middle = -1.0  # when most of it ended; -1: it goes on
        self.rate = 0.0  # log-rate of faults when it began
        self.astray = 0  # how often no path explained a vertex, so that others were asked one by one
        self._undo: list[tuple[dict[str, Any], str, Any]] = []  # of a trial: what was there before
        at: dict[str, list[Trouble]] = {}
        for trouble in troubles:
            at.setdefault(trouble.vertex, []).append(trouble)
        for v, here in at.items():
            here.sort(key=by_onset)
            self.parts[v] = self._part(tuple(here))
        self._find_middle()
        for v, part in self.parts.items():
            self.ends[v] = self._ends(part)
            self.silence[v] = self._silence(v)
            self.passed[v] = self._explain(v, graph.spot(v))

    def settle(self) -> None:
        """Find out anew when most of it ended."""
        if self._find_middle():
            for v, part in self.parts.items():
                self._set(self.ends, v, self._ends(part))

    def _find_middle(self) -> bool:
        ends: list[float] = []
        firing = 0
        for part in self.parts.values():
            ends += part.ends
            firing += part.firing
        before, self.middle = self.middle, -1.0
        if len(ends) > firing:
            ends.sort()
            self.middle = ends[len(ends) // 2]
        return before != self.middle

    def mark(self) -> None:
        """Begin a trial."""
        self._undo.clear()
        self._before = self.middle

    def back(self) -> None:
        """Take back everything since `mark`."""
        for table, key, value in reversed(self._undo):
            if value is None:
                del table[key]
            else:
                table[key] = value
        self._undo.clear()
        self.middle = self._before

    def _set(self, table: dict[str, Any], key: str, value: Any) -> None:
        self._undo.append((table, key, table.get(key)))
        if value is None:
            del table[key]
        else:
            table[key] = value

    def add(self, trouble: Trouble) -> None:
        """Take in a trouble."""
        old = self.parts.get(trouble.vertex)
        troubles = (trouble,) if old is None else tuple(sorted((*old.troubles, trouble), key=by_onset))
        self._put(trouble.vertex, old, troubles)

    def remove(self, trouble: Trouble) -> None:
        """Take out a trouble."""
        old = self.parts[trouble.vertex]
        self._put(trouble.vertex, old, tuple(t for t in old.troubles if t is not trouble))

    def _put(self, v: str, old: Part | None, troubles: tuple[Trouble, ...]) -> None:
        put, parts, passed = self._set, self.parts, self.passed
        spot = self.graph.spot(v)
        if troubles:
            new = self._part(troubles)
            put(parts, v, new)
            put(self.ends, v, self._ends(new))
            if old is not None and old.onset == new.onset:
                return
            put(self.silence, v, self._silence(v))
            put(passed, v, self._explain(v, spot))
        else:
            for table in (parts, self.ends, self.silence, passed):
                put(table, v, None)
        for callee in self._inside(spot.callees):
            put(self.silence, callee, self._silence(callee))
        for other, (value, by, _) in list(passed.items()):
            if other == v:
                continue
            if by == v:
                put(passed, other, self._explain(other, self.graph.spot(other)))
            elif not troubles:
                continue
            elif (link := sources(seen := self.graph.spot(other), parts[other].troubles).get(v)) is not None:
                if value > _SHARED_TOP and v in seen.beside:
                    continue
                w, how = self._from(other, parts[other].onset, v, link, value)
                if w > value:
                    put(passed, other, (w, v, how))
            elif value == STRANGE:
                put(passed, other, self._stray(parts[other].troubles[0]))

    def _inside(self, among: "dict[str, None] | dict[str, Link]") -> set[str]:
        """Of some vertices those that are in the story; for what does not depend on their order."""
        return among.keys() & self.parts.keys()

    # ------------------------------------------------------------------------- terms

    def _part(self, troubles: tuple[Trouble, ...]) -> Part:
        shares = self.memory.shares_of
        onset = troubles[0].onset
        inner = gain = 0.0
        seen: dict[str, list[float]] = {}  # name -> end of its last spell, or -1, and how many it had
        for trouble in troubles:
            for name, at in trouble.names.items():
                origin, passed, _ = shares(name)
                if at - onset <= AT_ONCE and trouble.echo_of < 0:
                    gain += origin - passed
                before = seen.get(name)
                if before is not None:
                    gap = max(0.0, at - before[0]) if before[0] >= 0.0 else 0.0
                    inner += (_AGAIN if before[1] < 2.0 else _AGAIN_MORE) - 2.0 * math.log(gap + AGAIN_TAU) + LASTS
                    before[0], before[1] = trouble.ended, before[1] + 1.0
                    continue
                inner += passed
                if seen:
                    inner += max(LATER, delay(at - onset, SAME_MEAN, SAME_SCALE))
                seen[name] = [trouble.ended, 1.0]
        if not seen:
            inner += SILENT
        ends = tuple(end for end, _ in seen.values() if end >= 0.0)
        return Part(troubles, onset, inner, ends, len(seen) - len(ends), gain, max(t.load for t in troubles))

    def _ends(self, part: Part) -> float:
        """How its ends fit those of the others."""
        now, out = self.s.now, 0.0
        middle = self.middle
        for end in part.ends:
            again = AGAIN * AGAIN_TAU / (AGAIN_TAU + max(0.0, now - end))
            if middle < 0.0:
                out += math.log(again) + LASTS
            else:
                out += math.log(math.exp(delay(end - middle, 0.0, END_SCALE)) + (ASTRAY + again * again) / 1200.0)
        if part.firing and middle >= 0.0:
            out += part.firing * math.log(ASTRAY + math.exp(min(0.0, middle - now) / 60.0))
        return out

    def _silence(self, v: str) -> float:
        """Log-probability that exactly these callers of a vertex follow it (Beta-binomial: faults differ in reach)."""
        callers = self.graph.callers(v)
        if not callers:
            return 0.0
        followed = len(self._inside(callers))
        age = max(0.0, self.s.now - self.parts[v].onset)
        stayed = (len(callers) - followed) * (1.0 - math.exp(-age / GOING))
        return (
            math.lgamma(FOLLOWS + followed)
            + math.lgamma(STAYS + stayed)
            - math.lgamma(FOLLOWS + STAYS + followed + stayed)
            - _BETA
        )

    def _explain(self, v: str, spot: Spot) -> tuple[float, str, str]:
        part = self.parts[v]
        best = self._source(v, part.onset, spot, part.troubles)
        return best if best[1] else self._stray(part.troubles[0])

    def _source(self, v: str, onset: float, spot: Spot, troubles: Sequence[Trouble]) -> tuple[float, str, str]:
        """What of the story explains a trouble of `v` best, by a path; "" when nothing does.

        Most of what is around shares a callee with it and no more: where a call explains it better than any of these
        could, they need not be looked at.
        """
        best = (STRANGE, "", "")
        links = sources(spot, troubles)
        inside = self._inside(links)
        inside.discard(v)
        for others in (inside - spot.beside, inside & spot.beside):
            for other in others:
                w, how = self._from(v, onset, other, links[other], best[0])
                if w > best[0] or (w == best[0] and how and self.parts[other].troubles[0].id < self._id(best[1])):
                    best = (w, other, how)
            if best[0] > _SHARED_TOP:
                break
        return best

    def _stray(self, trouble: Trouble) -> tuple[float, str, str]:
        """What explains a trouble that has no path from any other: the one it hangs on, or one of the first."""
        self.astray += 1
        best = (STRANGE, "", "")
        parent = self.s.troubles.get(trouble.parent)
        others = [part.troubles[0] for part in islice(self.parts.values(), FIRST)]
        if parent is not None and parent.vertex in self.parts:
            others.append(self.parts[parent.vertex].troubles[0])
        known = self.graph.around(trouble.vertex)  # itself, too; what runs on a host is no stranger to it
        for other in others:
            if other.vertex not in known and not share(trouble.under, other.under):
                w, how = self.strangers.weight(trouble.vertex, trouble.texts, trouble.onset, other)
                if w > best[0]:
                    best = (w, other.vertex, how)
        return best

    def _id(self, v: str) -> int:
        return self.parts[v].troubles[0].id if v else 1 << 62

    def _from(self, v: str, onset: float, other: str, link: Link, least: float) -> tuple[float, str]:
        """(log-likelihood that a trouble of `v` that began at `onset` stems from another vertex of the story, how).

        Of what is less likely than `least` it is enough to say so.
        """
        gap = onset - self.parts[other].onset
        d, u, shared, ground, load, ways = link
        best, how = -99.0, ""
        steps, climbs = d or u, d > 0
        if steps:
            how = "climbed" if climbs else "ran down"
        if steps == 1:
            share, _, mean, scale, top = self.graph.passages.of(other, v, climbs)
            z = (gap - mean) / scale
            best = math.log(share) + top - 2.0 * math.log1p(z * z / 3.0)
            if not climbs:
                best += DOWN
            elif ground and gap > 0.0:
                best = max(best, math.log(share) + LINGERS)
        elif steps:
            z = (gap - HOP_MEAN * steps) / _SCALES[steps]
            best = (_CLIMB if climbs else _RUN)[steps] - 2.0 * math.log1p(z * z / 3.0)
            if ways > 1:
                best += math.log(ways)
        if load and self.parts[other].load:
            w = Odds.loaded(gap, self.parts[other].load, load)
            if w > best:
                best, how = w, "loaded"
        if shared and least <= _SHARED_TOP and best < _SHARED_TOP:
            top = SHARED + delay(gap, 0.0, SHARED_SCALE)
            quiet = [rest for callee, rest in shared if callee not in self.parts] if top >= least else ()
            if quiet:
                w = top - math.log(1.0 + 0.3 * min(quiet))
                if w > best:
                    best, how = w, "shared"
        return best, how

    # ------------------------------------------------------------------------- the whole

    def cause(self) -> tuple[float, str]:
        """(gain of its likeliest cause over that vertex as a passed-on one, the vertex)."""
        rate = self.rate
        if not rate:
            began = min(part.onset for part in self.parts.values())
            rate = self.rate = math.log(self.memory.fault_rate(began, len(self.parts) > 1))
        best, where, order = -1e9, "", 0
        for v, part in self.parts.items():
            own = part.gain - self.passed[v][0]
            if own > best or (own == best and part.troubles[0].id < order):
                best, where, order = own, v, part.troubles[0].id
        return best + rate, where

    def lived(self, troubles: Sequence[Trouble]) -> bool:
        """Whether all of these began while this incident lasted, or shortly before or after."""
        onsets = [trouble.onset for trouble in troubles]
        if self.middle >= 0.0 and max(onsets) > self.middle + OVER:
            return False
        first = min(onsets)
        return any(part.onset - HORIZON <= first for part in self.parts.values())  # as nearly always the first part's

    def holds(self, trouble: Trouble) -> float:
        """How well a trouble of this story fits: where it came from and how it ended; unscaled, for comparison."""
        return self.passed[trouble.vertex][0] + self._fits(trouble)

    def offers(self, trouble: Trouble) -> float:
        """How well a trouble of another story would fit here."""
        best = self._source(trouble.vertex, trouble.onset, self.graph.spot(trouble.vertex), (trouble,))[0]
        if best == STRANGE:
            best = self._stray(trouble)[0]
        if trouble.vertex in self.parts:
            best = max(best, -9.0)
        return best + self._fits(trouble)

    def _fits(self, trouble: Trouble) -> float:
        if trouble.ended < 0.0 or self.middle < 0.0:
            return LASTS
        return max(LASTS + math.log(ASTRAY), delay(trouble.ended - self.middle, 0.0, END_SCALE))

    @property
    def value(self) -> float:
        """Log-likelihood of all of it."""
        if not self.parts:
            return 0.0
        gain, _ = self.cause()
        out = gain + sum(self.ends.values()) + sum(self.silence.values())
        for part in self.parts.values():
            out += part.inner
        for passed, _, _ in self.passed.values():
            out += passed
        if self.middle >= 0.0:
            out += LASTS - _END_TOP
        if len(self.parts) == 1:
            ((v, part),) = self.parts.items()
            names = dict.fromkeys(n for t in part.troubles for n in t.names)
            if len(names) == 1:
                (name,) = names
                noise = math.log(self.memory.alone_rate(v, name)) - self.memory.shares_of(name)[1]
                fault = gain + self.passed[v][0]
                out += math.log1p(math.exp(min(50.0, noise - fault)))
        return out


def sources(spot: Spot, troubles: Iterable[Trouble]) -> dict[str, Link]:
    """Whose trouble may explain these of one vertex.

    What runs on a host may burden it, and then the host says so; one that says nothing stands for a fault of its own.
    """
    return spot.links if not spot.is_host or any(t.names for t in troubles) else spot.looks


_BETA = math.lgamma(FOLLOWS) + math.lgamma(STAYS) - math.lgamma(FOLLOWS + STAYS)
_CROSS = math.log(FOLLOWS / (FOLLOWS + STAYS))
_SCALES = [1.0] + [math.sqrt(HOP_SCALE**2 + (d - 1) * 18.0**2) for d in range(1, 12)]
_CLIMB = [(d - 1) * (SILENT + _CROSS) + (_CROSS if d > 1 else 0.0) - 1.0007 - math.log(_SCALES[d]) for d in range(12)]
_RUN = [d * DOWN - 1.0007 - math.log(_SCALES[d]) for d in range(12)]
_END_TOP = delay(0.0, 0.0, END_SCALE)
_SHARED_TOP = SHARED + delay(0.0, 0.0, SHARED_SCALE)  # what is shared explains no trouble better
_AGAIN, _AGAIN_MORE = math.log(AGAIN * AGAIN_TAU), math.log(AGAIN_MORE * AGAIN_TAU)
