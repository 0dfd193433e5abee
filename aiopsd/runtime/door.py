"""The door: what HTTP handlers may ask of the runtime. An answer means that the record is safe."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiopsd.config import Config
from aiopsd.decode import check_samples, split_samples
from aiopsd.metrics import Metrics
from aiopsd.model import AlertBatch, Body, Entry
from aiopsd.protocols import Journal, Stream
from aiopsd.runtime.correlate import CorrelateHost
from aiopsd.services import ServiceMapper


class RuntimeDoor:
    """protocols.Door over the journal, the metric log and the correlate host of this process."""

    def __init__(
        self,
        *,
        config: Config,
        journal: Journal,
        metric_log: Stream,
        correlate: CorrelateHost,
        metrics: Metrics,
        troubles: Callable[[], dict[str, str]],
        figures: Callable[[], dict[str, Any]],
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        self.config = config
        self.journal, self.metric_log, self.correlate = journal, metric_log, correlate
        self.metrics = metrics
        self._services = ServiceMapper(config.services)
        self._troubles, self._figures, self._reload = troubles, figures, reload
        self._reloading = asyncio.Lock()

    async def push_metrics(self, body: bytes, format: str) -> None:
        """Check, split by service when the log has several partitions, append."""
        if not check_samples(body, format):
            return
        partitions = self.config.metric_log.partitions
        parts = [(0, body)] if partitions == 1 else split_samples(body, format, partitions, self._services)
        await self.metric_log.append([Entry(value=part, format=format, partition=p) for p, part in parts])

    async def submit(self, bodies: Sequence[Body]) -> int:
        """Append and wait for the decision."""
        offset = await self.journal.append(bodies)
        for body in bodies:
            if isinstance(body, AlertBatch):
                self.metrics.alerts.labels("http").inc(len(body.alerts))
        await self.correlate.committed(offset, self.config.http.commit_timeout)
        return offset

    def readiness(self) -> dict[str, str]:
        return self._troubles()

    def status(self) -> dict[str, Any]:
        return self._figures()

    async def reload(self) -> None:
        async with self._reloading:
            await self._reload()
