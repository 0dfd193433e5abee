"""CorrelateHost: the journal through the correlate stage; decisions and position move together, then reach the world.

Recovery: load the snapshot, step through the journal up to the committed position with effects off, deliver what is
left in the outbox, then go on. A full disk stops the loop at the commit that failed and nothing is skipped: the same
effects are committed when there is room again.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from msgspec.structs import replace

from aiopsd.config import Config, config_hash, load
from aiopsd.errors import ConfigError, Corrupt, Fenced, OffsetLost, StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import AskEvidence, Audit, Effect, Maintain, Notify, Retrain, Snapshot, Started, Tick, Touch
from aiopsd.pipeline import correlate as pipeline
from aiopsd.pipeline.correlate import CorrelateStage
from aiopsd.projection import Projection
from aiopsd.protocols import Clock, Journal, Store

SNAPSHOT = "correlate"
LOG_LINES = 32  # of one step's decisions: a storm of thousands is told in one more line; the audit has them all
STEP_RECORDS = 64  # journal records a step: bounds how long the event loop is away
RETRY_FIRST, RETRY_MOST = 0.2, 5.0  # s between attempts at a commit that the store refused


class CorrelateHost:
    """Runs one CorrelateStage on one journal."""

    def __init__(
        self,
        *,
        config: Config,
        text: str,
        journal: Journal,
        store: Store,
        projection: Projection,
        metrics: Metrics,
        clock: Clock,
        version: str,
        delivered: Callable[[], None],
        ask: Callable[[AskEvidence], None],
        maintain: Callable[[], None],
    ) -> None:
        self.config, self.text = config, text
        self.journal, self.store, self.projection = journal, store, projection
        self.metrics, self.clock, self.version = metrics, clock, version
        self._delivered, self._ask, self._maintain = delivered, ask, maintain
        self._log = structlog.get_logger("correlate")
        self.stage: CorrelateStage = pipeline.build(config)
        self.position = -1
        self.trouble = "starting"  # "" when the loop is well
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._busy = asyncio.Lock()
        self._snapshot_at = 0.0
        self._ahead = False  # the stage took records whose decisions are not committed: no state to save
        self._stopped = False
        for gauge, figure in (
            (metrics.topology_version, lambda: self.stage.topology.version),
            (metrics.topology_nodes, lambda: len(self.stage.topology)),
            (metrics.topology_edges, lambda: self.stage.topology.edges),
        ):
            gauge.set_function(figure)  # as the API shows it: both ask the graph of the moment

    # ------------------------------------------------------------------ recovery

    async def recover(self) -> None:
        """State as of the last committed decision.

        Raises:
            Corrupt: the journal no longer reaches from the snapshot to the committed position.
        """
        committed, _, committed_text = await self.store.position()
        if self.journal.end() <= committed:
            raise Corrupt(
                f"the store committed journal offset {committed}, but the journal ends at {self.journal.end() - 1}: "
                "it was lost or replaced; restore it, or start with an empty data folder"
            )
        stage, position = await self._resume(committed_text)
        try:
            while position < committed:
                records = await self.journal.read(position, min(STEP_RECORDS, committed - position))
                if not records:
                    raise Corrupt(f"the journal has a gap after offset {position}")
                stage.step(records)  # effects off: they are in the store already
                position = records[-1].offset
        except OffsetLost as e:
            raise Corrupt(f"the journal does not reach back to the snapshot: {e}") from None
        if committed_text and config_hash(committed_text) != config_hash(self.text):
            self._log.info("configuration changed since the last run", committed=committed)
        self.stage = pipeline.build(self.config, stage.snapshot()) if position >= 0 else stage
        self.position = position
        self.projection.load(
            self.stage.incidents.values(),
            self.stage.alerts.values(),
            self.stage.parts.silences.all(),
            self.stage.parts.maintenance.all(),
        )
        self.metrics.journal_position.set(position)
        self._log.info("recovered", position=position, incidents=len(self.stage.incidents))

    async def _resume(self, committed_text: str) -> tuple[CorrelateStage, int]:
        """The stage as of its snapshot, under the configuration that was in force then."""
        found = await self.store.snapshot(SNAPSHOT)
        if found is None:
            return pipeline.build(self._config_of(committed_text)), -1
        ref, snapshot = found
        return pipeline.build(self._config_of(str(snapshot.meta.get("config", ""))), snapshot), ref.position

    def _config_of(self, text: str) -> Config:
        if not text:
            return self.config
        try:
            return load(text)
        except ConfigError as e:
            self._log.warning("the stored configuration cannot be read any more, using the new one", error=str(e))
            return self.config

    async def announce(self) -> None:
        """Say in the journal that we are back; open incidents ask for their evidence again."""
        await self.journal.append([Started(version=self.version)])
        for question in self.stage.questions():
            self._ask(question)

    # ------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Step until cancelled."""
        self.trouble = ""
        self._snapshot_at = self.clock() + self.config.snapshots.every
        while True:
            records = await self.journal.read(self.position, STEP_RECORDS)
            if not records:
                wake = self.stage.wake_at()
                timeout = None if wake is None else max(0.0, wake - self.clock())
                if not await self.journal.wait(self.position, timeout):
                    await self._tick()
                continue
            async with self._busy:
                if self._stopped:
                    return
                self._ahead = True
                effects = self.stage.step(records)
                await self._commit(effects, records[-1].offset)
                self._ahead = False
            now = self.clock()
            for record in records:
                self.metrics.decision_seconds.observe(max(0.0, now - record.stamp))
            if now >= self._snapshot_at:
                await self.snapshot()
            await asyncio.sleep(0)  # HTTP handlers and heartbeats get their turn between steps

    async def _tick(self) -> None:
        try:
            await self.journal.append([Tick()])
        except (StreamError, StoreError) as e:
            self._complain("journal", e)
            await asyncio.sleep(RETRY_FIRST)

    async def _commit(self, effects: Sequence[Effect], position: int) -> None:
        """Decisions and position in one transaction, as often as it takes."""
        pause = RETRY_FIRST
        while True:
            began = self.clock()
            try:
                await self.store.commit(effects, position, config_hash(self.text), config_text=self.text)
                break
            except Fenced:
                raise
            except StoreError as e:
                self._complain("store", e)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MOST)
        self.trouble = ""
        self.position = position
        self.metrics.commit_seconds.observe(self.clock() - began)
        self.metrics.journal_position.set(position)
        self.metrics.journal_end.set(self.journal.end())
        self.projection.apply(effects)
        self._tell(effects)
        waiting, self._waiters = self._waiters, []
        for offset, future in waiting:
            if offset > position:
                self._waiters.append((offset, future))
            elif not future.done():
                future.set_result(None)

    def _complain(self, what: str, error: Exception) -> None:
        if self.trouble != str(error):
            self._log.error("write refused, trying again", what=what, error=str(error))
        self.trouble = str(error)
        self.metrics.write_errors.labels(what).inc()

    def _tell(self, effects: Sequence[Effect]) -> None:
        """Log, count and pass on what was committed."""
        out = False
        lines = 0
        for effect in effects:
            if type(effect) is Touch:  # the most frequent one: an alert that fires on
                continue
            if isinstance(effect, (Notify, Retrain)):
                out = True
                if isinstance(effect, Retrain):
                    self.metrics.retrain.labels("requested").inc()
                    self._log.info("retraining requested", subject=effect.request.subject, trainer=effect.trainer)
            elif isinstance(effect, AskEvidence):
                self._ask(effect)
            elif isinstance(effect, Maintain):
                self._maintain()
            elif isinstance(effect, Audit):
                entry = effect.entry
                if entry.kind == "suppressed":
                    self.metrics.suppressed.labels(entry.reason or "other").inc()
                elif entry.kind == "opened":
                    self.metrics.incidents_opened.inc()
                elif entry.kind == "bug":
                    self.metrics.bugs.inc()
                log = self._log.error if entry.kind == "bug" else self._log.info
                if entry.kind in ("grouped", "alert"):
                    log = self._log.debug
                elif entry.kind != "bug":
                    lines += 1
                if lines <= LOG_LINES or entry.kind == "bug":
                    log(entry.kind, incident=entry.incident, text=entry.text, reason=entry.reason, offset=entry.offset)
        if lines > LOG_LINES:
            self._log.info("more decisions in this step: see the audit", count=lines - LOG_LINES)
        counts = self.projection.figures()
        for state, n in counts["incidents"].items():
            self.metrics.incidents.labels(state).set(n)
        for state, n in counts["alerts"].items():
            self.metrics.alerts_kept.labels(state).set(n)
        if out:
            self._delivered()

    # ------------------------------------------------------------------ what others ask

    async def committed(self, offset: int, timeout: float) -> None:
        """Return when the decisions of this journal record are in the store.

        Raises:
            TimeoutError: not within `timeout` seconds.
        """
        if self.position >= offset:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((offset, future))
        await asyncio.wait_for(future, timeout)

    async def finish(self, timeout: float) -> None:
        """Let the step in progress commit, begin no other; one that hangs on a full disk is left to the replay."""
        try:
            async with asyncio.timeout(timeout):
                await self._busy.acquire()
        except TimeoutError:
            return
        self._stopped = True
        self._busy.release()

    async def snapshot(self) -> None:
        """Write the state at the current position; the journal may then drop what is older."""
        async with self._busy:
            began = self.clock()
            position = self.position
            if position < 0 or self._ahead:
                return
            taken = self.stage.snapshot()
            await self._save(taken, position)
            self.metrics.snapshot_seconds.labels("correlate").set(self.clock() - began)
        self._snapshot_at = self.clock() + self.config.snapshots.every

    async def _save(self, taken: Snapshot, position: int) -> None:
        taken = replace(taken, meta={**taken.meta, "config": self.text})
        try:
            await self.store.put_snapshot(SNAPSHOT, position, config_hash(self.text), taken)
            self.metrics.snapshot_time.labels("correlate").set(self.clock())
            await self.journal.trim(position + 1)
            await self.store.prune(self.clock() - self.config.store.retention)
        except Fenced:
            raise
        except (StoreError, StreamError) as e:
            self.metrics.write_errors.labels("snapshot").inc()
            self._log.error("snapshot refused, the old one stays", error=str(e))

    async def swap(self, config: Config, text: str) -> None:
        """Go on under another configuration from this position; the old stage's state is the new one's start.

        Raises:
            ConfigError: the new configuration cannot be built; nothing changed.
        """
        async with self._busy:
            stage = pipeline.build(config, self.stage.snapshot())
            old_config, old_text = self.config, self.text
            self.config, self.text, self.stage = config, text, stage
            try:
                if self.position >= 0:
                    await self.store.commit([], self.position, config_hash(text), config_text=text)
                    await self._save(stage.snapshot(), self.position)
            except StoreError:
                self.config, self.text = old_config, old_text
                self.stage = pipeline.build(old_config, stage.snapshot())
                raise
