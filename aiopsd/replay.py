"""`aiopsd replay`: a recorded journal through a configuration, and what would have been decided.

The correlate stage is a function of the journal, so this is exact: under the configuration that was in force it prints
what happened, under another one what would have happened. Nothing is sent, nothing is written.
"""

from collections.abc import Iterable, Sized
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from aiopsd.config import Config, read
from aiopsd.errors import ConfigError
from aiopsd.model import Effect, Incident, JournalRecord, Notification, Notify, Retrain, RetrainRequest, Silence, Upsert
from aiopsd.pipeline.correlate import build
from aiopsd.streams.journal import recorded

STEP_RECORDS = 256


class Decided(msgspec.Struct, kw_only=True):
    """What a pass over a journal decided: the last word on each thing, and each notification once, in order."""

    first: int = -1
    last: int = -1
    incidents: dict[str, Incident] = {}
    silences: dict[str, Silence] = {}
    notifications: dict[str, Notification] = {}
    retrainings: dict[str, RetrainRequest] = {}

    def take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Upsert):
                if isinstance(effect.item, Incident):
                    self.incidents[effect.item.id] = effect.item
                elif isinstance(effect.item, Silence):
                    self.silences[effect.item.id] = effect.item
            elif isinstance(effect, Notify):
                self.notifications.setdefault(effect.notification.id, effect.notification)
            elif isinstance(effect, Retrain):
                self.retrainings.setdefault(f"{effect.trainer}/{effect.request.id}", effect.request)


def decide(config: Config, records: Iterable[JournalRecord]) -> Decided:
    """One undisturbed pass of the correlate stage."""
    stage = build(config)
    decided = Decided()
    batch: list[JournalRecord] = []

    def step() -> None:
        if batch:
            if decided.first < 0:
                decided.first = batch[0].offset
            decided.last = batch[-1].offset
            decided.take(stage.step(batch))
            batch.clear()

    for record in records:
        batch.append(record)
        if len(batch) == STEP_RECORDS:
            step()
    step()
    return decided


def _clock(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S") if ts else "-"


def _many(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'s' if len(things) != 1 else ''}"


def _line(incident: Incident) -> str:
    root = incident.root
    cause = f"{root.service or 'unknown upstream'} ({root.confidence:.0%})" if root else "no cause ranked"
    return (
        f"{incident.id}  {_clock(incident.opened_at)}  {incident.state:<12}  {incident.severity:<8}  "
        f"{len(incident.alerts):>4} alerts  root {cause}  {incident.title}"
    )


def _say(decided: Decided) -> list[str]:
    lines = [f"journal offsets {decided.first}..{decided.last}"]
    if decided.first > 0:
        lines.append(f"the journal no longer holds what came before offset {decided.first}: state of then is missing")
    lines += [_line(i) for i in sorted(decided.incidents.values(), key=lambda i: (i.opened_at, i.id))]
    lines.append(f"{_many(decided.incidents, 'incident')}, {_many(decided.notifications, 'notification')}")
    lines += [
        f"  {_clock(n.stamp)}  {n.destination}  {n.action:<11}  {n.reason}  {n.dedup_key}"
        for n in decided.notifications.values()
    ]
    lines += [f"  {_clock(r.requested_at)}  retrain {r.subject}: {r.reason}" for r in decided.retrainings.values()]
    return lines


def _differences(a: Decided, b: Decided) -> list[str]:
    lines: list[str] = []
    for key in sorted(a.incidents.keys() | b.incidents.keys()):
        one, two = a.incidents.get(key), b.incidents.get(key)
        if one is None or two is None:
            lines += [f"- {_line(one)}"] if one is not None else []
            lines += [f"+ {_line(two)}"] if two is not None else []
        elif (one.state, one.alerts, one.roots[:1]) != (two.state, two.alerts, two.roots[:1]):
            lines += [f"- {_line(one)}", f"+ {_line(two)}"]
    lines += [
        f"- {_clock(n.stamp)} {n.destination} {n.action} {n.reason}"
        for k, n in a.notifications.items()
        if k not in b.notifications
    ]
    lines += [
        f"+ {_clock(n.stamp)} {n.destination} {n.action} {n.reason}"
        for k, n in b.notifications.items()
        if k not in a.notifications
    ]
    lines.append(
        f"{len(a.incidents)} -> {len(b.incidents)} incidents, "
        f"{len(a.notifications)} -> {len(b.notifications)} notifications"
    )
    return lines


def main(config: Path, journal: Path, *, as_json: bool, against: Path | None) -> int:
    """Print the decisions, or with `against` what a second configuration would decide otherwise.

    Raises:
        ConfigError: a configuration is wrong.
        StreamError, Corrupt: there is no readable journal.
    """
    path = journal / "journal.db" if journal.is_dir() else journal
    if as_json and against is not None:
        raise ConfigError("--json prints decisions, --against prints differences: take one", "--against")
    decided = decide(read(config)[0], recorded(path))
    if against is not None:
        print("\n".join(_differences(decided, decide(read(against)[0], recorded(path)))))
    elif as_json:
        things: list[msgspec.Struct] = [*decided.incidents.values(), *decided.notifications.values()]
        things += [*decided.silences.values(), *decided.retrainings.values()]
        print("\n".join(msgspec.json.encode(thing).decode() for thing in things))
    else:
        print("\n".join(_say(decided)))
    return 0
