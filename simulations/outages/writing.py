"""How alerts are written down: labels, delays, losses, repetitions, and the truth beside them."""

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulations.outages.alerting import OF_REQUESTS, Spell
from simulations.outages.spelling import Teams, pod_of, spelled
from simulations.outages.weather import Weather
from simulations.storm import UNKNOWN
from simulations.world import World

PAUSE = 900.0  # s; a condition that was quiet for longer begins a new episode
AGAIN = 240.0  # s; who sends an alert again does so this often
FAR = 99  # hops to what no path leads to


@dataclass(frozen=True)
class Simulated:
    """One stream, line by line; `alerts` and `changes` by time, `_gt` of an alert and of the topology is the truth."""

    topology: dict[str, Any]
    alerts: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    changes: list[dict[str, Any]]


class Desk:
    """Writes spells as lines: labels, delays, losses, repetitions, and the truth beside them."""

    def __init__(self, weather: Weather, world: World, teams: Teams, rng: np.random.Generator) -> None:
        self.weather, self.world, self.teams, self.rng = weather, world, teams, rng
        self.lines: list[dict[str, Any]] = []
        self.topology = self._topology()
        self.hops = [_hops(world, f.target) for f in world.faults]

    def write(self, spells: Sequence[Spell], changes: list[dict[str, Any]]) -> Simulated:
        """Everything, by arrival."""
        episodes: dict[tuple[str, str, int | None], tuple[int, float]] = {}
        fired: Counter[int] = Counter()
        affected: dict[int, dict[str, int]] = {}
        uid = begun = 0
        for spell in sorted(spells, key=lambda s: (s.since, s.subject, s.rule.name)):
            lost = self.rng.random() < self.weather.loss
            key = (spell.rule.name, spell.subject, spell.cause)
            episode, until = episodes.get(key, (0, -math.inf))
            if spell.since - until > PAUSE:
                episode = begun = begun + 1
            episodes[key] = (episode, spell.end)
            about = self._about(spell)
            gt: dict[str, Any] = {"incident": spell.cause, "episode": episode, "vertex": spell.subject, "hop": None}
            if spell.cause is not None:
                gt["hop"] = self.hops[spell.cause].get(spell.subject, FAR)
                affected.setdefault(spell.cause, {})[spell.subject] = gt["hop"]
            for since, end in self._flapping(spell):
                uid += 1
                if not lost:
                    self._say(about | {"_gt": gt}, spell.subject, since, end, uid)
                    fired.update([spell.cause] if spell.cause is not None else [])
        self.lines.sort(key=lambda line: (line["t"], line["id"]))
        if self.weather.again:  # some number every line, as a re-sent one has no id of its own
            self.lines = [line | {"i": 7 * i} for i, line in enumerate(self.lines)]
        named = {*self.topology["nodes"], *(line["_gt"]["vertex"] for line in self.lines)}
        named |= {line[label] for line in self.lines for label in ("node", "zone") if label in line}
        truth = [self._truth(k, n, affected[k], named) for k, n in sorted(fired.items())]
        return Simulated(self.topology, self.lines, truth, changes)

    def _truth(self, k: int, alerts: int, affected: dict[str, int], named: set[str]) -> dict[str, Any]:
        fault, start = self.world.faults[k], self.world.scenario.start
        return {
            "kind": "truth",
            "incident": k,
            "root": fault.target if fault.target in named else UNKNOWN,
            "fault": fault.kind,
            "target": fault.target,
            "t0": round(start + fault.at, 3),
            "t1": round(start + fault.at + fault.duration, 3),
            "affected": affected,
            "alerts": alerts,
        }

    def _topology(self) -> dict[str, Any]:
        """What is known of the graph; what it is, under `_gt`."""
        weather, rng, world = self.weather, self.rng, self.world
        kinds = {v["name"]: str(v["kind"]) for v in world.vertices()}
        true = [(e["caller"], e["callee"]) for e in world.edges()]
        hidden = {n for n, k in kinds.items() if k in ("node", "zone") and weather.ground != "topology"}
        hidden |= {n for n, k in kinds.items() if k == "external" and not weather.outside}
        hidden |= {n for n, k in kinds.items() if k == "service" and rng.random() < weather.unlisted}
        known = [name for name in kinds if name not in hidden]
        edges = [e for e in true if rng.random() >= weather.missing and not hidden & set(e)]
        services = [name for name in known if kinds[name] not in ("node", "zone")]
        for _ in range(round(weather.wrong * len(edges))):
            caller, callee = (str(name) for name in rng.choice(services, size=2, replace=False))
            edges.append((caller, callee))
        nodes = {n: {"kind": "host" if kinds[n] == "node" else kinds[n]} for n in known}
        return {
            "kind": "topology",
            "nodes": nodes,
            "edges": [list(e) for e in dict.fromkeys(edges)],
            "_gt": {"edges": [list(e) for e in true]},
        }

    def _about(self, spell: Spell) -> dict[str, str]:
        """The labels of an alert."""
        world, team, subject = self.world, self.teams.of(spell.subject), spell.subject
        labels = {
            "alertname": team.alertname(spell.rule.name),
            "severity": spell.rule.severity,
            "cluster": team.cluster,
            "service": "",
            "summary": f"{spelled(subject, team.style)}: {spell.rule.text}",
        }
        if subject in world.zones:
            return labels | {"zone": subject}
        if subject in world.nodes:
            zone = world.node_zone[world.nodes.index(subject)]
            return labels | {"node": subject, "zone": zone, "instance": f"{subject}:9100", "job": "node-exporter"}
        labels["namespace"] = subject.split("-")[0]
        named = self.rng.random() >= self.weather.unnamed
        if named:
            labels["service"] = spelled(subject, team.style)
        i, replica = world.index[subject], self._replica(spell)
        if spell.metric in OF_REQUESTS or not spell.metric:
            if not named:
                other = str(self.rng.choice(["job", "target", "instance"]))
                labels[other] = {
                    "job": f"{labels['namespace']}/{subject}",
                    "target": f"{subject}.prod.svc.cluster.local:8080",
                    "instance": f"{subject}:8080",
                }[other]
            if np.count_nonzero(world.share[i]) > 1:
                return labels  # of all its pods: no node
        elif self.weather.ground != "none" or not named:
            labels |= {"pod": pod_of(subject, replica), "instance": f"10.0.{replica}.{i % 250}:8080"}
        if self.weather.ground == "none":
            return labels
        return labels | {"node": world.nodes[replica], "zone": world.node_zone[replica]}

    def _replica(self, spell: Spell) -> int:
        """The node of the pod that an alert is about: where the trouble is, if it is a node's or zone's."""
        world = self.world
        places = np.flatnonzero(world.share[world.index[spell.subject]])
        if spell.cause is not None:
            target = world.faults[spell.cause].target
            hit = [k for k in places if target in (world.nodes[k], world.node_zone[k])]
            places = np.array(hit) if hit else places
        return int(places[len(spell.rule.name) % len(places)])

    def _flapping(self, spell: Spell) -> list[tuple[float, float]]:
        """The spells of a spell: most hold, some come and go."""
        if math.isinf(spell.end) or spell.end - spell.since < 120.0 or self.rng.random() >= self.weather.flap:
            return [(spell.since, spell.end)]
        cuts = np.sort(self.rng.uniform(spell.since, spell.end, 2 * int(self.rng.integers(1, 4))))
        marks = [spell.since, *map(float, cuts), spell.end]
        return list(zip(marks[::2], marks[1::2], strict=True))

    def _say(self, about: Mapping[str, Any], subject: str, since: float, end: float, uid: int) -> None:
        """Firing, perhaps again and again, and resolved."""
        skew = self.teams.of(subject).skew
        until = self.world.scenario.start + self.weather.hours * 3600.0

        def line(at: float, stamp: float, state: str) -> None:
            t = at + float(self.rng.exponential(2.0))
            what = {"kind": "alert", "t": round(t, 3), "ts": round(stamp + skew, 3), "id": uid, "state": state}
            self.lines.append(what | dict(about))

        line(since, since, "firing")
        if self.rng.random() < self.weather.again:
            for at in np.arange(since + AGAIN, min(end, until), AGAIN)[:20]:
                line(float(at), since, "firing")
        if end < until:
            line(end + 10.0, end, "resolved")


def _hops(world: World, root: str) -> dict[str, int]:
    """Steps from `root` along edges, either way."""
    near: dict[str, list[str]] = {}
    for edge in world.edges():
        near.setdefault(edge["caller"], []).append(edge["callee"])
        near.setdefault(edge["callee"], []).append(edge["caller"])
    found, front = {root: 0}, deque([root])
    while front:
        here = front.popleft()
        for other in near.get(here, ()):
            if other not in found:
                found[other] = found[here] + 1
                front.append(other)
    return found
