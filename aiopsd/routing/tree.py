"""The routing tree, with everything inherited filled in, and the keys of the groups that its nodes make."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from aiopsd.config import Config, RouteConfig
from aiopsd.errors import ConfigError
from aiopsd.intervals import Interval, build
from aiopsd.matchers import Matchers, conditions
from aiopsd.model import Labels

GROUP_WAIT, GROUP_INTERVAL, REPEAT_INTERVAL = 30.0, 300.0, 4 * 3600.0  # s; Alertmanager's defaults


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the tree with everything inherited filled in."""

    index: int
    key: str  # `{}/{team="a"}`, as in Alertmanager's group keys
    receiver: str
    group_by: tuple[str, ...] | None  # None: by incident; ("...",): every label
    group_wait: float
    group_interval: float
    repeat_interval: float
    page_anomalies: bool
    mute: tuple[Interval, ...]
    active: tuple[Interval, ...]
    matchers: Matchers
    continue_: bool
    children: tuple["Route", ...]

    def match(self, labels: Mapping[str, str]) -> list["Route"]:
        """Deepest matching nodes, in order; more than one only through `continue`."""
        if not self.matchers.matches(labels):
            return []
        found: list[Route] = []
        for child in self.children:
            below = child.match(labels)
            found += below
            if below and not child.continue_:
                break
        return found or [self]

    def muted_by(self, stamp: float) -> tuple[str, ...]:
        """Names of the intervals for which it tells nobody at `stamp`: of all of `active` when none of them holds."""
        if self.active and not any(interval.holds(stamp) for interval in self.active):
            return tuple(interval.name for interval in self.active)
        return tuple(interval.name for interval in self.mute if interval.holds(stamp))

    def walk(self) -> Iterator["Route"]:
        """Nodes by index."""
        yield self
        for child in self.children:
            yield from child.walk()


def muted_by(routes: Iterable[Route], stamp: float) -> tuple[str, ...]:
    """Names of the time intervals for which none of these routes tells anybody at `stamp`; (): one of them may tell."""
    found = [route.muted_by(stamp) for route in routes]
    return tuple(dict.fromkeys(name for names in found for name in names)) if all(found) else ()


def intervals(config: Config) -> dict[str, Interval]:
    """The time intervals by name.

    Raises:
        ConfigError: one that cannot be read, or two of one name.
    """
    found: dict[str, Interval] = {}
    for key in ("time_intervals", "mute_time_intervals"):
        for i, given in enumerate(getattr(config, key)):
            if given.name in found:
                raise ConfigError(f"time interval `{given.name}` is defined twice", f"$.{key}[{i}].name")
            found[given.name] = build(given, f"$.{key}[{i}]")
    return found


def routes(config: Config) -> Route:
    """The tree of the configuration, checked.

    Raises:
        ConfigError: a matcher or a time interval that cannot be read, or is not there; names its key.
    """
    count = 0
    known = intervals(config)

    def timed(raw: RouteConfig, key: str, path: str) -> tuple[Interval, ...]:
        names: tuple[str, ...] = getattr(raw, key)
        if names and path == "$.route":
            raise ConfigError(f"the root has no `{key}`: what no route below it takes must be told", f"{path}.{key}")
        for i, name in enumerate(names):
            if name not in known:
                raise ConfigError(f"unknown time interval `{name}`", f"{path}.{key}[{i}]")
        return tuple(known[name] for name in names)

    def node(raw: RouteConfig, parent: Route | None, path: str) -> Route:
        nonlocal count
        matchers = Matchers(conditions(raw, path))

        def inherited(name: str, default: Any) -> Any:
            given = getattr(raw, name)
            return given if given is not None else getattr(parent, name) if parent is not None else default

        route = Route(
            index=count,
            key=f"{parent.key}/{matchers}" if parent is not None else str(matchers),
            receiver=raw.receiver or (parent.receiver if parent is not None else ""),
            group_by=inherited("group_by", None),
            group_wait=float(inherited("group_wait", GROUP_WAIT)),
            group_interval=float(inherited("group_interval", GROUP_INTERVAL)),
            repeat_interval=float(inherited("repeat_interval", REPEAT_INTERVAL)),
            page_anomalies=bool(inherited("page_anomalies", False)),
            mute=timed(raw, "mute_time_intervals", path),
            active=timed(raw, "active_time_intervals", path),
            matchers=matchers,
            continue_=raw.continue_,
            children=(),
        )
        count += 1
        for name in ("group_interval", "repeat_interval"):
            if getattr(route, name) <= 0:
                raise ConfigError(f"`{name}` must be longer than zero", f"{path}.{name}")
        children = tuple(node(sub, route, f"{path}.routes[{i}]") for i, sub in enumerate(raw.routes))
        return msgspec.structs.replace(route, children=children)

    return node(config.route, None, "$.route")


def incident_key(incident_id: str) -> str:
    return f"incident:{incident_id}"


def group_labels(route: Route, labels: Mapping[str, str]) -> Labels:
    names = route.group_by or ()
    if "..." in names:
        return {k: labels[k] for k in sorted(labels)}
    return {k: labels[k] for k in sorted(names) if labels.get(k, "")}


def group_labels_text(labels: Mapping[str, str]) -> str:
    """As in Alertmanager's groupKey: `{alertname="X", cluster="a"}` with Go's quoting."""
    return "{" + ", ".join(f"{k}={_go_quote(v)}" for k, v in labels.items()) + "}"


def _go_quote(text: str) -> str:
    """strconv.Quote for what label values hold: backslash, quote and control characters are escaped."""
    named = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b"}
    named |= {"\f": "\\f", "\v": "\\v"}
    return '"' + "".join(named.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text) + '"'
