"""SQLite files and folders as the daemon keeps them: one thread per connection, grouped commits, a lock, our errors.

The local journal, the local metric log and the SQLite store are built on these few verbs. Everything below runs off the
event loop: a `Lane` is one thread that owns one connection, so no lock is held across an await and no call blocks the
loop. `GroupCommit` turns many concurrent callers into one transaction and one sync.
"""

import asyncio
import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Generic, Literal, ParamSpec, TypeAlias, TypeVar

from aiopsd.errors import AiopsdError, Corrupt, Fenced, Full, StoreError

Sync: TypeAlias = Literal["full", "normal"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

CHECKPOINT_PAGES = 250  # 1 MB: the log stays in the page cache and small; 1000 cost 10 % more CPU an append, 4000 40 %
BUSY_TIMEOUT = 10.0  # s; another process holds the write lock for one transaction or one checkpoint, never longer
# What SQLite and the disk under it raise; the last one when a damaged file makes a message that is no text.
DISK_ERRORS = (sqlite3.Error, OSError, UnicodeDecodeError)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refused(error: Exception, what: str, other: type[AiopsdError] = StoreError) -> AiopsdError:
    """The error of ours that a failed write or read of `what` (a path) means.

    `Full` when the device, a quota or the file's own limit has no room, `Corrupt` when SQLite says so, else `other`.
    """
    if isinstance(error, AiopsdError):
        return error
    if isinstance(error, OSError):
        kind: type[AiopsdError] = Full if error.errno in _NO_SPACE else other
        return kind(f"{what}: {error.strerror or error}")
    if isinstance(error, UnicodeDecodeError):
        return Corrupt(f"{what}: {error}")
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "") or ""
        if name == "SQLITE_FULL" or (name == "SQLITE_IOERR_WRITE" and _no_room(what)):
            return Full(f"{what}: no space left ({error})")
        if name.startswith("SQLITE_CORRUPT") or name == "SQLITE_NOTADB" or "not decode to UTF-8" in str(error):
            return Corrupt(f"{what}: {error}")
        return other(f"{what}: {error}{f' ({name})' if name else ''}")
    return other(f"{what}: {error}")


def _no_room(path: str) -> bool:
    """SQLite calls a full disk an I/O error in some places (shared-memory file, quota): look for ourselves."""
    try:
        return os.statvfs(Path(path).parent).f_bavail == 0
    except OSError:
        return False


def connect(path: Path, *, sync: Sync = "full", read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode (transactions are explicit) on a WAL database.

    sync "full": a commit is on the disk when it returns. "normal": a power cut may take the last commits, never the
    order of them; a killed process loses nothing either way. Source: https://www.sqlite.org/pragma.html#pragma_synchronous
    """
    if read_only:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    conn = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute(f"PRAGMA synchronous = {'FULL' if sync == 'full' else 'NORMAL'}")
        conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        conn.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        conn.close()
        raise
    return conn


def create(conn: sqlite3.Connection, path: Path, table: str, columns: str) -> None:
    """Make a table if it is missing.

    Raises:
        Corrupt: it is there with other columns: a damaged schema would turn names into text, and rows into nonsense.
    """
    wanted = f"CREATE TABLE {table} {columns}"
    row = conn.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    if row is None:
        conn.execute(wanted)
    elif row[0] != wanted:
        raise Corrupt(f"{path}: table {table} is not the one that was made")


@contextmanager
def transaction(conn: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing: rolled back when the block or the commit itself fails."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:  # SQLite rolls some failures back by itself
            conn.execute("ROLLBACK")
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a new or renamed file is on the disk only after this."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Lock:
    """An exclusive lock on a file, held until `release` or the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """
        Raises:
            Fenced: another process (or another object in this one) holds it; names the folder and the holder.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise Fenced(
                f"the data folder {self.path.parent} is in use by another aiopsd (pid {holder}; lock {self.path.name}):"
                " stop it, or give this one its own data_dir"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Lane:
    """One thread that does what it is given, in order: the only user of its SQLite connection."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `do` in the thread. Cancelling the caller does not stop the work."""
        return await self.submit(partial(do, *args, **kwargs))

    def submit(self, do: Callable[[], R]) -> "asyncio.Future[R]":
        return asyncio.get_running_loop().run_in_executor(self._pool, do)

    def begin(self, do: Callable[[], R], then: Callable[[R | None, Exception | None], None]) -> None:
        """Like `run` for one who does not await: `then(result, error)` is called in the loop. It costs half as much."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                result, error = do(), None
            except Exception as e:  # whatever it is, it is the caller's
                result, error = None, e
            loop.call_soon_threadsafe(then, result, error)

        self._pool.submit(work)

    def close(self) -> None:
        """Let the thread end. Nothing may be under way."""
        self._pool.shutdown(wait=True)


class Connections:
    """Base of what keeps a database with two connections, each used by one lane only: the writer's and the reader's."""

    _conn: sqlite3.Connection | None = None
    _read_conn: sqlite3.Connection | None = None
    _writer: Lane
    _reader: Lane

    def _close(self) -> None:
        """In the writer's lane."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _close_reader(self) -> None:
        """In the reader's lane."""
        if self._read_conn is not None:
            self._read_conn.close()
            self._read_conn = None

    async def limit_pages(self, pages: int) -> None:
        """Cap the file at so many pages of 4 KiB, to see it full; 0 lifts the cap."""

        def cap() -> None:
            assert self._conn is not None
            self._conn.execute(f"PRAGMA max_page_count = {pages or 4294967294}").close()

        await self._writer.run(cap)


class GroupCommit(Generic[T, R]):
    """Many callers, one write: what waits while a write is under way goes into the next one together.

    `write` runs in the lane and gives each item its result or its own exception; what it raises is everybody's.
    `applied` runs in the loop with the results, before any caller is told: state that readers see moves there. The
    queue is bounded by the callers, each of whom waits for its answer.
    """

    def __init__(
        self,
        lane: Lane,
        write: Callable[[Sequence[T]], list[R | Exception]],
        applied: Callable[[list[R | Exception]], None],
    ) -> None:
        self._lane, self._write, self._applied = lane, write, applied
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._busy = False
        self._idle: list[asyncio.Future[None]] = []

    async def put(self, item: T) -> R:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, told))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._begin)  # not at once: callers of the same turn of the loop share the write
        return await told

    async def drain(self) -> None:
        """Return when nothing is waiting or under way."""
        while self._busy:
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        self._lane.begin(partial(self._write, [item for item, _ in batch]), partial(self._finish, batch))

    def _finish(
        self,
        batch: list[tuple[T, "asyncio.Future[R]"]],
        outcomes: list[R | Exception] | None,
        error: Exception | None,
    ) -> None:
        if outcomes is not None:
            self._applied(outcomes)
        else:
            outcomes = [error or RuntimeError("a write without an outcome")] * len(batch)
        for (_, told), outcome in zip(batch, outcomes, strict=True):
            if told.done():  # the caller was cancelled; the write stands
                continue
            if isinstance(outcome, Exception):
                told.set_exception(outcome)
            else:
                told.set_result(outcome)
        if self._waiting:
            self._begin()
            return
        self._busy = False
        idle, self._idle = self._idle, []
        for future in idle:
            if not future.done():
                future.set_result(None)
