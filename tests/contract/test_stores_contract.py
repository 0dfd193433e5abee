"""The suite of stores over what ships: SQLite and memory; and what only files can go through."""

import contextlib
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from aiopsd import snapshots
from aiopsd.errors import Corrupt, Fenced, StoreError
from aiopsd.model import Snapshot, Upsert
from aiopsd.protocols import Store
from aiopsd.stores.memory import MemoryStore
from aiopsd.stores.sqlite import SqliteStore, migrations, statements
from aiopsd.testing.checks import STORE_CHECKS, StoreCheck, name_of
from aiopsd.testing.checks.stores import incident, same_snapshot, silence, snapshot
from aiopsd.testing.clock import ManualClock


class SqliteCase:
    files = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, ManualClock()

    def open(self) -> SqliteStore:
        return SqliteStore(self.folder / "store.db", self.clock)

    async def fill(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        await store.limit_pages(1)

    async def free(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        await store.limit_pages(0)


class MemoryCase:
    files = False

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.first = MemoryStore(self.clock)

    def open(self) -> MemoryStore:
        return MemoryStore(self.clock, self.first.contents)

    async def fill(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        store.full = True

    async def free(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        store.full = False


@pytest.mark.parametrize("case", [SqliteCase, MemoryCase], ids=name_of)
@pytest.mark.parametrize("check", STORE_CHECKS, ids=name_of)
async def test_store(check: StoreCheck, case: type[SqliteCase] | type[MemoryCase], tmp_path: Path) -> None:
    """Every shipped store keeps every promise of the suite."""
    await check(case(tmp_path))


# --------------------------------------------------------------------------- what only SQLite and files go through


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "snapshots").iterdir())


def damage(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


async def test_lost_snapshot_falls_back(tmp_path: Path) -> None:
    """When the newest file is damaged or gone the one before is given, and the ref says so; with none it is Corrupt."""
    case = SqliteCase(tmp_path)
    store = case.open()
    await store.start()
    refs = [await store.put_snapshot("correlate", n, "h", snapshot(n)) for n in range(1, 4)]
    assert len(files_of(tmp_path)) == 2

    damage(Path(refs[2].path))
    found = await store.snapshot("correlate")
    assert found is not None
    assert refs[1] == found[0]
    assert same_snapshot(snapshot(2), found[1])

    os.unlink(refs[1].path)
    with pytest.raises(Corrupt, match=Path(refs[2].path).name):
        await store.snapshot("correlate")
    await store.stop()


async def test_orphans_are_cleared_at_the_start(tmp_path: Path) -> None:
    """Files that no row speaks of, finished or not, are gone after a start; kept generations are not."""
    case = SqliteCase(tmp_path)
    store = case.open()
    await store.start()
    kept = [Path((await store.put_snapshot(name, 1, "h", snapshot(1))).path).name for name in ("a", "detect/b/0")]
    await store.stop()
    (tmp_path / "snapshots" / "correlate-9-00000000.snap").write_bytes(b"half")
    (tmp_path / "snapshots" / "correlate-9-00000000.snap.part").write_bytes(b"half")
    (tmp_path / "snapshots" / "notes.txt").write_bytes(b"somebody else's")
    store = case.open()
    await store.start()

    assert sorted([*kept, "notes.txt"]) == files_of(tmp_path)
    await store.stop()


async def test_worker_hands_over_a_file(tmp_path: Path) -> None:
    """A snapshot file that another process wrote into the folder becomes current; one elsewhere is refused."""
    case = SqliteCase(tmp_path)
    store = case.open()
    await store.start()
    mine = snapshots.write(tmp_path / "snapshots", "detect/push/1", 77, "h", 5.0, snapshot(7))
    await store.adopt_snapshot(mine)
    other = snapshots.write(tmp_path / "elsewhere", "detect/push/1", 78, "h", 6.0, snapshot(8))
    with pytest.raises(StoreError, match="elsewhere"):
        await store.adopt_snapshot(other)
    refs = await store.snapshot_refs("detect/push/1")
    await store.stop()

    assert [mine] == refs
    assert same_snapshot(snapshot(7), snapshots.read(mine))


async def test_same_state_twice_is_one_file(tmp_path: Path) -> None:
    """The same state at the same position keeps its file, however often it is put and whoever is fenced meanwhile."""
    case = SqliteCase(tmp_path)
    store = case.open()
    await store.start()
    for _ in range(3):
        await store.put_snapshot("correlate", 1, "h", snapshot(1))
    newer = case.open()
    await newer.start()
    with pytest.raises(Fenced):
        await store.put_snapshot("correlate", 1, "h", snapshot(1))
    with pytest.raises(Fenced):
        await store.put_snapshot("correlate", 2, "h", snapshot(2))
    found = await newer.snapshot("correlate")
    await store.stop()
    await newer.stop()

    assert len(files_of(tmp_path)) == 1
    assert found is not None
    assert same_snapshot(snapshot(1), found[1])


async def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A store of a newer aiopsd is refused with both versions named, and not changed."""
    case = SqliteCase(tmp_path)
    store = case.open()
    await store.start()
    await store.commit([Upsert(item=silence(1))], 3, "h")
    await store.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as conn, conn:
        conn.execute("INSERT INTO migration VALUES (99, 0)")
    again = case.open()
    with pytest.raises(StoreError, match="schema 99"):
        await again.start()
    await again.stop()

    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as conn:
        assert [(3,)] == conn.execute('SELECT "offset" FROM position').fetchall()
        assert [(1,)] == conn.execute("SELECT epoch FROM owner").fetchall()


def test_migrations_are_numbered_without_a_gap() -> None:
    """Migrations are applied in order of their numbers, 1 to the newest, and each statement of a script is found."""
    scripts = migrations()

    assert list(range(1, len(scripts) + 1)) == [number for number, _ in scripts]
    assert ["a;\n", "-- it's\nb\n;\n"] == list(statements("a;\n-- it's\nb\n;\n"))


async def test_damaged_store_is_corrupt(tmp_path: Path) -> None:
    """A file that is no database is Corrupt, by name."""
    (tmp_path / "store.db").write_bytes(b"not a store" * 1000)
    store = SqliteCase(tmp_path).open()

    with pytest.raises(Corrupt, match=r"store\.db"):
        await store.start()
    await store.stop()


async def test_changed_decision_is_corrupt(tmp_path: Path) -> None:
    """A body that changed on the disk is Corrupt when it is read, and does not stop other queries."""
    store = SqliteCase(tmp_path).open()
    await store.start()
    await store.commit([Upsert(item=silence(1)), Upsert(item=incident(1))], 0, "h")
    await store.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as conn, conn:
        conn.execute("UPDATE silence SET body = x'c1'")
    store = SqliteCase(tmp_path).open()
    await store.start()

    with pytest.raises(Corrupt, match=r"store\.db"):
        await store.silences()
    assert [incident(1)] == await store.incidents()
    await store.stop()


async def test_closed_store_says_so(tmp_path: Path) -> None:
    """Before its start a store refuses reads and writes."""
    store = SqliteCase(tmp_path).open()

    with pytest.raises(StoreError, match="not open"):
        await store.position()
    with pytest.raises(StoreError, match="not open"):
        await store.commit([], 0, "h")
    await store.stop()


async def test_snapshot_of_a_moved_folder(tmp_path: Path) -> None:
    """A data folder may be moved: snapshots are found beside the store."""
    (tmp_path / "old").mkdir()
    store = SqliteCase(tmp_path / "old").open()
    await store.start()
    await store.put_snapshot("correlate", 1, "h", snapshot(1))
    await store.stop()
    (tmp_path / "old").rename(tmp_path / "new")
    store = SqliteCase(tmp_path / "new").open()
    await store.start()
    found = await store.snapshot("correlate")
    await store.stop()

    assert found is not None
    assert same_snapshot(snapshot(1), found[1])


async def test_views_are_stored_as_they_look(tmp_path: Path) -> None:
    """Arrays that are views, reversed, transposed, big-endian or without dimension come back equal."""
    base = np.arange(24, dtype=np.float64).reshape(4, 6)
    arrays = {"t": base.T, "r": base[::-2, 1:3], "scalar": np.array(2.5), "big": base.astype(">f4"), "flag": base > 3}
    store = SqliteCase(tmp_path).open()
    await store.start()
    await store.put_snapshot("x", 1, "h", Snapshot(kind="x", version=1, meta={}, arrays=arrays))
    found = await store.snapshot("x")
    await store.stop()

    assert found is not None
    assert same_snapshot(Snapshot(kind="x", version=1, meta={}, arrays=arrays), found[1])
    assert replace(found[0], path="") != found[0]
