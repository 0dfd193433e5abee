"""The daemon: journal, store, web, delivery and, without workers, detection, in one process."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from aiopsd import __version__
from aiopsd.app.parts import (
    ASKS,
    PUSH,
    STOP_SECONDS,
    StopDaemon,
    check,
    destinations,
    detect_builder,
    open_stream,
    topology_files,
)
from aiopsd.config import Config, config_hash, located, read
from aiopsd.errors import ConfigError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import AskEvidence, TopologyUpdate
from aiopsd.notifiers.http import HttpSession
from aiopsd.projection import Projection
from aiopsd.protocols import Clock, Stream
from aiopsd.runtime.correlate import CorrelateHost
from aiopsd.runtime.dead import DeadLetters
from aiopsd.runtime.deliver import Deliverer
from aiopsd.runtime.detect import DetectHost
from aiopsd.runtime.door import RuntimeDoor
from aiopsd.runtime.home import LocalHome
from aiopsd.runtime.ingest import IngestHost, LogHost, RepartitionHost
from aiopsd.runtime.worker import WorkerPool
from aiopsd.services import ServiceMapper
from aiopsd.stores.sqlite import SqliteStore
from aiopsd.streams.journal import LocalJournal
from aiopsd.streams.local import LocalLog
from aiopsd.topology import FILE_PREFIX
from aiopsd.web.server import build_app, serve
from aiopsd.web.site import Site

DRAIN_SECONDS = 10.0  # the outbox gets so long before the first new record; a dead receiver must not hold the rest
RESTART_KEYS = ("data_dir", "workers", "http", "journal", "metric_log", "store", "sources", "log")


class Daemon:
    """One running aiopsd. `run` returns when `stop` is set, everything saved and closed."""

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        self.path, self.clock = path, clock
        self.config, self.text = _usable(path)
        self.metrics = Metrics()
        self.ready = asyncio.Event()
        self.address = ""  # host:port of the HTTP server once it listens
        self._log = structlog.get_logger("app")
        self._phase = "starting"
        self._asks: asyncio.Queue[AskEvidence] = asyncio.Queue(ASKS)
        self._planned = asyncio.Event()  # the windows of planned work changed
        self._hosts: list[DetectHost | LogHost] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Live until `stop` is set.

        Raises:
            Fenced: the data folder is in use.
            Corrupt: journal, store or snapshot do not fit together; says what to do.
        """
        config = self.config
        data = _folder(config.data_dir)
        async with AsyncExitStack() as stack:
            journal = LocalJournal(
                data / "journal.db", self.clock, sync=config.journal.sync, retention=config.journal.retention
            )
            await journal.start()
            stack.push_async_callback(journal.stop)
            self.store = store = SqliteStore(data / "store.db", self.clock)
            await store.start()
            stack.push_async_callback(store.stop)
            self.session = await stack.enter_async_context(HttpSession())
            dead = DeadLetters(data / "dead-letter.jsonl", self.metrics)
            self.projection = Projection()
            self.deliverer = Deliverer(
                store, destinations(config, self.session), config.delivery, self.metrics, self.clock
            )
            self.correlate = CorrelateHost(
                config=config,
                text=self.text,
                journal=journal,
                store=store,
                projection=self.projection,
                metrics=self.metrics,
                clock=self.clock,
                version=__version__,
                delivered=self.deliverer.wake,
                ask=self._question,
                maintain=self._planned.set,
            )
            self.home = LocalHome(journal, store, self.text)
            self.metric_log = LocalLog(
                data / "metrics",
                config.metric_log.partitions,
                self.clock,
                sync=config.metric_log.sync,
                retention=config.metric_log.retention,
                max_bytes=config.metric_log.max_bytes,
                name=PUSH,
            )
            self.journal = journal
            self.pool = (
                WorkerPool(config, self.text, self.home, self.metrics, self.metric_log.trim) if config.workers else None
            )
            self._make_hosts(dead)
            await self._live(stop, stack)

    def _make_hosts(self, dead: DeadLetters) -> None:
        config = self.config
        self.detectors: list[DetectHost] = []
        if not config.workers:
            self.detectors.append(self._detector(PUSH, self.metric_log, dead))
        for index, source in enumerate(config.sources):
            if source.kind == "metrics" and source.keyed_by != "service":
                self._hosts.append(
                    RepartitionHost(
                        source=source,
                        stream=open_stream(config, index, self.clock),
                        journal=self.journal,
                        dead=dead,
                        metrics=self.metrics,
                        clock=self.clock,
                        metric_log=self.metric_log,
                        partitions=config.metric_log.partitions,
                        services=ServiceMapper(config.services),
                    )
                )
                continue
            if source.kind == "metrics":
                if not config.workers:
                    self.detectors.append(self._detector(source.name, open_stream(config, index, self.clock), dead))
                continue
            self._hosts.append(
                IngestHost(
                    source=source,
                    stream=open_stream(config, index, self.clock),
                    journal=self.journal,
                    dead=dead,
                    metrics=self.metrics,
                    clock=self.clock,
                )
            )
        self._hosts += self.detectors

    def _detector(self, source: str, stream: Stream, dead: DeadLetters) -> DetectHost:
        return DetectHost(
            source=source,
            stream=stream,
            build=detect_builder(self.config, source),
            home=self.home,
            dead=dead,
            metrics=self.metrics,
            clock=self.clock,
            snapshot_every=self.config.snapshots.every,
        )

    def _site(self, door: RuntimeDoor) -> Site:
        """The pages' and the API's world; a reload builds another stage, so they ask for what it holds each time."""
        return Site(
            config=self.config,
            door=door,
            projection=self.projection,
            store=self.store,
            metrics=self.metrics,
            clock=self.clock,
            topology=lambda: self.correlate.stage.topology,
            learned=lambda caller, callee: self.correlate.stage.grouper.passages.learned(caller, callee),
            muted=lambda alert, now: self.correlate.stage.dispatcher.muted(alert, now),
            group_of=lambda fingerprint: self.correlate.stage.grouper.group_of(fingerprint),
            version=__version__,
        )

    async def _live(self, stop: asyncio.Event, stack: AsyncExitStack) -> None:
        config = self.config
        if self.pool is not None:
            await self.metric_log.start()  # this process writes it, the workers read it
            stack.push_async_callback(self.metric_log.stop)
        self.door = door = RuntimeDoor(
            config=config,
            journal=self.journal,
            metric_log=self.metric_log,
            correlate=self.correlate,
            metrics=self.metrics,
            troubles=self._troubles,
            figures=self._figures,
            reload=self._reload,
        )
        self.site = self._site(door)
        try:
            runner = await serve(build_app(self.site), config.http.listen)
        except OSError as e:
            raise ConfigError(f"cannot listen on {config.http.listen}: {e.strerror}", "$.http.listen") from None
        stack.push_async_callback(runner.cleanup)
        self.address = "{}:{}".format(*runner.addresses[0][:2])
        self._log.info("listening", address=self.address)
        self.metrics.build_info.labels(__version__).set(1)
        self._loaded()

        self._phase = "recovering"
        await self.correlate.recover()
        await self._maintain()
        self._phase = "delivering what was left"
        await self.deliverer.drain(DRAIN_SECONDS)
        await self.correlate.announce()
        await self._say_topology(config)
        self._phase = ""

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_stop(stop), name="stop")
                tasks.create_task(self.correlate.run(), name="correlate")
                tasks.create_task(self.deliverer.run(), name="deliver")
                tasks.create_task(self._answer(), name="evidence")
                tasks.create_task(self._plan(), name="maintenance")
                for host in self._hosts:
                    tasks.create_task(self._source(host), name=f"source-{host.watch.source}")
                if self.pool is not None:
                    tasks.create_task(self.pool.run(), name="workers")
                self.ready.set()
        except* StopDaemon:
            pass
        self._log.info("stopped", position=self.correlate.position)

    async def _watch_stop(self, stop: asyncio.Event) -> None:
        """In order: sources finish their step and save, then the correlate stage, then the rest is cancelled."""
        await stop.wait()
        self._phase = "stopping"
        if self.pool is not None:
            self.pool.stopping = True
        for host in self._hosts:
            await host.finish(STOP_SECONDS)
        if self.pool is not None:
            await self.pool.stop()
        for host in self._hosts:
            await host.stop()
        await self.correlate.finish(STOP_SECONDS)
        await self.correlate.snapshot()
        raise StopDaemon

    async def _source(self, host: DetectHost | LogHost) -> None:
        """Run a source; one that cannot go on stops alone: paging does not die with it."""
        try:
            await host.run()
        except StreamError as e:
            host.watch.stopped(e)

    def _question(self, question: AskEvidence) -> None:
        if self._asks.full():
            self._asks.get_nowait()
            self.metrics.queue_full.labels("evidence").inc()
        self._asks.put_nowait(question)

    async def _answer(self) -> None:
        while True:
            question = await self._asks.get()
            try:
                for detector in self.detectors:
                    await detector.ask(question)
                if self.pool is not None:
                    await self.pool.ask(question)
            except Exception as e:  # a lost answer costs evidence, never a page: log and go on
                self._log.error("no evidence", incident=question.incident, error=str(e))

    async def _maintain(self) -> None:
        """Tell the detect side of the windows of planned work."""
        windows = self.correlate.stage.parts.maintenance.all()
        for detector in self.detectors:
            await detector.maintain(windows)
        if self.pool is not None:
            await self.pool.maintain(windows)

    async def _plan(self) -> None:
        while True:
            await self._planned.wait()
            self._planned.clear()
            await self._maintain()

    # ------------------------------------------------------------------ what the door shows

    def _troubles(self) -> dict[str, str]:
        troubles = {"daemon": self._phase, "correlate": self.correlate.trouble}
        troubles |= {f"source {h.watch.source}": h.watch.trouble for h in self._hosts}
        if self.pool is not None:
            troubles |= self.pool.troubles()
        return {k: v for k, v in troubles.items() if v}

    def _figures(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "config_hash": config_hash(self.text),
            "journal": {"end": self.journal.end(), "committed": self.correlate.position},
            "waiting_for": self._troubles(),
            "sources": [h.watch.source for h in self._hosts],
        }

    # ------------------------------------------------------------------ reload

    def _loaded(self) -> None:
        self.metrics.reload_ok.set(1)
        self.metrics.reload_time.set(self.clock())

    async def _say_topology(self, config: Config) -> None:
        """What the configured files say, and that those which are configured no more say nothing."""
        files = topology_files(config)
        named = set(config.topology.files)
        for name in self.correlate.stage.topology.files:
            if name not in named:
                files.append(TopologyUpdate(source=FILE_PREFIX + name, replace=True))
        if files:
            await self.journal.append(files)

    async def _reload(self) -> None:
        try:
            config, text = _usable(self.path)
            for key in RESTART_KEYS:
                if getattr(config, key) != getattr(self.config, key):
                    raise ConfigError("changing this needs a restart", f"$.{key}")
            await self.correlate.swap(config, text)
            for detector in self.detectors:
                await detector.rebuild(detect_builder(config, detector.source))
            if self.pool is not None:
                await self.pool.rebuild(text)
            self.deliverer.swap(destinations(config, self.session), config.delivery)
            self.site.swap(config)
            self.door.swap(config)
            self.config, self.text, self.home.text = config, text, text
            await self._say_topology(config)
        except ConfigError as e:
            told = located(self.path, e)
            self.metrics.reload_ok.set(0)
            self._log.error("reload refused, the old configuration stays", error=str(told))
            raise told from None
        self._loaded()
        self._log.info("reloaded", config_hash=config_hash(text))

    async def reload(self) -> None:
        """For SIGHUP: as POST /-/reload, errors only logged."""
        try:
            await self._reload()
        except ConfigError:
            return


def _usable(path: Path) -> tuple[Config, str]:
    """(configuration, its text), of which everything can be built.

    Raises:
        ConfigError: names file, line and key.
    """
    config, text = read(path)
    try:
        check(config)
    except ConfigError as e:
        raise located(path, e) from None
    return config, text


def _folder(name: str) -> Path:
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot make {name}: {e.strerror}", "$.data_dir") from None
    return path
