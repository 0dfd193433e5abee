"""The store of one machine: decisions, outbox and positions in one SQLite file, snapshots as files beside it.

Every call runs in one of three threads (writing, reading, snapshot files), none blocks the event loop. Each opener adds
one to the epoch in the file and every write checks it: a daemon that was replaced is fenced at its next write.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aiopsd import snapshots
from aiopsd.disk import DISK_ERRORS, Connections, Lane, connect, refused, sync_folder, transaction
from aiopsd.errors import Corrupt, Fenced, StoreError
from aiopsd.model import Alert, AuditEntry, Effect, Incident, Notification, RetrainRequest, Silence, Snapshot
from aiopsd.protocols import Clock, OutboxRow, SnapshotRef
from aiopsd.stores.decisions import PENDING, Decisions, ended_at, fold

GENERATIONS = 2  # snapshot files kept of each name: the current one, and one to fall back on
PRUNE_ROWS = 500  # incidents a transaction; commits get their turn in between

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_item = msgspec.msgpack.Decoder(Notification | RetrainRequest).decode
_texts = msgspec.msgpack.Decoder(dict[str, str]).decode


def _only(kind: type[T]) -> Callable[[tuple[Any, ...]], T]:
    """Decoder of rows whose only column is a body of this kind."""
    decode = msgspec.msgpack.Decoder(kind).decode
    return lambda row: decode(row[0])


def _as_is(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row


_incident, _alert, _silence, _audit = _only(Incident), _only(Alert), _only(Silence), _only(AuditEntry)
_receipt = _only(dict[str, str])

_OUTBOX = (
    "seq, id, destination, dedup_key, incident, state, attempts, next_at, error, created_at, done_at, receipt, body"
)


def migrations() -> list[tuple[int, str]]:
    """(number, script) of every migration, in order; their files are named NNNN_<what>.sql."""
    folder = files("aiopsd.stores") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), (folder / name).read_text(encoding="utf-8")) for name in names]


def migrate(conn: sqlite3.Connection, path: Path, now: float) -> None:
    """Bring the file to the newest schema, one transaction per step.

    Raises:
        StoreError: a newer aiopsd wrote it.
    """
    conn.execute("CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, applied_at REAL NOT NULL)")
    (have,) = conn.execute("SELECT coalesce(max(number), 0) FROM migration").fetchone()
    known = migrations()
    if have > known[-1][0]:
        raise StoreError(
            f"{path}: written by a newer aiopsd (schema {have}, this one knows {known[-1][0]}):"
            " run that version, or restore the folder as it was before the upgrade"
        )
    for number, script in known:
        if number > have:
            with transaction(conn):
                for statement in statements(script):
                    conn.execute(statement)
                conn.execute("INSERT INTO migration VALUES (?, ?)", (number, now))


def statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: executescript would commit our transaction."""
    part = ""
    for line in script.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            yield part
            part = ""


