"""Which alerts fire, when, and which fault brought each about; and those that mean nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.outages.faults import STEP
from simulations.outages.spelling import Team, Teams
from simulations.outages.weather import Weather
from simulations.world import RULES, Effects, FaultSpec, Physics, Rule, World

F64 = NDArray[np.float64]
HALF = 0.5  # of the way from calm to its limit: a fault that brings a level so far by itself caused the alert
BEFORE, AFTER = 60.0, 900.0  # s; what a fault does is worked out from so long before it to so long after its end

# Rules that World itself does not have.
MORE: dict[str, tuple[Rule, ...]] = {
    "up_ratio": (Rule("ReplicasMissing", "warning", 0.99, 60.0, "replicas are not ready", True),),
    "request_rate": (Rule("TrafficHigh", "info", 0.0, 120.0, "half as many requests again as in the busiest hour"),),
    "calls_out_ratio": (Rule("BatchBacklogHigh", "warning", 0.3, 30.0, "the batch queue is far longer than usual"),),
    "node_ready_ratio": (Rule("NodeNotReady", "critical", 0.5, 45.0, "the node does not answer", True),),
    "zone_delay_seconds": (Rule("ZoneProbeSlow", "warning", 0.05, 120.0, "probes into the zone are slow"),),
}
ALL_RULES = {metric: RULES.get(metric, ()) + MORE.get(metric, ()) for metric in {**RULES, **MORE}}
RARE = {"TrafficLow": 0.25, "TrafficHigh": 0.35}  # of those who have rules, who watches for silence, and for a rush
OF_REQUESTS = ("error_ratio", "latency_p99_seconds", "request_rate", "calls_out_ratio")  # others speak of a pod
CHATTER = (
    "CPUHigh", "MemoryHigh", "LatencyHigh", "ErrorRateHigh", "DiskWillFill", "CertificateExpiresSoon", "BatchJobFailed",
    "ClockSkew", "BackupLate",
)  # fmt: skip


@dataclass(frozen=True)
class Spell:
    """One alert while its condition held: `since` it fired until `end` (UTC seconds; inf: to the end of the stream)."""

    rule: Rule
    subject: str
    metric: str
    since: float
    end: float
    cause: int | None  # number of the fault


def _levels(world: World, p: Physics, e: Effects) -> dict[str, F64]:
    """Metric -> float64[subjects, steps], without what measuring adds."""
    dead = e.up < 1e-9
    pool = np.where(dead, 0.0, p.busy)
    store = np.array([s.kind == "datastore" for s in world.services])[:, None]
    works_on = [world.store_of(i) for i in range(len(world.names))]
    own = np.array([world.capacity[i if store is None else store] for i, store in enumerate(works_on)])
    inside = [world.zone_share[:, z] > 0.99 for z in range(len(world.zones))]
    return {
        "error_ratio": np.where(dead, 0.0, p.errors),
        "latency_p99_seconds": p.latency,
        "request_rate": np.where(dead, 0.0, p.rate),
        "cpu_usage_ratio": np.where(dead, 0.0, 0.04 + 0.9 * np.minimum(p.util, 1.1)),
        "memory_usage_ratio": 0.45 + 0.54 * e.memory,
        "workers_busy_ratio": np.where(store, 0.0, pool),
        "connections_used_ratio": np.where(store, pool, 0.0),
        "up_ratio": e.up,
        "disk_usage_ratio": 0.4 + 0.6 * e.disk,
        "calls_out_ratio": e.batch / own[:, None],
        "node_cpu_usage_ratio": p.node * (1.0 - e.down),
        "node_ready_ratio": 1.0 - e.down,
        "zone_delay_seconds": np.stack([e.net[here].max(axis=0, initial=0.0) for here in inside]),
    }


def _limit(world: World, team: Team, rule: Rule, i: int) -> float:
    """Where this team has set the bar."""
    if rule.name == "LatencyHigh":
        return float(world.thresholds["latency"][i]) * team.strict
    if rule.name == "TrafficLow":
        return float(world.thresholds["rate"][i])
    if rule.name == "TrafficHigh":
        return 1.5 * float(world.peak[i])
    return rule.limit * team.strict if rule.name == "ErrorRateHigh" else rule.limit


def _subjects(world: World, metric: str) -> Sequence[str]:
    return world.nodes if metric.startswith("node_") else world.zones if metric.startswith("zone_") else world.names


def _measured(metric: str, level: F64, rate: F64, rng: np.random.Generator) -> F64:
    """What an exporter shows of a level: latency jitters, shares of requests are counted, the rest nearly exact."""
    chance = rng.standard_normal(level.shape)
    if metric == "latency_p99_seconds":
        return level * np.exp(0.08 * chance)
    if metric == "error_ratio":
        noise = np.sqrt(np.maximum(level * (1.0 - level), 1e-5) / np.maximum(1.0, rate * STEP))
        return np.clip(level + noise * chance, 0.0, 1.0)
    return level if metric in ("up_ratio", "node_ready_ratio") else level * (1.0 + 0.02 * chance)


class _Causes:
    """The same world with the same load without any fault, with all of them, and with each by itself."""

    def __init__(self, world: World, t: F64) -> None:
        self.world = world
        demand = world.demand(t)

        def seen(faults: Sequence[FaultSpec], rows: slice) -> tuple[dict[str, F64], F64]:
            effects = world.effects(t[rows], list(faults))
            physics = world.solve(demand[:, rows] * effects.surge[world.entries], effects)
            return _levels(world, physics, effects), physics.rate

        self.calm, _ = seen((), slice(None))
        self.real, self.rate = seen(world.faults, slice(None))
        self.alone: list[tuple[slice, dict[str, F64]]] = []  # (steps that were worked out, levels in them) by fault
        for f in world.faults:
            rows = slice(max(0, int((f.at - BEFORE) / STEP)), int((f.at + f.duration + AFTER) / STEP))
            self.alone.append((rows, seen((f,), rows)[0]))

    def of(self, metric: str, i: int, rows: slice, sign: float, limit: float) -> int | None:
        """Number of the fault that by itself takes a level most of the way to its limit in these steps."""
        calm = self.calm[metric][i]
        need = float(np.mean(sign * (limit - calm[rows])))
        gains = [_gain(sign, calm, levels[metric][i], window, rows) for window, levels in self.alone]
        best = max(range(len(gains)), key=gains.__getitem__, default=0)
        return best if gains and gains[best] > max(HALF * need, 0.0) else None


def spells(weather: Weather, world: World, teams: Teams, mute: set[str], rng: np.random.Generator) -> list[Spell]:
    """Every alert that physics brings about."""
    t: F64 = np.arange(int(weather.hours * 3600.0 / STEP)) * np.float64(STEP)
    causes, start = _Causes(world, t), world.scenario.start
    out = []
    for metric, rules in ALL_RULES.items():
        shown = _measured(metric, causes.real[metric], causes.rate, rng)
        for rule in rules:
            sign = -1.0 if rule.below else 1.0
            for i, subject in enumerate(_subjects(world, metric)):
                has = rng.random() < weather.coverage * RARE.get(rule.name, 1.0)
                if subject in mute or not has:
                    continue
                team = teams.of(subject)
                limit, wait = _limit(world, team, rule, i), rule.wait * team.patience
                for first, last in _runs(sign * shown[i] > sign * limit):
                    fired = t[first] + wait + team.phase
                    if fired > t[last]:
                        continue
                    until_it_fires = slice(first, first + int(wait / STEP) + 2)  # what comes later is no cause
                    cause = causes.of(metric, i, until_it_fires, sign, limit)
                    end = math.inf if last == len(t) - 1 else start + float(t[last]) + STEP + team.phase
                    out.append(Spell(rule, subject, metric, start + float(fired), end, cause))
    return out


def _runs(true: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, last) of each run of True.

    >>> _runs(np.array([False, True, True, False, True]))
    [(1, 2), (4, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _gain(sign: float, calm: F64, alone: F64, window: slice, rows: slice) -> float:
    """How far a fault by itself moves a level towards its limit, mean of `rows`; `alone` is known in `window`."""
    first, last = max(rows.start, window.start), min(rows.stop, window.stop)
    if first >= last:
        return 0.0
    moved = sign * (alone[first - window.start : last - window.start] - calm[first:last])
    steps: int = rows.stop - rows.start
    return float(np.sum(moved)) / steps


def changes(weather: Weather, world: World, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rollouts: those that are faults, and many that are not."""
    start, hours = world.scenario.start, weather.hours
    found = [
        (start + f.at, "deploy" if f.kind == "bad_deploy" else "config", f.target)
        for f in world.faults
        if f.kind in ("bad_deploy", "bad_config")
    ]
    own = [s.name for s in world.services if s.kind != "external"]
    times = rng.uniform(0.0, hours * 3600.0, int(rng.poisson(weather.rollouts * hours * len(own) / 100.0)))
    found += [(start + float(at), "deploy", str(rng.choice(own))) for at in times]
    return [
        {"kind": "change", "t": round(ts, 3), "id": f"change-{k}", "service": name, "change": kind, "version": f"v{k}"}
        for k, (ts, kind, name) in enumerate(sorted(found))
    ]


