"""The scenario file: services or how many to make up, load, faults, noise beside them."""

from pathlib import Path
from typing import Literal

import msgspec
import yaml

from aiopsd.config import Duration, Section, plugin_config
from aiopsd.errors import ConfigError

FaultKind = Literal[
    "slow", "errors", "crash", "memory_leak", "bad_deploy", "bad_config", "pool_exhaustion", "disk_full", "batch",
    "noisy_neighbour", "node_down", "zone_network", "zone_down", "traffic_surge", "traffic_loss",
]  # fmt: skip


class CallSpec(Section, frozen=True, kw_only=True):
    """One dependency: mean calls per request, how much of its failure the caller cannot hide, patience."""

    rate: float = 1.0
    critical: float = 1.0  # 1: its failure is ours; 0.1: usually served without it
    timeout: Duration = Duration(3.0)
    retries: int = 0
    lag: Duration = Duration(0.0)  # a cache or a queue between the two: the callee's trouble is felt so much later


class ServiceSpec(Section, frozen=True, kw_only=True):
    name: str
    kind: Literal["entry", "service", "datastore", "queue", "external"] = "service"
    calls: dict[str, CallSpec] = msgspec.field(default_factory=dict)
    work: Duration = Duration(0.008)  # own p99 when idle
    replicas: int = 3
    headroom: float = 2.2  # capacity over the rate at the daily peak


class TopologySpec(Section, frozen=True, kw_only=True):
    """Either `services` by name, or `size` of them generated from the seed."""

    size: int = 20
    services: tuple[ServiceSpec, ...] = ()
    nodes: int = 0  # 0: one for every four services
    zones: int = 2


class LoadSpec(Section, frozen=True, kw_only=True):
    peak: float = 220.0  # requests/s of one entry point at the top of the day
    swing: float = 0.6  # share of the peak that goes at night
    weekend: float = 0.85
    noise: float = 0.04  # standard deviation of the log of the load
    noise_tau: Duration = Duration(600.0)


class FaultSpec(Section, frozen=True, kw_only=True):
    """One fault. `at` counts from the start of the scenario; `target` "" is drawn from the seed.

    What `strength` means: slow: own time x strength. errors, bad_deploy, bad_config: share of requests that fail.
    crash: share of replicas gone. memory_leak: kills an hour. pool_exhaustion: share of workers held. disk_full: share
    of requests that fail when it is full. batch: extra requests that the target sends to the first store it calls, as a
    multiple of the store's capacity. noisy_neighbour: cores taken, as a share of the node. node_down, zone_down: share
    of what runs there that is gone. zone_network: seconds added to each call into the zone. traffic_surge: load x
    strength. traffic_loss: share of the load that is gone.
    """

    kind: FaultKind
    target: str = ""
    at: Duration
    duration: Duration = Duration(1200.0)
    strength: float = 0.0  # 0: a plausible one for its kind
    ramp: Duration = Duration(30.0)


class BackgroundSpec(Section, frozen=True, kw_only=True):
    """What happens all the time and means nothing."""

    alerts_per_hour: float = 2.0  # unrelated alerts
    flapping: int = 1  # conditions that hover around their threshold
    deploys_per_hour: float = 0.5  # harmless changes
    blips_per_hour: float = 1.0  # one to three samples of one series far off


class Scenario(Section, frozen=True, kw_only=True):
    name: str = "world"
    seed: int = 1
    start: float = 1767571200.0  # UTC seconds; 2026-01-05 00:00, a Monday
    length: Duration = Duration(86400.0)
    step: Duration = Duration(15.0)
    counters: bool = False  # requests and errors as counters (_total) instead of a rate and a ratio
    topology: TopologySpec = TopologySpec()
    load: LoadSpec = LoadSpec()
    faults: tuple[FaultSpec, ...] = ()
    background: BackgroundSpec = BackgroundSpec()


def load_scenario(text: str) -> Scenario:
    """Read a scenario.

    Raises:
        ConfigError: names the key.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"not YAML: {e}") from None
    return plugin_config(Scenario, raw or {}, "$")


def scenario(name: str) -> Scenario:
    """A scenario of simulations/scenarios by its name, or a file by its path."""
    path = Path(__file__).parents[1] / "scenarios" / f"{name}.yaml"
    if not path.exists():
        path = Path(name)
    try:
        return load_scenario(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read the scenario {name}: {e.strerror}") from None
