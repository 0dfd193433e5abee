"""`workers: N`: detection in child processes, the journal and the store in one.

The daemon listens on a Unix socket in its data folder and starts N workers, each `python -m aiopsd worker`. A worker is
a member of the consumer groups of the metric sources and reads its share of the local metric log. It holds no decision:
claims, events, answers and finished snapshot files go to the daemon, which fences a worker that lost its partition. A
worker that dies is started again; until then the others take over its Kafka partitions.

On the wire: four bytes of length (big-endian), then msgpack of one of the structs below.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import structlog

from aiopsd.config import Config, config_hash
from aiopsd.errors import ConfigError, Corrupt, Fenced, StoreError, StreamError
from aiopsd.metrics import Metrics
from aiopsd.model import Append, AskEvidence, Entry, EvidenceDigest, LogRecord, Noun, Snapshot, SourcePos, Window
from aiopsd.protocols import Owner, SnapshotRef, Stream
from aiopsd.runtime.home import Claim, Held, LocalHome, snapshot_name

SOCKET_PATH_MOST = 107  # bytes; sun_path of unix(7)
FRAME_MOST = 256 * 1024 * 1024
RESTART_FIRST, RESTART_MOST = 0.5, 30.0  # s between two starts of a worker that dies
STOP_SECONDS = 30.0  # a worker gets so long to save when the daemon stops


class Hello(Noun, frozen=True, kw_only=True, tag="hello"):
    pid: int
    index: int


class ClaimCall(Noun, frozen=True, kw_only=True, tag="claim"):
    id: int
    source: str
    partition: int


class AppendCall(Noun, frozen=True, kw_only=True, tag="append"):
    id: int
    claim: Claim
    events: tuple[Append, ...]


class AnswerCall(Noun, frozen=True, kw_only=True, tag="answer"):
    id: int
    digest: EvidenceDigest


class RebaseCall(Noun, frozen=True, kw_only=True, tag="rebase"):
    id: int
    claim: Claim
    before: int


class SaveCall(Noun, frozen=True, kw_only=True, tag="save"):
    id: int
    claim: Claim
    ref: SnapshotRef


class TrimCall(Noun, frozen=True, kw_only=True, tag="trim"):
    """The worker is done with these offsets of the local metric log; only the daemon may write there."""

    id: int
    before: dict[int, int]


class Figures(Noun, frozen=True, kw_only=True, tag="figures"):
    """Absolute values of the worker's metrics: attribute of Metrics -> [(label values, value)]; and its trouble."""

    values: dict[str, list[tuple[tuple[str, ...], float]]]
    troubles: dict[str, str]


class Reply(Noun, frozen=True, kw_only=True, tag="reply"):
    id: int
    error: str = ""
    kind: str = ""  # "fenced", "store", "stream"
    claim: Claim | None = None
    refs: tuple[SnapshotRef, ...] = ()  # every kept generation, newest first


class Welcome(Noun, frozen=True, kw_only=True, tag="welcome"):
    """The configuration, and what only the daemon's own workers get: a share of the local metric log, which has one
    reader per partition, and a static membership of consumer groups. One that was started by hand beside them has
    neither: it is a member of the groups, which deal the partitions of Kafka anew.
    """

    text: str
    partitions: tuple[int, ...] = ()  # of the local metric log
    member: str = ""  # what makes a configured group_instance_id its own; "": dynamic membership
    windows: tuple[Window, ...] = ()  # of planned work


class Ask(Noun, frozen=True, kw_only=True, tag="ask_worker"):
    question: AskEvidence


class Rebuild(Noun, frozen=True, kw_only=True, tag="rebuild"):
    text: str


class Windows(Noun, frozen=True, kw_only=True, tag="windows"):
    """All windows of planned work, whenever they change."""

    windows: tuple[Window, ...]


class Quit(Noun, frozen=True, kw_only=True, tag="quit"):
    pass


Upward: TypeAlias = Hello | ClaimCall | AppendCall | AnswerCall | RebaseCall | SaveCall | TrimCall | Figures
Told: TypeAlias = Ask | Rebuild | Windows | Quit
Downward: TypeAlias = Welcome | Reply | Told

