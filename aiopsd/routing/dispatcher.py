"""The dispatcher: alerts and incidents in, notifications that are due out."""

from collections.abc import Mapping
from typing import Any

from aiopsd.config import Config
from aiopsd.model import Alert, AlertState, Effect, Incident, IncidentState, Labels, NotifyReason
from aiopsd.routing import snapshot
from aiopsd.routing.book import Book
from aiopsd.routing.decision import is_acked, root_changed
from aiopsd.routing.flush import Flusher
from aiopsd.routing.inhibition import Inhibitor
from aiopsd.silences import SilenceBook


class Dispatcher:
    """Turns alerts and incidents into notifications that are due; the stage composes it, the outbox delivers them.

    Call `alert` for every alert that is new, changed or resolved (a re-send that only moves the end is none), after
    the stage has decided its incident; `incident` when an incident changed; `due` at every stamp not before
    `wake_at()`. State and decisions follow from the sequence of calls alone.
    """

    def __init__(self, config: Config, silences: SilenceBook, resume: Mapping[str, Any] | None = None) -> None:
        self._book = Book(config)
        self._inhibitor = Inhibitor(config)
        external_url = config.http.external_url or f"http://{config.http.listen}"
        self._flusher = Flusher(self._book, silences, self._inhibitor, external_url)
        if resume is not None:
            snapshot.resume(self._book, self._inhibitor, resume)

    # ------------------------------------------------------------------ what the stage tells

    def alert(self, alert: Alert, incident: Incident | None, stamp: float) -> None:
        """A new, changed or resolved alert, with the incident it belongs to now (None: none)."""
        book, fp = self._book, alert.fingerprint
        firing = alert.state is AlertState.FIRING
        self._inhibitor.set(fp, alert.labels if firing else None)
        if incident is not None:
            book.incidents[incident.id] = incident
        wanted = book.targets(alert, incident)
        for gid in book.member.get(fp, ()):
            if gid not in wanted and (group := book.groups.get(gid)) is not None:
                group.alerts.pop(fp, None)  # it belongs to another incident now, or its labels changed
                if not group.incident:
                    book.arm(group, book.next_tick(group, stamp) if group.grid else stamp)
        inside = []
        for gid, found in wanted.items():
            group = book.groups.get(gid)
            if group is None:
                if not firing:
                    continue  # the end of what this group never held
                group = book.open(gid, found[0], alert, incident, stamp)
            elif not firing and fp not in group.alerts:
                continue
            for route in found:
                if route.index not in group.routes:
                    group.routes.append(route.index)
            book.insert(group, alert, found, stamp)
            inside.append(gid)
        if inside:
            book.member[fp] = tuple(inside)
        else:
            book.member.pop(fp, None)

    def incident(self, incident: Incident, stamp: float, reason: NotifyReason | None = None) -> str:
        """An incident changed; returns the dedup_key that it has from now on (another one only after a merge).

        Tell of a merge in this order: the moved alerts (`alert`, with the survivor), the one that was merged away
        (state MERGED), the survivor; the survivor's dedup_key is in the last answer. `reason` None is a quiet
        refresh of what the next notification shows.
        """
        book = self._book
        book.incidents[incident.id] = incident
        groups = book.groups_of(incident.id)
        if incident.state is IncidentState.MERGED:
            book.merge(groups, incident, stamp)
        for group in groups:
            logs = [log for log in group.logs.values() if log.open]
            if incident.state in (IncidentState.RESOLVED, IncidentState.MERGED):
                book.arm(group, stamp)
            elif logs:
                acked_at = incident.acked_at if is_acked(incident, stamp) else 0.0
                if any(log.acked_at != acked_at for log in logs):
                    book.arm(group, stamp)  # an acknowledgement is told at once, and so is its end
                elif changed := [log for log in logs if root_changed(log.root, incident)]:
                    first = [log.at for log in changed if log.seq == 1]  # only the page went out so far
                    tick = book.next_tick(group, stamp)
                    soon = max(stamp, min(first) + book.wait(group.routes)) if first else tick
                    book.arm(group, min(soon, tick))
            elif reason is NotifyReason.REOPENED and any(a.state is AlertState.FIRING for a in group.alerts.values()):
                book.arm(group, stamp + book.wait(group.routes))
        return book.keys.get(incident.id, incident.dedup_key)

    def forget(self, incident: Incident) -> None:
        """It left the stage's memory: drop its groups and what was told of it."""
        self._book.incidents.pop(incident.id, None)
        self._book.keys.pop(incident.id, None)
        for group in self._book.groups_of(incident.id):
            self._book.drop(group)

    # ------------------------------------------------------------------ timers

    def wake_at(self) -> float | None:
        """Stamp of the earliest flush; None: nothing is due as things are."""
        return self._book.wake_at()

    def due(self, stamp: float) -> list[Effect]:
        """Flush every group whose timer is due at or before `stamp`, each at its own time, in order."""
        effects: list[Effect] = []
        while (due := self.wake_at()) is not None and due <= stamp:
            effects += self.flush_next()
        return effects

    def next_incident(self) -> str:
        """The incident that the earliest flush is about; "" when it is none's, or nothing is due as things are."""
        return self._book.groups[self._book.timers[0][3]].incident if self.wake_at() is not None else ""

    def postpone(self, due: float) -> None:
        """Flush the group whose timer is the earliest at `due` instead."""
        self._book.postpone(due)

    def flush_next(self) -> list[Effect]:
        """Flush the group whose timer is the earliest, at its own time."""
        due, group = self._book.pop()
        return self._flusher.flush(group, due)

    # ------------------------------------------------------------------ what the API asks

    def muted(self, alert: Alert, stamp: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(ids of silences, fingerprints of inhibiting alerts) that keep this alert quiet at `stamp`."""
        return self._flusher.muted(alert, stamp)

    def groups(self) -> list[tuple[str, Labels, tuple[Alert, ...]]]:
        """(receiver, group labels, alerts) of every group that holds alerts, in order of creation."""
        return [(g.receiver, g.labels, tuple(g.alerts.values())) for g in self._book.groups.values() if g.alerts]

    def snapshot(self) -> dict[str, Any]:
        """All state as plain data."""
        return snapshot.snapshot(self._book, self._inhibitor)