class SqliteStore(Connections):
    """`protocols.Store` in one file.

    Args:
        path: The file; its folder must exist. Snapshot files go to `snapshots/` beside it.
        clock: UTC seconds, for the times at which rows were written.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.folder = path, path.parent / "snapshots"
        self._clock = clock
        self._writer, self._reader, self._files = Lane("store-writer"), Lane("store-reader"), Lane("store-files")
        self._conn: sqlite3.Connection | None = None
        self._read_conn: sqlite3.Connection | None = None
        self._epoch = 0
        self._started = False

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Open or create, take over from whoever had it open, clear files that nothing refers to.

        Raises:
            StoreError: a newer aiopsd wrote it.
            Corrupt: not a store, or damaged.
        """
        try:
            await self._writer.run(self._open)
        except BaseException:
            await self._writer.run(self._close)
            raise
        self._started = True

    def _open(self) -> None:
        try:
            self._conn = conn = connect(self.path)
            migrate(conn, self.path, self._clock())
            with transaction(conn):
                conn.execute("UPDATE owner SET epoch = epoch + 1")
                (self._epoch,) = conn.execute("SELECT epoch FROM owner").fetchone()
            sync_folder(self.path.parent)
            kept = {file for (file,) in conn.execute("SELECT file FROM snapshot")}
            if self.folder.is_dir():
                for file in self.folder.iterdir():
                    if file.name not in kept and file.name.endswith((snapshots.SUFFIX, snapshots.TEMPORARY)):
                        file.unlink(missing_ok=True)
        except DISK_ERRORS as e:
            raise refused(e, str(self.path)) from e

    async def stop(self) -> None:
        """Close; what was asked before is finished first."""
        if self._started:
            self._started = False
            await self._files.run(lambda: None)
            await self._reader.run(self._close_reader)
            await self._writer.run(self._close)
        for lane in (self._files, self._reader, self._writer):
            lane.close()

    async def _write(self, do: "Callable[[sqlite3.Connection], T]") -> T:
        """The result of `do` in the writer's thread, errors with our names."""

        def run() -> T:
            if self._conn is None:
                raise StoreError(f"{self.path}: the store is not open")
            try:
                return do(self._conn)
            except DISK_ERRORS as e:
                raise refused(e, str(self.path)) from e

        return await self._writer.run(run)

    async def _read(self, sql: str, args: Sequence[object], decode: Callable[[tuple[Any, ...]], T]) -> list[T]:
        """All rows of a query, decoded in the reader's thread: they are as of the last commit.

        Raises:
            Corrupt: a row is not what was written.
        """

        def run() -> list[T]:
            try:
                if self._read_conn is None:
                    self._read_conn = connect(self.path, read_only=True)
                return [decode(row) for row in self._read_conn.execute(sql, args).fetchall()]
            except msgspec.MsgspecError as e:
                raise Corrupt(f"{self.path}: a row cannot be decoded: {e}") from e
            except DISK_ERRORS as e:
                raise refused(e, str(self.path)) from e

        if not self._started:
            raise StoreError(f"{self.path}: the store is not open")
        return await self._reader.run(run)

    @contextmanager
    def _ours(self, conn: sqlite3.Connection) -> Iterator[None]:
        """A transaction that only the newest opener may have."""
        with transaction(conn):
            (epoch,) = conn.execute("SELECT epoch FROM owner").fetchone()
            if epoch != self._epoch:
                raise Fenced(
                    f"{self.path}: another aiopsd has opened this store since (epoch {epoch}, ours {self._epoch})"
                )
            yield

    # ------------------------------------------------------------------ decisions

    async def commit(
        self, effects: Sequence[Effect], position: int, config_hash: str, *, config_text: str = ""
    ) -> None:
        """See `protocols.Store.commit`. What Forget means: `decisions.fold`.

        Raises:
            ValueError: the position would go back.
        """

        def run(conn: sqlite3.Connection) -> None:
            decided = fold(effects)
            now = self._clock()
            with self._ours(conn):
                (have,) = conn.execute('SELECT "offset" FROM position').fetchone()
                if position < have:
                    raise ValueError(f"{self.path}: position {position} is behind the committed {have}")
                conn.execute('UPDATE position SET "offset" = ?, config_hash = ?', (position, config_hash))
                if config_text:
                    conn.execute("INSERT OR IGNORE INTO config VALUES (?, ?, ?)", (config_hash, config_text, now))
                _put(conn, decided, now)

        await self._write(run)

    async def position(self) -> tuple[int, str, str]:
        rows = await self._read(
            "SELECT \"offset\", config_hash, coalesce(text, '') FROM position LEFT JOIN config ON hash = config_hash",
            (),
            _as_is,
        )
        offset, config_hash, text = rows[0]
        return offset, config_hash, text

    # ------------------------------------------------------------------ snapshots

    async def put_snapshot(self, name: str, position: int, config_hash: str, snapshot: Snapshot) -> SnapshotRef:
        """See `protocols.Store.put_snapshot`; the one before stays, in case the disk loses this one."""
        ref = await self._files.run(snapshots.write, self.folder, name, position, config_hash, self._clock(), snapshot)
        try:
            await self.adopt_snapshot(ref)
        except StoreError:
            await self._files.run(self._forget_file, Path(ref.path).name)
            raise
        return ref

    def _forget_file(self, name: str) -> None:
        """Remove a snapshot's file unless a row speaks of it."""
        with connect_reading(self.path) as conn:
            if conn.execute("SELECT 1 FROM snapshot WHERE file = ?", (name,)).fetchone() is None:
                (self.folder / name).unlink(missing_ok=True)

    async def adopt_snapshot(self, ref: SnapshotRef) -> None:
        """See `protocols.Store.adopt_snapshot`.

        Raises:
            StoreError: the file lies elsewhere than in our folder of snapshots.
        """
        path = Path(ref.path)
        if path.parent.resolve() != self.folder.resolve():
            raise StoreError(f"{path} is not in {self.folder}")

        def run(conn: sqlite3.Connection) -> list[str]:
            with self._ours(conn):
                if not path.is_file() or path.stat().st_size != ref.size:
                    raise Corrupt(f"{path}: no such file of {ref.size} bytes")
                conn.execute("DELETE FROM snapshot WHERE file = ?", (path.name,))
                conn.execute(
                    "INSERT INTO snapshot (name, position, config_hash, written_at, file, sha256, size)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (ref.name, ref.position, ref.config_hash, ref.written_at, path.name, ref.sha256, ref.size),
                )
                old = conn.execute(
                    "SELECT seq, file FROM snapshot WHERE name = ? ORDER BY seq DESC LIMIT -1 OFFSET ?",
                    (ref.name, GENERATIONS),
                ).fetchall()
                conn.executemany("DELETE FROM snapshot WHERE seq = ?", [(seq,) for seq, _ in old])
            return [file for _, file in old]

        for file in await self._write(run):
            await self._files.run((self.folder / file).unlink, True)

    async def snapshot_refs(self, name: str) -> list[SnapshotRef]:
        rows = await self._read(
            "SELECT name, position, config_hash, written_at, file, sha256, size FROM snapshot"
            " WHERE name = ? ORDER BY seq DESC",
            (name,),
            _as_is,
        )
        return [
            SnapshotRef(
                name=name,
                position=position,
                config_hash=config_hash,
                written_at=written_at,
                path=str(self.folder / file),
                sha256=sha256,
                size=size,
            )
            for name, position, config_hash, written_at, file, sha256, size in rows
        ]

    async def snapshot(self, name: str) -> tuple[SnapshotRef, Snapshot] | None:
        """The newest snapshot that is whole: the ref says which. One generation back is kept for a lost file.

        Raises:
            Corrupt: none of the kept ones is what was written; names the newest one's file.
        """
        first: Corrupt | None = None
        for ref in await self.snapshot_refs(name):
            try:
                return ref, await self._files.run(snapshots.read, ref)
            except Corrupt as e:
                first = first or e
        if first is not None:
            raise first
        return None

    # ------------------------------------------------------------------ outbox

    async def outbox(
        self, *, states: Sequence[str] = (PENDING,), limit: int = 1000, incident: str = ""
    ) -> list[OutboxRow]:
        where = f"state IN ({_marks(states)})"
        args: list[object] = [*states]
        if incident:
            where += " AND incident = ?"
            args.append(incident)
        return await self._read(
            f"SELECT {_OUTBOX} FROM outbox WHERE {where} ORDER BY seq LIMIT ?", [*args, limit], _row
        )

    async def mark(
        self,
        seq: int,
        state: str,
        *,
        attempts: int | None = None,
        next_at: float = 0.0,
        error: str = "",
        receipt: Mapping[str, str] | None = None,
        at: float = 0.0,
    ) -> None:
        """State of one outbox row. `at` is when it was done, for every state but pending.

        Raises:
            StoreError: there is no such row.
            Fenced, Full: as `commit`.
        """

        def run(conn: sqlite3.Connection) -> None:
            with self._ours(conn):
                done = conn.execute(
                    "UPDATE outbox SET state = ?, attempts = coalesce(?, attempts), next_at = ?, error = ?,"
                    " receipt = coalesce(?, receipt), done_at = ? WHERE seq = ?",
                    (
                        state,
                        attempts,
                        next_at,
                        error,
                        None if receipt is None else _encode(dict(receipt)),
                        0.0 if state == PENDING else at,
                        seq,
                    ),
                )
                if done.rowcount != 1:
                    raise StoreError(f"{self.path}: no outbox row {seq}")

        await self._write(run)

    async def receipts(self, destination: str, dedup_key: str) -> dict[str, str]:
        merged: dict[str, str] = {}
        for receipt in await self._read(
            "SELECT receipt FROM outbox WHERE destination = ? AND dedup_key = ? ORDER BY seq",
            (destination, dedup_key),
            _receipt,
        ):
            merged |= receipt
        return merged

    # ------------------------------------------------------------------ queries

    async def incidents(
        self, *, states: Sequence[str] = (), limit: int = 100, before: float | None = None, service: str = ""
    ) -> list[Incident]:
        where, args = ["1"], list[object]()
        if states:
            where.append(f"state IN ({_marks(states)})")
            args += states
        if before is not None:
            where.append("opened_at < ?")
            args.append(before)
        if service:
            where.append("instr(services, ?) > 0")
            args.append(f"\n{service}\n")
        return await self._read(
            f"SELECT body FROM incident WHERE {' AND '.join(where)} ORDER BY opened_at DESC, id DESC LIMIT ?",
            [*args, limit],
            _incident,
        )

    async def incident(self, incident_id: str) -> Incident | None:
        rows = await self._read("SELECT body FROM incident WHERE id = ?", (incident_id,), _incident)
        return rows[0] if rows else None

    async def alerts(self, *, incident: str = "", states: Sequence[str] = ()) -> list[Alert]:
        """By (starts_at, fingerprint); with `incident`, only its."""
        where, args = ["1"], list[object]()
        if incident:
            where.append("incident = ?")
            args.append(incident)
        if states:
            where.append(f"state IN ({_marks(states)})")
            args += states
        return await self._read(
            f"SELECT body FROM alert WHERE {' AND '.join(where)} ORDER BY starts_at, fingerprint", args, _alert
        )

    async def silences(self) -> list[Silence]:
        """By id."""
        return await self._read("SELECT body FROM silence ORDER BY id", (), _silence)

    async def timeline(self, incident: str = "", *, limit: int = 1000, before: float | None = None) -> list[AuditEntry]:
        """See `protocols.Store.timeline`."""
        where, args = "1", list[str | float]()
        if incident:
            where, args = f"{where} AND incident = ?", [*args, incident]
        if before is not None:
            where, args = f"{where} AND stamp < ?", [*args, before]
        newest = await self._read(
            f"SELECT body FROM audit WHERE {where} ORDER BY seq DESC LIMIT ?", [*args, limit], _audit
        )
        return newest[::-1]

    async def prune(self, before: float) -> int:
        """See `protocols.Store.prune`; the number of incidents dropped.

        Ended alerts, ended silences and audit lines that belong to no incident go by the same age; receipts of a key
        stay as long as its incident lives.
        """
        dropped = 0
        while n := await self._write(lambda conn: self._prune_some(conn, before)):
            dropped += n
        return dropped

    def _prune_some(self, conn: sqlite3.Connection, before: float) -> int:
        """One transaction's worth of incidents; with the last, what belongs to none."""
        with self._ours(conn):
            ids = conn.execute(
                "SELECT id FROM incident WHERE ended_at > 0 AND ended_at < ? ORDER BY ended_at LIMIT ?",
                (before, PRUNE_ROWS),
            ).fetchall()
            conn.executemany("DELETE FROM incident WHERE id = ?", ids)
            conn.executemany("DELETE FROM alert WHERE incident = ?", ids)
            conn.executemany("DELETE FROM audit WHERE incident = ?", ids)
            if not ids:
                conn.execute(
                    "DELETE FROM alert WHERE incident = '' AND state <> 'firing' AND updated_at < ?", (before,)
                )
                conn.execute("DELETE FROM silence WHERE ends_at < ?", (before,))
                conn.execute("DELETE FROM audit WHERE incident = '' AND stamp < ?", (before,))
                conn.execute(
                    "DELETE FROM outbox WHERE state <> ? AND done_at < ?"
                    " AND incident NOT IN (SELECT id FROM incident WHERE ended_at = 0)",
                    (PENDING, before),
                )
        return len(ids)


