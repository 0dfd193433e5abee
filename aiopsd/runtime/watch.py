"""What every source shows of itself: lag, lost offsets, and what it waits for."""

import asyncio
from typing import Any

import structlog

from aiopsd.errors import OffsetLost, StreamError
from aiopsd.metrics import Metrics
from aiopsd.protocols import Clock, Owner, Stream

RETRY_FIRST, RETRY_MOST = 0.5, 30.0  # s between two attempts to start
LAG_EVERY = 5.0  # s between two looks at the end of the log


def recreated(gap: OffsetLost) -> bool:
    """The log ends before where we stood: it was made anew, and its offsets start over."""
    return gap.wanted > gap.latest


class SourceWatch:
    """Figures and trouble of one source. `trouble` is "" when it is well, else what an operator reads in /-/ready."""

    def __init__(self, source: str, stream: Stream, metrics: Metrics, clock: Clock) -> None:
        self.source, self.stream, self.metrics, self.clock = source, stream, metrics, clock
        self.log: Any = structlog.get_logger("source").bind(source=source)
        self._trouble = "starting"
        self._gaps = 0
        self._next = 0.0

    @property
    def trouble(self) -> str:
        return str(getattr(self.stream, "waiting", "")) or self._trouble

    def well(self) -> None:
        self._trouble = ""

    def waits(self, why: object) -> None:
        """Say once, and until `well`, why it does not go on."""
        if self._trouble != str(why):
            self.log.error("waiting", error=str(why))
        self._trouble = str(why)

    def stopped(self, why: object) -> None:
        """It does not go on by itself."""
        self._trouble = f"stopped: {why}"
        self.metrics.source_stopped.labels(self.source).set(1)
        self.log.error("source stopped", error=str(why))

    async def start(self, owner: Owner) -> None:
        """Start the stream, however long what it needs is away.

        Raises:
            StreamError: it can never start like this (retry is False).
        """
        pause = RETRY_FIRST
        while True:
            try:
                await self.stream.start(owner)
            except StreamError as e:
                if not e.retry:
                    raise
                self.waits(e)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST)
            else:
                self.well()
                return

    def gaps(self) -> list[OffsetLost]:
        """Gaps in the log since the last call: counted, logged."""
        known = list(getattr(self.stream, "gaps", ()))
        new, self._gaps = known[self._gaps :], len(known)
        for gap in new:
            self.metrics.offset_lost.labels(self.source).inc()
            self.log.error("records lost by retention or a recreated log, going on behind the gap", error=str(gap))
        return new

    async def look(self) -> None:
        """Every LAG_EVERY seconds: lag per partition."""
        if self.clock() < self._next:
            return
        self._next = self.clock() + LAG_EVERY
        for partition, lag in (await self.stream.lag()).items():
            self.metrics.lag.labels(self.source, str(partition)).set(lag)
