"""What streams of outages are like: knobs, and presets that turn them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

OWN: dict[str, float] = {
    "slow": 2.0, "errors": 2.0, "crash": 2.0, "memory_leak": 1.0, "bad_deploy": 2.0, "bad_config": 1.0,
    "pool_exhaustion": 1.0, "disk_full": 1.0,
}  # fmt: skip
GROUND: dict[str, float] = {"node_down": 4.0, "noisy_neighbour": 3.0, "zone_network": 1.5, "zone_down": 1.5}
LOAD: dict[str, float] = {"batch": 9.0, "traffic_surge": 2.0}
OUTSIDE: dict[str, float] = {"external": 4.0}


@dataclass(frozen=True)
class Weather:
    """What a stream is like. Shares are in [0, 1]; `per 100` means an hour and 100 services."""

    kinds: Mapping[str, float] = field(default_factory=lambda: OWN)  # of faults, by weight
    hours: float = 6.0
    rate: float = 2.5  # starts of faults an hour
    company: float = 0.3  # share of the starts with others within two minutes
    lasts: float = 1200.0  # s; median
    coverage: float = 0.85  # share of the rules that a service has
    loss: float = 0.08  # share of alerts lost
    flap: float = 0.1  # share of alerts that come and go
    noise: float = 12.0  # unrelated alerts per 100
    chronic: float = 1.0  # conditions that come and go all the time, of 100 services
    rollouts: float = 2.0  # harmless changes per 100
    skew: float = 1.0  # s; standard deviation of a team's clock
    pinned: float = 0.5  # share of services with one replica
    silent: float = 0.05  # share of services and nodes without any alert
    mute: int = 0  # clusters without any alert
    ground: str = "none"  # topology: nodes and zones with their edges; labels: of alerts only; none: nowhere
    dialects: float = 0.0  # share of teams with alertnames of their own
    spelling: float = 0.0  # share of teams that write their services in another way than the topology
    unnamed: float = 0.0  # share of alerts whose service is empty
    again: float = 0.0  # share of alerts that are sent again while they fire
    missing: float = 0.0  # share of the edges that the topology does not have
    wrong: float = 0.0  # edges that are not true, as a share of those that are
    unlisted: float = 0.0  # share of services that the topology does not have
    outside: bool = True  # the topology has what others run


PRESETS: dict[str, Weather] = {
    "plain": Weather(kinds=OWN | OUTSIDE),
    "hard": Weather(
        kinds=OWN | LOAD | OUTSIDE, rate=4.0, company=0.7, loss=0.25, flap=0.3, noise=40.0, chronic=3.0, skew=5.0,
        coverage=0.7,
    ),
    "infra": Weather(kinds=OWN | GROUND, ground="topology"),
    "labels": Weather(
        kinds=OWN | GROUND, ground="labels", dialects=0.5, spelling=0.6, unnamed=0.3, again=0.3,
    ),
    "noisy": Weather(kinds=OWN | LOAD, noise=25.0, chronic=5.0, flap=0.25),
    "stale": Weather(kinds=OWN | OUTSIDE, missing=0.15, wrong=0.05, unlisted=0.05, outside=False, rollouts=6.0),
    "silent": Weather(kinds=OWN | OUTSIDE, silent=0.2, mute=1),
}  # fmt: skip
