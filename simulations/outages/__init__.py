"""Alert streams in which trouble follows from physics: who alerts is computed from load, queues and thresholds.

The other kind of generator lets trouble hop from service to service with a chance and a delay. Here faults are put into
a simulated world (simulations/world) and what follows is worked out: latency adds up along calls, errors climb
unless a call can be done without, retries and batch jobs send load down, a node's processor slows down all that run
there. Rules with limits and waiting times of their own decide who says what and when: a caller may well alert before
the cause does, or alone.

The truth is a counterfactual. An alert belongs to the fault that by itself, in the same world with the same load,
brings the alert's condition about, or most of the way to its limit; to none, if no fault does: then it is noise.

`simulate` gives one stream: topology, alerts, truth and changes as lines of simulations/storm.py.
"""

import numpy as np

from simulations.outages import alerting
from simulations.outages.faults import build
from simulations.outages.spelling import CLUSTERS, Teams, draw
from simulations.outages.weather import PRESETS, Weather
from simulations.outages.writing import Desk, Simulated
from simulations.world import World

__all__ = ["PRESETS", "Simulated", "Weather", "simulate"]


def simulate(weather: Weather, services: int, seed: int) -> Simulated:
    """One stream; the same arguments give the same lines."""
    shape, faults, sky, desk = (np.random.default_rng(s) for s in np.random.SeedSequence([seed, 2]).spawn(4))
    world = build(weather, services, shape, faults, seed)
    teams = draw(weather, world.names, desk)
    mute = _mute(weather, world, teams, desk)
    fired = alerting.spells(weather, world, teams, mute, sky)
    changes = alerting.changes(weather, world, sky)
    fired += alerting.background(weather, world, mute, changes, sky)
    return Desk(weather, world, teams, desk).write(fired, changes)


def _mute(weather: Weather, world: World, teams: Teams, rng: np.random.Generator) -> set[str]:
    """Who never alerts: what others run, clusters without monitoring, machines of others, some that were forgotten."""
    silent = {f"c{k}" for k in rng.choice(CLUSTERS, size=weather.mute, replace=False)}
    mute = {s.name for s in world.services if s.kind == "external" or teams.of(s.name).cluster in silent}
    if weather.ground == "none":
        mute |= {*world.nodes, *world.zones}
    everyone = (*world.names, *world.nodes, *world.zones)
    lazy = rng.random(len(everyone)) < weather.silent
    return mute | {name for name, quiet in zip(everyone, lazy, strict=True) if quiet}