@contextmanager
def connect_reading(path: Path) -> Iterator[sqlite3.Connection]:
    conn = connect(path, read_only=True)
    try:
        yield conn
    finally:
        conn.close()


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


def _upsert(table: str, key: str, *columns: str) -> str:
    """A row is changed in place by its key: REPLACE would give it a new row id, and every index a new entry."""
    sets = ", ".join(f"{c} = excluded.{c}" for c in columns)
    names = ", ".join((key, *columns))
    return f"INSERT INTO {table} ({names}) VALUES ({_marks((key, *columns))}) ON CONFLICT ({key}) DO UPDATE SET {sets}"


_PUT_INCIDENT = _upsert("incident", "id", "state", "opened_at", "ended_at", "services", "body")
_PUT_ALERT = _upsert("alert", "fingerprint", "incident", "state", "starts_at", "updated_at", "body")
_PUT_SILENCE = _upsert("silence", "id", "ends_at", "body")
_PUT_DELIVERY = (
    "INSERT INTO outbox"
    " (id, destination, dedup_key, incident, state, attempts, next_at, error, created_at, done_at, receipt, body)"
    " VALUES (?, ?, ?, ?, ?, 0, 0, '', ?, 0, ?, ?) ON CONFLICT (id, destination) DO NOTHING"
)


