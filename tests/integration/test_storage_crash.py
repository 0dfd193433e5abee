"""What a kill, a cut file or a full disk may do to the journal, the log and the store: nothing that was promised."""

import asyncio
import contextlib
import random
import resource
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aiopsd.errors import AiopsdError, Corrupt, Full
from aiopsd.model import Entry, JournalRecord, Notification, Snapshot
from aiopsd.stores.sqlite import SqliteStore
from aiopsd.streams.journal import LocalJournal
from aiopsd.streams.local import LocalLog
from aiopsd.testing import writers
from aiopsd.testing.checks import refusal
from aiopsd.testing.checks.journals import change, everything
from aiopsd.testing.checks.stores import same_snapshot, snapshot
from aiopsd.testing.clock import ManualClock
from aiopsd.testing.streams import Ledger, read, reading

TIMEOUT = 60.0
KILLS = [pytest.param(4, id="4-kills"), pytest.param(60, id="60-kills", marks=pytest.mark.soak)]


async def promises(kind: str, folder: Path, first: int, count: int) -> list[str]:
    """What a writer was promised until it was killed, right after its `count`-th promise."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aiopsd.testing.writers", kind, str(folder), str(first), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(TIMEOUT):
        while len(lines) < count:
            line = await process.stdout.readline()
            assert line, "the writer ended by itself"
            lines.append(line.decode().strip())
        process.kill()
        lines += (await process.stdout.read()).decode().splitlines()
        await process.wait()
    return lines


@pytest.mark.process
@pytest.mark.parametrize("kills", KILLS)
async def test_journal_of_a_killed_process(tmp_path: Path, kills: int) -> None:
    """Whenever the writer is killed, every acknowledged record is there, whole, in its place, and none twice."""
    rng = random.Random(kills)
    first = 0
    for _ in range(kills):
        told = [
            tuple(map(int, line.split())) for line in await promises("journal", tmp_path, first, rng.randint(1, 300))
        ]
        journal = LocalJournal(tmp_path / "journal.db", ManualClock())
        await journal.start()
        bodies = await everything(journal)
        marks = await journal.high_water("writer")
        origins = [r.origin for r in await all_records(journal)]
        await journal.stop()

        for offset, n in told:
            assert writers.journal_body(n) == bodies[offset]
        assert len(set(map(str, origins))) == len(origins)
        highest = {p: max(o.offset for o in origins if o is not None and o.partition == p) for p in marks}
        assert highest == marks
        first = writers.WRITERS * (max(marks.values()) + 1)


async def all_records(journal: LocalJournal) -> list[JournalRecord]:
    records: list[JournalRecord] = []
    while found := await journal.read(len(records) - 1, 500):
        records += found
    return records


@pytest.mark.process
@pytest.mark.parametrize("kills", KILLS)
async def test_log_of_a_killed_process(tmp_path: Path, kills: int) -> None:
    """Whenever the writer is killed, every acknowledged entry is at its place and every partition is without a gap."""
    rng = random.Random(kills)
    first = 0
    for _ in range(kills):
        lines = await promises("log", tmp_path, first, rng.randint(1, 300))
        told = [tuple(map(int, line.split())) for line in lines]
        log, ledger = LocalLog(tmp_path / "log", writers.PARTITIONS, ManualClock()), Ledger()
        async with reading(log, ledger):
            await read(log, ledger, sum((await log.lag()).values()))
        found = {(r.partition, r.offset): r for r in ledger.seen}

        for partition, offset, n in told:
            assert writers.log_entry(n).value == found[partition, offset].value
            assert b"%d" % n == found[partition, offset].key
        for partition in range(writers.PARTITIONS):
            offsets = [o for p, o in found if p == partition]
            assert list(range(len(offsets))) == offsets
        first = max(int(r.key or b"0") for r in ledger.seen) + 1
        first += -first % (writers.WRITERS * writers.PARTITIONS)


@pytest.mark.process
@pytest.mark.parametrize("kills", KILLS)
async def test_store_of_a_killed_process(tmp_path: Path, kills: int) -> None:
    """Whenever the writer is killed, position and decisions agree exactly, and nothing acknowledged is missing."""
    rng = random.Random(kills)
    first = 0
    for _ in range(kills):
        told = await promises("store", tmp_path, first, rng.randint(1, 80))
        committed = max(int(line) for line in told if line.isdigit())
        snapshots = [int(line.split()[1]) for line in told if not line.isdigit()]
        store = SqliteStore(tmp_path / "store.db", ManualClock())
        await store.start()
        position, config_hash, text = await store.position()
        incidents = await store.incidents()
        alerts = await store.alerts()
        audits = await store.timeline(limit=1_000_000)
        outbox = await store.outbox(limit=1_000_000)
        found = await store.snapshot("correlate")
        await store.stop()

        assert committed <= position <= committed + 1
        assert (f"h{position}", f"n: {position}") == (config_hash, text)
        everything = range(position + 1)
        newest = {n % writers.INCIDENTS: n for n in everything}
        assert sorted(f"commit {n}" for n in newest.values()) == sorted(i.title for i in incidents)
        assert [f"n{n}" for n in everything] == [r.id for r in outbox]
        assert all(isinstance(r.item, Notification) for r in outbox)
        assert {f"{n:016x}" for n in everything} == {a.fingerprint for a in alerts}
        assert [n for n in everything for _ in range(2)] == [e.offset for e in audits]
        if found is not None:
            assert same_snapshot(writers.store_snapshot(found[0].position), found[1])
            assert found[0].position <= position
        assert found is not None or not snapshots
        assert max(snapshots, default=-1) <= (found[0].position if found else -1)
        assert len(list((tmp_path / "snapshots").iterdir())) <= 2
        first = position + 1


# --------------------------------------------------------------------------- files that were cut


async def journal_with_a_log(folder: Path, count: int) -> tuple[list[int], int]:
    """Write records and copy the files as they lie on the disk while it is open to `folder`/copy.

    Returns:
        (size of the write-ahead log after each record's commit, its size in the end)
    """
    journal = LocalJournal(folder / "journal.db", ManualClock())
    await journal.start()
    assert journal._conn is not None
    await journal._writer.run(journal._conn.execute, "PRAGMA wal_autocheckpoint = 0")
    sizes = []
    wal = folder / "journal.db-wal"
    for n in range(count):
        await journal.append([writers.journal_body(n)], [writers.journal_origin(n)])
        sizes.append(wal.stat().st_size)
    (folder / "copy").mkdir()
    for name in ("journal.db", "journal.db-wal"):
        shutil.copy(folder / name, folder / "copy" / name)
    await journal.stop()
    return sizes, wal_size(folder / "copy")


def wal_size(folder: Path) -> int:
    return (folder / "journal.db-wal").stat().st_size


def fresh_copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


async def bodies_in(folder: Path) -> list[object]:
    journal = LocalJournal(folder / "journal.db", ManualClock())
    await journal.start()
    try:
        bodies = list(await everything(journal))
        origins = [writers.journal_origin(n) for n in range(len(bodies))]
        assert {o.partition: o.offset for o in origins} == await journal.high_water("writer")
        again = [writers.journal_body(0), change(0)]
        assert await journal.append(again, [origins[0] if origins else None, None]) == len(bodies) + (not origins)
        return bodies
    finally:
        await journal.stop()


@pytest.mark.parametrize("cuts", [120, pytest.param(3000, marks=pytest.mark.soak)])
async def test_log_cut_at_any_byte(tmp_path: Path, cuts: int) -> None:
    """A write-ahead log that ends at any byte holds exactly the records whose commit is before the cut, and goes on."""
    sizes, size = await journal_with_a_log(tmp_path, 40)
    rng = random.Random(cuts)
    places = {0, 1, 31, 32, 33, size - 1, size, *sizes[::4], *(s - 1 for s in sizes[::4]), *(s + 1 for s in sizes[::4])}
    while len(places) < cuts:
        places.add(rng.randrange(size + 1))
    for place in sorted(p for p in places if p <= size):
        folder = fresh_copy(tmp_path / "copy", tmp_path / "cut")
        with (folder / "journal.db-wal").open("r+b") as wal:
            wal.truncate(place)

        whole = sum(s <= place for s in sizes)
        assert [writers.journal_body(n) for n in range(whole)] == await bodies_in(folder), f"cut at {place}"


@pytest.mark.parametrize("flips", [60, pytest.param(1500, marks=pytest.mark.soak)])
async def test_log_with_a_torn_write(tmp_path: Path, flips: int) -> None:
    """A byte of the write-ahead log that never reached the disk costs the records from there on, never a broken one."""
    _, size = await journal_with_a_log(tmp_path, 30)
    wanted = [writers.journal_body(n) for n in range(30)]
    rng = random.Random(flips)
    for _ in range(flips):
        folder = fresh_copy(tmp_path / "copy", tmp_path / "torn")
        with (folder / "journal.db-wal").open("r+b") as wal:
            place = rng.randrange(size)
            wal.seek(place)
            byte = wal.read(1)[0]
            wal.seek(place)
            wal.write(bytes([byte ^ rng.randrange(1, 256)]))
        bodies = await bodies_in(folder)

        assert wanted[: len(bodies)] == bodies, f"byte {place}"


@pytest.mark.parametrize("flips", [60, pytest.param(1500, marks=pytest.mark.soak)])
async def test_damaged_file_is_told_from_a_good_one(tmp_path: Path, flips: int) -> None:
    """A byte of the file that changed on the disk is found when it is read, or does not matter: no record is wrong."""
    journal = LocalJournal(tmp_path / "journal.db", ManualClock())
    await journal.start()
    for n in range(30):
        await journal.append([writers.journal_body(n)], [writers.journal_origin(n)])
    await journal.stop()
    content = (tmp_path / "journal.db").read_bytes()
    wanted = [writers.journal_body(n) for n in range(30)]
    rng = random.Random(flips)
    told: list[str] = []
    for _ in range(flips):
        place = rng.randrange(len(content))
        (tmp_path / "bad").mkdir(exist_ok=True)
        for old in (tmp_path / "bad").iterdir():
            old.unlink()
        damaged = bytearray(content)
        damaged[place] ^= rng.randrange(1, 256)
        (tmp_path / "bad" / "journal.db").write_bytes(damaged)
        journal = LocalJournal(tmp_path / "bad" / "journal.db", ManualClock())
        try:
            await journal.start()
            records = await all_records(journal)
        except AiopsdError as e:
            told.append(str(e))
        else:
            assert [r.body for r in records] == wanted[: len(records)], f"byte {place}"
        finally:
            await journal.stop()

    assert len(told) > flips // 3
    assert all("journal" in text for text in told)


# --------------------------------------------------------------------------- disks that are full


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to write behind this offset of any file: what a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_snapshot_that_does_not_fit(tmp_path: Path) -> None:
    """Full, the unfinished file is gone, the old snapshot is current; with room again the new one is written."""
    store = SqliteStore(tmp_path / "store.db", ManualClock())
    await store.start()
    old = await store.put_snapshot("correlate", 1, "h", snapshot(1))
    big = Snapshot(kind="check", version=1, meta={}, arrays={"a": np.arange(3_000_000, dtype=np.float64)})
    with largest_file(16 * 1024 * 1024):
        error = await refusal(Full, store.put_snapshot("correlate", 2, "h", big))

    assert "correlate" in str(error)
    assert [Path(old.path).name] == [p.name for p in (tmp_path / "snapshots").iterdir()]
    assert [old] == await store.snapshot_refs("correlate")
    new = await store.put_snapshot("correlate", 2, "h", big)
    found = await store.snapshot("correlate")
    assert found is not None
    assert new == found[0]
    assert same_snapshot(big, found[1])
    await store.stop()


async def test_journal_and_log_beyond_a_quota(tmp_path: Path) -> None:
    """A write that the kernel cuts short is refused whole; when it no longer does, offsets go on without a gap."""
    journal = LocalJournal(tmp_path / "journal.db", ManualClock())
    log, ledger = LocalLog(tmp_path / "log", 1, ManualClock()), Ledger()
    await journal.start()
    await journal.append([change(0)])
    async with reading(log, ledger):
        await log.append([Entry(value=b"0", format="json")])
        with largest_file(300_000):
            await refusal(AiopsdError, journal.append([change(1, 1_000_000)]))
            await refusal(AiopsdError, log.append([Entry(value=random.Random(1).randbytes(1_000_000), format="json")]))
        assert await journal.append([change(2, 1_000_000)]) == 1
        (place,) = await log.append([Entry(value=b"2", format="json")])
        await read(log, ledger, 2)
    bodies = await everything(journal)
    await journal.stop()

    assert [change(0), change(2, 1_000_000)] == bodies
    assert place.offset == 1
    assert [b"0", b"2"] == [r.value for r in ledger.seen]


async def test_store_file_with_a_broken_page(tmp_path: Path) -> None:
    """A store whose pages were overwritten is Corrupt by name, on a query as on a commit."""
    path = tmp_path / "store.db"
    store = SqliteStore(path, ManualClock())
    await store.start()
    for n in range(50):
        await store.commit(writers.store_effects(n), n, "h")
    await store.stop()
    with contextlib.closing(sqlite3.connect(path)) as conn:
        (root,) = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'incident'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = SqliteStore(path, ManualClock())
    await store.start()

    assert str(path) in str(await refusal(Corrupt, store.incidents()))
    assert str(path) in str(await refusal(Corrupt, store.commit(writers.store_effects(50), 50, "h")))
    await store.stop()
