"""The composition root: a configuration in, a running daemon out. The only module that knows every other.

Resources go on one exit stack in the order in which they are born; tasks live in one group and have names. A source
that cannot go on stops loudly by itself (a metric, /-/ready, the log); everything else that fails ends the daemon, and
a supervisor starts it again from its last committed decision.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from aiopsd import __version__, plugins, snapshots
from aiopsd.config import Config, config_hash, load, plugin_config, read, receivers, trainers
from aiopsd.decode import load_topology_yaml
from aiopsd.errors import ConfigError, StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import AskEvidence, Snapshot, TopologyUpdate
from aiopsd.notifiers.http import HttpSession
from aiopsd.pipeline import correlate as correlate_stage
from aiopsd.pipeline import detect as detect_stage
from aiopsd.pipeline.detect import DetectStage
from aiopsd.projection import Projection
from aiopsd.protocols import Clock, Notifier, Session, Stream, Trainer
from aiopsd.runtime.correlate import CorrelateHost
from aiopsd.runtime.dead import DeadLetters
from aiopsd.runtime.deliver import Deliverer
from aiopsd.runtime.detect import DetectHost
from aiopsd.runtime.door import RuntimeDoor
from aiopsd.runtime.home import LocalHome
from aiopsd.runtime.ingest import IngestHost, LogHost, RepartitionHost
from aiopsd.runtime.worker import Ask, DaemonsLog, Quit, Rebuild, SocketHome, Told, Welcome, Windows, WorkerPool
from aiopsd.services import ServiceMapper
from aiopsd.stores.sqlite import SqliteStore
from aiopsd.streams.journal import LocalJournal
from aiopsd.streams.local import LocalLog
from aiopsd.topology import FILE_PREFIX
from aiopsd.web.server import build_app, serve
from aiopsd.web.site import SITE

PUSH = "push"  # name of the local log that HTTP-pushed metrics go through
DRAIN_SECONDS = 10.0  # the outbox gets so long before the first new record; a dead receiver must not hold the rest
ASKS = 1000  # questions for evidence that may wait; one more and the oldest is dropped and counted
STOP_SECONDS = 15.0  # a step in progress gets so long to end when the daemon stops
FIGURES_EVERY = 2.0  # s between two reports of a worker's metrics
RESTART_KEYS = ("data_dir", "workers", "http", "journal", "metric_log", "store", "sources", "log")


def destinations(config: Config, session: Session) -> dict[str, Notifier | Trainer]:
    """Every configured notifier and trainer by its destination key.

    Raises:
        ConfigError: unknown kind or wrong options, with the key's path.
    """
    found: dict[str, Notifier | Trainer] = {}
    for receiver, kind, index, raw, path in receivers(config):
        cls = plugins.load("notifiers", kind, path)
        found[f"{receiver}/{kind}[{index}]"] = cls(plugin_config(cls.Config, raw, path), session)
    for kind, index, raw, path in trainers(config):
        cls = plugins.load("trainers", kind, path)
        found[f"trainer/{kind}[{index}]"] = cls(plugin_config(cls.Config, raw, path), session)
    return found


def open_stream(config: Config, index: int, clock: Clock, *, member: str | None = None) -> Stream:
    """The stream of `sources[index]`, not yet started.

    `member`: what makes the group_instance_id of one of several workers its own; "": no static membership.
    """
    source = config.sources[index]
    kind, raw = source.stream()
    if member is not None and raw.get("group_instance_id"):
        raw = raw | {"group_instance_id": member and f"{raw['group_instance_id']}-{member}"}
    path = f"$.sources[{index}].{kind}"
    cls = plugins.load("streams", kind, path)
    options = plugin_config(cls.Config, raw, path)
    stream: Stream = cls(options, source.name, source.decoder(), on_offset_lost=source.on_offset_lost, clock=clock)
    return stream


def topology_files(config: Config) -> list[TopologyUpdate]:
    """The topology of each configured YAML file.

    Raises:
        ConfigError: unreadable, or wrong; names the file and the key.
    """
    updates = []
    for i, name in enumerate(config.topology.files):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as e:
            raise ConfigError(f"cannot read {name}: {e.strerror}", f"$.topology.files[{i}]") from None
        updates.append(replace(load_topology_yaml(text, name), source=FILE_PREFIX + name))
    return updates


def check(config: Config) -> None:
    """Build everything that can be built without touching the world.

    Raises:
        ConfigError: the first thing that cannot.
    """
    destinations(config, NoSession())
    for index in range(len(config.sources)):
        open_stream(config, index, time.time)
    topology_files(config)
    correlate_stage.build(config)
    detect_stage.build(config, PUSH, 0)


class NoSession:
    """A session for checking a configuration: nothing is ever sent."""

    async def request(
        self, method: str, url: str, *, data: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        raise RuntimeError(f"{method} {url}: this session only checks configurations")


class Daemon:
    """One running aiopsd. `run` returns when `stop` is set, everything saved and closed."""

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        self.path, self.clock = path, clock
        self.config, self.text = read(path)
        check(self.config)
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
        app = build_app(
            config=config,
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
        self.site = app[SITE]
        try:
            runner = await serve(app, config.http.listen)
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
        windows = self.correlate.stage.maintenance.all()
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
            config, text = read(self.path)
            check(config)
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
            self.metrics.reload_ok.set(0)
            self._log.error("reload refused, the old configuration stays", error=str(e))
            raise
        self._loaded()
        self._log.info("reloaded", config_hash=config_hash(text))

    async def reload(self) -> None:
        """For SIGHUP: as POST /-/reload, errors only logged."""
        try:
            await self._reload()
        except ConfigError:
            return


class Worker:
    """One detect worker process of a running daemon: see runtime/worker.py."""

    def __init__(self, socket: Path, index: int, *, clock: Clock = time.time) -> None:
        self.socket, self.index, self.clock = socket, index, clock
        self.metrics = Metrics()
        self.hosts: list[DetectHost] = []
        self._told: asyncio.Queue[Ask | Rebuild | Windows] = asyncio.Queue(ASKS)
        self._quit = asyncio.Event()
        self._log = structlog.get_logger("worker").bind(worker=index)

    async def run(self, ready: Callable[[Config], None]) -> None:
        """Work until the daemon says quit, or SIGTERM. `ready` gets the configuration first (for the logs).

        Raises:
            StreamError: the daemon vanished.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._quit.set)
        reader, writer, welcome = await SocketHome.connect(self.socket, self.index)
        config = load(welcome.text)
        ready(config)
        data = self.socket.parent  # data_dir may be relative to where the daemon was started
        home = SocketHome(
            reader,
            writer,
            welcome.text,
            write=lambda name, position, under, taken: snapshots.write(
                data / "snapshots", name, position, under, self.clock(), taken
            ),
            read=snapshots.read,
        )
        self._make_hosts(config, home, welcome)
        for host in self.hosts:
            await host.maintain(welcome.windows)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(home), name="listen")
                tasks.create_task(self._figures(home), name="figures")
                tasks.create_task(self._obey(home), name="obey")
                tasks.create_task(self._leave(home), name="quit")
                for host in self.hosts:
                    tasks.create_task(self._source(host), name=f"source-{host.source}")
        except* StopDaemon:
            pass
        finally:
            for host in self.hosts:  # after a failure: leave the groups now, not when the session times out
                await host.stop()
            writer.close()

    def _make_hosts(self, config: Config, home: SocketHome, welcome: Welcome) -> None:
        data = self.socket.parent
        streams: list[tuple[str, Stream]] = []
        if welcome.partitions:
            log = LocalLog.reader(data / "metrics", welcome.partitions, self.clock, name=PUSH)
            streams.append((PUSH, DaemonsLog(log, home)))
        for i, source in enumerate(config.sources):
            if source.kind == "metrics" and source.keyed_by == "service":  # the daemon repartitions the others
                streams.append((source.name, open_stream(config, i, self.clock, member=welcome.member)))
        for name, stream in streams:
            self.hosts.append(
                DetectHost(
                    source=name,
                    stream=stream,
                    build=detect_builder(config, name),
                    home=home,
                    dead=DeadLetters(data / "dead-letter.jsonl", self.metrics),
                    metrics=self.metrics,
                    clock=self.clock,
                    snapshot_every=config.snapshots.every,
                )
            )

    async def _listen(self, home: SocketHome) -> None:
        await home.listen(self._tell)
        raise StreamError("the daemon is gone", retry=False)

    async def _tell(self, message: Told) -> None:
        if isinstance(message, Quit):
            self._quit.set()  # past everything that waits: a question may be stuck behind a full disk
        else:
            await self._told.put(message)

    async def _obey(self, home: SocketHome) -> None:
        """What the daemon tells, in order, beside the listener: an answer needs it to go on listening."""
        while True:
            message = await self._told.get()
            if isinstance(message, Ask):
                try:
                    for host in self.hosts:
                        await host.ask(message.question)
                except (StoreError, StreamError) as e:  # a lost answer costs evidence, never a page
                    self._log.error("no evidence", incident=message.question.incident, error=str(e))
            elif isinstance(message, Windows):
                for host in self.hosts:
                    await host.maintain(message.windows)
            else:
                config = load(message.text)
                home.text = message.text
                for host in self.hosts:
                    await host.rebuild(detect_builder(config, host.source))

    async def _leave(self, home: SocketHome) -> None:
        """Told to stop: finish the step, save, hand over."""
        await self._quit.wait()
        for host in self.hosts:
            await host.finish(STOP_SECONDS)
        for host in self.hosts:
            await host.stop()
        await self._send_figures(home)
        raise StopDaemon

    async def _figures(self, home: SocketHome) -> None:
        while True:
            await self._send_figures(home)
            await asyncio.sleep(FIGURES_EVERY)

    async def _send_figures(self, home: SocketHome) -> None:
        await home.figures(self.metrics, {f"source {h.source}": h.watch.trouble for h in self.hosts if h.watch.trouble})

    async def _source(self, host: DetectHost) -> None:
        try:
            await host.run()
        except StreamError as e:
            host.watch.stopped(e)


class StopDaemon(Exception):
    """Ends the task group in order."""


def detect_builder(config: Config, source: str) -> Callable[[int, Snapshot | None], DetectStage]:
    """How a detect host builds the stage of a partition."""
    return lambda partition, resume: detect_stage.build(config, source, partition, resume)


def _folder(name: str) -> Path:
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot make {name}: {e.strerror}", "$.data_dir") from None
    return path
