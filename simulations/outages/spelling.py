"""How monitoring systems write down what one alert is about: the same service under ten names, or under none.

A team writes its services in one way and keeps to it; what an alert says besides depends on who sends it: a rule on
requests knows the service, a rule on containers the pod, its node and its zone, a rule on machines the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulations.outages.faults import STEP
from simulations.outages.weather import Weather

CLUSTERS = 4
STYLES = ("plain", "snake", "upper", "camel", "suffix", "prefix", "dns")
RULE_DIALECTS: dict[str, tuple[str, ...]] = {
    "ErrorRateHigh": ("ErrorRateHigh", "HighErrorRate", "HTTP5xxBudgetBurn"),
    "LatencyHigh": ("LatencyHigh", "HighRequestLatency", "SLOLatencyBudgetBurn"),
    "CPUHigh": ("CPUHigh", "CPUThrottlingHigh", "ContainerCpuUsage"),
    "MemoryHigh": ("MemoryHigh", "ContainerMemoryNearLimit", "OOMRisk"),
    "TargetDown": ("TargetDown", "InstanceDown", "ProbeFailed"),
    "ReplicasMissing": ("ReplicasMissing", "KubePodNotReady", "DeploymentReplicasMismatch"),
    "WorkersExhausted": ("WorkersExhausted", "ThreadPoolExhausted", "WorkersExhausted"),
}


def spelled(name: str, style: str) -> str:
    """A name in one of STYLES.

    >>> [spelled("payments-db-2", style) for style in STYLES]
    ['payments-db-2', 'payments_db_2', 'PAYMENTS-DB-2', 'PaymentsDb2', 'payments-db-2-svc', 'prod/payments-db-2', 'payments-db-2.prod.svc.cluster.local']
    """  # noqa: E501 - one line of output
    if style == "snake":
        return name.replace("-", "_")
    if style == "upper":
        return name.upper()
    if style == "camel":
        return "".join(word.capitalize() for word in name.split("-"))
    if style == "suffix":
        return f"{name}-svc"
    if style == "prefix":
        return f"prod/{name}"
    if style == "dns":
        return f"{name}.prod.svc.cluster.local"
    return name


@dataclass(frozen=True)
class Team:
    """Who runs some services: how they write names, which alertnames they use, how their rules are tuned.

    `patience` multiplies the time that a condition must hold, `strict` the limits; `phase` is when in each interval
    their rules are evaluated, s; `skew` how far their clock is off, s.
    """

    cluster: str
    style: str
    dialect: int
    patience: float
    strict: float
    phase: float
    skew: float

    def alertname(self, rule: str) -> str:
        """What this team calls a rule."""
        return RULE_DIALECTS.get(rule, (rule, rule, rule))[self.dialect]


def pod_of(service: str, replica: int) -> str:
    """As Kubernetes names one: a deployment's with two hashes, of which the same replica always has the same.

    >>> pod_of("cart", 0) == pod_of("cart", 0) != pod_of("cart", 1)
    True
    """
    letters = np.random.default_rng([*service.encode(), replica]).choice(list("bcdfghjklmnpqrstvwxz2456789"), 14)
    return f"{service}-{''.join(letters[:9])}-{''.join(letters[9:])}"


class Teams(dict[str, Team]):
    """By domain of the service, the first word of its name; "" runs the machines."""

    def of(self, subject: str) -> Team:
        """Who runs a service, a node or a zone."""
        return self.get(subject.split("-")[0], self[""])


def draw(weather: Weather, names: Sequence[str], rng: np.random.Generator) -> Teams:
    """The teams of these services."""
    out = Teams()
    for domain in ("", *dict.fromkeys(name.split("-")[0] for name in names)):
        out[domain] = Team(
            cluster=f"c{int(rng.integers(CLUSTERS))}",
            style=str(rng.choice(STYLES[1:])) if rng.random() < weather.spelling else STYLES[0],
            dialect=int(rng.integers(1, 3)) if rng.random() < weather.dialects else 0,
            patience=float(rng.choice([0.25, 0.5, 1.0, 1.5])),
            strict=float(rng.uniform(0.8, 1.6)),
            phase=float(rng.uniform(0.0, STEP)),
            skew=float(rng.normal(0.0, weather.skew)),
        )
    return out
