"""Likelihoods: where a trouble came from, whether two ended together, whether an alert is the same again."""

import math
from collections.abc import Iterable, Mapping

from aiopsd.config import CorrelateConfig
from aiopsd.correlate.grouping.graph import Link
from aiopsd.correlate.grouping.memory import ORIGIN, Memory
from aiopsd.correlate.grouping.passages import CROSS, DOWN, HOP_MEAN, HOP_SCALE, Passages
from aiopsd.correlate.grouping.state import Group, State, Trouble
from aiopsd.correlate.place import measured
from aiopsd.correlate.rootcause.load import STEEP

# Set on simulated storms (see simulations/storm.py); each is a physical quantity.
CROSS_WEIGHT = 3.0  # callers of evidence that the usual chance of crossing is worth, of one trouble
SILENT = 0.3  # chance that a vertex between two troubles stays silent (lost alert, no rule)
SHARED = 0.02  # chance that an unexplained trouble stems from a dependency that has not alerted
SAME = 0.5  # chance that a trouble shows a further symptom
SAME_MEAN, SAME_SCALE = 5.0, 35.0  # s; between two symptoms of one trouble
SHARED_SCALE = 55.0  # s; between two that share a cause
FOLLOW = 90.0  # s; callers that have not followed after about this time probably will not
LATE = 300.0  # s between an onset and its arrival; beyond it a backlog is read, whose callers may just be on their way
AGAIN_LIVE, AGAIN_OVER = 0.5, 0.15  # chance that a resolved alert fires again while its incident is alive, is over
AGAIN_TAU, AGAIN_TAU_ALONE = 300.0, 120.0  # s; how soon it then does, in company and alone
END_SCALE = 25.0  # s; troubles of one cause end about so far apart
END_FREE = 1200.0  # s; ... and troubles of two causes so far
LOADED_MEAN, LOADED_SCALE = 20.0, 75.0  # s; from the sender's trouble, if it shows any, to what its load broke
SPAN = 150.0  # s; troubles of what runs on one node or zone that fails begin within it
APART = -10.0  # nats; how far a difference of ends can count against one cause
LINGERS = math.log(0.1 / 1200.0)  # 1/s; of what a node or zone breaks a tenth shows at any time while that lasts
ASTRAY = 0.01  # chance that an alert ends at another time than its cause: it flaps, its rule is another one
FLAPS = 0.3  # chance that an end was not the last one

_SAME_LOG = math.log(SAME)
_FIRST_LOG = math.log((1.0 - SILENT) / LATE)
_SPAN_LOG = math.log(SPAN)
_ORIGIN_LOG = math.log(ORIGIN)
_DOWN_LOG = math.log(DOWN)
_STILL_LOG = math.log(FLAPS)
_ASTRAY_LOG = math.log(ASTRAY)
_END_FREE_LOG = math.log(END_FREE)
_SHARED_TOP = CROSS_WEIGHT * CROSS + 1.0
_SHARED_CONST = math.log(SHARED) - 1.0007 - math.log(SHARED_SCALE)
_HOP_SCALES = [1.0] + [math.sqrt(HOP_SCALE**2 + (d - 1) * 18.0**2) for d in range(1, 12)]
_DOWN_CONST = [(d - 1) * math.log(CROSS * SILENT) - 1.0007 - math.log(_HOP_SCALES[d]) for d in range(12)]
_UP_CONST = [d * math.log(DOWN) - 1.0007 - math.log(_HOP_SCALES[d]) for d in range(12)]


