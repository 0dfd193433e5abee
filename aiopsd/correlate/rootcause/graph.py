"""The topology as one incident sees it: with the nodes and zones that labels of its alerts name."""

from collections.abc import Collection, Mapping, Sequence

from aiopsd.topology import Topology

UNSEEN = 2  # dependents of a node or zone that only labels of alerts know, for each that is in trouble
GROUND = ("node", "zone")  # kinds of what others stand on


class Graph:
    """The topology plus the nodes and zones that labels name, and who of it speaks.

    Args:
        topology: as all sources tell.
        under: vertex -> node and zone below it, by the labels of this incident.
        grounds: node or zone -> its kind, by the labels of this incident.
        hosted: node or zone -> vertices that labels have placed there, before this incident too.
        loud: vertices that have something to say.
        heard: vertices that tell how they serve: one that is not loud is well.
    """

    def __init__(
        self,
        topology: Topology,
        under: Mapping[str, Mapping[str, None]],
        grounds: Mapping[str, str],
        hosted: Mapping[str, Mapping[str, None]],
        loud: Collection[str],
        heard: Collection[str],
    ) -> None:
        self.topology = topology
        self.hosted = hosted
        self.under = under
        self.grounds = grounds
        self.loud, self.heard = loud, heard
        self.over: dict[str, dict[str, None]] = {}
        self._callees: dict[str, tuple[str, ...]] = {}
        self._suspects: dict[str, tuple[str, ...]] = {}
        for vertex, hosts in under.items():
            for host in hosts:
                self.over.setdefault(host, {})[vertex] = None

    def callees(self, name: str) -> tuple[str, ...]:
        """What it depends on, its node and zone as labels tell included."""
        known = self._callees.get(name)
        if known is None:
            own, more = self.topology.callees(name), self.under.get(name)
            known = self._callees[name] = tuple(dict.fromkeys((*own, *more))) if more else tuple(own)
        return known

    def suspects(self, name: str) -> tuple[str, ...]:
        """What it depends on and is not known to be well."""
        known = self._suspects.get(name)
        if known is None:
            loud, heard = self.loud, self.heard
            known = self._suspects[name] = tuple([c for c in self.callees(name) if c in loud or c not in heard])
        return known

    def silent(self, name: str) -> bool:
        """Nothing at all is known of how it is."""
        return name not in self.loud and name not in self.heard

    def callers(self, name: str) -> Sequence[str]:
        """What depends on it."""
        own, more = self.topology.callers(name), self.over.get(name)
        return tuple(dict.fromkeys((*own, *more))) if more else own

    def dependents(self, name: str, troubled: list[str]) -> tuple[list[str], int]:
        """Those in trouble that tell of this silent vertex, and how many depend on it, the quiet ones included.

        Labels of alerts place what alerts on its node or zone, and nobody else: where they alone tell, as many as are
        in trouble are taken for well, more when more have been seen there before. Where the topology tells, it counts.
        """
        drawn = self.topology.callers(name)
        told = [u for u in troubled if u in drawn]
        if len(told) >= 2:
            return told, len(drawn)
        seen = dict.fromkeys((*drawn, *self.hosted.get(name, ()), *troubled))
        return troubled, max(len(seen), UNSEEN * len(troubled))

    def drawn(self, name: str) -> bool:
        """The topology knows some call of it, whether of others or by others."""
        return bool(self.topology.callees(name) or self.topology.callers(name))

    def kind(self, name: str) -> str:
        """What a candidate is, as `Candidate.kind` says it; "" is what no graph has."""
        if not name:
            return "unknown"
        kind = self.topology.kind(name)
        if kind in ("node", "host", "machine"):
            return "node"
        if kind in ("zone", "region"):
            return "zone"
        if kind == "external":
            return "external"
        return self.grounds.get(name, "service") if not kind else "service"
