"""Names of OpenTelemetry in the language of Prometheus, so that one rule, policy or pack fits both.

Metric names get their unit and `_total` as Prometheus' own OTLP receiver writes them by default
(`UnderscoreEscapingWithSuffixes`); what a resource says of itself becomes the labels that a scrape of it would have.
Sources: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ and
https://github.com/prometheus/otlptranslator
"""

import re
from collections.abc import Mapping
from functools import lru_cache

_UNITS = {
    "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds",
    "ns": "nanoseconds", "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes",
    "TiBy": "tibibytes", "KBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes", "TBy": "terabytes", "m": "meters",
    "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams", "Cel": "celsius", "Hz": "hertz",
    "1": "", "%": "percent",
}  # fmt: skip
_PER = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}

RESOURCE = {  # attribute of a resource -> the label by which the Prometheus world knows the same thing
    "service.name": "service_name",
    "service.instance.id": "instance",
    "k8s.namespace.name": "namespace",
    "k8s.pod.name": "pod",
    "k8s.container.name": "container",
    "k8s.node.name": "node",
    "k8s.cluster.name": "cluster",
    "host.name": "host",
    "cloud.region": "region",
    "cloud.availability_zone": "zone",
    "deployment.environment": "env",
    "deployment.environment.name": "env",
}

_WORDS = re.compile(r"[^a-zA-Z0-9:]+")
_NOT_LABEL = re.compile(r"[^a-zA-Z0-9_]")


@lru_cache(maxsize=16_384)
def metric_name(name: str, unit: str, *, monotonic: bool = False, gauge: bool = False) -> str:
    """The name that Prometheus gives the metric; "" when the name has no letter or digit.

    >>> metric_name("http.server.request.duration", "s"), metric_name("system.cpu.time", "s", monotonic=True)
    ('http_server_request_duration_seconds', 'system_cpu_time_seconds_total')
    >>> metric_name("system.memory.utilization", "1", gauge=True), metric_name("hw.fan.speed", "{rotation}/min")
    ('system_memory_utilization_ratio', 'hw_fan_speed_per_min')
    >>> metric_name("disk.io", "By/s"), metric_name("process.disk.bytes", "By")
    ('disk_io_bytes_per_second', 'process_disk_bytes')
    """
    words = [w for w in _WORDS.split(name) if w]
    if not words:
        return ""
    for suffix in _suffixes(unit):
        if suffix not in words:
            words.append(suffix)
    if monotonic:
        words = [w for w in words if w != "total"] + ["total"]
    if gauge and unit == "1":
        words = [w for w in words if w != "ratio"] + ["ratio"]
    joined = "_".join(words)
    return "_" + joined if joined[0].isdigit() else joined


def _suffixes(unit: str) -> list[str]:
    """What a unit adds to a name; an annotation in braces adds nothing."""
    of, _, per = (part.strip() for part in unit.partition("/"))
    given = [_UNITS.get(of, of) if "{" not in of else "", "per_" + _PER.get(per, per) if per and "{" not in per else ""]
    cleaned = ("_".join(w for w in _WORDS.split(suffix) if w) for suffix in given)
    return [suffix for suffix in cleaned if suffix]


@lru_cache(maxsize=16_384)
def label_name(attribute: str) -> str:
    """The label of an attribute's key; "" for an empty one.

    >>> label_name("http.response.status_code"), label_name("3xx")
    ('http_response_status_code', 'key_3xx')
    """
    name = _NOT_LABEL.sub("_", attribute)
    return "key_" + name if name[:1].isdigit() else name


def resource_labels(attributes: Mapping[str, str]) -> dict[str, str]:
    """Labels of everything that a resource sends: `job` as Prometheus says it, and `RESOURCE`."""
    labels = {label: attributes[name] for name, label in RESOURCE.items() if attributes.get(name)}
    service = attributes.get("service.name", "")
    if service:
        space = attributes.get("service.namespace", "")
        labels["job"] = f"{space}/{service}" if space else service
    return labels
