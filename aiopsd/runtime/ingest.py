"""Logs that are read to be written elsewhere: into the journal, or into the metric log by service.

The journal's high-water mark of a source is its position. For alerts, topology and changes it moves with their bodies:
a record is behind us when they are in the journal. For metrics that are keyed by anything but the service it moves
after they are in the local metric log: after a crash some are there twice, and a sample counts once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiopsd.config import SourceConfig
from aiopsd.decode import decode_alerts, decode_changes, decode_topology, split_samples
from aiopsd.errors import DecodeError, StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import AlertBatch, Body, Entry, LogRecord, Reject, SourcePos
from aiopsd.protocols import Clock, Journal, Stream
from aiopsd.runtime.dead import DeadLetters
from aiopsd.runtime.watch import SourceWatch, recreated
from aiopsd.services import ServiceMapper

POLL_RECORDS = 1000
RETRY_FIRST, RETRY_MOST = 0.2, 5.0


def decode(kind: str, format: str, record: LogRecord) -> tuple[list[Body], list[Reject]]:
    """The bodies of one record and what of it was refused.

    A record of which nothing can be used is one whole Reject; bad items beside good ones are counted only.
    """
    try:
        if kind == "alerts":
            alerts, bad = decode_alerts(record.value, format)
            rejects = [
                Reject(
                    pos=record.pos, reason=reason, detail=f"alert {i}: {detail}", whole=not alerts and i == bad[0][0]
                )
                for i, reason, detail in bad
            ]
            if not alerts:
                return [], rejects
            return [AlertBatch(alerts=tuple(alerts), sender=format, sent_at=record.stamp)], rejects
        if kind == "topology":
            return [decode_topology(record.value, record.source)], []
        return list(decode_changes(record.value)), []
    except DecodeError as e:
        return [], [Reject(pos=record.pos, reason=e.reason, detail=e.detail)]


class LogHost:
    """Owner of the partitions of one log whose position is the journal's mark; subclasses say what to do with it."""

    def __init__(
        self,
        *,
        source: SourceConfig,
        stream: Stream,
        journal: Journal,
        dead: DeadLetters,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.source, self.stream, self.journal = source, stream, journal
        self.dead, self.metrics, self.clock = dead, metrics, clock
        self.watch = SourceWatch(source.name, stream, metrics, clock)
        self._stopped = False

    async def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Behind the last record of each partition that the journal holds."""
        water = await self.journal.high_water(self.source.name)
        return {p: water[p] + 1 if p in water else None for p in partitions}

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Nothing is held between polls."""

    async def run(self) -> None:
        """Poll, decode, append until `finish` or cancelled."""
        await self.watch.start(self)
        while not self._stopped:
            try:
                records = await self.stream.poll(POLL_RECORDS, 1.0)
            except StreamError as e:
                if not e.retry:
                    raise
                self.watch.waits(e)
                await asyncio.sleep(RETRY_FIRST)
                continue
            self.watch.well()
            for gap in self.watch.gaps():
                if recreated(gap):
                    await self.journal.rebase(self.source.name, gap.partition, gap.earliest)
            if records:
                await self._take(records)
            if not self._stopped:
                await self.watch.look()

    async def _take(self, records: Sequence[LogRecord]) -> None:
        raise NotImplementedError  # each subclass says what to do with the records of one poll

    async def _until_written(self, write: Callable[[], Awaitable[object]], what: str) -> None:
        """Write, however often it takes: the source waits, its log keeps what comes meanwhile."""
        pause = RETRY_FIRST
        while True:
            try:
                await write()
                self.watch.well()
                return
            except (StoreError, StreamError) as e:
                self.metrics.write_errors.labels(what).inc()
                self.watch.waits(e)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST)

    async def finish(self, timeout: float) -> None:
        """Poll no more: nothing is held between polls, and what was polled and not appended is read again."""
        self._stopped = True

    async def stop(self) -> None:
        await self.stream.stop()


class IngestHost(LogHost):
    """A log of alerts, topology or changes into the journal, once per origin."""

    async def _take(self, records: Sequence[LogRecord]) -> None:
        bodies: list[Body] = []
        origins: list[SourcePos | None] = []
        rejects: list[Reject] = []
        taken = 0
        for record in records:
            good, bad = decode(self.source.kind, record.format, record)
            rejects += bad
            bodies += good
            origins += [record.pos] * len(good)
            taken += sum(len(b.alerts) for b in good if isinstance(b, AlertBatch))
        if rejects:  # before the journal's mark moves past them: a source that stops here begins again with these
            await self.dead.take(self.stream, rejects, {(r.partition, r.offset): r for r in records})
        if bodies:
            await self._until_written(lambda: self.journal.append(bodies, origins), "journal")
        self.metrics.records.labels(self.source.name).inc(len(records))
        self.metrics.alerts.labels(self.source.name).inc(taken)
        await self.stream.trim({r.partition: r.offset + 1 for r in records})


class RepartitionHost(LogHost):
    """A metric log that is not keyed by service into the local one that is: a service's series are scored together."""

    def __init__(self, *, metric_log: Stream, partitions: int, services: ServiceMapper, **rest: Any) -> None:
        super().__init__(**rest)
        self.metric_log, self.partitions, self.services = metric_log, partitions, services

    async def _take(self, records: Sequence[LogRecord]) -> None:
        entries: list[Entry] = []
        rejects: list[Reject] = []
        for record in records:
            try:
                parts = split_samples(record.value, record.format, self.partitions, self.services)
            except DecodeError as e:
                rejects.append(Reject(pos=record.pos, reason=e.reason, detail=e.detail))
                continue
            entries += [Entry(value=value, format=record.format, partition=partition) for partition, value in parts]
        if rejects:
            await self.dead.take(self.stream, rejects, {(r.partition, r.offset): r for r in records})
        if entries:
            await self._until_written(lambda: self.metric_log.append(entries), "metric log")
        behind = {r.partition: r.offset + 1 for r in records}
        for partition, before in behind.items():
            await self._until_written(partial(self.journal.rebase, self.source.name, partition, before), "journal")
        self.metrics.records.labels(self.source.name).inc(len(records))
        await self.stream.trim(behind)
