"""Which receiver hears of what, and when: routes, groups with their timers, inhibition, and the needs-update decision.

Enters: alerts and incidents as the correlate stage decides them, and stamps. Leaves: `Notify` effects, and `Audit`
lines that say why a page was held back. Nothing is sent from here and no clock is read: a group asks for its timer
through `wake_at()`, `due(stamp)` flushes what is due, and the notification log is written in the same breath, because
what is decided here is in the durable outbox before anybody delivers it.

Two kinds of groups share the routing tree and the timers:

* With `group_by` set, Alertmanager's: the tuple (route, values of those labels), with its semantics (its
  dispatch/dispatch.go and notify/notify.go), key `{}/{team="a"}:{alertname="X"}`, dedup_key the SHA-256 of that key.
* Without it, by incident: the group is (receiver, incident), however many routes lead there, and its dedup_key is the
  incident's, so that one problem is one item at the receiver from first page to resolution. The decision looks at the
  incident's life (acknowledged, root changed, merged, reopened, resolved) beside the firing set. The first correction
  of the cause that a page named does not wait for group_interval, only for group_wait after the page: metrics lag
  behind alerts, and whoever was woken is at work.

Differences from Alertmanager, on purpose. A tick of `group_interval` at which nothing can be due is skipped, not
fired: it would append a record to the journal for nothing. A repeat is due when `repeat_interval` has elapsed *to* the
tick, not past it: 4 h means 4 h, not 4 h and 5 min. Inhibition asks all sources of an equal-label key: a source that
may not inhibit hides no other.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil, inf, nextafter
from typing import Any

import msgspec

from aiopsd.config import Config, RouteConfig, receivers
from aiopsd.errors import ConfigError
from aiopsd.model import (
    Action,
    Alert,
    AlertState,
    Audit,
    AuditEntry,
    Effect,
    Incident,
    IncidentState,
    Labels,
    Notification,
    Notify,
    NotifyReason,
    content_id,
)
from aiopsd.silences import Matchers, SilenceBook, parse_matchers

VERSION = 1
GROUP_WAIT, GROUP_INTERVAL, REPEAT_INTERVAL = 30.0, 300.0, 4 * 3600.0  # s; Alertmanager's defaults
ALERT_LIMIT = 100  # alerts in one notification: no receiver shows more, and the outbox keeps every one of them
ROOT_MARGIN = 0.1  # of confidence by which a new top cause must lead the announced one: two near ties may swap for ever


# --------------------------------------------------------------------------- the decision


class LogEntry(msgspec.Struct, kw_only=True):
    """What one integration was last told of one group: the notification log."""

    at: float
    firing: dict[str, None]  # fingerprints, in order; a dict for its order and its look-up
    resolved: dict[str, None] = {}
    seq: int = 1
    open: bool = True  # the receiver has an item that no resolve has closed
    dedup_key: str = ""
    root: str = ""  # kind/service of the probable cause that was named
    acked_at: float = 0.0  # of the acknowledgement that was passed on; 0: none


def needs_update(
    log: LogEntry | None,
    firing: Collection[str],
    resolved: Collection[str],
    *,
    send_resolved: bool,
    repeat_interval: float,
    stamp: float,
) -> NotifyReason | None:
    """Alertmanager's decision for a label group (notify/notify.go needsUpdate), with its reason; None: nothing is due.

    ALL_RESOLVED does not depend on `send_resolved`: the log must learn that nothing fires; the caller does not send.
    """
    if log is None:
        return NotifyReason.FIRST if firing else None
    if any(fp not in log.firing for fp in firing):
        return NotifyReason.NEW_ALERTS
    if not firing:
        return NotifyReason.ALL_RESOLVED if log.firing else None
    if send_resolved and any(fp not in log.resolved for fp in resolved):
        return NotifyReason.SOME_RESOLVED
    if stamp - log.at >= repeat_interval:
        return NotifyReason.REPEAT
    return None


def needs_update_incident(
    log: LogEntry | None,
    incident: Incident,
    firing: Collection[str],
    resolved: Collection[str],
    *,
    send_resolved: bool,
    repeat_interval: float,
    stamp: float,
) -> NotifyReason | None:
    """The decision for an incident's group; `firing` holds what may page (see `page_anomalies`) and is not muted.

    An incident that is over closes what was opened and never opens anything. While it is acknowledged, news is still
    told, but neither a first page nor a repeat is sent.
    """
    if incident.state is IncidentState.MERGED:
        return NotifyReason.MERGED if log is not None and log.open else None
    if incident.state is IncidentState.RESOLVED:
        return NotifyReason.ALL_RESOLVED if log is not None and log.open else None
    acked = is_acked(incident, stamp)
    if log is None or not log.open:
        if not firing or acked:
            return None
        return NotifyReason.FIRST if log is None else NotifyReason.REOPENED
    if acked and log.acked_at != incident.acked_at:
        return NotifyReason.ACKNOWLEDGED
    if log.acked_at and not acked and firing:
        return NotifyReason.ACK_ENDED
    if any(fp not in log.firing for fp in firing):
        return NotifyReason.NEW_ALERTS
    if root_changed(log.root, incident):
        return NotifyReason.ROOT_CHANGED
    if send_resolved and firing and any(fp in log.firing for fp in resolved):
        return NotifyReason.SOME_RESOLVED  # when nothing fires any more, the incident's end is the news
    if firing and not acked and stamp - log.at >= repeat_interval:
        return NotifyReason.REPEAT
    return None


def is_acked(incident: Incident, stamp: float) -> bool:
    """Somebody has it and their time is not over."""
    return incident.state is IncidentState.ACKNOWLEDGED and not 0 < incident.ack_until <= stamp


def root_name(incident: Incident) -> str:
    """kind/service of the top candidate; "" without one."""
    return f"{incident.root.kind}/{incident.root.service}" if incident.root is not None else ""


def root_changed(told: str, incident: Incident) -> bool:
    """The probable cause is materially another than the one that was told: another name, and clearly ahead of it."""
    now = root_name(incident)
    if not now or now == told or incident.root is None:
        return False
    before = next((c.confidence for c in incident.roots if f"{c.kind}/{c.service}" == told), 0.0)
    return not told or incident.root.confidence >= before + ROOT_MARGIN


def action_of(reason: NotifyReason) -> Action:
    """What the receiver should do with its item."""
    if reason in (NotifyReason.ALL_RESOLVED, NotifyReason.MERGED):
        return Action.RESOLVE
    return Action.ACKNOWLEDGE if reason is NotifyReason.ACKNOWLEDGED else Action.TRIGGER


# --------------------------------------------------------------------------- the tree


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

    def walk(self) -> Iterator["Route"]:
        """Nodes by index."""
        yield self
        for child in self.children:
            yield from child.walk()


def _matchers(texts: Iterable[str], path: str) -> Matchers:
    try:
        return Matchers(m for text in texts for m in parse_matchers(text))
    except ValueError as e:
        raise ConfigError(str(e), path) from None


def routes(config: Config) -> Route:
    """The tree of the configuration, checked.

    Raises:
        ConfigError: a matcher that cannot be read; names its route.
    """
    count = 0

    def build(raw: RouteConfig, parent: Route | None, path: str) -> Route:
        nonlocal count
        matchers = _matchers(raw.matchers, f"{path}.matchers")

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
            matchers=matchers,
            continue_=raw.continue_,
            children=(),
        )
        count += 1
        for name in ("group_interval", "repeat_interval"):
            if getattr(route, name) <= 0:
                raise ConfigError(f"`{name}` must be longer than zero", f"{path}.{name}")
        children = tuple(build(sub, route, f"{path}.routes[{i}]") for i, sub in enumerate(raw.routes))
        return msgspec.structs.replace(route, children=children)

    return build(config.route, None, "$.route")


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One route that a label set takes, for `explain` and dry runs."""

    route: str
    receiver: str
    integrations: tuple[str, ...]
    group_by: tuple[str, ...] | None
    group_wait: float
    group_interval: float
    repeat_interval: float
    page_anomalies: bool


