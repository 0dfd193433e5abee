"""Routing's state as plain data, and back: under another tree every alert is routed anew."""

from collections.abc import Mapping
from typing import Any

import msgspec

from aiopsd.model import Alert, Incident, content_id
from aiopsd.routing.book import Book, Group, GroupId
from aiopsd.routing.decision import LogEntry
from aiopsd.routing.inhibition import Inhibitor

VERSION = 1


def snapshot(book: Book, inhibitor: Inhibitor) -> dict[str, Any]:
    """All state as plain data."""
    return {
        "version": VERSION,
        "tree": identity(book),
        "order": book.order,
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
            for g in book.groups.values()
        ],
        "alerts": {fp: msgspec.to_builtins(book.groups[gids[0]].alerts[fp]) for fp, gids in book.member.items()},
        "old_logs": [
            [*gid, until, {name: msgspec.to_builtins(log) for name, log in logs.items()}]
            for gid, (until, logs) in book.old_logs.items()
        ],
        "incidents": msgspec.to_builtins(list(book.incidents.values())),
        "keys": dict(book.keys),
        "firing": {fp: dict(labels) for fp, labels in inhibitor.firing.items()},
    }


def identity(book: Book) -> str:
    """Of the tree, as far as snapshots depend on it: with another one, groups are made anew."""
    return content_id(
        *(
            (r.key, r.receiver, r.group_by, r.group_wait, r.group_interval, r.repeat_interval, r.page_anomalies)
            for r in book.routes
        ),
        sorted(book.integrations.items()),
    )


def resume(book: Book, inhibitor: Inhibitor, state: Mapping[str, Any]) -> None:
    """Fill an empty book and inhibitor with what `snapshot` returned.

    Raises:
        ValueError: a newer version wrote it.
    """
    if state["version"] > VERSION:
        raise ValueError(f"cannot resume routing from version {state['version']}")
    for incident in msgspec.convert(state["incidents"], list[Incident]):
        book.incidents[incident.id] = incident
    book.keys = dict(state["keys"])
    for fp, labels in state["firing"].items():
        inhibitor.set(fp, dict(labels))
    alerts = msgspec.convert(state["alerts"], dict[str, Alert])
    for receiver, key, until, entries in state["old_logs"]:
        book.remember((receiver, key), until, msgspec.convert(entries, dict[str, LogEntry]))
    same = state["tree"] == identity(book)
    book.order = state["order"]
    before: dict[GroupId, dict[str, Any]] = {}
    for raw in state["groups"]:
        gid = (raw["receiver"], raw["key"])
        before[gid] = raw
        if same:
            restore(book, gid, raw, list(raw["routes"]), {fp: alerts[fp] for fp in raw["alerts"]})
    if not same:
        regroup(book, alerts, before)
    for gid, group in book.groups.items():
        for fp in group.alerts:
            book.member[fp] = (*book.member.get(fp, ()), gid)


def restore(book: Book, gid: GroupId, raw: Mapping[str, Any], indices: list[int], alerts: dict[str, Alert]) -> Group:
    group = Group(
        receiver=gid[0],
        key=gid[1],
        dedup_key=raw["dedup_key"],
        labels=dict(raw["labels"]),
        incident=raw["incident"],
        routes=indices,
        order=raw["order"],
        page_anomalies=any(book.routes[i].page_anomalies for i in indices),
        alerts=alerts,
        grid=raw["grid"],
        logs=msgspec.convert(raw["logs"], dict[str, LogEntry]),
        held=raw["held"],
    )
    book.add(group)
    if raw["due"] is not None:
        book.arm(group, raw["due"])
    return group


def regroup(book: Book, alerts: Mapping[str, Alert], before: Mapping[GroupId, Mapping[str, Any]]) -> None:
    """Another tree: every alert is routed anew; a group of the same key and receiver keeps its log and timers.

    What a receiver was told that no route reaches any more stays as it is there: nobody is configured to tell it.
    """
    for alert in alerts.values():
        for gid, found in book.targets(alert, book.incidents.get(alert.incident)).items():
            indices = [r.index for r in found]
            group = book.groups.get(gid)
            if group is None and gid in before:
                group = restore(book, gid, before[gid], indices, {})
            elif group is None:
                group = book.open(gid, found[0], alert, book.incidents.get(alert.incident), alert.updated_at)
                book.arm(group, alert.updated_at + book.wait(indices))
            group.routes += [i for i in indices if i not in group.routes]
            group.page_anomalies = any(book.routes[i].page_anomalies for i in group.routes)
            group.alerts[alert.fingerprint] = alert
            if group.due is None and group.logs:
                book.arm(group, book.tick(group, group.grid))
    for gid, raw in before.items():
        known = {r.receiver: r.index for r in reversed(book.routes)}
        if gid not in book.groups and raw["incident"] and gid[0] in known:
            restore(book, gid, raw, [known[gid[0]]], {})  # its alerts are over, its page may be open