def _put(conn: sqlite3.Connection, decided: Decisions, now: float) -> None:
    """Write the decisions; the transaction is the caller's."""
    incidents = decided.incidents.values()
    conn.executemany(
        _PUT_INCIDENT,
        [(i.id, i.state, i.opened_at, ended_at(i), "\n".join(("", *i.services, "")), _encode(i)) for i in incidents],
    )
    alerts = [a for a in decided.alerts.values() if a is not None]
    conn.executemany(
        _PUT_ALERT, [(a.fingerprint, a.incident, a.state, a.starts_at, a.updated_at, _encode(a)) for a in alerts]
    )
    conn.executemany(
        "DELETE FROM alert WHERE fingerprint = ? AND incident = ''",
        [(key,) for key, alert in decided.alerts.items() if alert is None],
    )
    silences = [s for s in decided.silences.values() if s is not None]
    conn.executemany(_PUT_SILENCE, [(s.id, s.ends_at, _encode(s)) for s in silences])
    conn.executemany("DELETE FROM silence WHERE id = ?", [(k,) for k, s in decided.silences.items() if s is None])
    conn.executemany(
        _PUT_DELIVERY,
        [
            (d.id, d.destination, d.dedup_key, d.incident, PENDING, now, _encode({}), _encode(d.item))
            for d in decided.deliveries
        ],
    )
    conn.executemany(
        "INSERT INTO audit (incident, stamp, body) VALUES (?, ?, ?)",
        [(entry.incident, entry.stamp, _encode(entry)) for entry in decided.audit],
    )


def _row(row: tuple[Any, ...]) -> OutboxRow:
    seq, id, destination, dedup_key, incident, state, attempts, next_at, error, created_at, done_at, receipt, body = row
    return OutboxRow(
        seq=seq,
        id=id,
        destination=destination,
        dedup_key=dedup_key,
        item=_item(body),
        state=state,
        attempts=attempts,
        next_at=next_at,
        error=error,
        incident=incident,
        created_at=created_at,
        done_at=done_at,
        receipt=_texts(receipt),
    )