COUNTERS = (
    "records",
    "samples",
    "skipped",
    "ignored",
    "model_faults",
    "rejects",
    "dead_letters",
    "anomalies",
    "drifts",
    "offset_lost",
    "write_errors",
)
GAUGES = ("lag", "series", "models", "watermark", "source_stopped", "snapshot_seconds", "snapshot_time")

_encode = msgspec.msgpack.Encoder().encode
_upward: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Upward)
_downward: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Downward)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """One frame; raises IncompleteReadError at the end of the connection."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > FRAME_MOST:
        raise StreamError(f"a frame of {size} bytes on the worker socket", retry=False)
    return await reader.readexactly(size)


async def _write(writer: asyncio.StreamWriter, message: Noun) -> None:
    body = _encode(message)
    writer.write(len(body).to_bytes(4, "big") + body)
    await writer.drain()


# --------------------------------------------------------------------------- the daemon's side


class Connection:
    """One connected worker, as the daemon sees it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.index = -1
        self.pid = 0
        self.ours = False  # a child of this daemon
        self.troubles: dict[str, str] = {"worker": "connecting"}
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}
        self._shown: dict[tuple[str, tuple[str, ...]], None] = {}

    def take(self, figures: Figures, metrics: Metrics) -> None:
        """Counters by their growth since the last message, gauges as they are."""
        self.troubles = dict(figures.troubles)
        for name, values in figures.values.items():
            metric = getattr(metrics, name)
            for labels, value in values:
                child = metric.labels(*labels)
                if name in COUNTERS:
                    child.inc(max(0.0, value - self._last.get((name, labels), 0.0)))
                    self._last[name, labels] = value
                else:
                    child.set(value)
                    self._shown[name, labels] = None

    def forget(self, metrics: Metrics) -> None:
        """Its gauges go with it: whoever has its partitions now shows his own."""
        for name, labels in self._shown:
            with contextlib.suppress(KeyError):  # already gone with another one's
                getattr(metrics, name).remove(*labels)