class Odds:
    """Log-likelihoods over what is known now."""

    def __init__(self, s: State, config: CorrelateConfig, memory: Memory, passages: Passages) -> None:
        self.s = s
        self.config = config
        self.memory = memory
        self.passages = passages

    def same(self, onset: float, names: Iterable[str], other: Trouble) -> float:
        """Log-likelihood that symptoms are further ones of a trouble of their vertex, over that of passed-on ones.

        What a cause shows next looks like a cause, too; of what looks like a victim until now, nobody knows. The first
        one of a trouble that was guessed from others may come at any time: it has kept silent so far.
        """
        if not other.names:
            return _FIRST_LOG
        fits = _SAME_LOG + delay(onset - other.onset, SAME_MEAN, SAME_SCALE)
        if other.parent < 0 and self._like_a_cause(other.names) > 0.0:
            fits += self._like_a_cause(names)
        return fits

    def _like_a_cause(self, names: Iterable[str]) -> float:
        """Log-odds of alertnames as those of a cause."""
        shares = self.memory.shares_of
        return sum(shares(name)[0] - shares(name)[1] for name in names)

    def weight(self, vertex: str, names: Iterable[str], onset: float, other: Trouble, link: Link) -> tuple[float, str]:
        """(log-likelihood that a trouble of `vertex` that began at `onset` stems from `other`, how).

        The chance that it crosses one more edge counts how many callers followed and how many stayed silent so far,
        and how often this edge was crossed before.
        """
        best, how = -99.0, ""
        gap = onset - other.onset
        d, u, shared, ground, load, ways = link
        if d or shared:
            since = max(other.onset, other.born - LATE)
            silent = 1.0 - math.exp(min(0.0, since - self.s.now) / FOLLOW)
        if d:
            k = other.followers
            crosses = (CROSS_WEIGHT * CROSS + k) / (CROSS_WEIGHT + k + max(0, other.fan - k) * silent)
            if d == 1:
                _, odds, mean, scale, top = self.passages.of(other.vertex, vertex, True)
                crosses *= odds / (1.0 - crosses + crosses * odds)
                z = (gap - mean) / scale
                best = math.log(crosses) - 2.0 * math.log1p(z * z / 3.0) + top
            else:
                z = (gap - HOP_MEAN * d) / _HOP_SCALES[d]
                best = math.log(crosses) - 2.0 * math.log1p(z * z / 3.0) + _DOWN_CONST[d]
                if ways > 1:
                    best += math.log(ways)
            if ground:
                best = self.fell(names) + (max(best, math.log(crosses) + LINGERS) if gap > 0.0 else best)
            how = "climbed"
            if other.echo_of >= 0:
                best += self.news(other)
        elif u:
            if u == 1:
                share, _, mean, scale, top = self.passages.of(other.vertex, vertex, False)
                z = (gap - mean) / scale
                best = math.log(share) + _DOWN_LOG - 2.0 * math.log1p(z * z / 3.0) + top
            else:
                z = (gap - HOP_MEAN * u) / _HOP_SCALES[u]
                best = _UP_CONST[u] - 2.0 * math.log1p(z * z / 3.0)
            how = "ran down"
            if other.echo_of >= 0:
                best += self.news(other)
        if load and other.load:
            w = self.loaded(gap, other.load, load) + self.fell(names)
            if w > best:
                best, how = w, "loaded"
        if shared:
            z = gap / SHARED_SCALE
            far = -2.0 * math.log1p(z * z / 3.0) + _SHARED_CONST
            if far > best:
                q = 0.0
                hot = self.s.hot
                for callee, rest in shared:
                    if callee not in hot:
                        q += _SHARED_TOP / (CROSS_WEIGHT + 1.0 + rest * silent)
                if q:
                    w = far + math.log(q / max(1, other.deps))
                    if w > best:
                        best, how = w, "shared"
        return best, how

    @staticmethod
    def loaded(gap: float, chance: float, share: float) -> float:
        """Log-likelihood that load from a vertex broke what has this share of its load from there, so much later."""
        return math.log(chance * share**STEEP) + delay(gap, LOADED_MEAN, LOADED_SCALE)

    @staticmethod
    def news(other: Trouble) -> float:
        """Log-probability that a trouble is news: what only fires again passes little on."""
        if other.echo_of < 0 or other.parent != other.echo_of:
            return 0.0
        odds = other.echo - other.own
        return -math.log1p(math.exp(min(30.0, odds)))

    def fires_again(self, onset: float, ended: float, group: Group) -> float | None:
        """Log-likelihood that an alert that ended then comes back now as the same trouble; None: it cannot."""
        gap = max(0.0, onset - ended)
        if group.firing:
            chance, tau = AGAIN_LIVE, AGAIN_TAU
        elif gap > self.config.reopen_within:
            return None
        else:
            chance, tau = AGAIN_OVER, AGAIN_TAU_ALONE if self.alone(group) else AGAIN_TAU
        return math.log(chance / tau) - gap / tau

    def own(self, vertex: str, names: Iterable[str], onset: float) -> float:
        """Log-likelihood that a trouble has no parent, over that of its names as passed-on symptoms."""
        return self.alone_or_not(vertex, names, onset)[0]

    def alone_or_not(self, vertex: str, names: Iterable[str], onset: float) -> tuple[float, float, float]:
        """(`own`, `strange`, `fell`) of a trouble: what it is worth as one of its own, and as one that others explain.

        `strange`: the log-likelihood ratio of an onset at any time within SPAN as one of its host, against one of its
        own. Faults come together, so it is not news that a second vertex has one just after the first.
        """
        memory, passed, usual, name, n = self.memory, 0.0, 0.0, "", 0
        burst = memory.burst(onset)
        own = math.log(ORIGIN + burst) if burst else _ORIGIN_LOG
        after = memory.log_after
        for name in names:
            origin, travels, common = memory.shares_of(name)
            own += origin
            after += origin
            passed += travels
            usual += common
            n += 1
        if n == 1:
            noise = math.log(memory.alone_rate(vertex, name))
            own, after = either(own, noise), either(after, noise)
        return own - passed, usual - after - _SPAN_LOG, usual - passed

    def fell(self, names: Iterable[str]) -> float:
        """Log-likelihood of names as those of what fell with its host, over that as passed-on symptoms.

        What a caller sees of its callee is one of few things; a host that fails breaks what runs there, and that shows
        whatever it shows when it is broken.
        """
        shares = self.memory.shares_of
        return sum(shares(name)[2] - shares(name)[1] for name in names)

    def genuine(self, vertex: str, name: str) -> float:
        """Chance that what fires alone is a fault, and not what this pair does now and then."""
        fault = ORIGIN * math.exp(self.memory.shares_of(name)[0])
        return fault / (fault + self.memory.alone_rate(vertex, name))

    def together(self, trouble: Trouble, other: Trouble) -> float:
        """Log-likelihood ratio of how both ended, for one cause against two.

        A single alert may end astray; that several which hang together do so is as unlikely as all of them one by one.
        """
        mine, its = self.end(trouble), self.end(other)
        if mine < 0.0 or not other.names:  # a silent trouble has no end to compare with
            return 0.0
        if its < 0.0:
            return _STILL_LOG
        fits = delay(mine - its, 0.0, END_SCALE) + _END_FREE_LOG
        if fits < _ASTRAY_LOG:
            fits = max(APART, fits, _ASTRAY_LOG * self._names_below(trouble))
        return fits

    def _names_below(self, trouble: Trouble) -> int:
        """How many alertnames a trouble and what hangs on it show, as far as that matters to `together`."""
        n, front = 0, [trouble]
        while front and n * _ASTRAY_LOG > APART:
            here = front.pop()
            n += len(here.names)
            front += [self.s.troubles[child] for child in here.children]
        return n

    def company(self, trouble: Trouble, before: Trouble) -> float:
        """How the end of an echo fits those that its first trouble came with."""
        s = self.s
        while before.echo_of >= 0 and before.parent == before.echo_of and before.echo_of in s.troubles:
            before = s.troubles[before.echo_of]
        others = [before.parent, *before.children]
        fits = [self.together(trouble, o) for i in others if (o := s.troubles.get(i)) and o.vertex != trouble.vertex]
        return max(fits, default=0.0)

    def end(self, trouble: Trouble) -> float:
        """When it ended for good as far as we know: a trouble that fired again has not ended before its echo."""
        s = self.s
        while trouble.echoed >= 0:
            later = s.troubles.get(trouble.echoed)
            if later is None or later.parent != trouble.id:
                break
            trouble = later
        return trouble.ended

    def over_before(self, trouble: Trouble, other: Trouble) -> bool:
        """Whether a trouble was over when the other one began: then it does not stem from it.

        Only where an anomaly says when it began: its onset is read from samples, while the rule of an alert may wait
        for minutes and tell a cause after a symptom that is gone again. Of a silent trouble only what hangs on it says
        when it showed.
        """
        end = self.end(trouble)
        if end < 0.0:
            return False
        if other.names:
            return end < other.onset and any(map(measured, other.names))
        shown = [self.s.troubles[child] for child in other.children]
        began = min((by.onset for by in shown if any(map(measured, by.names))), default=0.0)
        return end < began

    def alone(self, group: Group) -> bool:
        """Whether all of an incident is one alert that comes and goes."""
        if len(group.troubles) == 1:
            (tid,) = group.troubles
            return len(self.s.troubles[tid].names) <= 1
        if len(group.troubles) > 24:
            return False
        kind: tuple[str, str] | None = None
        for tid in group.troubles:
            trouble = self.s.troubles[tid]
            for name in trouble.names:
                if kind is not None and kind != (trouble.vertex, name):
                    return False
                kind = (trouble.vertex, name)
        return True

    @staticmethod
    def vote(
        votes: dict[str, float], best: dict[str, tuple[float, Trouble, str]], other: Trouble, w: float, how: str
    ) -> None:
        """Likelihoods of several members of one incident add up."""
        if w < -30.0:
            return
        gid = other.group
        have = best.get(gid)
        if have is None:
            votes[gid] = w
            best[gid] = (w, other, how)
            return
        sofar = votes[gid]
        votes[gid] = either(w, sofar)
        if w > have[0]:
            best[gid] = (w, other, how)

    def best(self, votes: Mapping[str, float], without: str = "") -> str:
        """The incident with most votes, the older one of two equal ones."""
        groups = self.s.groups
        out, value, order = "", -1e9, 0
        for gid, w in votes.items():
            if gid != without and (w > value or (w == value and groups[gid].order < order)):
                out, value, order = gid, w, groups[gid].order
        return out


def either(one: float, other: float) -> float:
    """Log-likelihood of the one or the other."""
    high, low = (one, other) if one > other else (other, one)
    return high + math.log1p(math.exp(low - high))


def delay(gap: float, mean: float, scale: float) -> float:
    """Log-density (1/s) of a delay: Student's t with 3 degrees of freedom, because detection has long tails."""
    z = (gap - mean) / scale
    return -1.0007 - 2.0 * math.log1p(z * z / 3.0) - math.log(scale)
