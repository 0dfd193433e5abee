"""The world itself: what load, calls, queues and faults make of each other, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from aiopsd.errors import ConfigError
from simulations.world.alerting import CHATTER, RULES, Rule, Sender
from simulations.world.scenario import CallSpec, FaultSpec, Scenario
from simulations.world.topology import generate, ordered

F64 = NDArray[np.float64]
CHUNK = 240  # steps computed at once; part of the seed's meaning (noise is drawn chunk by chunk)


@dataclass(frozen=True)
class Truth:
    """What really happened. `root` is the service, node or zone of the fault; `start`/`end` in UTC seconds."""

    kind: str
    root: str
    start: float
    end: float
    affected: tuple[str, ...]
    change: str = ""


@dataclass(frozen=True)
class Chunk:
    """Columns of some steps: ts float64[steps], values float64[series, steps] (NaN: no sample was scraped).

    `alerts`: (time of the request, alerts in Prometheus' JSON shape); `changes`: (time, change record).
    """

    ts: F64
    values: F64
    alerts: list[tuple[float, list[dict[str, Any]]]]
    changes: list[tuple[float, dict[str, Any]]]


@dataclass(frozen=True)
class Effects:
    """What the faults of a chunk do locally, each float64[services or nodes, steps]."""

    slow: F64
    errors: F64
    up: F64
    held: F64
    hog: F64
    net: F64
    surge: F64
    batch: F64  # requests/s that a service sends to its store besides
    down: F64
    memory: F64
    disk: F64


@dataclass(frozen=True)
class Physics:
    """State of the world, float64[services, steps] (node: [nodes, steps])."""

    rate: F64
    errors: F64
    latency: F64
    util: F64
    busy: F64
    queue: F64
    node: F64


_COUNTERS = {"request_rate": "http_requests_total", "error_ratio": "http_errors_total"}
_STRENGTH = {
    "slow": 8.0, "errors": 0.35, "crash": 1.0, "memory_leak": 3.0, "bad_deploy": 0.3, "bad_config": 0.4,
    "pool_exhaustion": 0.95, "disk_full": 0.8, "batch": 1.3, "noisy_neighbour": 0.9, "node_down": 1.0,
    "zone_network": 0.12, "zone_down": 1.0, "traffic_surge": 5.0, "traffic_loss": 0.9,
}  # fmt: skip


def _later(x: F64, steps: int) -> F64:
    """The same `steps` later; what was before the first is taken to be like it."""
    return x if not steps else np.concatenate([np.repeat(x[:1], min(steps, len(x))), x[:-steps]])


class World:
    """One world from one scenario; `play()` may be called once."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = sc = scenario
        # Independent generators: a change of one part of a scenario leaves the chance of the others alone.
        seeds = np.random.SeedSequence(sc.seed).spawn(5)
        shape, self._noise_rng, self._measure_rng, background, pick = (np.random.default_rng(s) for s in seeds)
        self.services = ordered(sc.topology.services or generate(sc.topology, shape))
        self.names = [s.name for s in self.services]
        self.index = {name: i for i, name in enumerate(self.names)}
        n = len(self.names)
        self.entries = [i for i, s in enumerate(self.services) if s.kind == "entry"]
        if not self.entries:
            raise ConfigError("at least one service of kind `entry` is needed", "$.topology.services")
        self.zones = [f"zone-{chr(97 + z)}" for z in range(max(1, sc.topology.zones))]
        self.nodes = [f"node-{k + 1:02d}" for k in range(sc.topology.nodes or max(2, (n + 3) // 4))]
        self.node_zone = [self.zones[k % len(self.zones)] for k in range(len(self.nodes))]
        self.share = np.zeros((n, len(self.nodes)))  # of a service's replicas on each node
        for i, s in enumerate(self.services):
            for k in shape.choice(len(self.nodes), size=min(s.replicas, len(self.nodes)), replace=False):
                self.share[i, k] = 1.0 / min(s.replicas, len(self.nodes))
        self.home = [self.node_zone[int(np.argmax(self.share[i]))] for i in range(n)]
        self.zone_share = np.array([[sum(self.share[i, k] for k in range(len(self.nodes)) if self.node_zone[k] == z)
                                      for z in self.zones] for i in range(n)])  # fmt: skip
        self._work = np.array([float(s.work) for s in self.services])
        self._base_error = shape.uniform(0.0003, 0.002, n)
        self._memory = shape.uniform(0.35, 0.6, n)
        self._disk = shape.uniform(0.3, 0.55, n)
        self.stores = [i for i, s in enumerate(self.services) if s.kind in ("datastore", "queue")]
        self._calls = [[(self.index[c], spec) for c, spec in s.calls.items()] for s in self.services]
        self._callers: list[list[tuple[int, CallSpec]]] = [[] for _ in range(n)]
        for i, calls in enumerate(self._calls):
            for j, spec in calls:
                self._callers[j].append((i, spec))
        self._size()
        self.thresholds = self._slo()
        self.faults = [self._choose(f, pick) for f in sc.faults]
        self.series = self._name_series()
        self._ar = np.zeros(len(self.entries))
        self._counters = np.zeros((n, 2))
        self._sender = Sender(self.whereabouts)
        self._affected: list[set[str]] = [set() for _ in self.faults]
        self._plan_background(background)

    # ---------------------------------------------------------------- construction

    def _size(self) -> None:
        """Capacity, workers and cores from the load at the daily peak, as a capacity planner would."""
        n = len(self.names)
        peak = np.zeros(n)
        for i in range(n):
            peak[i] += self.scenario.load.peak if i in self.entries else 0.0
            for j, spec in self._calls[i]:
                peak[j] += peak[i] * spec.rate
        self.peak = np.maximum(peak, 0.5)
        self.capacity = self.peak * np.array([s.headroom for s in self.services])
        self._workers = np.full(n, 1e9)  # until the idle latency is known
        self._cores = np.full(len(self.nodes), 1e9)
        calm = self.calm(1)
        rest = self.solve(self.peak[self.entries][:, None], calm)
        self._workers = np.maximum(4.0, 3.0 * rest.rate[:, 0] * rest.latency[:, 0])
        used = self.share.T @ (rest.util[:, 0] * self._weight())
        self._cores = np.maximum(used / 0.55, 0.2)  # nodes are filled to 55 % at the peak

    def _weight(self) -> F64:
        """Cores that a service burns at utilisation 1: busy services are bigger."""
        return np.sqrt(self.peak / 50.0) + 0.3

    def _slo(self) -> dict[str, F64]:
        """Thresholds as operators tune them: from what the service does at the peak of a normal day."""
        rest = self.solve(self.peak[self.entries][:, None], self.calm(1))
        return {"latency": 2.0 * rest.latency[:, 0] + 0.02, "rate": 0.3 * (1 - self.scenario.load.swing) * self.peak}

    def _choose(self, f: FaultSpec, rng: np.random.Generator) -> FaultSpec:
        """Target and strength where the scenario leaves them open.

        Raises:
            ConfigError: the target is not in this world.
        """
        if f.kind in ("noisy_neighbour", "node_down"):
            pool = list(self.nodes)
        elif f.kind in ("zone_network", "zone_down"):
            pool = list(self.zones)
        elif f.kind == "batch":
            pool = [name for i, name in enumerate(self.names) if self.store_of(i) is not None]
        elif f.kind in ("traffic_surge", "traffic_loss"):
            pool = [self.names[i] for i in self.entries]
        elif f.kind == "disk_full":
            pool = [self.names[i] for i in self.stores]
        else:
            pool = [s.name for s in self.services if s.kind != "entry"]
        draw = pool[int(rng.integers(len(pool)))] if pool else ""  # drawn always: later faults keep their chance
        target = f.target or draw
        if target not in pool:
            raise ConfigError(f"a fault of kind {f.kind} cannot hit `{target}`", "$.faults")
        return msgspec.structs.replace(f, target=target, strength=f.strength or _STRENGTH[f.kind])

    def _name_series(self) -> list[dict[str, str]]:
        self._columns: list[tuple[str, str]] = []  # (metric, service or node) of each row
        out = []
        for i, s in enumerate(self.services):
            pool = "connections_used_ratio" if s.kind == "datastore" else "workers_busy_ratio"
            names = ["request_rate", "error_ratio", "latency_p99_seconds", "cpu_usage_ratio", "memory_usage_ratio"]
            names += [pool, "queue_depth", "up_ratio"]
            if i in self.stores:
                names.append("disk_usage_ratio")
            for metric in names:
                self._columns.append((metric, s.name))
                shown = _COUNTERS.get(metric, metric) if self.scenario.counters else metric
                out.append({"__name__": shown, "service": s.name, "zone": self.home[i], "job": "services"})
        for k, node in enumerate(self.nodes):
            for metric in ("node_cpu_usage_ratio", "node_memory_usage_ratio"):
                self._columns.append((metric, node))
                out.append({"__name__": metric, "node": node, "zone": self.node_zone[k], "job": "nodes"})
        return out

    def _plan_background(self, rng: np.random.Generator) -> None:
        """Draw everything that happens by chance over the whole length."""
        sc, bg = self.scenario, self.scenario.background
        hours = sc.length / 3600.0
        loud = rng.pareto(1.2, len(self.names)) + 0.1  # a few services make most of the noise
        loud /= loud.sum()
        for _ in range(int(rng.poisson(bg.alerts_per_hour * hours))):
            at, lasts = rng.uniform(0, sc.length), float(rng.lognormal(np.log(420.0), 0.7))
            name, severity, text = CHATTER[int(rng.integers(len(CHATTER)))]
            victim = int(rng.choice(len(self.names), p=loud))
            self._sender.plan(name, severity, text, self.names[victim], sc.start + at, sc.start + at + lasts)
        for _ in range(bg.flapping):
            victim, t = int(rng.choice(len(self.names), p=loud)), float(rng.uniform(0, 3600.0))
            while t < sc.length:
                on, off = rng.gamma(2.0, 90.0), rng.gamma(2.0, 240.0)
                text = "write latency is above 50 ms"
                self._sender.plan(
                    "DiskLatencyHigh", "warning", text, self.names[victim], sc.start + t, sc.start + t + on
                )
                t += float(on + off)
        self._changes: list[tuple[float, dict[str, Any]]] = []
        for k, at in enumerate(np.sort(rng.uniform(0, sc.length, int(rng.poisson(bg.deploys_per_hour * hours))))):
            victim = int(rng.integers(len(self.names)))
            self._changes.append(self._change("deploy", self.names[victim], sc.start + float(at), f"routine-{k}"))
        for k, f in enumerate(self.faults):
            if f.kind in ("bad_deploy", "bad_config"):
                kind = "deploy" if f.kind == "bad_deploy" else "config"
                self._changes.append(self._change(kind, f.target, sc.start + f.at, f"fault-{k}"))
        self._changes.sort(key=lambda c: c[0])
        self._blips: list[tuple[int, int, int, float]] = []  # (row, step, steps, factor)
        for _ in range(int(rng.poisson(bg.blips_per_hour * hours))):
            row, at = int(rng.integers(len(self.series))), int(rng.integers(max(1, int(sc.length / sc.step))))
            self._blips.append((row, at, int(rng.integers(1, 4)), float(rng.uniform(1.5, 4.0))))

    def _change(self, kind: str, service: str, ts: float, tag: str) -> tuple[float, dict[str, Any]]:
        version = f"v{1 + int(ts) // 3600 % 40}.{int(ts) % 97}"
        return ts, {
            "id": f"{self.scenario.name}-{tag}", "service": service, "kind": kind, "ts": ts, "version": version,
            "actor": "ci-bot", "summary": f"{kind} of {service} {version}",
        }  # fmt: skip

    # ---------------------------------------------------------------- what is known from outside

    def whereabouts(self, subject: str) -> tuple[str, str]:
        """("node" or "service", the zone that it is in)."""
        if subject in self.nodes:
            return "node", self.node_zone[self.nodes.index(subject)]
        return "service", self.home[self.index[subject]]

    def vertices(self) -> list[dict[str, Any]]:
        """Services, nodes and zones with their kinds, as a topology record has them."""
        kinds = {"entry": "service"}
        out = [{"name": s.name, "kind": kinds.get(s.kind, s.kind)} for s in self.services]
        return (
            out + [{"name": n, "kind": "node"} for n in self.nodes] + [{"name": z, "kind": "zone"} for z in self.zones]
        )

    def edges(self) -> list[dict[str, Any]]:
        """Edges: calls between services, runs_on their nodes, nodes located_in their zones."""
        edges: list[dict[str, Any]] = []
        for i, calls in enumerate(self._calls):
            edges += [{"caller": self.names[i], "callee": self.names[j], "kind": "calls"} for j, _ in calls]
        for i, name in enumerate(self.names):
            edges += [
                {"caller": name, "callee": node, "kind": "runs_on"}
                for k, node in enumerate(self.nodes)
                if self.share[i, k] > 0
            ]
        edges += [
            {"caller": node, "callee": self.node_zone[k], "kind": "located_in"} for k, node in enumerate(self.nodes)
        ]
        return edges

    def truth(self) -> list[Truth]:
        """What happened, after `play()` went past it; `affected` in the order of the services."""
        start = self.scenario.start
        out = []
        for k, f in enumerate(self.faults):
            hit = tuple(name for name in self.names if name in self._affected[k])
            change = f"{self.scenario.name}-fault-{k}" if f.kind in ("bad_deploy", "bad_config") else ""
            out.append(Truth(f.kind, f.target, start + f.at, start + f.at + f.duration, hit, change))
        return out

    # ---------------------------------------------------------------- time

    def play(self) -> Iterator[Chunk]:
        """The whole scenario in chunks of at most CHUNK steps."""
        sc = self.scenario
        total = int(sc.length / sc.step)
        for first in range(0, total, CHUNK):
            steps = np.arange(first, first + CHUNK)  # noise is drawn for whole chunks
            t: F64 = steps * np.float64(sc.step)
            demand = self.demand(t)
            effects = self.effects(t, self.faults)
            physics = self.solve(demand * effects.surge[self.entries], effects)
            for k, f in enumerate(self.faults):
                if t[-1] >= f.at and t[0] < f.at + f.duration + 60.0:
                    self._compare(k, physics, demand, t)
            values, levels = self._measure(physics, effects, first)
            keep = min(CHUNK, total - first)
            ts: F64 = np.float64(sc.start) + t[:keep]
            alerts = self._sender.evaluate(ts, self._conditions(levels, keep))
            upto = ts[-1] + float(sc.step)
            changes = [c for c in self._changes if ts[0] <= c[0] < upto]
            yield Chunk(ts, values[:, :keep], alerts, changes)

    def demand(self, t: F64) -> F64:
        load, clock = self.scenario.load, self.scenario.start + t
        day = clock % 86400.0 / 86400.0
        curve = 0.5 - 0.42 * np.cos(2 * np.pi * (day - 0.13)) - 0.08 * np.cos(4 * np.pi * (day - 0.05))
        weekday = (clock // 86400.0 + 3) % 7  # 0 is Monday: 1970-01-01 was a Thursday
        week = np.where(weekday >= 5, load.weekend, 1.0)
        phi = float(np.exp(-self.scenario.step / load.noise_tau))
        shocks = self._noise_rng.normal(0.0, load.noise * np.sqrt(1 - phi * phi), (len(self.entries), len(t)))
        noise, _ = lfilter([1.0], [1.0, -phi], shocks, axis=1, zi=phi * self._ar[:, None])
        self._ar = noise[:, -1].copy()
        out: F64 = load.peak * (1 - load.swing + load.swing * curve) * week * np.exp(noise)
        return out

    def calm(self, steps: int) -> Effects:
        n, m = len(self.names), len(self.nodes)
        zero = np.zeros((n, steps))
        return Effects(
            slow=np.ones((n, steps)), errors=zero.copy(), up=np.ones((n, steps)), held=zero.copy(),
            hog=np.zeros((m, steps)), net=zero.copy(), surge=np.ones((n, steps)), batch=zero.copy(),
            down=np.zeros((m, steps)), memory=zero.copy(), disk=zero.copy(),
        )  # fmt: skip

    def store_of(self, i: int) -> int | None:
        """The first store that a service calls: what its batch jobs work on."""
        return next((j for j, _ in self._calls[i] if j in self.stores), None)

    def effects(self, t: F64, faults: list[FaultSpec]) -> Effects:
        e = self.calm(len(t))
        for f in faults:
            age = t - f.at
            on = (age >= 0) & (age < f.duration)
            if not on.any():
                continue
            grow = np.where(on, np.clip((age + float(self.scenario.step)) / max(f.ramp, 1e-9), 0.0, 1.0), 0.0)
            if f.kind == "noisy_neighbour":
                e.hog[self.nodes.index(f.target)] += grow * f.strength
                continue
            if f.kind == "zone_network":
                e.net[:] += grow * f.strength * self.zone_share[:, self.zones.index(f.target)][:, None]
                continue
            if f.kind in ("node_down", "zone_down"):
                there = np.array(
                    [f.target in (node, zone) for node, zone in zip(self.nodes, self.node_zone, strict=True)]
                )
                e.down[there] = np.maximum(e.down[there], np.where(on, f.strength, 0.0))
                continue
            i = self.index[f.target]
            if f.kind == "slow":
                e.slow[i] *= 1 + grow * (f.strength - 1)
            elif f.kind in ("errors", "bad_deploy", "bad_config"):
                e.errors[i] = 1 - (1 - e.errors[i]) * (1 - grow * f.strength)
            elif f.kind == "batch":
                store = self.store_of(i)
                e.batch[i] += grow * f.strength * self.capacity[i if store is None else store]
            elif f.kind == "crash":
                e.up[i] *= 1 - np.where(on, f.strength, 0.0)
            elif f.kind == "pool_exhaustion":
                e.held[i] = np.maximum(e.held[i], grow * f.strength)
            elif f.kind == "disk_full":
                filled = np.where(on, np.clip(age / 300.0, 0.0, 1.0), 0.0)  # five minutes from half full to full
                e.disk[i] = np.maximum(e.disk[i], filled)
                e.errors[i] = np.where(filled >= 1.0, f.strength, e.errors[i])
            elif f.kind == "memory_leak":
                period = 3600.0 / f.strength
                phase = np.where(on, age % period, 0.0)
                level = np.where(on, phase / period, 0.0)
                restarting = on & (age >= period) & (phase < 45.0)
                replicas = self.services[i].replicas
                e.memory[i] = np.maximum(e.memory[i], np.where(restarting, 0.0, level))
                e.up[i] *= np.where(restarting, 1 - 1 / replicas if replicas > 1 else 0.0, 1.0)
                e.slow[i] *= 1 + 6.0 * np.clip(level - 0.75, 0.0, 1.0)  # garbage collection before the end
                e.errors[i] = np.where(restarting, 1 - (1 - e.errors[i]) * 0.7, e.errors[i])
            elif f.kind == "traffic_surge":
                e.surge[i] *= 1 + grow * (f.strength - 1)
            elif f.kind == "traffic_loss":
                e.surge[i] *= 1 - grow * f.strength
        e.up[:] *= 1 - self.share @ e.down
        return e

    def solve(self, demand: F64, e: Effects) -> Physics:
        """The state for an entry demand float64[entries, steps]: three sweeps, as retries and nodes feed back."""
        n, steps = len(self.names), demand.shape[1]
        zero = np.zeros((n, steps))
        rate, errors, latency = zero.copy(), zero.copy(), zero.copy()
        util, busy, queue, early = zero.copy(), zero.copy(), zero.copy(), zero.copy()
        crowd = np.ones((n, steps))  # slowness by the neighbours on the nodes
        node = np.zeros((len(self.nodes), steps))
        weight = self._weight()[:, None]
        entry_row = {i: k for k, i in enumerate(self.entries)}
        for _ in range(3):
            rate = zero.copy()
            for i in range(n):
                store = self.store_of(i)
                if store is not None:
                    rate[store] += e.batch[i]
                if i in entry_row:
                    rate[i] += demand[entry_row[i]]
                through = rate[i] * (1 - early[i])
                for j, spec in self._calls[i]:
                    rate[j] += through * spec.rate * (1 + spec.retries * errors[j])
            capacity = self.capacity[:, None] * np.maximum(e.up, 1e-6) / (e.slow * crowd)
            dead = e.up < 1e-9  # shares of nodes add up to one only nearly
            util = np.where(dead, 0.0, rate / capacity)
            calm = np.minimum(util, 0.97)
            queue = calm * calm / (1 - calm) * np.maximum(1.0, util)
            own = self._work[:, None] * e.slow * crowd * (1 + 0.6 * queue)
            shed = np.clip(1 - 1 / np.maximum(util, 1.0), 0.0, 1.0)
            early = 1 - (1 - np.minimum(e.errors, 1.0)) * (1 - shed) * ~dead  # a dead target refuses at once
            fresh_latency, fresh_errors = zero.copy(), zero.copy()
            for i in range(n - 1, -1, -1):
                if dead[i].all():
                    fresh_errors[i] = 1.0
                    continue
                wait, ok = own[i].copy(), (1 - early[i]) * (1 - self._base_error[i])
                for j, spec in self._calls[i]:
                    patience = float(spec.timeout)
                    lag = round(spec.lag / self.scenario.step)
                    reply = _later(fresh_latency[j] + e.net[j], lag)
                    late = np.clip((reply - 0.7 * patience) / (0.6 * patience), 0.0, 1.0)
                    bad = 1 - (1 - _later(fresh_errors[j], lag)) * (1 - late)
                    tries = 1 + spec.retries * bad
                    wait += np.minimum(reply, patience) * min(spec.rate, 1.5) * tries
                    ok *= 1 - min(spec.rate, 1.0) * spec.critical * bad ** (1 + spec.retries)
                busy[i] = rate[i] * wait / self._workers[i] + e.held[i]
                full = np.clip(1 - 1 / np.maximum(busy[i], 1.0), 0.0, 1.0)  # no worker free: turned away
                crowded = np.clip(busy[i], 0.0, 0.98)
                wait *= 1 + np.where(crowded > 0.8, 3.0 * (crowded - 0.8) / (1 - crowded), 0.0)
                early[i] = 1 - (1 - early[i]) * (1 - full)
                fresh_errors[i] = 1 - ok * (1 - full)
                fresh_latency[i] = np.where(dead[i], 0.0, np.minimum(wait, 10.0))  # the front proxy hangs up at 10 s
            latency, errors = fresh_latency, fresh_errors
            used = np.minimum(util, 1.0) * np.where(e.up > 0, e.up, 0.0) * weight
            node = (self.share.T @ used) / self._cores[:, None] + e.hog
            slow = 1 + 5.0 * np.clip(node - 0.8, 0.0, 1.5)
            crowd = self.share @ slow
        return Physics(rate, errors, latency, util, np.minimum(busy, 1.0), queue, np.minimum(node, 1.0))

    def _compare(self, k: int, real: Physics, demand: F64, t: F64) -> None:
        """Who differs from the same world without fault `k` was affected by it."""
        others = [f for i, f in enumerate(self.faults) if i != k]
        effects = self.effects(t, others)
        calm = self.solve(demand * effects.surge[self.entries], effects)
        hit = (
            (real.errors > calm.errors + 0.02)
            | (real.latency > 1.5 * calm.latency + 0.005)
            | (real.rate < 0.7 * calm.rate)
            | (real.rate > 1.6 * calm.rate)
        ).any(axis=1)
        self._affected[k] |= {self.names[i] for i in np.flatnonzero(hit)}

    # ---------------------------------------------------------------- measuring

    def _measure(self, p: Physics, e: Effects, first: int) -> tuple[F64, F64]:
        """(what the exporters report, what the rules see of it): they differ where counters are exported.

        Counts are Poisson and binomial, levels carry noise, dead targets are silent.
        """
        rng, step = self._measure_rng, float(self.scenario.step)
        n, steps = p.rate.shape
        requests = rng.poisson(p.rate * step).astype(float)
        failed = rng.binomial(requests.astype(np.int64), np.clip(p.errors, 0.0, 1.0)).astype(float)
        latency = p.latency * np.exp(rng.normal(0.0, 0.06, (n, steps)))
        cpu = np.clip(0.04 + 0.9 * np.minimum(p.util, 1.1) + rng.normal(0.0, 0.015, (n, steps)), 0.01, 1.0)
        saw = ((np.arange(first, first + steps) * step) / 1800.0 + np.arange(n)[:, None] * 0.37) % 1.0  # collections
        memory = self._memory[:, None] + 0.06 * saw + 0.03 * np.minimum(p.util, 1.0)
        memory = np.clip(memory + (0.99 - memory) * e.memory + rng.normal(0.0, 0.004, (n, steps)), 0.05, 1.0)
        busy = np.clip(p.busy + rng.normal(0.0, 0.01, (n, steps)), 0.0, 1.0)
        queue = rng.poisson(np.minimum(p.queue * 4.0, 5000.0)).astype(float)
        disk = self._disk[:, None] + 0.02 * saw
        disk = np.clip(disk + (1.0 - disk) * e.disk, 0.0, 1.0)
        silent = e.up < 1e-9
        seen, ratio = requests / step, np.where(requests > 0, failed / np.maximum(requests, 1.0), 0.0)
        rows: list[F64] = []
        for i in range(n):
            own = [seen[i], ratio[i], latency[i], cpu[i], memory[i], busy[i], queue[i]]
            rows += [np.where(silent[i], np.nan, col) for col in own]
            rows.append(e.up[i])
            if i in self.stores:
                rows.append(np.where(silent[i], np.nan, disk[i]))
        node_cpu = np.clip(p.node + rng.normal(0.0, 0.01, p.node.shape), 0.0, 1.0)
        node_memory = np.clip(0.5 + 0.1 * p.node + rng.normal(0.0, 0.004, p.node.shape), 0.0, 1.0)
        for k in range(len(self.nodes)):
            rows += [node_cpu[k], node_memory[k]]
        values = np.stack(rows)
        for row, at, lasts, factor in self._blips:
            lo, hi = max(at - first, 0), min(at + lasts - first, steps)
            if lo < hi:
                cap = 1.0 if self._columns[row][0].endswith("_ratio") else np.inf
                values[row, lo:hi] = np.minimum(values[row, lo:hi] * factor, cap)
        if not self.scenario.counters:
            return values, values
        exported = values.copy()
        for row, (metric, name) in enumerate(self._columns):
            if metric in ("request_rate", "error_ratio"):
                k = int(metric == "error_ratio")
                total = self._counters[self.index[name], k] + np.cumsum((requests, failed)[k][self.index[name]])
                self._counters[self.index[name], k] = total[-1]
                exported[row] = np.where(np.isnan(values[row]), np.nan, total)
        return exported, values

    def _conditions(self, values: F64, keep: int) -> list[tuple[Rule, str, NDArray[np.bool_], F64]]:
        """(rule, subject, true per step, value per step) wherever a rule's condition is true at least once."""
        out = []
        for row, (metric, subject) in enumerate(self._columns):
            for rule in RULES.get(metric, ()):
                i = self.index.get(subject, 0)
                limit = rule.limit
                if rule.name == "LatencyHigh":
                    limit = float(self.thresholds["latency"][i])
                elif rule.name == "TrafficLow":
                    limit = float(self.thresholds["rate"][i])
                x = values[row, :keep]
                with np.errstate(invalid="ignore"):
                    true = x < limit if rule.below else x > limit
                if true.any() or self._sender.alive(rule.name, subject):
                    out.append((rule, subject, true, x))
        return out