# --------------------------------------------------------------------------- inhibition


class _Rule:
    """One inhibit rule with its firing sources, by the values of its `equal` labels."""

    __slots__ = ("both", "equal", "only", "source", "target")

    def __init__(self, source: Matchers, target: Matchers, equal: tuple[str, ...]) -> None:
        self.source, self.target, self.equal = source, target, equal
        self.only: dict[tuple[str, ...], dict[str, None]] = {}  # sources that are no targets
        self.both: dict[tuple[str, ...], dict[str, None]] = {}  # two-sided ones: they inhibit only what is no source

    def _slot(self, labels: Mapping[str, str]) -> tuple[dict[tuple[str, ...], dict[str, None]], tuple[str, ...]]:
        return (self.both if self.target.matches(labels) else self.only), self._key(labels)

    def _key(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(labels.get(name, "") for name in self.equal)

    def add(self, fp: str, labels: Mapping[str, str]) -> None:
        if self.source.matches(labels):
            slots, key = self._slot(labels)
            slots.setdefault(key, {})[fp] = None

    def discard(self, fp: str, labels: Mapping[str, str]) -> None:
        slots, key = self._slot(labels)
        if fp in slots.get(key, ()):
            del slots[key][fp]
            if not slots[key]:
                del slots[key]

    def inhibitor(self, labels: Mapping[str, str]) -> str | None:
        """The oldest firing source that mutes this label set; an alert on both sides yields only to a pure source."""
        if not self.target.matches(labels):
            return None
        key = self._key(labels)
        if (found := next(iter(self.only.get(key, ())), None)) is not None:
            return found
        if key in self.both and not self.source.matches(labels):
            return next(iter(self.both[key]))
        return None


class Inhibitor:
    """All inhibit rules over the alerts that fire; every source counts, a missing label is an empty one."""

    def __init__(self, config: Config) -> None:
        self._rules = [
            _Rule(
                _matchers(rule.source_matchers, f"$.inhibit_rules[{i}].source_matchers"),
                _matchers(rule.target_matchers, f"$.inhibit_rules[{i}].target_matchers"),
                rule.equal,
            )
            for i, rule in enumerate(config.inhibit_rules)
        ]
        self.firing: dict[str, Labels] = {}

    def set(self, fp: str, labels: Labels | None) -> None:
        """This alert fires with these labels, or (None) does not fire."""
        if not self._rules or self.firing.get(fp) == labels:
            return
        if (old := self.firing.pop(fp, None)) is not None:
            for rule in self._rules:
                rule.discard(fp, old)
        if labels is not None:
            self.firing[fp] = labels
            for rule in self._rules:
                rule.add(fp, labels)

    def inhibited_by(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Fingerprints of sources, one for each rule that mutes this label set."""
        found = (rule.inhibitor(labels) for rule in self._rules)
        return tuple(dict.fromkeys(fp for fp in found if fp is not None))


# --------------------------------------------------------------------------- groups


@dataclass(slots=True)
class _Group:
    """Alerts that one receiver hears of together. `due` is its one timer; `grid` the last flush on it (0: none)."""

    receiver: str
    key: str
    dedup_key: str
    labels: Labels
    incident: str  # "" for a label group
    routes: list[int]
    order: int
    page_anomalies: bool
    alerts: dict[str, Alert] = field(default_factory=dict)
    due: float | None = None
    grid: float = 0.0
    logs: dict[str, LogEntry] = field(default_factory=dict)
    held: str = ""  # why the last flush paged nobody, as last audited

    @property
    def id(self) -> tuple[str, str]:
        return self.receiver, self.key

    @property
    def announced(self) -> bool:
        """Some receiver has an open item of it."""
        return any(log.open for log in self.logs.values())

    def pages(self, alert: Alert) -> bool:
        """May this alert make a page by itself?"""
        return self.page_anomalies or not alert.anomaly


class Dispatcher:
    """Turns alerts and incidents into notifications that are due; the stage composes it, the outbox delivers them.

    Call `alert` for every alert that is new, changed or resolved (a re-send that only moves the end is none), after
    the stage has decided its incident; `incident` when an incident changed; `due` at every stamp not before
    `wake_at()`. State and decisions follow from the sequence of calls alone.
    """

    def __init__(self, config: Config, silences: SilenceBook, resume: Mapping[str, Any] | None = None) -> None:
        self._tree = routes(config)
        self._routes = list(self._tree.walk())
        self._integrations: dict[str, list[tuple[str, bool]]] = {}
        for receiver, kind, index, raw, path in receivers(config):
            send_resolved = raw.get("send_resolved", True)
            if not isinstance(send_resolved, bool):
                raise ConfigError("Expected `bool`", f"{path}.send_resolved")
            self._integrations.setdefault(receiver, []).append((f"{kind}[{index}]", send_resolved))
        self._external_url = config.http.external_url or f"http://{config.http.listen}"
        self._silences = silences
        self._inhibitor = Inhibitor(config)
        self._groups: dict[tuple[str, str], _Group] = {}
        self._old_logs: dict[tuple[str, str], tuple[float, dict[str, LogEntry]]] = {}  # of empty label groups: until
        self._log_ends: list[tuple[float, tuple[str, str]]] = []
        self._member: dict[str, tuple[tuple[str, str], ...]] = {}  # alert -> its groups
        self._incidents: dict[str, Incident] = {}
        self._by_incident: dict[str, list[tuple[str, str]]] = {}  # its groups, in order of creation
        self._keys: dict[str, str] = {}  # incident -> adopted dedup_key
        self._timers: list[tuple[float, int, int, tuple[str, str]]] = []
        self._order = 0
        if resume is not None:
            self._resume(resume)

    # ------------------------------------------------------------------ what the stage tells

    def alert(self, alert: Alert, incident: Incident | None, stamp: float) -> None:
        """A new, changed or resolved alert, with the incident it belongs to now (None: none)."""
        fp = alert.fingerprint
        firing = alert.state is AlertState.FIRING
        self._inhibitor.set(fp, alert.labels if firing else None)
        if incident is not None:
            self._learn(incident)
        wanted = self._targets(alert, incident)
        for gid in self._member.get(fp, ()):
            if gid not in wanted and (group := self._groups.get(gid)) is not None:
                group.alerts.pop(fp, None)  # it belongs to another incident now, or its labels changed
                if not group.incident:
                    self._arm(group, self._next_tick(group, stamp) if group.grid else stamp)
        inside = []
        for gid, found in wanted.items():
            group = self._groups.get(gid)
            if group is None:
                if not firing:
                    continue  # the end of what this group never held
                group = self._open(gid, found[0], alert, incident, stamp)
            elif not firing and fp not in group.alerts:
                continue
            for route in found:
                if route.index not in group.routes:
                    group.routes.append(route.index)
            self._insert(group, alert, found, stamp)
            inside.append(gid)
        if inside:
            self._member[fp] = tuple(inside)
        else:
            self._member.pop(fp, None)

    def incident(self, incident: Incident, stamp: float, reason: NotifyReason | None = None) -> str:
        """An incident changed; returns the dedup_key that it has from now on (another one only after a merge).

        Tell of a merge in this order: the moved alerts (`alert`, with the survivor), the one that was merged away
        (state MERGED), the survivor; the survivor's dedup_key is in the last answer. `reason` None is a quiet
        refresh of what the next notification shows.
        """
        self._learn(incident)
        groups = self._groups_of(incident.id)
        if incident.state is IncidentState.MERGED:
            self._merge(groups, incident, stamp)
        for group in groups:
            logs = [log for log in group.logs.values() if log.open]
            if incident.state in (IncidentState.RESOLVED, IncidentState.MERGED):
                self._arm(group, stamp)
            elif logs:
                acked_at = incident.acked_at if is_acked(incident, stamp) else 0.0
                if any(log.acked_at != acked_at for log in logs):
                    self._arm(group, stamp)  # an acknowledgement is told at once, and so is its end
                elif changed := [log for log in logs if root_changed(log.root, incident)]:
                    first = [log.at for log in changed if log.seq == 1]  # only the page went out so far
                    tick = self._next_tick(group, stamp)
                    soon = max(stamp, min(first) + self._wait(group.routes)) if first else tick
                    self._arm(group, min(soon, tick))
            elif reason is NotifyReason.REOPENED and any(a.state is AlertState.FIRING for a in group.alerts.values()):
                self._arm(group, stamp + self._wait(group.routes))
        return self._keys.get(incident.id, incident.dedup_key)

    def forget(self, incident: Incident) -> None:
        """It left the stage's memory: drop its groups and what was told of it."""
        self._incidents.pop(incident.id, None)
        self._keys.pop(incident.id, None)
        for group in self._groups_of(incident.id):
            self._drop(group)

    # ------------------------------------------------------------------ timers

    def wake_at(self) -> float | None:
        """Stamp of the earliest flush; None: nothing is due as things are."""
        while self._timers:
            due, _, _, gid = self._timers[0]
            group = self._groups.get(gid)
            if group is not None and group.due == due:
                return due
            heapq.heappop(self._timers)
        return None

    def due(self, stamp: float) -> list[Effect]:
        """Flush every group whose timer is due at or before `stamp`, each at its own time, in order."""
        effects: list[Effect] = []
        while (due := self.wake_at()) is not None and due <= stamp:
            effects += self.flush_next()
        return effects

    def next_incident(self) -> str:
        """The incident that the earliest flush is about; "" when it is none's, or nothing is due as things are."""
        return self._groups[self._timers[0][3]].incident if self.wake_at() is not None else ""

    def postpone(self, due: float) -> None:
        """Flush the group whose timer is the earliest at `due` instead."""
        _, late, order, gid = heapq.heappop(self._timers)
        self._groups[gid].due = due
        heapq.heappush(self._timers, (due, late, order, gid))

    def flush_next(self) -> list[Effect]:
        """Flush the group whose timer is the earliest, at its own time."""
        due, _, _, gid = heapq.heappop(self._timers)
        group = self._groups[gid]
        group.due = None
        return self._flush(group, due)

    # ------------------------------------------------------------------ what the API asks

    def muted(self, alert: Alert, stamp: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(ids of silences, fingerprints of inhibiting alerts) that keep this alert quiet at `stamp`."""
        return self._silences.silenced_by(alert.labels, stamp), self._inhibitor.inhibited_by(alert.labels)

    def explain(self, labels: Mapping[str, str]) -> list[Explained]:
        """The routes that this label set takes, in order."""
        return [
            Explained(
                route=r.key,
                receiver=r.receiver,
                integrations=tuple(name for name, _ in self._integrations.get(r.receiver, ())),
                group_by=r.group_by,
                group_wait=r.group_wait,
                group_interval=r.group_interval,
                repeat_interval=r.repeat_interval,
                page_anomalies=r.page_anomalies,
            )
            for r in self._tree.match(labels)
        ]

    def groups(self) -> list[tuple[str, Labels, tuple[Alert, ...]]]:
        """(receiver, group labels, alerts) of every group that holds alerts, in order of creation."""
        return [(g.receiver, g.labels, tuple(g.alerts.values())) for g in self._groups.values() if g.alerts]

    # ------------------------------------------------------------------ groups

    def _targets(self, alert: Alert, incident: Incident | None) -> dict[tuple[str, str], list[Route]]:
        """Ids of the groups where this alert belongs, each with the routes that lead there."""
        found: dict[tuple[str, str], list[Route]] = {}
        for route in self._tree.match(alert.labels):
            if route.group_by is None:
                if incident is None:
                    continue  # it opens nothing: the stage has said why
                gid = (route.receiver, _incident_key(incident.id))
            elif alert.anomaly and not route.page_anomalies:
                continue  # joins and explains; a label group has no incident to explain
            else:
                gid = (route.receiver, f"{route.key}:{_group_labels_text(_group_labels(route, alert.labels))}")
            found.setdefault(gid, []).append(route)
        return found

    def _open(
        self, gid: tuple[str, str], route: Route, alert: Alert, incident: Incident | None, stamp: float
    ) -> _Group:
        receiver, key = gid
        by_incident = route.group_by is None and incident is not None
        self._order += 1
        group = _Group(
            receiver=receiver,
            key=key,
            dedup_key="" if by_incident else sha256(key.encode()).hexdigest(),
            labels={"incident": incident.id} if by_incident and incident else _group_labels(route, alert.labels),
            incident=incident.id if by_incident and incident else "",
            routes=[route.index],
            order=self._order,
            page_anomalies=route.page_anomalies,
        )
        until, logs = self._old_logs.pop(gid, (0.0, {}))  # its end in the heap is stale then
        if stamp < until:
            group.logs = logs
        return self._add(group)

    def _insert(self, group: _Group, alert: Alert, found: list[Route], stamp: float) -> None:
        old = group.alerts.get(alert.fingerprint)
        group.page_anomalies = group.page_anomalies or any(r.page_anomalies for r in found)
        group.alerts[alert.fingerprint] = alert
        if old is not None and old.state is alert.state:
            return
        wait = min(r.group_wait for r in found)
        first = stamp if alert.starts_at + wait < stamp else stamp + wait
        if not group.incident:
            self._arm(group, self._next_tick(group, stamp) if group.grid else first)
        elif group.announced:
            self._arm(group, self._next_tick(group, stamp))
        elif alert.state is AlertState.FIRING and (group.pages(alert) or not group.grid):
            self._arm(group, first)

    def _arm(self, group: _Group, due: float) -> None:
        """Flush it at `due`, unless it is to be flushed sooner."""
        if group.due is not None and group.due <= due:
            return
        if group.incident and not self._integrations.get(group.receiver):
            return  # nobody to tell
        group.due = due
        incident = self._incidents.get(group.incident)
        late = 1 if incident is not None and incident.state is IncidentState.MERGED else 0
        heapq.heappush(self._timers, (due, late, group.order, group.id))  # the survivor pages before the other closes

    def _tick(self, group: _Group, at: float) -> float:
        """The first point of the group_interval grid after the last flush that is not before `at`."""
        interval = min(self._routes[i].group_interval for i in group.routes)
        n = max(1, ceil((at - group.grid) / interval))
        tick = group.grid + n * interval
        return tick if tick >= at else group.grid + (n + 1) * interval  # rounding

    def _next_tick(self, group: _Group, stamp: float) -> float:
        """The first point of the grid after `stamp`: the one at it has fired before the record came."""
        tick = self._tick(group, stamp)
        return tick if tick > stamp else self._tick(group, nextafter(tick, inf))

    def _repeat(self, group: _Group) -> float:
        return min(self._routes[i].repeat_interval for i in group.routes)

    def _wait(self, indices: Iterable[int]) -> float:
        return min(self._routes[i].group_wait for i in indices)

    def _drop(self, group: _Group) -> None:
        del self._groups[group.id]
        if group.incident:
            self._by_incident[group.incident].remove(group.id)
            if not self._by_incident[group.incident]:
                del self._by_incident[group.incident]
        for fp in group.alerts:
            left = tuple(gid for gid in self._member.get(fp, ()) if gid != group.id)
            if left:
                self._member[fp] = left
            else:
                self._member.pop(fp, None)

    def _learn(self, incident: Incident) -> None:
        self._incidents[incident.id] = incident

    def _groups_of(self, incident_id: str) -> list[_Group]:
        return [self._groups[gid] for gid in self._by_incident.get(incident_id, ())]

    def _add(self, group: _Group) -> _Group:
        self._groups[group.id] = group
        if group.incident:
            self._by_incident.setdefault(group.incident, []).append(group.id)
        return group

    def _merge(self, groups: list[_Group], incident: Incident, stamp: float) -> None:
        """Decide which dedup_key lives on: the survivor's, unless only the other one has been told to anybody."""
        survivor = incident.merged_into
        adopt = not any(g.announced for g in self._groups_of(survivor))
        for group in groups:
            logs = {name: log for name, log in group.logs.items() if log.open}
            gid = (group.receiver, _incident_key(survivor))
            heir = self._groups.get(gid)
            if not logs:
                if heir is not None and group.due is not None and heir.due is not None and not heir.grid:
                    self._arm(heir, max(group.due, stamp))  # whoever waited longer sets the end of the wait
                continue
            if not adopt:
                if heir is not None and not heir.announced:
                    self._arm(heir, stamp)  # this receiver knew the other one: it hears of the survivor at once
                continue
            if heir is None:
                self._order += 1
                heir = _Group(
                    receiver=group.receiver,
                    key=gid[1],
                    dedup_key="",
                    labels={"incident": survivor},
                    incident=survivor,
                    routes=list(group.routes),
                    order=self._order,
                    page_anomalies=group.page_anomalies,
                )
                self._add(heir)
            for name, log in logs.items():
                seq = max(log.seq, heir.logs[name].seq if name in heir.logs else 0)
                heir.logs[name] = msgspec.structs.replace(log, seq=seq)
                group.logs[name] = msgspec.structs.replace(log, open=False)
                self._keys[survivor] = log.dedup_key
            heir.grid, heir.due = group.grid, None
            self._arm(heir, self._next_tick(heir, stamp))

    # ------------------------------------------------------------------ the flush

    def _flush(self, group: _Group, stamp: float) -> list[Effect]:
        """Decide for every integration of the group's receiver, write the log, arm the next timer."""
        on_grid = not group.grid or stamp >= self._tick(group, group.grid)
        incident = self._incidents.get(group.incident) if group.incident else self._only_incident(group)
        shown: list[Alert] = []
        silenced: dict[str, None] = {}
        inhibited: dict[str, None] = {}
        for alert in group.alerts.values():
            if group.incident and alert.state is AlertState.RESOLVED:
                shown.append(alert)  # good news of an incident is never muted
                continue
            by_silence, by_alert = self.muted(alert, stamp)
            if by_silence or by_alert:
                silenced.update(dict.fromkeys(by_silence))
                inhibited.update(dict.fromkeys(by_alert))
            else:
                shown.append(alert)
        firing = {a.fingerprint: None for a in shown if a.state is AlertState.FIRING and group.pages(a)}
        resolved = {a.fingerprint: None for a in shown if a.state is AlertState.RESOLVED and group.pages(a)}
        repeat = self._repeat(group)
        effects: list[Effect] = []
        for name, send_resolved in self._integrations.get(group.receiver, ()):
            log = group.logs.get(name)
            reason = None
            if group.incident and incident is not None:
                reason = needs_update_incident(
                    log,
                    incident,
                    firing,
                    resolved,
                    send_resolved=send_resolved,
                    repeat_interval=repeat,
                    stamp=stamp,
                )
            elif not group.incident and shown:
                reason = needs_update(
                    log, firing, resolved, send_resolved=send_resolved, repeat_interval=repeat, stamp=stamp
                )
            if reason is None:
                if log is not None and incident is not None and not is_acked(incident, stamp):
                    log.acked_at = 0.0  # it ended while nothing fired: not news any more
                continue
            told = shown if send_resolved else [a for a in shown if a.state is AlertState.FIRING]
            note = self._notification(group, name, log, reason, told, firing, resolved, incident, stamp)
            group.logs[name] = self._logged(log, note, reason, firing, resolved, incident)
            if send_resolved or note.action is not Action.RESOLVE:
                effects.append(Notify(notification=note))
        again = bool(silenced or inhibited) or not on_grid  # a silence may end; what waited for the tick still waits
        again = again or any(isinstance(e, Notify) and e.notification.action is Action.ACKNOWLEDGE for e in effects)
        effects += self._held(group, incident, firing, silenced, inhibited, bool(effects), stamp)
        self._settle(group, incident, again, on_grid, stamp)
        return effects

    def _only_incident(self, group: _Group) -> Incident | None:
        """The incident of a label group's alerts, when they share one."""
        ids = dict.fromkeys(a.incident for a in group.alerts.values())
        return self._incidents.get(next(iter(ids))) if len(ids) == 1 else None

    def _notification(
        self,
        group: _Group,
        integration: str,
        log: LogEntry | None,
        reason: NotifyReason,
        shown: list[Alert],
        firing: Mapping[str, None],
        resolved: Mapping[str, None],
        incident: Incident | None,
        stamp: float,
    ) -> Notification:
        told = log.firing if log is not None else {}
        changed = [fp for fp in firing if fp not in told] + [fp for fp in resolved if fp in told]
        rank = dict.fromkeys(changed, 0)
        ordered = sorted(
            shown, key=lambda a: rank.get(a.fingerprint, 1 if a.state is AlertState.FIRING else 2)
        )  # stable: within a rank, in order of arrival
        dedup_key, supersedes = group.dedup_key, ""
        if group.incident and incident is not None:
            dedup_key = self._keys.get(incident.id, incident.dedup_key)
            if reason is NotifyReason.MERGED and log is not None:
                dedup_key = log.dedup_key
                supersedes = self._living_key(incident)
        seq = log.seq + 1 if log is not None else 1
        return Notification(
            id=content_id("notification", group.key, group.receiver, integration, seq, repr(stamp)),
            receiver=group.receiver,
            integration=integration,
            group_key=group.key,
            dedup_key=dedup_key,
            action=action_of(reason),
            reason=reason,
            stamp=stamp,
            group_labels=group.labels,
            alerts=tuple(ordered[:ALERT_LIMIT]),
            changed=tuple(changed[:ALERT_LIMIT]),
            incident=incident,
            supersedes=supersedes,
            external_url=self._external_url,
            truncated=max(0, len(ordered) - ALERT_LIMIT),
        )

    def _living_key(self, incident: Incident) -> str:
        """dedup_key of the incident into which this one was merged, to the end of the chain."""
        while (into := self._incidents.get(incident.merged_into)) is not None:
            incident = into
        return self._keys.get(incident.id, incident.dedup_key)

    def _logged(
        self,
        log: LogEntry | None,
        note: Notification,
        reason: NotifyReason,
        firing: dict[str, None],
        resolved: dict[str, None],
        incident: Incident | None,
    ) -> LogEntry:
        acked_at = incident.acked_at if incident is not None and is_acked(incident, note.stamp) else 0.0
        seq = log.seq + 1 if log is not None else 1
        if reason is NotifyReason.ACKNOWLEDGED and log is not None:
            return msgspec.structs.replace(log, acked_at=acked_at, seq=seq)  # new alerts are still to be told
        return LogEntry(
            at=note.stamp,
            firing=firing,
            resolved=resolved,
            seq=seq,
            open=note.action is not Action.RESOLVE,
            dedup_key=note.dedup_key,
            root=root_name(incident) if incident is not None else "",
            acked_at=acked_at,
        )

    def _held(
        self,
        group: _Group,
        incident: Incident | None,
        firing: Mapping[str, None],
        silenced: Mapping[str, None],
        inhibited: Mapping[str, None],
        told: bool,
        stamp: float,
    ) -> list[Effect]:
        """The audit line of a page that was held back; one for each new reason, not one for each tick."""
        reason, text = "", ""
        silent = not group.logs and not told
        alive = incident is None or incident.state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
        if told or not self._integrations.get(group.receiver):
            pass
        elif not alive:
            if silent and incident is not None and incident.state is IncidentState.RESOLVED and not group.held:
                reason = "late" if incident.late else "short-lived"
                text = "it was over before it could be announced"
        elif not firing and (silenced or inhibited):
            reason = "silenced" if silenced else "inhibited"
            text = f"by {', '.join([*silenced, *inhibited])}"
        elif firing and silent and group.incident and incident is not None and is_acked(incident, stamp):
            reason, text = "acknowledged", f"by {incident.acked_by}"
        elif group.incident and silent and not firing and any(not group.pages(a) for a in group.alerts.values()):
            reason, text = "anomaly-only", "only anomalies fire, and page_anomalies is off"
        if reason == "":
            group.held = "" if told else group.held
            return []
        if group.held == f"{reason} {text}":
            return []
        group.held = f"{reason} {text}"
        entry = AuditEntry(
            incident=group.incident or (incident.id if incident is not None else ""),
            stamp=stamp,
            kind="suppressed",
            text=f"{group.receiver}: {text}",
            reason=reason,
        )
        return [Audit(entry=entry)]

    def _settle(self, group: _Group, incident: Incident | None, again: bool, on_grid: bool, stamp: float) -> None:
        """After a flush: what leaves the group, and when it must be looked at again."""
        over = group.incident and (incident is None or incident.state in (IncidentState.RESOLVED, IncidentState.MERGED))
        if on_grid:
            group.grid = stamp
        if over or not group.incident:
            for fp in [fp for fp, a in group.alerts.items() if a.state is AlertState.RESOLVED]:
                del group.alerts[fp]
                left = tuple(gid for gid in self._member.get(fp, ()) if gid != group.id)
                if left:
                    self._member[fp] = left
                else:
                    self._member.pop(fp, None)
        if over:
            group.grid = 0.0  # if it reopens, it waits like a new one
            return
        if not group.alerts and not group.incident:
            self._drop(group)
            if group.logs:
                repeat = self._repeat(group)
                self._remember(group.id, stamp + 2 * repeat, group.logs)
            while self._log_ends and self._log_ends[0][0] <= stamp:
                until, gid = heapq.heappop(self._log_ends)
                if gid in self._old_logs and self._old_logs[gid][0] == until:
                    del self._old_logs[gid]
            return
        at = stamp if again else self._next_look(group, incident, stamp)
        if at is not None:
            self._arm(group, max(self._tick(group, at), self._next_tick(group, stamp)))

    def _remember(self, gid: tuple[str, str], until: float, logs: dict[str, LogEntry]) -> None:
        self._old_logs[gid] = (until, logs)
        heapq.heappush(self._log_ends, (until, gid))

    def _next_look(self, group: _Group, incident: Incident | None, stamp: float) -> float | None:
        """The earliest stamp at which something can be due although nothing more arrives; None: never."""
        firing = any(a.state is AlertState.FIRING and group.pages(a) for a in group.alerts.values())
        if not firing or not self._integrations.get(group.receiver):
            return None if group.incident or firing else stamp
        repeat = self._repeat(group)
        at = min((log.at + repeat for log in group.logs.values()), default=inf)
        if group.incident and incident is not None and is_acked(incident, stamp):
            at = incident.ack_until if incident.ack_until else inf
        return None if at == inf else at

    # ------------------------------------------------------------------ snapshot

    def snapshot(self) -> dict[str, Any]:
        """All state as plain data."""
        return {
            "version": VERSION,
            "tree": self._identity(),
            "order": self._order,
            "groups": [
                {
                    "receiver": g.receiver,
                    "key": g.key,
                    "dedup_key": g.dedup_key,
                    "labels": dict(g.labels),
                    "incident": g.incident,
                    "routes": list(g.routes),
                    "order": g.order,
                    "page_anomalies": g.page_anomalies,
                    "alerts": list(g.alerts),
                    "due": g.due,
                    "grid": g.grid,
                    "logs": {name: msgspec.to_builtins(log) for name, log in g.logs.items()},
                    "held": g.held,
                }
                for g in self._groups.values()
            ],
            "alerts": {fp: msgspec.to_builtins(self._groups[gids[0]].alerts[fp]) for fp, gids in self._member.items()},
            "old_logs": [
                [*gid, until, {name: msgspec.to_builtins(log) for name, log in logs.items()}]
                for gid, (until, logs) in self._old_logs.items()
            ],
            "incidents": msgspec.to_builtins(list(self._incidents.values())),
            "keys": dict(self._keys),
            "firing": {fp: dict(labels) for fp, labels in self._inhibitor.firing.items()},
        }

    def _identity(self) -> str:
        """Of the tree, as far as snapshots depend on it: with another one, groups are made anew."""
        return content_id(
            *(
                (r.key, r.receiver, r.group_by, r.group_wait, r.group_interval, r.repeat_interval, r.page_anomalies)
                for r in self._routes
            ),
            sorted(self._integrations.items()),
        )

    def _resume(self, state: Mapping[str, Any]) -> None:
        if state["version"] > VERSION:
            raise ValueError(f"cannot resume routing from version {state['version']}")
        for incident in msgspec.convert(state["incidents"], list[Incident]):
            self._learn(incident)
        self._keys = dict(state["keys"])
        for fp, labels in state["firing"].items():
            self._inhibitor.set(fp, dict(labels))
        alerts = msgspec.convert(state["alerts"], dict[str, Alert])
        for receiver, key, until, entries in state["old_logs"]:
            self._remember((receiver, key), until, msgspec.convert(entries, dict[str, LogEntry]))
        same = state["tree"] == self._identity()
        self._order = state["order"]
        before: dict[tuple[str, str], dict[str, Any]] = {}
        for raw in state["groups"]:
            gid = (raw["receiver"], raw["key"])
            before[gid] = raw
            if same:
                self._restore(gid, raw, list(raw["routes"]), {fp: alerts[fp] for fp in raw["alerts"]})
        if not same:
            self._regroup(alerts, before)
        for gid, group in self._groups.items():
            for fp in group.alerts:
                self._member[fp] = (*self._member.get(fp, ()), gid)

    def _restore(
        self, gid: tuple[str, str], raw: Mapping[str, Any], indices: list[int], alerts: dict[str, Alert]
    ) -> _Group:
        group = _Group(
            receiver=gid[0],
            key=gid[1],
            dedup_key=raw["dedup_key"],
            labels=dict(raw["labels"]),
            incident=raw["incident"],
            routes=indices,
            order=raw["order"],
            page_anomalies=any(self._routes[i].page_anomalies for i in indices),
            alerts=alerts,
            grid=raw["grid"],
            logs=msgspec.convert(raw["logs"], dict[str, LogEntry]),
            held=raw["held"],
        )
        self._add(group)
        if raw["due"] is not None:
            self._arm(group, raw["due"])
        return group

    def _regroup(self, alerts: Mapping[str, Alert], before: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Another tree: every alert is routed anew; a group of the same key and receiver keeps its log and timers.

        What a receiver was told that no route reaches any more stays as it is there: nobody is configured to tell it.
        """
        for alert in alerts.values():
            for gid, found in self._targets(alert, self._incidents.get(alert.incident)).items():
                indices = [r.index for r in found]
                group = self._groups.get(gid)
                if group is None and gid in before:
                    group = self._restore(gid, before[gid], indices, {})
                elif group is None:
                    group = self._open(gid, found[0], alert, self._incidents.get(alert.incident), alert.updated_at)
                    self._arm(group, alert.updated_at + self._wait(indices))
                group.routes += [i for i in indices if i not in group.routes]
                group.page_anomalies = any(self._routes[i].page_anomalies for i in group.routes)
                group.alerts[alert.fingerprint] = alert
                if group.due is None and group.logs:
                    self._arm(group, self._tick(group, group.grid))
        for gid, raw in before.items():
            known = {r.receiver: r.index for r in reversed(self._routes)}
            if gid not in self._groups and raw["incident"] and gid[0] in known:
                self._restore(gid, raw, [known[gid[0]]], {})  # its alerts are over, its page may be open


def _incident_key(incident_id: str) -> str:
    return f"incident:{incident_id}"


def _group_labels(route: Route, labels: Mapping[str, str]) -> Labels:
    names = route.group_by or ()
    if "..." in names:
        return {k: labels[k] for k in sorted(labels)}
    return {k: labels[k] for k in sorted(names) if labels.get(k, "")}


def _group_labels_text(labels: Mapping[str, str]) -> str:
    """As in Alertmanager's groupKey: `{alertname="X", cluster="a"}` with Go's quoting."""
    return "{" + ", ".join(f"{k}={_go_quote(v)}" for k, v in labels.items()) + "}"


def _go_quote(text: str) -> str:
    """strconv.Quote for what label values hold: backslash, quote and control characters are escaped."""
    named = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b"}
    named |= {"\f": "\\f", "\v": "\\v"}
    return '"' + "".join(named.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text) + '"'
