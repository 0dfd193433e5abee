"""What a perfect grouper could reach: the likeliest partition, judged with the truth's own likelihoods and hindsight.

The oracle is told what no grouper can know: how often trouble crosses each edge, the distributions of delays, ends
and durations, which alertnames stand at origins, are passed on or are noise, how often each service makes noise, and
which spells are one flapping condition; all counted from the truth of the very streams it is asked about. What it does
not know is who belongs to whom. It begins at the truth and climbs to the nearest optimum of the likelihood (moves of
single conditions, of subtrees, merges); where it leaves the truth, the truth was not the likeliest story: two faults
at once below the same callers, a neighbour's noise at the wrong moment. A ceiling, optimistic rather than exact.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from simulations.partition import Answer
from simulations.stream import Stream

BIN = 15.0  # s; resolution of the distributions of delays and ends
FAR = 600.0  # s; conditions that began further apart are not weighed against each other
STRANGE = -14.0  # nats; a vertex that nothing in its group explains
SILENT = math.log(0.15)  # a vertex between two others that said nothing
SWEEPS = 8


@dataclass
class Condition:
    """One alert of one vertex, all spells of its flapping: `keys` of its firing lines, `start`, `end` in s."""

    number: int
    vertex: str
    name: str
    start: float
    end: float
    keys: list[Hashable]
    owner: Hashable
    hop: int | None


class Histogram:
    """Density over bins of a difference of times, with a floor for what was never seen."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, x: float) -> None:
        self.counts[math.floor(x / BIN)] += 1

    def log(self, x: float) -> float:
        """Log-density, 1/s; a neighbouring bin counts for a half."""
        k = math.floor(x / BIN)
        seen = self.counts[k] + 0.5 * (self.counts[k - 1] + self.counts[k + 1])
        return math.log((seen + 0.05) / (2.0 * self.counts.total() + 5.0) / BIN)


class LogNormal:
    """Of durations, s."""

    def __init__(self) -> None:
        self.n, self.sum, self.squares = 0, 0.0, 0.0

    def add(self, x: float) -> None:
        y = math.log(max(1.0, x))
        self.n, self.sum, self.squares = self.n + 1, self.sum + y, self.squares + y * y

    def log(self, x: float) -> float:
        """Log-density, 1/s."""
        n = max(1, self.n)
        mean = self.sum / n
        sd = math.sqrt(max(0.05, self.squares / n - mean * mean))
        y = math.log(max(1.0, x))
        return -0.5 * ((y - mean) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi)) - y


@dataclass
class Knowledge:
    """What the truth says of how trouble behaves; `crossed` is per edge (caller, callee): followed, of how many."""

    root_names: Counter[str] = field(default_factory=Counter)
    passed_names: Counter[str] = field(default_factory=Counter)
    noise_names: Counter[str] = field(default_factory=Counter)
    noise_at: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stream, service)
    hours: float = 0.0
    streams: int = 0
    services: int = 1
    incidents: int = 0
    together: int = 0  # incidents that began within BURST of another one
    delay: Histogram = field(default_factory=Histogram)
    symptom: Histogram = field(default_factory=Histogram)
    ends: Histogram = field(default_factory=Histogram)
    lasts: LogNormal = field(default_factory=LogNormal)
    noise_lasts: LogNormal = field(default_factory=LogNormal)
    crossed: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    crossed_all: list[int] = field(default_factory=lambda: [1, 2])

    def share(self, names: Counter[str], name: str) -> float:
        return math.log((names[name] + 0.5) / (names.total() + 10.0))

    def cross(self, stream: str, caller: str, callee: str) -> float:
        """Chance that trouble of the callee shows at this caller."""
        usual = self.crossed_all[0] / self.crossed_all[1]
        seen, of = self.crossed.get((stream, caller, callee), (0, 0))
        return min(0.98, (seen + 3.0 * usual) / (of + 3.0))


BURST = 150.0  # s


def conditions(stream: Stream) -> list[Condition]:
    """All of a stream, by start."""
    found: dict[Hashable, Condition] = {}
    spell_of: dict[Hashable, Hashable] = {}
    last = stream.alerts[-1]["t"] if stream.alerts else 0.0
    for n, line in enumerate(stream.alerts):
        gt = line["_gt"]
        if line["state"] == "firing":
            spell = spell_of[line["id"]] = gt["episode"]
            c = found.get(spell)
            if c is None:
                c = found[spell] = Condition(
                    len(found), vertex(line), line["alertname"], line["ts"], last, [], gt["incident"], gt["hop"]
                )
            c.start = min(c.start, line["ts"])
            c.keys.append(line.get("i", n))
        elif line["id"] in spell_of:
            found[spell_of[line["id"]]].end = line["ts"]
    return sorted(found.values(), key=lambda c: (c.start, c.number))


