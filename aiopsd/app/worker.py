"""A detect worker: some partitions of the metric sources; the journal and the store stay with the daemon."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from aiopsd import snapshots
from aiopsd.app.parts import (
    ASKS,
    PUSH,
    STOP_SECONDS,
    StopDaemon,
    detect_builder,
    open_stream,
)
from aiopsd.config import Config, load
from aiopsd.errors import StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.protocols import Clock, Stream
from aiopsd.runtime.dead import DeadLetters
from aiopsd.runtime.detect import DetectHost
from aiopsd.runtime.worker import Ask, DaemonsLog, Quit, Rebuild, SocketHome, Told, Welcome, Windows
from aiopsd.streams.local import LocalLog

FIGURES_EVERY = 2.0  # s between two reports of a worker's metrics


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
