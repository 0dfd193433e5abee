"""What grouping remembers: troubles, groups, alerts, counts, timers; and what it answers.

All of it is plain data that a snapshot holds; what other modules of this package cache follows from it.
"""

import math
from heapq import heappush
from typing import Any, NamedTuple

import msgspec

HALF_LIFE = 7 * 86400.0  # s; memory of what fires alone and which names travel

CHECK_TIMER, RECHECK_TIMER, SETTLE_TIMER = "c", "r", "s"
DROP_TIMER, ENDED_TIMER, FADE_TIMER, THINK_TIMER, TEACH_TIMER = "d", "e", "f", "t", "l"

LATEST = 64  # troubles that began, or ended, last: the only strangers that are looked at, whatever the storm
PLACES = 3  # vertices at which an alertname was seen before its company tells anything of it


class Placement(NamedTuple):
    """Where an alert went and why.

    `incident` is "" when the alert is kept quiet (chronic, flapping, noise): nobody is told, the reason still says why.
    `merged` holds (from, into) pairs that became one; what an arrival changes elsewhere comes from `reassess` when its
    second is over, so it is empty here. `score` is the log-odds for this home against standing alone.
    """

    incident: str
    reason: str
    opened: bool = False
    merged: tuple[tuple[str, str], ...] = ()
    score: float = 0.0


class Revision(NamedTuple):
    """A second thought: `kind` "merge" (all of `source` goes into `target`) or "move" (`fingerprints` go there).

    "" as the source or target of a move: the alerts were, or are from now on, kept quiet. `opened`: `target` is new.
    "why": they stay where they are, for another reason.
    """

    kind: str
    source: str
    target: str
    fingerprints: tuple[str, ...]
    opened: bool
    reason: str


class Trouble(msgspec.Struct):
    """One vertex that left its normal state: its symptoms, and where we think it came from."""

    id: int
    vertex: str
    onset: float
    group: str
    parent: int = -1
    names: dict[str, float] = {}  # alertname -> first onset
    texts: dict[str, str] = {}  # alertname -> what its first alert said (likeness.py)
    alerts: dict[str, None] = {}  # fingerprints
    children: dict[int, None] = {}
    own: float = 0.0  # log-likelihood of no parent, over that of its names as passed-on symptoms
    ended: float = -1.0  # when its last alert resolved; -1 while one fires
    echo_of: int = -1  # the trouble whose alert fires again here ...
    echo: float = 0.0  # ... and the log-likelihood of that
    echoed: int = -1  # the trouble that fires again what this one did
    born: float = 0.0  # stamp of its first alert
    value: float = 0.0  # log-likelihood of where it is
    under: tuple[str, ...] = ()  # nodes and zones that its vertex ran on when it began
    strange: float = 0.0  # nats by which a fault of its host would explain its onset better than one of its own
    fell: float = 0.0  # ... of which because such a fault shows anything, and not only what a callee's shows
    fan: int = 0  # how many depend on its vertex
    deps: int = 0  # how many its vertex depends on
    followers: int = 0  # how many of them are in trouble about as long
    apart: int = -1  # version of the graph in which nothing near it was in trouble since it began; -1: something was
    load: float = 0.0  # chance that load which it sends breaks what gets all its load from there; 0: it sends none
    pinned: bool = False  # an operator decided
    traced: bool = False  # the evidence named the trouble it hangs on
    taught: bool = False  # where it came from and went has been learned


class Group(msgspec.Struct):
    """One incident to be, or a quiet alert."""

    id: str
    opened: float
    order: int
    quiet: bool = False
    firing: int = 0
    over_since: float = 0.0  # when the last alert resolved
    troubles: dict[int, None] = {}
    size: int = 0  # alerts, past ones included
    due: dict[float, None] = {}  # when it is reconsidered
    changed: int = 0  # count of the state when a trouble came, left or ended last
    seen: int = 0  # ... and when it was reconsidered last


class Row(msgspec.Struct):
    """What we know of one fingerprint."""

    trouble: int
    name: str
    firing: bool
    starts_at: float
    ended: float = -1.0


class Waiting(msgspec.Struct):
    """What arrived within the present second: an alert that fires, or one that ended."""

    fp: str
    firing: bool
    vertex: str = ""
    known: bool = False
    name: str = ""
    text: str = ""  # what it says (likeness.py)
    onset: float = 0.0  # when it began, or ended
    starts_at: float = 0.0
    told: str = ""  # incident of its first placement
    opened: bool = False  # ... which was new
    said: str = ""  # ... and its reason


