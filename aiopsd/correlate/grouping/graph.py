"""The graph around a vertex: who may pass trouble to whom, by calls, by what two share, by what both run on.

Nodes and zones are layers of their own below the services: a vertex is linked to what it runs on, which the topology or
labels of alerts tell, never to all the others that run there. What they have in common is the host's trouble, which may
be silent (layers.py). So it is with what very many depend on, a name server or a message bus: its callers would all be
neighbours of each other, and an outage of it would cost the square of their number.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from aiopsd.correlate.grouping.began import Began
from aiopsd.correlate.grouping.passages import Passages
from aiopsd.correlate.grouping.state import State, Trouble
from aiopsd.topology import Topology, fold

HORIZON = 450.0  # s; two troubles that began further apart have nothing to do with each other
HOST_KINDS = frozenset(("host", "node", "machine", "vm", "hypervisor", "rack", "zone", "datacenter", "region"))
HOST_EDGES = frozenset(("runs_on", "located_in"))
POPULAR = 100  # callers above which a callee is a layer, too
PLACES_MOST = 32  # nodes and zones of one vertex, those named last: more replicas than that share no node's fate
FORGOTTEN = 7 * 86400.0  # s after which a node or zone that no alert of a vertex named again is no longer its own
SWEEP = 86400.0  # s between two looks for what is forgotten
WITNESSES = 32  # of what hangs on a trouble that says nothing, those that are asked whether it is over
UNSEEN = 2  # vertices on a node or zone that only labels of alerts know, for each that has alerted: well ones are mute


class Link(NamedTuple):
    """How another vertex stands to this one."""

    down: int  # steps along the calls from this one to it; 0: not below
    up: int  # steps from it to this one
    shared: tuple[tuple[str, int], ...]  # what both depend on directly, and how many others do
    ground: bool = False  # this one stands on it: its trouble breaks what runs there, whatever that then shows
    load: float = 0.0  # share of this one's load that it sends; 0: little
    ways: int = 1  # callees of this one that stand on it, each of which may bring its trouble here


HERE, BELOW, ABOVE = Link(0, 0, ()), Link(1, 0, (), True), Link(0, 1, ())


class Spot(NamedTuple):
    """What stands around one vertex."""

    is_host: bool
    hosts: tuple[str, ...]  # all that it runs on: its nodes, their zones
    callees: dict[str, None]  # what it depends on: what it calls, what it runs on
    callers: dict[str, None]  # what depends on it: who calls it, what runs on it
    common: dict[str, Sequence[str]]  # of what it calls, layers apart, what others call, too -> all its callers
    links: dict[str, Link]  # everything that may pass trouble to it or share a cause with it, itself included
    looks: dict[str, Link]  # of those the ones whose troubles it is weighed against; a host waits for its members
    beside: frozenset[str]  # of those the ones that have no more in common with it than what both depend on


class Graph:
    """Links of every vertex, from the topology and from the nodes and zones that labels of alerts name."""

    def __init__(self, s: State, topology: Topology, passages: Passages, hops: int) -> None:
        self.s = s
        self.topology = topology
        self.passages = passages
        self.hops = hops
        self.began = Began(s, HORIZON)
        self._version = topology.version
        self._spots: dict[str, Spot] = {}
        self._is_host: dict[str, bool] = {}
        self.hosted: dict[str, dict[str, None]] = {}  # node or zone -> vertices that labels place there
        self._spelled: dict[str, str] = {}  # folded -> as its first alert spelled it
        for vertex, hosts in s.hosts.items():
            for host in hosts:
                self.hosted.setdefault(host, {})[vertex] = None
                self._spelled.setdefault(folded(host), host)

    # ----------------------------------------------------------------------- what labels tell

    def host(self, name: str) -> str:
        """The node or zone that a label means: known spellings of it are one."""
        return name if name in self.topology else self._spelled.get(folded(name), name)

    def see_hosts(self, vertex: str, named: Iterable[str]) -> None:
        """Labels of an alert say where a vertex runs, and where its node stands: nearest first."""
        below = vertex
        for name in named:
            host = self.host(name)
            for one in dict.fromkeys((vertex, below)):
                if one != host:
                    self._see(one, host)
            below = host

    def _see(self, vertex: str, host: str) -> None:
        seen = self.s.hosts.setdefault(vertex, {})
        if host not in seen:
            if len(seen) >= PLACES_MOST:
                self._leave(vertex, min(seen, key=lambda h: (seen[h], h)))
            if host not in self.hosted:
                self.hosted[host] = {}
                self._spelled.setdefault(folded(host), host)
                if host in self.topology:  # it was taken for a service until now
                    self._forget_links()
                self._spots.pop(host, None)
            self.hosted[host][vertex] = None
            seen[host] = self.s.now
            if vertex in self.hosted:
                self._forget_links()  # a node got its zone, and so did all that runs on it
                return
            self._move_spots(vertex)
            for name in (host, *self._layers(host)):
                if (spot := self._spots.get(name)) is not None:
                    spot.callers[vertex] = None
                    spot.links[vertex] = ABOVE
        seen[host] = self.s.now

    def _leave(self, vertex: str, host: str) -> None:
        del self.s.hosts[vertex][host]
        del self.hosted[host][vertex]
        if not self.hosted[host]:
            del self.hosted[host]
        if vertex in self.hosted or host not in self.hosted:
            self._forget_links()
            return
        self._move_spots(vertex)
        for name in (host, *self._layers(host)):
            self._spots.pop(name, None)

    def _move_spots(self, vertex: str) -> None:
        """A vertex runs elsewhere, too: so does what calls it call something there."""
        for name in (vertex, *self.topology.callers(vertex)):
            self._spots.pop(name, None)

    def sweep(self) -> None:
        """Forget once a day where vertices ran that have not alerted there for long."""
        s = self.s
        if s.now - s.swept < SWEEP:
            return
        s.swept = s.now
        for vertex in list(s.hosts):
            for host in [h for h, at in s.hosts[vertex].items() if s.now - at > FORGOTTEN]:
                self._leave(vertex, host)
            if not s.hosts[vertex]:
                del s.hosts[vertex]

    # ----------------------------------------------------------------------- layers

    def is_host(self, name: str) -> bool:
        """Whether it is a layer: a node or zone on which others run, or what very many depend on."""
        if name in self.hosted:
            return True
        if self._version != self.topology.version:
            self._forget_links()
        known = self._is_host.get(name)
        if known is None:
            callers = self.topology.callers(name)
            known = len(callers) > POPULAR or self._carries(name, callers)
            self._is_host[name] = known
        return known

    def verb(self, host: str) -> str:
        """What those above a layer do on it: "runs", or "depends"."""
        return "runs" if host in self.hosted or self._carries(host, self.topology.callers(host)) else "depends"

    def _carries(self, name: str, callers: Sequence[str]) -> bool:
        edges = (self.topology.edge(caller, name) for caller in callers[:1])
        return self.topology.kind(name) in HOST_KINDS or any(e is not None and e.kind in HOST_EDGES for e in edges)

    def _layers(self, vertex: str) -> dict[str, None]:
        """Nodes and zones below a vertex."""
        out: dict[str, None] = {}
        front = [vertex]
        while front:
            here = front.pop()
            for host in (*self.topology.callees(here), *self.s.hosts.get(here, ())):
                if host != vertex and host not in out and self.is_host(host):
                    out[host] = None
                    front.append(host)
        return out

    def _members(self, host: str) -> dict[str, None]:
        """All that runs on a host, by topology or by labels."""
        out: dict[str, None] = {}
        front = [host]
        while front:
            here = front.pop()
            for member in (*self.topology.callers(here), *self.hosted.get(here, ())):
                if member != host and member not in out:
                    out[member] = None
                    if self.is_host(member):
                        front.append(member)
        return out

    # ----------------------------------------------------------------------- links

    def spot(self, vertex: str) -> Spot:
        """What stands around a vertex; shared, do not change it."""
        if self._version != self.topology.version:
            self._forget_links()
        spot = self._spots.get(vertex)
        if spot is None:
            if len(self._spots) > 20_000:
                self._spots.clear()
            spot = self._spots[vertex] = self._host_spot(vertex) if self.is_host(vertex) else self._call_spot(vertex)
        return spot

    def around(self, vertex: str) -> dict[str, Link]:
        """Every vertex that may pass trouble to this one, or share a cause with it; itself included."""
        return self.spot(vertex).links

    def looks(self, vertex: str) -> dict[str, Link]:
        """Of these the ones whose trouble it may have: what runs on a node or zone does not break it."""
        return self.spot(vertex).looks

    def callees(self, vertex: str) -> dict[str, None]:
        """What a vertex depends on: what it calls, what it runs on."""
        return self.spot(vertex).callees

    def callers(self, vertex: str) -> dict[str, None]:
        """What depends on a vertex: who calls it, what runs on it."""
        return self.spot(vertex).callers

    def hosts(self, vertex: str) -> tuple[str, ...]:
        """All that a vertex runs on: its nodes, their zones."""
        return self.spot(vertex).hosts

    def fan(self, vertex: str) -> int:
        """How many depend on a vertex, those that have not alerted yet included."""
        callers = self.spot(vertex).callers
        told = self.hosted.get(vertex)
        return max(len(callers), UNSEEN * len(told)) if told else len(callers)

    def _forget_links(self) -> None:
        self._spots.clear()
        self._is_host.clear()
        self._version = self.topology.version

    def _host_spot(self, host: str) -> Spot:
        hosts = self._layers(host)
        members = self._members(host)
        looks = {host: HERE, **dict.fromkeys(hosts, BELOW)}
        links = {**looks, **dict.fromkeys(members, ABOVE)}
        called = self.topology.callees(host)
        callees = dict.fromkeys((*called, *hosts))
        return Spot(True, tuple(hosts), callees, members, self._common(called), links, looks, frozenset())

    def _ways(self, called: Sequence[str]) -> dict[str, int]:
        """On what these callees stand, of nodes, zones and other layers -> how many of them do."""
        out: dict[str, int] = {}
        for callee in called:
            if not self.is_host(callee):
                for host in self._layers(callee):
                    out[host] = out.get(host, 0) + 1
        return out

    def _common(self, called: Sequence[str]) -> dict[str, Sequence[str]]:
        callers = {callee: self.topology.callers(callee) for callee in called if not self.is_host(callee)}
        return {callee: theirs for callee, theirs in callers.items() if len(theirs) > 1}

    def _call_spot(self, vertex: str) -> Spot:
        topology, hosts = self.topology, self._layers(vertex)
        below = walk(vertex, self.hops, topology.callees)
        below.update(dict.fromkeys(hosts, 1))
        called = topology.callees(vertex)
        ways = self._ways(called) if self.hops > 1 else {}
        for host in ways:
            below.setdefault(host, 2)
        above = walk(vertex, self.hops, topology.callers)
        senders = topology.senders(vertex)
        shared: dict[str, list[tuple[str, int]]] = {}
        for callee, distance in below.items():
            if distance == 1 and not self.is_host(callee):
                callers = topology.callers(callee)
                for other in callers:
                    if other != vertex:
                        shared.setdefault(other, []).append((callee, max(0, len(callers) - 2)))
        links = {
            other: Link(
                down=below.get(other, 0),
                up=above.get(other, 0),
                shared=tuple(shared.get(other, ())),
                ground=other in hosts,
                load=senders.get(other, 0.0),
                ways=ways.get(other, 1),
            )
            for other in dict.fromkeys((*below, *above, *shared, *senders))
        }
        callees = dict.fromkeys((*called, *hosts))
        callers_of = dict.fromkeys(topology.callers(vertex))
        beside = frozenset(shared.keys() - below.keys() - above.keys() - senders.keys())
        return Spot(False, tuple(hosts), callees, callers_of, self._common(called), links, links, beside)

    def near(self, spot: Spot, onset: float) -> list[tuple[Trouble, Link]]:
        """Hot troubles around a spot that began within HORIZON of `onset`, in order of their birth.

        Of a node or zone only its own and those of what it stands on: all that runs there looks at it, not it at them.
        """
        hot, looks = self.s.hot, spot.looks
        near = [] if hot.keys().isdisjoint(looks.keys()) else self._near(looks, (hot,), onset)
        return self._with_lasting(near, spot, onset)

    def _with_lasting(self, near: list[tuple[Trouble, Link]], spot: Spot, onset: float) -> list[tuple[Trouble, Link]]:
        """Besides, what began longer ago on that on which it stands, and has not ended: it breaks more all the time."""
        kept, troubles = self.s.kept, self.s.troubles
        if not spot.hosts or kept.keys().isdisjoint(spot.hosts):
            return near
        lasting = [
            (trouble, spot.looks[host])
            for host in spot.hosts
            for tid in kept.get(host, ())
            if (trouble := troubles[tid]).onset < onset - HORIZON and self.lasts(trouble, onset)
        ]
        return sorted((*near, *lasting), key=lambda found: found[0].id) if lasting else near

    def lasts(self, trouble: Trouble, until: float) -> bool:
        """Whether a trouble went on until then; one that says nothing as long as most of what fell with it at first."""
        troubles = self.s.troubles
        shown = [trouble] if trouble.names else [troubles[tid] for tid in islice(trouble.children, WITNESSES)]
        return 2 * sum(t.ended < 0.0 or t.ended > until for t in shown) > len(shown)

    def near_kept(self, spot: Spot, onset: float) -> list[tuple[Trouble, Link]]:
        """The same of all troubles that are kept."""
        return self._with_lasting(self._near(spot.looks, self.began.about(onset), onset), spot, onset)

    def _near(
        self, looks: dict[str, Link], indexes: Iterable[Mapping[str, dict[int, None]]], onset: float
    ) -> list[tuple[Trouble, Link]]:
        troubles = self.s.troubles
        low, high = onset - HORIZON, onset + HORIZON
        found: dict[int, tuple[Trouble, Link]] = {}
        for index in indexes:
            for other in index.keys() & looks.keys():
                link = looks[other]
                for tid in index[other]:
                    trouble = troubles[tid]
                    if low <= trouble.onset <= high:
                        found[tid] = trouble, link
        return [found[tid] for tid in sorted(found)]


def folded(host: str) -> str:
    """A spelling-blind form of a node's or zone's name, its domain left out; addresses stay whole."""
    short = host.split(".", 1)[0]
    return fold(short if any(c.isalpha() for c in short) else host)


def walk(start: str, hops: int, step: Any) -> dict[str, int]:
    """Distance to everything within `hops` steps, `start` included with 0."""
    out, front = {start: 0}, [start]
    for distance in range(1, hops + 1):
        further = []
        for here in front:
            for other in step(here):
                if other not in out:
                    out[other] = distance
                    further.append(other)
        front = further
    return out
