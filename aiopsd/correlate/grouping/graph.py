"""The graph around a vertex: who may pass trouble to whom, by calls, by nodes and zones, by what two share."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from aiopsd.correlate.grouping.state import State, Trouble
from aiopsd.topology import Topology

HORIZON = 450.0  # s; two troubles that began further apart have nothing to do with each other
HOSTED_MOST = 512  # vertices of one node or zone that its label relates: a storm in a big zone must not stall the rest


class Link(NamedTuple):
    """How another vertex stands to this one."""

    down: int  # steps along the calls from this one to it; 0: not below
    up: int  # steps from it to this one
    shared: tuple[tuple[str, int], ...]  # what both depend on directly, and how many others do


class Graph:
    """Links of every vertex, from the topology and from the nodes and zones that labels of alerts name."""

    def __init__(self, s: State, topology: Topology, hops: int) -> None:
        self.s = s
        self.topology = topology
        self.hops = hops
        self._links: dict[str, dict[str, Link]] = {}
        self._links_version = topology.version
        self._both: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        self.hosted: dict[str, dict[str, None]] = {}
        for vertex, hosts in s.hosts.items():
            for host in hosts:
                self.hosted.setdefault(host, {})[vertex] = None

    def see_hosts(self, vertex: str, hosts: Iterable[str]) -> None:
        """Labels of alerts say where services run when no topology does."""
        seen = self.s.hosts.setdefault(vertex, {})
        for host in hosts:
            if host not in seen:
                if len(self.hosted.get(host, ())) >= HOSTED_MOST:
                    continue
                if len(seen) >= 32:
                    oldest = min(seen, key=lambda h: (seen[h], h))
                    del seen[oldest]
                    self.hosted[oldest].pop(vertex, None)
                self.hosted.setdefault(host, {})[vertex] = None
                self.forget_links()
            seen[host] = self.s.now

    def callees(self, vertex: str) -> dict[str, None]:
        return self.sides(vertex)[0]

    def callers(self, vertex: str) -> dict[str, None]:
        return self.sides(vertex)[1]

    def fan(self, vertex: str) -> int:
        return len(self.sides(vertex)[1])

    def sides(self, vertex: str) -> tuple[dict[str, None], dict[str, None]]:
        """(callees, callers) of a vertex, those that labels told of included."""
        if self._links_version != self.topology.version:
            self.forget_links()
        sides = self._both.get(vertex)
        if sides is None:
            sides = (
                dict.fromkeys((*self.topology.callees(vertex), *self.s.hosts.get(vertex, ()))),
                dict.fromkeys((*self.topology.callers(vertex), *self.hosted.get(vertex, ()))),
            )
            if len(self._both) > 20_000:
                self._both.clear()
            self._both[vertex] = sides
        return sides

    def forget_links(self) -> None:
        self._links.clear()
        self._both.clear()
        self._links_version = self.topology.version

    def around(self, vertex: str) -> dict[str, Link]:
        """Every vertex that may pass trouble to this one, or share a cause with it."""
        if self._links_version != self.topology.version:
            self.forget_links()
        links = self._links.get(vertex)
        if links is None:
            hops = self.hops
            below = walk(vertex, hops, self.callees)
            above = walk(vertex, hops, self.callers)
            shared: dict[str, list[tuple[str, int]]] = {}
            for callee, distance in below.items():
                if distance == 1:
                    for other in self.callers(callee):
                        if other != vertex:
                            shared.setdefault(other, []).append((callee, max(0, self.fan(callee) - 2)))
            links = {
                other: Link(below.get(other, 0), above.get(other, 0), tuple(shared.get(other, ())))
                for other in dict.fromkeys((*below, *above, *shared))
            }
            if len(self._links) > 20_000:
                self._links.clear()
            self._links[vertex] = links
        return links

    def near(self, vertex: str, index: dict[str, dict[int, None]], onset: float) -> list[tuple[Trouble, Link]]:
        """Troubles in the neighbourhood that began within HORIZON of `onset`, in order of their birth."""
        troubles = self.s.troubles
        links = self.around(vertex)
        out: list[tuple[Trouble, Link]] = []
        low, high = onset - HORIZON, onset + HORIZON
        for other in index.keys() & links.keys():
            for tid in index[other]:
                trouble = troubles[tid]
                if low <= trouble.onset <= high:
                    out.append((trouble, links[other]))
        if len(out) > 1:
            out.sort(key=birth)
        return out


def birth(item: tuple[Trouble, Link]) -> int:
    """Order of troubles."""
    return item[0].id


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
