"""Plays scenarios through the real stages in virtual time and sets the incidents beside the truth.

`python -m simulations play demo slow-store`; without names, every scenario of simulations/scenarios. A fault counts as
named when a paged incident that opened in it ranks its root first.
"""

import argparse
from pathlib import Path

import msgspec

from aiopsd.config import Config, load, read
from aiopsd.model import Action, Incident
from simulations import runner
from simulations.world import Truth, World, pages_without, scenario

CONFIG = """\
services: {labels: [service, node]}
route: {receiver: oncall}
receivers: [{name: oncall, webhook_configs: [{url: "http://127.0.0.1:9/page"}]}]
"""
AFTER = 300.0  # s after its end in which an incident still belongs to a fault


def belongs(incident: Incident, truth: Truth) -> bool:
    """Did it open in the time of this fault, on a service or node that the fault reached?"""
    hit = {truth.root, *truth.affected}
    return truth.start <= incident.opened_at <= truth.end + AFTER and not hit.isdisjoint(incident.services)


def line(incident: Incident, truth: Truth) -> str:
    """One incident in one line: when, whether somebody was paged, whom it blames."""
    root = incident.root
    blamed = f"{root.service} {root.confidence:.0%}" if root else "nobody"
    paged = "paged" if incident.paged else "quiet"
    return (
        f"    +{incident.opened_at - truth.start:5.0f} s {paged} {incident.state:9s} {len(incident.alerts):3d} alerts"
        f" blames {blamed}; {', '.join(incident.services)[:90]}"
    )


def one(name: str, config: Config, seed: int | None) -> bool:
    """Play one scenario, print what came of it; was every fault named?"""
    sc = scenario(name)
    if seed is not None:
        sc = msgspec.structs.replace(sc, seed=seed)
    world = World(sc)
    requests = [request for chunk in World(sc).play() for request in chunk.alerts]
    until = sc.start + sc.length
    result = runner.run(config, runner.events(world), until=until)
    pages = sum(n.action is Action.TRIGGER and n.reason == "first notification" for n in result.notifications)
    print(
        f"{sc.name}: {len(world.names)} services, {result.samples:,} samples, {len(result.anomalies)} anomaly events,"
        f" {len(result.incidents)} incidents, {pages} pages (group_by: {pages_without(requests, until)})"
    )
    every = True
    for truth in world.truth():
        mine = sorted((i for i in result.incidents.values() if belongs(i, truth)), key=lambda i: (i.opened_at, i.id))
        named = [i for i in mine if i.paged and i.root is not None and i.root.service == truth.root]
        every = every and bool(named)
        word = "named" if named else "NOT NAMED"
        print(f"  {truth.kind} of {truth.root}, {len(truth.affected)} services reached: {word}, {len(mine)} incidents")
        for incident in mine:
            print(line(incident, truth))
    return every


def main(argv: list[str]) -> int:
    """0: every fault was named; 1: not every one."""
    p = argparse.ArgumentParser(prog="python -m simulations play", description=__doc__.split("\n")[0])
    p.add_argument("scenario", nargs="*", help="names in simulations/scenarios, or files; all when none is given")
    p.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration instead of the defaults")
    p.add_argument("--seed", type=int, help="instead of the scenario's own")
    args = p.parse_args(argv)
    config = read(args.config)[0] if args.config else load(CONFIG)
    known = sorted(path.stem for path in (Path(__file__).parent / "scenarios").glob("*.yaml"))
    named = [one(name, config, args.seed) for name in args.scenario or known]
    return 0 if all(named) else 1