def vertex(line: dict[str, object]) -> str:
    """Where an alert line sits; the truth's own name when the line has been made harder to read."""
    gt = line.get("_gt")
    told = gt.get("vertex") if isinstance(gt, dict) else None
    return str(told or line.get("service") or line.get("node") or line.get("zone") or "")


def calls_of(stream: Stream) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(callees, callers) by vertex, as they truly are where the stream tells."""
    down: dict[str, list[str]] = defaultdict(list)
    up: dict[str, list[str]] = defaultdict(list)
    for caller, callee in stream.topology.get("_gt", stream.topology)["edges"]:
        down[caller].append(callee)
        up[callee].append(caller)
    return down, up


def learn(streams: Sequence[Stream]) -> Knowledge:
    """Count everything that the truth of these streams tells."""
    k = Knowledge(streams=len(streams))
    for stream in streams:
        down, up = calls_of(stream)
        k.services = max(k.services, len(stream.topology["nodes"]))
        every = conditions(stream)
        if every:
            k.hours += (every[-1].start - every[0].start) / 3600.0
        groups: dict[Hashable, list[Condition]] = defaultdict(list)
        for c in every:
            if c.owner is None:
                k.noise_names[c.name] += 1
                k.noise_at[(stream.name, c.vertex)] += 1
                k.noise_lasts.add(c.end - c.start)
            else:
                groups[c.owner].append(c)
        starts = sorted(min(c.start for c in g) for g in groups.values())
        k.incidents += len(starts)
        k.together += sum(any(0 < abs(a - b) < BURST for b in starts) for a in starts)
        for g in groups.values():
            first: dict[str, float] = {}
            hop: dict[str, int] = {}
            for c in g:
                first[c.vertex] = min(c.start, first.get(c.vertex, c.start))
                hop[c.vertex] = int(c.hop or 0)
                (k.passed_names if c.hop else k.root_names)[c.name] += 1
                k.symptom.add(c.start - first[c.vertex])
            middle = _median([c.end for c in g])
            k.lasts.add(middle - min(first.values()))
            for c in g:
                k.ends.add(c.end - middle)
            for v, at in first.items():
                parents = [first[p] for p in down[v] if p in first and hop[p] < hop[v]]
                if parents:
                    k.delay.add(at - min(parents))
                for caller in up[v]:
                    if hop.get(caller, 99) >= hop[v]:
                        row = k.crossed.setdefault((stream.name, caller, v), [0, 0])
                        row[0] += caller in first
                        row[1] += 1
                        k.crossed_all[0] += caller in first
                        k.crossed_all[1] += 1
    return k


def _median(values: Iterable[float]) -> float:
    every = sorted(values)
    return every[len(every) // 2]


@dataclass
class _Group:
    """A group of conditions, its log-likelihood, and who hangs on whom when `root` is the cause."""

    members: dict[int, Condition]
    value: float = 0.0
    start: float = 0.0
    parent: dict[str, str] = field(default_factory=dict)
    ranked: list[str] = field(default_factory=list)


class _Search:
    def __init__(self, stream: Stream, k: Knowledge) -> None:
        self.k, self.stream = k, stream
        self.down, self.up = calls_of(stream)
        self.groups: dict[int, _Group] = {}
        self.home: dict[int, int] = {}
        self.at: dict[str, list[Condition]] = defaultdict(list)
        owners: dict[Hashable, int] = {}
        for c in conditions(stream):
            self.at[c.vertex].append(c)
            key = owners.setdefault(("noise", c.number) if c.owner is None else c.owner, len(owners))
            self.home[c.number] = key
            self.groups.setdefault(key, _Group({})).members[c.number] = c
        self.next = len(owners)
        for g in self.groups.values():
            g.start = min(c.start for c in g.members.values())
        self.begun = sorted(g.start for g in self.groups.values() if len(g.members) > 1)
        for key, g in self.groups.items():
            self.groups[key] = self.weigh(g.members.values())
        self.near: dict[str, list[str]] = {}

    def around(self, v: str) -> list[str]:
        """Vertices within two steps either way, siblings included."""
        known = self.near.get(v)
        if known is None:
            one = dict.fromkeys((v, *self.down[v], *self.up[v]))
            known = self.near[v] = list(dict.fromkeys(x for o in one for x in (o, *self.down[o], *self.up[o])))
        return known

    def weigh(self, members: Iterable[Condition]) -> _Group:
        """The log-likelihood of one group under its likeliest cause."""
        k, name = self.k, self.stream.name
        g = _Group({c.number: c for c in members})
        by: dict[str, list[Condition]] = defaultdict(list)
        for c in g.members.values():
            by[c.vertex].append(c)
        first = {v: min(c.start for c in cs) for v, cs in by.items()}
        g.start = min(first.values())
        middle = _median([c.end for c in g.members.values()])
        value = k.lasts.log(middle - g.start)
        for v, cs in by.items():
            for c in cs:
                value += k.share(k.passed_names, c.name) + k.ends.log(c.end - middle)
                value += k.symptom.log(c.start - first[v]) if c.start > first[v] else 0.0
            for caller in self.up[v]:
                if caller not in by:
                    value += math.log1p(-k.cross(name, caller, v))
        passed: dict[str, float] = {}
        for v in by:
            best, how = STRANGE, ""
            for p in self.down[v]:
                if p in first:
                    w = math.log(k.cross(name, v, p)) + k.delay.log(first[v] - first[p])
                    if w > best:
                        best, how = w, p
                else:
                    for q in self.down[p]:
                        if q in first and q != v:
                            w = SILENT + 2 * math.log(0.5) + k.delay.log((first[v] - first[q]) / 2)
                            if w > best:
                                best, how = w, q
            passed[v], g.parent[v] = best, how
        rate = k.incidents / max(1e-9, k.hours * 3600.0) / k.services
        near = sum(abs(b - g.start) < BURST for b in self.begun)
        if near > 1:
            rate += k.together / max(1, k.incidents) / BURST / k.services
        prior = math.log(rate)
        own = {
            v: prior + sum(k.share(k.root_names, c.name) - k.share(k.passed_names, c.name) for c in cs) - passed[v]
            for v, cs in by.items()
        }
        g.ranked = sorted(by, key=lambda v: (-own[v], v))
        g.parent[g.ranked[0]] = ""
        g.value = value + sum(passed.values()) + own[g.ranked[0]]
        if len(g.members) == 1:
            (c,) = g.members.values()
            span = max(1.0, k.hours / max(1, k.streams)) * 3600.0
            seen = k.noise_at[(name, c.vertex)] + 0.5 * k.noise_names.total() / max(1, k.streams) / k.services
            noise = math.log((seen + 1e-3) / span) + k.share(k.noise_names, c.name) + k.noise_lasts.log(c.end - c.start)
            g.value = max(g.value, noise)
        return g

    def try_to(self, what: Sequence[Condition], target: int | None) -> bool:
        """Move conditions of one group to another (None: a new one) if that is likelier."""
        source = self.home[what[0].number]
        if source == target:
            return False
        leaving = {c.number for c in what}
        old = self.groups[source]
        rest = [c for n, c in old.members.items() if n not in leaving]
        if not rest and target is None:
            return False
        there = self.groups[target] if target is not None else None
        before = old.value + (there.value if there else 0.0)
        joined = self.weigh([*(there.members.values() if there else ()), *what])
        left = self.weigh(rest) if rest else None
        if joined.value + (left.value if left else 0.0) <= before + 1e-6:
            return False
        if target is None:
            target, self.next = self.next, self.next + 1
        self.groups[target] = joined
        if left:
            self.groups[source] = left
        else:
            del self.groups[source]
        for c in what:
            self.home[c.number] = target
        return True

    def targets(self, c: Condition) -> list[int]:
        here = self.home[c.number]
        out: dict[int, None] = {}
        for v in self.around(c.vertex):
            for other in self.at.get(v, ()):
                if abs(other.start - c.start) < FAR and self.home[other.number] != here:
                    out[self.home[other.number]] = None
        return list(out)

    def itself(self, c: Condition) -> list[Condition]:
        return [c]

    def everybody(self, c: Condition) -> list[Condition]:
        """Its whole group: a merge."""
        return list(self.groups[self.home[c.number]].members.values())

    def hanging(self, c: Condition) -> list[Condition]:
        """All that hangs on its vertex, itself included."""
        g = self.groups[self.home[c.number]]
        chosen, stack = {c.vertex}, [c.vertex]
        while stack:
            here = stack.pop()
            for child, parent in g.parent.items():
                if parent == here and child not in chosen:
                    chosen.add(child)
                    stack.append(child)
        return [m for m in g.members.values() if m.vertex in chosen]

    def run(self) -> None:
        """Climb to a local optimum."""
        for _ in range(SWEEPS):
            moved = False
            for cs in list(self.at.values()):
                for c in cs:
                    for what in (self.itself, self.hanging, self.everybody):
                        for target in (*self.targets(c), None):
                            if target is None or target in self.groups:
                                moved |= self.try_to(what(c), target)
            if not moved:
                return


def answer(stream: Stream, k: Knowledge) -> Answer:
    """The oracle's partition and causes."""
    search = _Search(stream, k)
    search.run()
    group = {key: n for n, g in search.groups.items() for c in g.members.values() for key in c.keys}
    return Answer(group, {}, {n: g.ranked for n, g in search.groups.items()})