class WorkerPool:
    """Starts the workers, keeps them alive, and serves them."""

    def __init__(
        self,
        config: Config,
        text: str,
        home: LocalHome,
        metrics: Metrics,
        trim: Callable[[dict[int, int]], Awaitable[None]],
    ) -> None:
        self.config, self.text, self.home, self.metrics = config, text, home, metrics
        self.socket = Path(config.data_dir) / "worker.sock"
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MOST:
            raise ConfigError(f"with workers the path of {self.socket} may have {SOCKET_PATH_MOST} bytes", "$.data_dir")
        self.windows: tuple[Window, ...] = ()  # of planned work
        self._trim = trim
        self._log = structlog.get_logger("workers")
        self._connections: dict[asyncio.StreamWriter, Connection] = {}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self.stopping = False  # set early: a worker that was told to stop by others, too, is not started again
        self._gone = asyncio.Event()

    async def run(self) -> None:
        """Listen, start the workers, start again what dies; until cancelled."""
        self.socket.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, str(self.socket))
        self.socket.chmod(0o600)
        try:
            async with asyncio.TaskGroup() as tasks:
                for index in range(self.config.workers):
                    tasks.create_task(self._keep(index), name=f"worker-{index}")
        finally:
            server.close()

    async def _keep(self, index: int) -> None:
        pause = RESTART_FIRST
        while not self.stopping:
            began = asyncio.get_running_loop().time()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "aiopsd", "worker", "--connect", str(self.socket), "--index", str(index)
            )
            self._processes[index] = process
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                return  # the daemon stops: `stop` says goodbye in order
            if self.stopping:
                return
            self._log.error("worker died, starting another", index=index, code=code)
            if asyncio.get_running_loop().time() - began > RESTART_MOST:
                pause = RESTART_FIRST
            await asyncio.sleep(pause)
            pause = min(2 * pause, RESTART_MOST)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._connections[writer] = Connection(writer)
        try:
            while True:
                message = _upward.decode(await _read(reader))
                if isinstance(message, Hello):
                    await _write(writer, self._welcome(connection, message))
                elif isinstance(message, Figures):
                    connection.take(message, self.metrics)
                else:
                    await _write(writer, await self._call(message))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            del self._connections[writer]
            connection.forget(self.metrics)
            if not self._connections:
                self._gone.set()
            writer.close()

    def _welcome(self, connection: Connection, hello: Hello) -> Welcome:
        connection.index, connection.pid = hello.index, hello.pid
        process = self._processes.get(hello.index)
        connection.ours = process is not None and process.pid == hello.pid
        if not connection.ours:
            self._log.info("a worker that was started by hand joins", index=hello.index, pid=hello.pid)
            return Welcome(text=self.text, windows=self.windows)
        share = range(hello.index, self.config.metric_log.partitions, self.config.workers)
        return Welcome(text=self.text, partitions=tuple(share), member=str(hello.index), windows=self.windows)

    async def _call(self, call: ClaimCall | AppendCall | AnswerCall | RebaseCall | SaveCall | TrimCall) -> Reply:
        try:
            if isinstance(call, ClaimCall):
                claim = self.home.grant(call.source, call.partition)
                refs = await self.home.store.snapshot_refs(snapshot_name(call.source, call.partition))
                return Reply(id=call.id, claim=claim, refs=tuple(refs))
            if isinstance(call, AppendCall):
                await self.home.append(call.claim, call.events)
            elif isinstance(call, AnswerCall):
                await self.home.answer(call.digest)
            elif isinstance(call, RebaseCall):
                await self.home.rebase(call.claim, call.before)
            elif isinstance(call, SaveCall):
                self.home.check(call.claim)
                await self.home.store.adopt_snapshot(call.ref)
            else:
                await self._trim(call.before)
        except Fenced as e:
            return Reply(id=call.id, error=str(e), kind="fenced")
        except StoreError as e:
            return Reply(id=call.id, error=str(e), kind="store")
        except StreamError as e:
            return Reply(id=call.id, error=str(e), kind="stream")
        return Reply(id=call.id)

    async def ask(self, question: AskEvidence) -> None:
        await self._all(Ask(question=question))

    async def rebuild(self, text: str) -> None:
        """Every worker, and every one started from now on, goes on under this configuration."""
        self.text = text
        await self._all(Rebuild(text=text))

    async def maintain(self, windows: tuple[Window, ...]) -> None:
        """Every worker, and every one started from now on, leaves out what lies in these windows."""
        self.windows = windows
        await self._all(Windows(windows=windows))

    async def _all(self, message: Noun) -> None:
        for writer in list(self._connections):
            try:
                await _write(writer, message)
            except ConnectionError:
                continue  # its reader finds out, too, and `_keep` starts another

    def troubles(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for connection in self._connections.values():
            found |= {f"worker {connection.index} {k}": v for k, v in connection.troubles.items() if v}
        missing = self.config.workers - len([c for c in self._connections.values() if c.ours])
        if missing > 0:
            found["workers"] = f"{missing} of {self.config.workers} not connected"
        return found

    async def stop(self) -> None:
        """Let the workers save and leave; those of ours that do not are killed."""
        self.stopping = True
        self._gone.clear()
        await self._all(Quit())
        for index, process in self._processes.items():
            if process.returncode is None:
                try:
                    await asyncio.wait_for(process.wait(), STOP_SECONDS)
                except TimeoutError:
                    self._log.error("worker does not stop, killed", index=index)
                    process.kill()
                    await process.wait()
        if self._connections:  # started by hand, or its end is still to be read
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), STOP_SECONDS)
        self.socket.unlink(missing_ok=True)


# --------------------------------------------------------------------------- the worker's side


