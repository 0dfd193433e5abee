"""IngestHost: a log of alerts, topology or changes into the journal, once per origin.

The journal's high-water mark is the position: a record is behind us when its bodies are in the journal.
"""

import asyncio
from collections.abc import Mapping, Sequence

from aiopsd.config import SourceConfig
from aiopsd.decode import decode_alerts, decode_changes, decode_topology
from aiopsd.errors import DecodeError, StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import AlertBatch, Body, LogRecord, Reject, SourcePos
from aiopsd.protocols import Clock, Journal, Stream
from aiopsd.runtime.dead import DeadLetters
from aiopsd.runtime.watch import SourceWatch, recreated

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


class IngestHost:
    """Owner of the partitions of one log of alerts, topology or changes."""

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
            await self._append(bodies, origins)
        self.metrics.records.labels(self.source.name).inc(len(records))
        self.metrics.alerts.labels(self.source.name).inc(taken)
        await self.stream.trim({r.partition: r.offset + 1 for r in records})

    async def _append(self, bodies: Sequence[Body], origins: Sequence[SourcePos | None]) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self.journal.append(bodies, origins)
                self.watch.well()
                return
            except (StoreError, StreamError) as e:
                self.metrics.write_errors.labels("journal").inc()
                self.watch.waits(e)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST)

    async def finish(self, timeout: float) -> None:
        """Poll no more: nothing is held between polls, and what was polled and not appended is read again."""
        self._stopped = True

    async def stop(self) -> None:
        await self.stream.stop()
