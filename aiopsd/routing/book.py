"""All groups with their timers and logs, and what is known of the incidents that they tell of."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil, inf, nextafter

import msgspec

from aiopsd.config import Config, receivers
from aiopsd.errors import ConfigError
from aiopsd.model import Alert, AlertState, Incident, IncidentState, Labels
from aiopsd.routing.decision import LogEntry
from aiopsd.routing.tree import Route, group_labels, group_labels_text, incident_key, muted_by, routes

GroupId = tuple[str, str]  # receiver, key
# s; an alert older than group_wait has no company to wait for but what is queued right behind it: a backlog is read
# within seconds, and what stands between two of its alerts may show that they are one incident
BACKLOG_WAIT = 5.0


@dataclass(slots=True)
class Group:
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
    def id(self) -> GroupId:
        return self.receiver, self.key

    @property
    def announced(self) -> bool:
        """Some receiver has an open item of it."""
        return any(log.open for log in self.logs.values())

    def pages(self, alert: Alert) -> bool:
        """May this alert make a page by itself?"""
        return self.page_anomalies or not alert.anomaly


class Book:
    """The groups by id, in order of creation, and the routes that lead to them. What is due is found by its timer."""

    def __init__(self, config: Config) -> None:
        self.tree = routes(config)
        self.routes = list(self.tree.walk())
        self.integrations: dict[str, list[tuple[str, bool]]] = {}  # receiver -> (name, send_resolved)
        for receiver, kind, index, raw, path in receivers(config):
            send_resolved = raw.get("send_resolved", True)
            if not isinstance(send_resolved, bool):
                raise ConfigError("Expected `bool`", f"{path}.send_resolved")
            self.integrations.setdefault(receiver, []).append((f"{kind}[{index}]", send_resolved))
        self.groups: dict[GroupId, Group] = {}
        self.by_incident: dict[str, list[GroupId]] = {}  # its groups, in order of creation
        self.member: dict[str, tuple[GroupId, ...]] = {}  # alert -> its groups
        self.incidents: dict[str, Incident] = {}
        self.keys: dict[str, str] = {}  # incident -> adopted dedup_key
        self.old_logs: dict[GroupId, tuple[float, dict[str, LogEntry]]] = {}  # of empty label groups: until
        self.log_ends: list[tuple[float, GroupId]] = []
        self.timers: list[tuple[float, int, int, GroupId]] = []
        self.order = 0

    # ------------------------------------------------------------------ groups

    def targets(self, alert: Alert, incident: Incident | None) -> dict[GroupId, list[Route]]:
        """Ids of the groups where this alert belongs, each with the routes that lead there."""
        found: dict[GroupId, list[Route]] = {}
        for route in self.tree.match(alert.labels):
            if route.group_by is None:
                if incident is None:
                    continue  # it opens nothing: the stage has said why
                gid = (route.receiver, incident_key(incident.id))
            elif alert.anomaly and not route.page_anomalies:
                continue  # joins and explains; a label group has no incident to explain
            else:
                gid = (route.receiver, f"{route.key}:{group_labels_text(group_labels(route, alert.labels))}")
            found.setdefault(gid, []).append(route)
        return found

    def open(self, gid: GroupId, route: Route, alert: Alert, incident: Incident | None, stamp: float) -> Group:
        """A new group, for an alert that is about to be its first; it remembers what its like was told."""
        receiver, key = gid
        by_incident = route.group_by is None and incident is not None
        self.order += 1
        group = Group(
            receiver=receiver,
            key=key,
            dedup_key="" if by_incident else sha256(key.encode()).hexdigest(),
            labels={"incident": incident.id} if by_incident and incident else group_labels(route, alert.labels),
            incident=incident.id if by_incident and incident else "",
            routes=[route.index],
            order=self.order,
            page_anomalies=route.page_anomalies,
        )
        until, logs = self.old_logs.pop(gid, (0.0, {}))  # its end in the heap is stale then
        if stamp < until:
            group.logs = logs
        return self.add(group)

    def insert(self, group: Group, alert: Alert, found: list[Route], stamp: float) -> None:
        """Put an alert in, and arm the timer if it is news."""
        old = group.alerts.get(alert.fingerprint)
        group.page_anomalies = group.page_anomalies or any(r.page_anomalies for r in found)
        group.alerts[alert.fingerprint] = alert
        if old is not None and old.state is alert.state:
            return
        wait = min(r.group_wait for r in found)
        if alert.starts_at + wait < stamp:
            wait = min(wait, BACKLOG_WAIT) if group.incident else 0.0  # for label groups as Alertmanager does
        first = stamp + wait
        if not group.incident:
            self.arm(group, self.next_tick(group, stamp) if group.grid else first)
        elif group.announced:
            self.arm(group, self.next_tick(group, stamp))
        elif alert.state is AlertState.FIRING and (group.pages(alert) or not group.grid):
            self.arm(group, first)

    def add(self, group: Group) -> Group:
        """Make it findable."""
        self.groups[group.id] = group
        if group.incident:
            self.by_incident.setdefault(group.incident, []).append(group.id)
        return group

    def drop(self, group: Group) -> None:
        """Forget a group; its alerts leave it."""
        del self.groups[group.id]
        if group.incident:
            self.by_incident[group.incident].remove(group.id)
            if not self.by_incident[group.incident]:
                del self.by_incident[group.incident]
        for fp in group.alerts:
            self.leave(fp, group.id)

    def leave(self, fp: str, gid: GroupId) -> None:
        """An alert is in this group no longer."""
        left = tuple(other for other in self.member.get(fp, ()) if other != gid)
        if left:
            self.member[fp] = left
        else:
            self.member.pop(fp, None)

    def groups_of(self, incident_id: str) -> list[Group]:
        """The groups that tell of an incident, in order of creation."""
        return [self.groups[gid] for gid in self.by_incident.get(incident_id, ())]

    def merge(self, groups: list[Group], incident: Incident, stamp: float) -> None:
        """Decide which dedup_key lives on: the survivor's, unless only the other one has been told to anybody."""
        survivor = incident.merged_into
        adopt = not any(g.announced for g in self.groups_of(survivor))
        for group in groups:
            logs = {name: log for name, log in group.logs.items() if log.open}
            gid = (group.receiver, incident_key(survivor))
            heir = self.groups.get(gid)
            if not logs:
                if heir is not None and group.due is not None and heir.due is not None and not heir.grid:
                    self.arm(heir, max(group.due, stamp))  # whoever waited longer sets the end of the wait
                continue
            if not adopt:
                if heir is not None and not heir.announced:
                    self.arm(heir, stamp)  # this receiver knew the other one: it hears of the survivor at once
                continue
            if heir is None:
                self.order += 1
                heir = Group(
                    receiver=group.receiver,
                    key=gid[1],
                    dedup_key="",
                    labels={"incident": survivor},
                    incident=survivor,
                    routes=list(group.routes),
                    order=self.order,
                    page_anomalies=group.page_anomalies,
                )
                self.add(heir)
            for name, log in logs.items():
                seq = max(log.seq, heir.logs[name].seq if name in heir.logs else 0)
                heir.logs[name] = msgspec.structs.replace(log, seq=seq)
                group.logs[name] = msgspec.structs.replace(log, open=False)
                self.keys[survivor] = log.dedup_key
            heir.grid, heir.due = group.grid, None
            self.arm(heir, self.next_tick(heir, stamp))

    def living(self, incident: Incident) -> tuple[str, str]:
        """(dedup_key, title) of the incident into which this one was merged, to the end of the chain."""
        while (into := self.incidents.get(incident.merged_into)) is not None:
            incident = into
        return self.keys.get(incident.id, incident.dedup_key), incident.title

    def muted_by(self, group: Group, alert: Alert, stamp: float) -> tuple[str, ...]:
        """Names of the time intervals that mute each route by which an alert came here; (): one of them may tell."""
        if not any(self.routes[i].mute or self.routes[i].active for i in group.routes):
            return ()
        return muted_by(self.targets(alert, self.incidents.get(alert.incident)).get(group.id, []), stamp)

    # ------------------------------------------------------------------ timers

    def arm(self, group: Group, due: float) -> None:
        """Flush it at `due`, unless it is to be flushed sooner."""
        if group.due is not None and group.due <= due:
            return
        if group.incident and not self.integrations.get(group.receiver):
            return  # nobody to tell
        group.due = due
        incident = self.incidents.get(group.incident)
        late = 1 if incident is not None and incident.state is IncidentState.MERGED else 0
        heapq.heappush(self.timers, (due, late, group.order, group.id))  # the survivor pages before the other closes

    def tick(self, group: Group, at: float) -> float:
        """The first point of the group_interval grid after the last flush that is not before `at`."""
        interval = min(self.routes[i].group_interval for i in group.routes)
        n = max(1, ceil((at - group.grid) / interval))
        tick = group.grid + n * interval
        return tick if tick >= at else group.grid + (n + 1) * interval  # rounding

    def next_tick(self, group: Group, stamp: float) -> float:
        """The first point of the grid after `stamp`: the one at it has fired before the record came."""
        tick = self.tick(group, stamp)
        return tick if tick > stamp else self.tick(group, nextafter(tick, inf))

    def repeat(self, group: Group) -> float:
        """repeat_interval (s): the shortest of the routes that lead there."""
        return min(self.routes[i].repeat_interval for i in group.routes)

    def wait(self, indices: Iterable[int]) -> float:
        """group_wait (s): the shortest of these routes."""
        return min(self.routes[i].group_wait for i in indices)

    def wake_at(self) -> float | None:
        """Stamp of the earliest flush; None: nothing is due as things are."""
        while self.timers:
            due, _, _, gid = self.timers[0]
            group = self.groups.get(gid)
            if group is not None and group.due == due:
                return due
            heapq.heappop(self.timers)
        return None

    def pop(self) -> tuple[float, Group]:
        """The group whose timer is the earliest, and when that is; call after `wake_at`."""
        due, _, _, gid = heapq.heappop(self.timers)
        group = self.groups[gid]
        group.due = None
        return due, group

    def postpone(self, due: float) -> None:
        """Flush the group whose timer is the earliest at `due` instead."""
        _, late, order, gid = heapq.heappop(self.timers)
        self.groups[gid].due = due
        heapq.heappush(self.timers, (due, late, order, gid))

    # ------------------------------------------------------------------ logs of groups that are empty

    def remember(self, gid: GroupId, until: float, logs: dict[str, LogEntry]) -> None:
        """Keep what was told of a group that holds nothing any more: it may come back."""
        self.old_logs[gid] = (until, logs)
        heapq.heappush(self.log_ends, (until, gid))

    def forget_logs(self, stamp: float) -> None:
        """Drop the logs whose time is over."""
        while self.log_ends and self.log_ends[0][0] <= stamp:
            until, gid = heapq.heappop(self.log_ends)
            if gid in self.old_logs and self.old_logs[gid][0] == until:
                del self.old_logs[gid]
