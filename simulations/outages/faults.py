"""The world of a stream: services, what others run below them, and the faults that will hit."""

import msgspec
import numpy as np

from aiopsd.config import Duration
from simulations.outages.weather import Weather
from simulations.world import (
    BackgroundSpec,
    CallSpec,
    FaultKind,
    FaultSpec,
    Scenario,
    ServiceSpec,
    TopologySpec,
    World,
    generate,
)

STEP = 15.0  # s; rules are evaluated so often
MONDAY = 1767571200.0  # UTC seconds
REST = 900.0  # s; a target is left alone for so long after its fault


def build(weather: Weather, services: int, shape: np.random.Generator, rng: np.random.Generator, seed: int) -> World:
    """Services as simulations/world makes them, what others run below some, lags, one replica here and there."""
    outside = max(2, services // 40)
    specs = list(generate(TopologySpec(size=services - outside), shape))
    users: dict[int, list[str]] = {}
    middle = [i for i, s in enumerate(specs) if s.kind == "service"]
    for k in range(outside):
        for i in shape.choice(middle, size=min(len(middle), 3 + int(shape.poisson(4))), replace=False):
            users.setdefault(int(i), []).append(f"{('identity', 'geocoding', 'sms', 'card')[k % 4]}-provider-{k + 1}")
    for i, spec in enumerate(specs):
        calls = {name: _weathered(call, shape) for name, call in spec.calls.items()}
        for name in users.get(i, ()):
            calls[name] = CallSpec(rate=0.8, critical=float(shape.choice([1.0, 0.8, 0.3])), retries=1)
        one = shape.random() < weather.pinned
        specs[i] = msgspec.structs.replace(spec, calls=calls, replicas=1 if one else spec.replicas)
    others = sorted({name for names in users.values() for name in names})
    specs += [ServiceSpec(name=name, kind="external", work=Duration(0.03), headroom=4.0) for name in others]
    nothing = BackgroundSpec(alerts_per_hour=0, flapping=0, deploys_per_hour=0, blips_per_hour=0)
    scenario = Scenario(
        name="outages",
        seed=seed,
        start=MONDAY + 86400.0 * float(shape.integers(0, 7)) + 3600.0 * float(shape.integers(0, 18)),
        length=Duration(3600.0 * weather.hours),
        step=Duration(STEP),
        topology=TopologySpec(services=tuple(specs), zones=3),
        background=nothing,
    )
    world = World(scenario)
    return World(msgspec.structs.replace(scenario, faults=_faults(weather, world, rng)))


def _weathered(call: CallSpec, rng: np.random.Generator) -> CallSpec:
    """Some calls go through a cache or a queue, some clients try three times."""
    lag = float(rng.choice([0.0, 0.0, 15.0, 30.0, 60.0]))
    retries = int(rng.choice([call.retries, call.retries, 2]))
    return msgspec.structs.replace(call, lag=Duration(lag), retries=retries)


def _faults(weather: Weather, world: World, rng: np.random.Generator) -> tuple[FaultSpec, ...]:
    """Poisson starts, some in company; a target has one fault at a time."""
    names, weights = list(weather.kinds), np.array(list(weather.kinds.values()))
    out: list[FaultSpec] = []
    busy: dict[str, float] = {}
    t, until = float(rng.exponential(3600.0 / weather.rate)), weather.hours * 3600.0
    while t < until - 600.0:
        several = int(rng.integers(2, 4)) if rng.random() < weather.company else 1
        for _ in range(several):
            at = t + float(rng.uniform(0.0, 120.0)) * (several > 1)
            kind = str(rng.choice(names, p=weights / weights.sum()))
            fault = _fault(kind, at, world, weather, rng)
            if busy.get(fault.target, -1.0) < at:
                busy[fault.target] = at + fault.duration + REST
                out.append(fault)
        t += float(rng.exponential(3600.0 / weather.rate))
    return tuple(out)


def _fault(kind: str, at: float, world: World, weather: Weather, rng: np.random.Generator) -> FaultSpec:
    callers = np.zeros(len(world.names))
    for edge in world.edges():
        if edge["kind"] == "calls":
            callers[world.index[edge["callee"]]] += 1.0
    kinds = np.array([s.kind for s in world.services])
    allowed = (kinds == "service") | (kinds == "datastore")
    if kind in ("node_down", "noisy_neighbour"):
        target = str(rng.choice(world.nodes))
    elif kind in ("zone_network", "zone_down"):
        target = str(rng.choice(world.zones))
    else:
        if kind == "external":
            allowed, kind = kinds == "external", str(rng.choice(["slow", "errors"]))
        elif kind == "traffic_surge":
            allowed = kinds == "entry"
        elif kind == "disk_full":
            allowed = kinds == "datastore"
        elif kind == "batch":
            # what works on a store that others use, too: alone with it, nobody would suffer
            stores = [world.store_of(i) for i in range(len(world.names))]
            allowed = allowed & np.array([s is not None and callers[s] > 1 for s in stores])
        weight = allowed * (1.0 + callers) ** 0.5  # what many share fails with more noise
        target = world.names[int(rng.choice(len(weight), p=weight / weight.sum()))]
    strength = {
        "slow": rng.uniform(5.0, 20.0), "errors": rng.uniform(0.2, 0.8), "bad_deploy": rng.uniform(0.2, 0.8),
        "bad_config": rng.uniform(0.3, 0.9), "traffic_surge": rng.uniform(2.5, 4.0), "batch": rng.uniform(0.9, 1.6),
        "zone_network": rng.uniform(0.1, 0.4), "noisy_neighbour": rng.uniform(0.6, 1.2),
    }.get(kind, 0.0)  # fmt: skip
    lasts = float(np.clip(rng.lognormal(np.log(weather.lasts), 0.5), 480.0, 4.0 * weather.lasts))
    lasts = max(lasts, 2700.0) if kind == "memory_leak" else lasts  # it takes its time
    known: FaultKind = kind  # type: ignore[assignment]  # the tables above name no other
    ramp = Duration(float(rng.choice([15.0, 30.0, 90.0])))
    return FaultSpec(
        kind=known,
        target=target,
        at=Duration(at),
        duration=Duration(lasts),
        strength=round(float(strength), 3),
        ramp=ramp,
    )
