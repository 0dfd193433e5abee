"""Dead letters: what cannot be used is counted, logged and kept, with the reason beside it.

A stream that has a dead-letter log of its own (Kafka) takes whole records with reason headers; for the others they go
to a JSON-lines file in the data folder, which is bounded.
"""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
import structlog

from aiopsd.errors import StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import LogRecord, Reject
from aiopsd.protocols import Stream

MAX_BYTES = 64 * 1024 * 1024  # of the file; what comes later is counted and logged only
RETRY_SECONDS = 1.0
LOG_EVERY = 100  # of the same (source, reason), one in so many is logged: a broken sender must not fill the disk


@runtime_checkable
class HasDeadLetters(Protocol):
    """A stream with a place for refused records."""

    async def dead_letters(self, refused: Sequence[tuple[LogRecord, str, str]]) -> None:
        """(record, reason, detail) each. StreamError(retry=False): so many that the source must stop instead."""
        ...


class DeadLetters:
    """Takes the rejects of all sources of one process."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self.path, self.metrics = path, metrics
        self._log = structlog.get_logger("dead-letter")
        self._seen: dict[tuple[str, str], int] = {}

    async def take(
        self, stream: Stream, rejects: Sequence[Reject], records: Mapping[tuple[int, int], LogRecord]
    ) -> None:
        """Count, log and keep; `records` are those at hand, by (partition, offset).

        Returns when they are kept.

        Raises:
            StreamError: the stream's dead-letter limit says stop; of these none is in its dead letters.
        """
        whole: list[tuple[Reject, LogRecord]] = []
        for reject in rejects:
            source, reason = reject.pos.source, reject.reason
            self.metrics.rejects.labels(source, reason).inc(reject.items)
            n = self._seen[source, reason] = self._seen.get((source, reason), 0) + 1
            if n % LOG_EVERY == 1:
                self._log.warning("refused", record=str(reject.pos), reason=reason, detail=reject.detail, seen=n)
            record = records.get((reject.pos.partition, reject.pos.offset))
            if reject.whole and record is not None:
                whole.append((reject, record))
                self.metrics.dead_letters.labels(source, reason).inc()
        if isinstance(stream, HasDeadLetters):
            if whole:
                await self._send(stream, [(record, r.reason, r.detail) for r, record in whole])
            return
        for reject, record in whole:
            self._write(reject, record)

    async def _send(self, stream: HasDeadLetters, refused: Sequence[tuple[LogRecord, str, str]]) -> None:
        """To the stream's own dead letters, however long they are away: its source waits here."""
        while True:
            try:
                await stream.dead_letters(refused)
                return
            except StreamError as e:
                if not e.retry:
                    raise
                self.metrics.write_errors.labels("dead-letter").inc()
                self._log.error("dead letters wait", count=len(refused), error=str(e))
                await asyncio.sleep(RETRY_SECONDS)

    def _write(self, reject: Reject, record: LogRecord) -> None:
        line = msgspec.json.encode(
            {
                "record": str(reject.pos),
                "stamp": record.stamp,
                "reason": reject.reason,
                "detail": reject.detail,
                "format": record.format,
                "value": base64.b64encode(record.value).decode(),
            }
        )
        try:
            if not self.path.exists() or self.path.stat().st_size + len(line) < MAX_BYTES:
                with self.path.open("ab") as f:
                    f.write(line + b"\n")
        except OSError as e:
            self.metrics.write_errors.labels("dead-letter").inc()
            self._log.error("dead letter could not be kept", record=str(reject.pos), error=str(e))
