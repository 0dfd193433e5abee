"""The door: what HTTP handlers may ask of the runtime. An answer means that the record is safe."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiopsd.config import Config
from aiopsd.decode import check_samples, split_samples
from aiopsd.errors import StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import AlertBatch, Body, Checked, Entry
from aiopsd.protocols import Journal, Stream
from aiopsd.runtime.correlate import CorrelateHost
from aiopsd.services import ServiceMapper

# s; how long a refused write keeps us from being ready. Only the next write can tell that there is room again, and one
# who asks /-/ready before writing would otherwise never send it.
REFUSED_SECONDS = 10.0


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
        self._refused: dict[str, tuple[float, str]] = {}  # what could not be written -> (loop time, why)

    async def push_metrics(self, body: bytes, format: str) -> Checked:
        """Check, split by service when the log has several partitions, append."""
        checked = check_samples(body, format)
        if not checked.taken:
            return checked
        partitions = self.config.metric_log.partitions
        parts = [(0, body)] if partitions == 1 else split_samples(body, format, partitions, self._services)
        with self._writing("metrics"):
            await self.metric_log.append([Entry(value=part, format=format, partition=p) for p, part in parts])
        return checked

    async def submit(self, bodies: Sequence[Body]) -> int:
        """Append and wait for the decision."""
        with self._writing("journal"):
            offset = await self.journal.append(bodies)
        for body in bodies:
            if isinstance(body, AlertBatch):
                self.metrics.alerts.labels("http").inc(len(body.alerts))
        await self.correlate.committed(offset, self.config.http.commit_timeout)
        return offset

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """A refused write is counted, and shown until one succeeds or some time has passed."""
        try:
            yield
        except (StoreError, StreamError) as e:
            self.metrics.write_errors.labels(what).inc()
            self._refused[what] = (asyncio.get_running_loop().time(), str(e))
            raise
        self._refused.pop(what, None)

    def swap(self, config: Config) -> None:
        """Split pushes by the services of this configuration from now on."""
        self.config, self._services = config, ServiceMapper(config.services)

    def readiness(self) -> dict[str, str]:
        since = asyncio.get_running_loop().time() - REFUSED_SECONDS
        return self._troubles() | {f"writing {what}": why for what, (at, why) in self._refused.items() if at > since}

    def status(self) -> dict[str, Any]:
        return self._figures()

    async def reload(self) -> None:
        async with self._reloading:
            await self._reload()
