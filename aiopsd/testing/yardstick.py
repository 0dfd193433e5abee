"""The journal as the yardstick: what a daemon decided against one undisturbed pass over what it had recorded."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from aiopsd.config import read
from aiopsd.model import Anomaly, Append, JournalRecord, LogRecord, Notification
from aiopsd.pipeline import detect
from aiopsd.replay import decide
from aiopsd.stores.sqlite import SqliteStore
from aiopsd.streams.journal import recorded


class Yardstick:
    """The recorded journal of a data folder whose daemon has stopped (or goes on: what is there by now)."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.records: list[JournalRecord] = list(recorded(data / "journal.db"))

    def origins(self, source: str) -> dict[int, list[int]]:
        """Offsets of a source's records in the journal, by partition, as often as they are there."""
        found: dict[int, list[int]] = defaultdict(list)
        for record in self.records:
            if record.origin is not None and record.origin.source == source:
                found[record.origin.partition].append(record.origin.offset)
        return dict(sorted(found.items()))

    def anomalies(self, source: str) -> dict[int, list[Any]]:
        """Every anomaly of a source, by partition, in the order of the journal, as plain data."""
        found: dict[int, list[Any]] = defaultdict(list)
        for record in self.records:
            if isinstance(record.body, Anomaly) and record.origin is not None and record.origin.source == source:
                found[record.origin.partition].append(msgspec.to_builtins(record.body))
        return dict(sorted(found.items()))

    async def decisions(self, config_file: Path) -> None:
        """
        Raises:
            AssertionError: incidents or notifications in the store are not those of a replay of the journal.
        """
        store = SqliteStore(self.data / "store.db", time.time)
        await store.start()
        try:
            committed, _, _ = await store.position()  # a tick may be in the journal that a stop left for the next start
            incidents = {i.id: i for i in await store.incidents(limit=100_000)}
            states = ("pending", "delivered", "superseded", "failed")
            outbox = await store.outbox(states=states, limit=100_000)
        finally:
            await store.stop()
        expected = decide(read(config_file)[0], [r for r in self.records if r.offset <= committed])
        for key in sorted(expected.incidents.keys() | incidents.keys()):
            one, two = expected.incidents.get(key), incidents.get(key)
            assert one == two, f"replayed: {one}\nin the store: {two}"
        notifications = [row.item for row in outbox if isinstance(row.item, Notification)]
        replayed = list(expected.notifications.values())
        for a, b in zip(replayed, notifications, strict=False):
            assert a == b, f"replayed: {a}\nin the store: {b}"
        assert len(replayed) == len(notifications), f"{len(replayed)} replayed, {len(notifications)} in the store"


def undisturbed(
    config_file: Path, source: str, records: Mapping[int, Sequence[LogRecord]], *, step: int = 1000
) -> dict[int, list[Any]]:
    """The anomalies, as plain data, of one DetectStage per partition that nobody interrupts."""
    config, _ = read(config_file)
    found = {}
    for partition, part in sorted(records.items()):
        stage = detect.build(config, source, partition)
        effects: Iterable[Any] = [e for at in range(0, len(part), step) for e in stage.step(part[at : at + step])]
        events = [e.body for e in effects if isinstance(e, Append) and isinstance(e.body, Anomaly)]
        if events:
            found[partition] = [msgspec.to_builtins(e) for e in events]
    return found
