"""What every source shows of itself: lag, lost offsets, and what it waits for."""

from typing import Any

import structlog

from aiopsd.metrics import Metrics
from aiopsd.protocols import Clock, Stream

LAG_EVERY = 5.0  # s between two looks at the end of the log


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

    async def look(self) -> None:
        """Every LAG_EVERY seconds: lag per partition; gaps as soon as they are known."""
        gaps = list(getattr(self.stream, "gaps", ()))
        for gap in gaps[self._gaps :]:
            self.metrics.offset_lost.labels(self.source).inc()
            self.log.error("records lost by retention or a recreated log, going on behind the gap", error=str(gap))
        self._gaps = len(gaps)
        if self.clock() < self._next:
            return
        self._next = self.clock() + LAG_EVERY
        for partition, lag in (await self.stream.lag()).items():
            self.metrics.lag.labels(self.source, str(partition)).set(lag)