def background(
    weather: Weather, world: World, mute: set[str], changes: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> list[Spell]:
    """Alerts that mean nothing: alone, all day long, and for the two minutes in which a rollout restarts its pods."""
    start, span = world.scenario.start, weather.hours * 3600.0
    own = [name for name in world.names if name not in mute]
    loud = rng.pareto(1.2, len(own)) + 0.1  # a few services make most of the noise
    loud /= loud.sum()
    out: list[Spell] = []

    def said(name: str, subject: str, since: float, lasts: float) -> None:
        if since < start + span:
            end = since + lasts if since + lasts < start + span else math.inf
            out.append(Spell(Rule(name, "warning", 0.0, 0.0, "needs a look"), subject, "", since, end, None))

    for _ in range(int(rng.poisson(weather.noise * weather.hours * len(world.names) / 100.0))):
        since, lasts = start + float(rng.uniform(0.0, span)), float(rng.lognormal(np.log(300.0), 0.8))
        on_node = weather.ground != "none" and rng.random() < 0.1
        subject = str(rng.choice(world.nodes)) if on_node else str(rng.choice(own, p=loud))
        if subject not in mute:
            said("NodeDiskPressure" if on_node else str(rng.choice(CHATTER)), subject, since, lasts)
    for _ in range(int(rng.poisson(weather.chronic * len(world.names) / 100.0))):
        subject, name = (
            str(rng.choice(own, p=loud)),
            str(rng.choice(["DiskLatencyHigh", "QueueBacklog", "LatencyHigh"])),
        )
        since = start + float(rng.uniform(0.0, 3600.0))
        while since < start + span:
            on, off = float(rng.gamma(2.0, 90.0)), float(rng.gamma(2.0, 240.0))
            said(name, subject, since, on)
            since += on + off
    for change in changes:
        if change["service"] not in mute and rng.random() < 0.5:
            said(
                "ReplicasMissing",
                change["service"],
                change["t"] + float(rng.uniform(20.0, 60.0)),
                float(rng.uniform(60.0, 180.0)),
            )
    return out
