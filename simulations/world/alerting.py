"""Alerts of the world, as Prometheus' rules see it and as it sends them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def iso(ts: float) -> str:
    """RFC 3339 with milliseconds, as Prometheus writes it."""
    return str(np.datetime64(round(ts * 1000), "ms")) + "Z"


@dataclass(frozen=True)
class Rule:
    """An alerting rule: `metric` beyond `limit` for `wait` seconds."""

    name: str
    severity: str
    limit: float
    wait: float
    text: str
    below: bool = False


RULES: dict[str, tuple[Rule, ...]] = {
    "error_ratio": (Rule("ErrorRateHigh", "critical", 0.05, 60.0, "more than 5 % of requests fail"),),
    "latency_p99_seconds": (Rule("LatencyHigh", "warning", 0.0, 120.0, "p99 latency is above its objective"),),
    "request_rate": (Rule("TrafficLow", "warning", 0.0, 180.0, "far fewer requests than at the quietest hour", True),),
    "cpu_usage_ratio": (Rule("CPUHigh", "warning", 0.9, 180.0, "CPU is above 90 % of its limit"),),
    "memory_usage_ratio": (Rule("MemoryHigh", "warning", 0.9, 120.0, "memory is above 90 % of its limit"),),
    "workers_busy_ratio": (Rule("WorkersExhausted", "critical", 0.95, 60.0, "nearly all workers are busy"),),
    "connections_used_ratio": (Rule("ConnectionsExhausted", "critical", 0.9, 60.0, "the pool is nearly empty"),),
    "up_ratio": (Rule("TargetDown", "critical", 0.5, 60.0, "most replicas do not answer", True),),
    "disk_usage_ratio": (Rule("DiskFull", "critical", 0.95, 60.0, "the disk is nearly full"),),
    "node_cpu_usage_ratio": (Rule("NodeCPUHigh", "warning", 0.92, 120.0, "the node's CPU is nearly used up"),),
}

CHATTER = (
    ("CertificateExpiresSoon", "info", "the certificate expires in 20 days"),
    ("BatchJobFailed", "warning", "the nightly job did not finish"),
    ("DiskWillFill", "warning", "the disk is expected to be full in four days"),
    ("ClockSkew", "warning", "the clock is off by 60 ms"),
    ("DeprecatedAPICalled", "info", "a client still calls the old API"),
    ("BackupLate", "warning", "the last backup is older than 26 hours"),
)

RESEND = 60.0  # s; Prometheus' rules.alert.resend-delay
VALID = 240.0  # s; endsAt of a firing alert: four resend delays ahead (prometheus rules/manager.go sendAlerts)
KEEP_RESOLVED = 900.0  # s; resolved alerts are sent again for so long (prometheus rules/alerting.go resolvedRetention)
BATCH = 64  # alerts a request (prometheus notifier maxBatchSize)


@dataclass
class _Active:
    """One alert inside Prometheus: pending since `since`, firing since `fired`, resolved at `resolved`."""

    rule: Rule
    subject: str
    since: float
    fired: float = 0.0
    resolved: float = 0.0
    sent: float = -1e18
    value: float = 0.0


@dataclass
class Sender:
    """Evaluates rules at every step and decides what is sent, as Prometheus' rule manager does."""

    whereabouts: Callable[[str], tuple[str, str]]  # subject -> ("node" or "service", its zone)
    _active: dict[tuple[str, str], _Active] = field(default_factory=dict)
    _planned: dict[tuple[str, str], list[tuple[float, float, Rule]]] = field(default_factory=dict)

    def plan(self, name: str, severity: str, text: str, subject: str, start: float, end: float) -> None:
        self._planned.setdefault((name, subject), []).append((start, end, Rule(name, severity, 0.0, 0.0, text)))

    def alive(self, name: str, subject: str) -> bool:
        return (name, subject) in self._active

    def evaluate(
        self, ts: F64, conditions: list[tuple[Rule, str, NDArray[np.bool_], F64]]
    ) -> list[tuple[float, list[dict[str, Any]]]]:
        """(time, batch) of every request, in order."""
        lo, hi = float(ts[0]), float(ts[-1])
        for key, spans in sorted(self._planned.items()):
            true = np.zeros(len(ts), dtype=bool)
            for start, end, _ in spans:
                if start <= hi and end >= lo:
                    true |= (ts >= start) & (ts < end)
            if true.any() or key in self._active:
                conditions.append((spans[0][2], key[1], true, true.astype(float)))
        out: list[tuple[float, list[dict[str, Any]]]] = []
        for k, t in enumerate(ts.tolist()):
            due = []
            for rule, subject, true, values in conditions:
                alert = self._step(rule, subject, t, bool(true[k]), float(values[k]))
                if alert is not None:
                    due.append(alert)
            out += [(t, due[i : i + BATCH]) for i in range(0, len(due), BATCH)]
        return out

    def _step(self, rule: Rule, subject: str, t: float, true: bool, value: float) -> dict[str, Any] | None:
        key = (rule.name, subject)
        a = self._active.get(key)
        if true:
            if a is None or a.resolved:
                a = self._active[key] = _Active(rule, subject, since=t)
            a.value = value
            if not a.fired and t - a.since >= rule.wait:
                a.fired = t
        elif a is None:
            return None
        elif not a.fired:
            del self._active[key]
            return None
        elif not a.resolved:
            a.resolved = t
        elif t - a.resolved > KEEP_RESOLVED:
            del self._active[key]
            return None
        if not a.fired or (t - a.sent < RESEND and not (a.resolved and a.resolved > a.sent)):
            return None
        a.sent = t
        return self._encode(a, t)

    def _encode(self, a: _Active, t: float) -> dict[str, Any]:
        what, zone = self.whereabouts(a.subject)
        labels = {
            "alertname": a.rule.name,
            what: a.subject,
            "severity": a.rule.severity,
            "zone": zone,
        }
        return {
            "labels": labels,
            "annotations": {
                "summary": f"{a.subject}: {a.rule.text}",
                "runbook_url": f"https://runbooks.example.com/{a.rule.name}",
            },
            "startsAt": iso(a.fired),
            "endsAt": iso(a.resolved or t + VALID),
            "generatorURL": f"http://prometheus.example.com/graph?g0.expr={a.rule.name}",
        }
