"""Where in the graph an alert sits: its service, and the node and zone under it when its labels tell."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from aiopsd.model import ANOMALY, Alert
from aiopsd.topology import Topology

# Labels that name the thing that is in trouble, most telling first: used when an alert has no service of its own.
SUBJECTS = (
    "service",
    "service_name",
    "app",
    "deployment",
    "workload",
    "pod",
    "target",
    "job",
    "instance",
    "node",
    "host",
)
WORKLOADS = ("service", "service_name", "app", "deployment", "workload", "pod")  # an alert without is of its host
HOSTS = ("node", "host", "hostname", "nodename")
ZONES = ("zone", "availability_zone", "topology_kubernetes_io_zone", "failure_domain")
_UNDER = frozenset((*HOSTS, *ZONES))
MOST = 50_000  # alerts whose place is kept


class Place(NamedTuple):
    """`vertex` is the name in the graph ("" when nothing tells); `under` the node and zone it shares with others.

    `grounds` are the node and the zone that its labels name, each with its kind; the vertex may be one of them.
    """

    vertex: str
    under: tuple[str, ...]
    grounds: tuple[tuple[str, str], ...]


def place_of(alert: Alert, topology: Topology) -> Place:
    """The vertex of an alert: its service if the graph knows it, else the first label that does, else the raw name.

    Asked of every alert several times, so it is worked out once for each and as long as the names in the graph stay.
    """
    known = topology.worked_out.get(alert.fingerprint)
    if known is None or known[0] != alert.service:
        if len(topology.worked_out) >= MOST:
            topology.worked_out.clear()
        known = topology.worked_out[alert.fingerprint] = (alert.service, _placed(alert, topology))
    place: Place = known[1]
    return place


def _placed(alert: Alert, topology: Topology) -> Place:
    labels = alert.labels
    vertex = ""
    if alert.service:
        vertex = topology.resolve(alert.service)
    if vertex not in topology:
        for name in _subjects(labels):
            found = topology.resolve(name)
            if found in topology:
                vertex = found
                break
            vertex = vertex or name
        else:
            host = _first(labels, HOSTS)
            if host and not _first(labels, WORKLOADS):
                vertex = host  # the job and instance are those of an exporter
        vertex = vertex or topology.resolve(_first(labels, ZONES))  # a probe of a whole zone
    if _UNDER.isdisjoint(labels):
        return Place(vertex, (), ())
    told = ((topology.resolve(_first(labels, keys)), kind) for keys, kind in ((HOSTS, "node"), (ZONES, "zone")))
    grounds = tuple((name, kind) for name, kind in told if name)
    return Place(vertex, tuple(name for name, _ in grounds if name != vertex), grounds)


def _first(labels: Mapping[str, str], keys: Iterable[str]) -> str:
    return next((labels[key] for key in keys if labels.get(key)), "")


def name_of(alert: Alert) -> str:
    """What kind of alert it is: its alertname, and for an anomaly its signal too."""
    name = alert.labels.get("alertname", "")
    return f"{name}/{alert.labels.get('signal', '')}" if alert.anomaly else name


def measured(name: str) -> bool:
    """Whether a name that `name_of` gave is an anomaly's, whose times are read from samples."""
    return name.startswith(f"{ANOMALY}/")


def _subjects(labels: Mapping[str, str]) -> Iterator[str]:
    for key in SUBJECTS:
        value = labels.get(key)
        if value:
            yield value