class SocketHome:
    """The daemon's journal and store, over the socket. One instance per worker process."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        text: str,
        *,
        write: Callable[[str, int, str, Snapshot], SnapshotRef],
        read: Callable[[SnapshotRef], Snapshot],
    ) -> None:
        self._reader, self._writer = reader, writer
        self._write_file, self._read_file = write, read
        self.text = text
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._next = 0
        self._gone = False  # the daemon

    @staticmethod
    async def connect(path: Path, index: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Welcome]:
        """Introduce ourselves; the daemon answers with its configuration."""
        reader, writer = await asyncio.open_unix_connection(str(path), limit=FRAME_MOST)
        await _write(writer, Hello(pid=os.getpid(), index=index))
        welcome = _downward.decode(await _read(reader))
        if not isinstance(welcome, Welcome):
            raise StreamError(f"expected a welcome on the worker socket, got {type(welcome).__name__}", retry=False)
        return reader, writer, welcome

    async def listen(self, told: Callable[[Told], Awaitable[None]]) -> None:
        """Sort what comes down until the daemon is gone."""
        try:
            while True:
                message = _downward.decode(await _read(self._reader))
                if isinstance(message, Reply):
                    future = self._calls.pop(message.id, None)
                    if future is not None and not future.done():
                        future.set_result(message)
                else:
                    await told(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._gone = True
            for future in self._calls.values():
                if not future.done():
                    future.set_exception(StreamError("the daemon is gone", retry=False))

    async def _say(self, message: Noun) -> None:
        """
        Raises:
            StreamError: the daemon is gone.
        """
        try:
            if self._gone:
                raise ConnectionResetError
            await _write(self._writer, message)
        except ConnectionError:
            raise StreamError("the daemon is gone", retry=False) from None

    async def _call(self, make: Callable[[int], Noun]) -> Reply:
        self._next += 1
        number = self._next
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            await self._say(make(number))
            reply = await future
        finally:
            self._calls.pop(number, None)
        if reply.kind == "fenced":
            raise Fenced(reply.error)
        if reply.kind == "store":
            raise StoreError(reply.error)
        if reply.kind == "stream":
            raise StreamError(reply.error)
        return reply

    async def claim(self, source: str, partition: int) -> Held:
        reply = await self._call(lambda n: ClaimCall(id=n, source=source, partition=partition))
        if reply.claim is None:
            raise StreamError("the daemon answered a claim without one", retry=False)
        first: Corrupt | None = None
        for ref in reply.refs:  # as the store does: one generation back is kept for a lost file
            try:
                snapshot = await asyncio.to_thread(self._read_file, ref)
            except Corrupt as e:
                first = first or e
            else:
                return Held(claim=reply.claim, position=ref.position, snapshot=snapshot)
        if first is not None:
            raise first
        return Held(claim=reply.claim)

    async def append(self, claim: Claim, events: Sequence[Append]) -> None:
        await self._call(lambda n: AppendCall(id=n, claim=claim, events=tuple(events)))

    async def answer(self, digest: EvidenceDigest) -> None:
        await self._call(lambda n: AnswerCall(id=n, digest=digest))

    async def rebase(self, claim: Claim, before: int) -> None:
        await self._call(lambda n: RebaseCall(id=n, claim=claim, before=before))

    async def save(self, claim: Claim, position: int, snapshot: Snapshot) -> None:
        name = snapshot_name(claim.source, claim.partition)
        ref = await asyncio.to_thread(self._write_file, name, position, config_hash(self.text), snapshot)
        await self._call(lambda n: SaveCall(id=n, claim=claim, ref=ref))

    async def trim(self, before: Mapping[int, int]) -> None:
        await self._call(lambda n: TrimCall(id=n, before=dict(before)))

    async def figures(self, metrics: Metrics, troubles: dict[str, str]) -> None:
        """Send the worker's metrics up; the daemon shows them as its own."""
        values: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        for name in (*COUNTERS, *GAUGES):
            metric = getattr(metrics, name)
            order = metric._labelnames
            for family in metric.collect():
                values[name] = [
                    (tuple(s.labels[label] for label in order), s.value)
                    for s in family.samples
                    if not s.name.endswith("_created")
                ]
        await self._say(Figures(values=values, troubles=troubles))


class DaemonsLog:
    """The daemon's metric log as a worker reads it: a reader's stream whose trimming is the daemon's to do."""

    def __init__(self, log: Stream, home: SocketHome) -> None:
        self._log, self._home = log, home
        self.name = log.name

    async def start(self, owner: Owner | None = None) -> None:
        await self._log.start(owner)

    async def poll(self, limit: int, wait: float) -> list[LogRecord]:
        return await self._log.poll(limit, wait)

    async def append(self, entries: Sequence[Entry]) -> list[SourcePos]:
        raise StreamError(f"{self.name}: only the daemon writes this log", retry=False)

    def pause(self, partitions: Sequence[int]) -> None:
        self._log.pause(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self._log.resume(partitions)

    async def lag(self) -> dict[int, int]:
        return await self._log.lag()

    async def trim(self, before: Mapping[int, int]) -> None:
        await self._home.trim(before)

    async def stop(self) -> None:
        await self._log.stop()
