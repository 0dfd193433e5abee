"""DetectHost: one metric log through a DetectStage per partition; events into the journal, answers to questions.

A stage steps in a thread of its own, in slices short enough that the event loop (HTTP, heartbeats) stays alive. The
position of a partition is that of its snapshot: after a crash the records since are scored again, and the journal
drops the events that it holds already.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiopsd.errors import Fenced, StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import (
    Anomaly,
    Append,
    AskEvidence,
    DriftDetected,
    EvidenceDigest,
    LogRecord,
    Reject,
    Snapshot,
    Window,
)
from aiopsd.pipeline.detect import DetectStage
from aiopsd.protocols import Clock, Stream
from aiopsd.runtime.dead import DeadLetters
from aiopsd.runtime.home import Claim, Home
from aiopsd.runtime.watch import SourceWatch, recreated

SLICE_SECONDS = 0.02  # aim of one step: alert timing is never hostage to metric batches
COALESCE = 0.1  # s; a numpy round costs the same however small, so records are collected for so long
POLL_RECORDS = 20_000
RETRY_FIRST, RETRY_MOST = 0.2, 5.0

R = TypeVar("R")
Build = Callable[[int, Snapshot | None], DetectStage]


def behind(position: int, records: Sequence[LogRecord]) -> list[LogRecord]:
    """The records whose offset is above `position` and all before them: what a rebalance made us fetch twice goes."""
    kept = []
    for record in records:
        if record.offset > position:
            position = record.offset
            kept.append(record)
    return kept


def _counts(stage: DetectStage) -> tuple[int, int, int, int]:
    return stage.samples, stage.skipped, stage.late, stage.invalid


class Shard:
    """One partition in hand: its claim, its stage and the last offset inside the stage."""

    def __init__(self, claim: Claim, stage: DetectStage, position: int) -> None:
        self.claim, self.stage, self.position = claim, stage, position
        self.saved = position
        self.slice = 64  # records a step, adapted to SLICE_SECONDS
        self.ahead = False  # the stage took records whose events are not in the journal: no state to save


class DetectHost:
    """Owner of the partitions of one metric log."""

    def __init__(
        self,
        *,
        source: str,
        stream: Stream,
        build: Build,
        home: Home,
        dead: DeadLetters,
        metrics: Metrics,
        clock: Clock,
        snapshot_every: float,
    ) -> None:
        self.source, self.stream, self.home, self.dead = source, stream, home, dead
        self.metrics, self.clock, self.snapshot_every = metrics, clock, snapshot_every
        self._build = build
        self._windows: tuple[Window, ...] = ()  # of planned work, as operators asked for
        self.watch = SourceWatch(source, stream, metrics, clock)
        self._log = self.watch.log
        self._counters = (  # as `_counts`
            metrics.samples.labels(source),
            metrics.skipped.labels(source),
            metrics.ignored.labels(source, "late"),
            metrics.ignored.labels(source, "not-a-number"),
        )
        self._shards: dict[int, Shard] = {}
        self._busy = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"detect-{source}")
        self._stopped = self._left = False

    # ------------------------------------------------------------------ the owner's side of the stream

    async def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Take over: claim, load the snapshot, go on behind it."""
        start: dict[int, int | None] = {}
        async with self._busy:
            for partition in sorted(partitions):
                held = await self.home.claim(self.source, partition)
                position = held.position
                try:
                    stage = await self._in_thread(self._built, partition, held.snapshot)
                except ValueError as e:  # of another version: what the log still holds is learned again
                    self._log.warning("snapshot set aside, scoring the log from its beginning", error=str(e))
                    stage, position = await self._in_thread(self._built, partition, None), -1
                self._shards[partition] = shard = Shard(held.claim, stage, position)
                self._show(shard)
                start[partition] = position + 1 if position >= 0 else None
                self._log.info("partition taken", partition=partition, position=position)
        return start

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Finish the step, save, let go."""
        async with self._busy:
            for partition in sorted(partitions):
                shard = self._shards.get(partition)
                if shard is not None:
                    await self._save(shard)
                    self._drop(partition)
                    self._log.info("partition released", partition=partition, position=shard.position)

    def _built(self, partition: int, resume: Snapshot | None) -> DetectStage:
        stage = self._build(partition, resume)
        stage.maintain(self._windows)
        return stage

    def _show(self, shard: Shard) -> None:
        if not shard.stage.series:
            return  # there is no newest sample yet
        label = str(shard.claim.partition)
        self.metrics.series.labels(self.source, label).set(shard.stage.series)
        self.metrics.watermark.labels(self.source, label).set(shard.stage.watermark)
        if shard.stage.models:
            running = sum(len(model) for model in shard.stage.models)
            self.metrics.models.labels(self.source, label, "running").set(running)
            self.metrics.models.labels(self.source, label, "waiting").set(shard.stage.waiting)

    def _drop(self, partition: int) -> None:
        """It is somebody else's: so are its figures."""
        self._shards.pop(partition, None)
        label = str(partition)
        for gauge in (self.metrics.series, self.metrics.watermark, self.metrics.lag):
            with contextlib.suppress(KeyError):
                gauge.remove(self.source, label)
        for state in ("running", "waiting"):
            with contextlib.suppress(KeyError):
                self.metrics.models.remove(self.source, label, state)

    # ------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Poll, step, append until `finish` or cancelled."""
        await self.watch.start(self)
        next_save = self.clock() + self.snapshot_every
        while not self._stopped:
            records = await self._poll()
            if records:
                async with self._busy:
                    if self._stopped:
                        return
                    await self._begin_anew()
                    await self._step(records)
            if self._stopped:
                return
            if self.clock() >= next_save:
                await self.snapshot()
                next_save = self.clock() + self.snapshot_every
            await self.watch.look()

    async def _poll(self) -> list[LogRecord]:
        """Records of about COALESCE seconds, or sooner when they are many."""
        try:
            records = await self.stream.poll(POLL_RECORDS, 1.0)
            if records and len(records) < POLL_RECORDS // 4:
                await asyncio.sleep(COALESCE)
                records += await self.stream.poll(POLL_RECORDS - len(records), 0.0)
        except StreamError as e:
            if not e.retry:
                raise
            self.watch.waits(e)
            await asyncio.sleep(RETRY_FIRST)
            return []
        self.watch.well()
        return records

    async def _begin_anew(self) -> None:
        """A log that was made anew starts over: so do our position and the journal's mark of it."""
        for gap in self.watch.gaps():
            shard = self._shards.get(gap.partition)
            if shard is not None and recreated(gap):
                try:
                    await self.home.rebase(shard.claim, gap.earliest)
                except Fenced:
                    self._drop(gap.partition)
                else:
                    shard.position = gap.earliest - 1

    async def _step(self, records: Sequence[LogRecord]) -> None:
        by_partition: dict[int, list[LogRecord]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        for partition, part in by_partition.items():
            shard = self._shards.get(partition)
            if shard is None:
                continue  # revoked while they were fetched: the next owner reads them
            part = behind(shard.position, part)
            at = 0
            while at < len(part):
                chunk = part[at : at + shard.slice]
                at += len(chunk)
                if not await self._slice(shard, chunk):
                    break
            self.metrics.records.labels(self.source).inc(len(part))

    async def _slice(self, shard: Shard, chunk: Sequence[LogRecord]) -> bool:
        """One step of one stage; False when the partition turned out to be somebody else's."""
        began = self.clock()
        before = _counts(shard.stage)
        faults = [model.faults for model in shard.stage.models]
        shard.ahead = True
        effects = await self._in_thread(shard.stage.step, chunk)
        took = max(self.clock() - began, 1e-4)
        self.metrics.detect_seconds.observe(took)
        for counter, was, now in zip(self._counters, before, _counts(shard.stage), strict=True):
            if now > was:
                counter.inc(now - was)
        self._tell_faults(shard.stage, faults)
        shard.slice = max(1, min(POLL_RECORDS, int(len(chunk) * SLICE_SECONDS / took) or 1, shard.slice * 2))
        events = [e for e in effects if isinstance(e, Append)]
        if events and not await self._append(shard, events):
            return False
        rejects = [e for e in effects if isinstance(e, Reject)]
        if rejects:  # before the position moves: a source that stops here begins again with these records
            await self.dead.take(self.stream, rejects, {(r.partition, r.offset): r for r in chunk})
        shard.position = chunk[-1].offset
        shard.ahead = False
        self._show(shard)
        return True

    def _tell_faults(self, stage: DetectStage, before: Sequence[int]) -> None:
        """Count what the models failed on; at the 1st, 10th, 100th ... time the log says how."""
        for model, was in zip(stage.models, before, strict=True):
            if model.faults > was:
                self.metrics.model_faults.labels(self.source, model.model).inc(model.faults - was)
                if not was or len(str(model.faults)) > len(str(was)):
                    self._log.warning("a model fails", model=model.model, faults=model.faults, error=model.trouble)

    async def _append(self, shard: Shard, events: Sequence[Append]) -> bool:
        """Into the journal, however often it takes: the next slice waits, the log keeps what comes meanwhile."""
        pause = RETRY_FIRST
        while True:
            try:
                await self.home.append(shard.claim, events)
                break
            except Fenced as e:
                self._log.warning("partition lost to another worker", partition=shard.claim.partition, error=str(e))
                self._drop(shard.claim.partition)
                return False
            except (StoreError, StreamError) as e:
                self.metrics.write_errors.labels("journal").inc()
                self.watch.waits(e)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST)
        self.watch.well()
        for event in events:
            if isinstance(event.body, Anomaly):
                self.metrics.anomalies.labels(event.body.state).inc()
            elif isinstance(event.body, DriftDetected):
                self.metrics.drifts.labels(event.body.kind).inc()
        return True

    async def _in_thread(self, function: Callable[..., R], *args: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    # ------------------------------------------------------------------ questions and snapshots

    async def ask(self, question: AskEvidence) -> None:
        """Answer with what the banks know of these services now; one digest per partition that knows any."""
        async with self._busy:
            # most incidents of alerts alone ask about what has no metrics: no reason to wake a thread for each
            shards = [s for s in self._shards.values() if question.others or s.stage.knows(question.services)]
            asked = question.services, question.since, question.others
            answers = [(s, await self._in_thread(s.stage.evidence, *asked)) for s in shards]
        for shard, evidence in answers:
            if evidence:
                await self.home.answer(
                    EvidenceDigest(
                        request_id=question.request_id,
                        incident=question.incident,
                        asof=shard.stage.watermark,
                        evidence=tuple(evidence),
                        partition=shard.claim.partition,
                    )
                )

    async def snapshot(self) -> None:
        """Save every partition that moved; its log may then drop what is older."""
        async with self._busy:
            for shard in list(self._shards.values()):
                await self._save(shard)

    async def _save(self, shard: Shard) -> None:
        if shard.ahead or shard.position == shard.saved:
            return
        began = self.clock()
        try:
            snapshot = await self._in_thread(shard.stage.snapshot)
            await self.home.save(shard.claim, shard.position, snapshot)
            shard.saved = shard.position
            await self.stream.trim({shard.claim.partition: shard.position + 1})
        except Fenced:
            self._drop(shard.claim.partition)
        except (StoreError, StreamError) as e:
            self.metrics.write_errors.labels("snapshot").inc()
            self._log.error("snapshot refused, the old one stays", error=str(e))
        else:
            label = f"detect/{self.source}/{shard.claim.partition}"
            self.metrics.snapshot_seconds.labels(label).set(self.clock() - began)
            self.metrics.snapshot_time.labels(label).set(self.clock())

    async def rebuild(self, build: Build) -> None:
        """Go on under another configuration, each stage from its own state.

        Raises:
            ConfigError: it cannot be built; nothing changed.
        """
        async with self._busy:
            new = {
                partition: await self._in_thread(build, partition, shard.stage.snapshot())
                for partition, shard in self._shards.items()
            }
            self._build = build
            for partition, stage in new.items():
                await self._in_thread(stage.maintain, self._windows)
                self._shards[partition].stage = stage

    async def maintain(self, windows: tuple[Window, ...]) -> None:
        """These windows of planned work hold from now on, for every partition that we have or get."""
        async with self._busy:
            self._windows = windows
            for shard in self._shards.values():
                await self._in_thread(shard.stage.maintain, windows)

    async def finish(self, timeout: float) -> None:
        """Let the step in progress end, begin no other; a step that hangs on a full disk is left to the replay."""
        try:
            async with asyncio.timeout(timeout):
                await self._busy.acquire()
        except TimeoutError:
            self._stopped = True
            return
        self._stopped = True
        self._busy.release()

    async def stop(self) -> None:
        """Save and leave the stream; `finish` comes first. A second call does nothing."""
        if self._left:
            return
        self._left = True
        await self.snapshot()
        await self.stream.stop()
        self._thread.shutdown(wait=True)