class Count(msgspec.Struct):
    """A sum with exponential decay: `value` as of `at`."""

    value: float = 0.0
    at: float = 0.0

    def read(self, now: float) -> float:
        return self.value * math.exp2((self.at - now) / HALF_LIFE) if now > self.at else self.value

    def add(self, now: float, amount: float = 1.0) -> None:
        if now > self.at:
            self.value = self.value * math.exp2((self.at - now) / HALF_LIFE) + amount
            self.at = now
        else:
            self.value += amount


class Tally(msgspec.Struct):
    """Sums over troubles, as of `at` (passages.py)."""

    asked: float = 0.0  # troubles that could have crossed
    crossed: float = 0.0  # ... that did
    gaps: float = 0.0  # s; sum of their delays
    squares: float = 0.0  # s^2; ... of the squares
    at: float = 0.0


class State(msgspec.Struct):
    """All that a snapshot holds."""

    groups: dict[str, Group] = {}
    troubles: dict[int, Trouble] = {}
    rows: dict[str, Row] = {}
    hot: dict[str, dict[int, None]] = {}  # vertex -> troubles that began within HORIZON
    kept: dict[str, dict[int, None]] = {}  # vertex -> troubles that have not ended long ago
    pairs: dict[str, dict[int, float]] = {}  # pair -> trouble -> when it resolved; -1 while it fires
    hosts: dict[str, dict[str, float]] = {}  # vertex -> node, zone or peer that its alerts named -> when last
    alone: dict[str, Count] = {}  # pair, "v|" + vertex, "n|" + name, "" for all: firings alone
    origin: dict[str, Count] = {}  # alertname -> times at the origin of an incident; "" for all
    passed: dict[str, Count] = {}  # alertname -> times as a passed-on symptom; "" for all
    roles: dict[str, str] = {}  # alertname -> role that a rule pack gave it last
    lone: dict[str, Count] = {}  # alertname -> incidents of several vertices in which only one had it
    common: dict[str, Count] = {}  # ... in which others had it, too
    places: dict[str, dict[str, None]] = {}  # alertname -> the first few vertices that had it
    met: dict[
        str, dict[str, Count]
    ] = {}  # pair -> pair that came with it -> times; "": times that it came (company.py)
    up: dict[str, dict[str, Tally]] = {}  # callee -> caller -> how trouble passes (passages.py)
    down: dict[str, dict[str, Tally]] = {}  # caller -> callee -> how trouble runs down
    learned: float = 0.0  # when `origin` and `passed` changed last
    shares: dict[str, tuple[float, float, float]] = {}  # alertname -> its log-shares, as worked out last
    worked_out: float = 0.0  # how much was in them when all of these were thrown away
    causes: dict[str, Count] = {}  # vertex -> confirmed as a cause by operators, less what they corrected
    swept: float = 0.0  # when `hosts` was looked through last
    noise: dict[str, float] = {}  # pairs that an operator called noise -> when
    gone: dict[str, float] = {}  # incidents merged away -> when: their ids are not used again
    begun: list[int] = []  # the troubles that began last, as they came in
    over: list[int] = []  # the troubles that ended last
    bursts: list[float] = []  # onsets of the second alerts of the latest incidents, sorted
    agenda: dict[float, list[tuple[str, int | str]]] = {}  # due -> kind and key of what is to be done, in order
    dues: list[float] = []  # its keys, a heap
    pending: list[Revision] = []  # second thoughts that nobody has fetched
    waiting: list[Waiting] = []  # what arrived within `second`, in order of arrival
    trials: int = 0  # troubles that hindsight moved in trials ...
    trials_at: float = 0.0  # ... in this second
    second: float = 0.0
    began: float = -1.0
    now: float = 0.0
    count: int = 0


def by_onset(trouble: Trouble) -> tuple[float, int]:
    """Order of troubles."""
    return trouble.onset, trouble.id


def count(counts: dict[str, Count], key: str, now: float, n: float = 1.0) -> None:
    """Count `n` more of `key`."""
    known = counts.get(key)
    if known is None:
        counts[key] = Count(n, max(0.0, now))
    else:
        known.add(now, n)


def drop_in(table: dict[str, Any], key: str, item: int) -> None:
    """Take `item` out of a row of an index; an empty row goes."""
    row = table.get(key)
    if row is not None:
        row.pop(item, None)
        if not row:
            del table[key]


def set_timer(s: State, due: float, kind: str, key: int | str) -> None:
    """Wake up at `due`, rounded up to a second."""
    due = float(math.ceil(due))
    row = s.agenda.get(due)
    if row is None:
        s.agenda[due] = [(kind, key)]
        heappush(s.dues, due)
    else:
        row.append((kind, key))
