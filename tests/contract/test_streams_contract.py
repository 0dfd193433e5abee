"""The suites of streams and journals over what ships: local, memory and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest

from aiopsd.errors import Corrupt, Fenced, Full, StreamError
from aiopsd.model import Entry, Tick
from aiopsd.protocols import Journal, Stream
from aiopsd.streams.files import FilesConfig, FileStream
from aiopsd.streams.journal import LocalJournal
from aiopsd.streams.local import LocalLog, LocalReader
from aiopsd.streams.memory import MemoryJournal, MemoryLog
from aiopsd.testing.checks import JOURNAL_CHECKS, STREAM_CHECKS, JournalCheck, StreamCase, StreamCheck, name_of
from aiopsd.testing.checks.journals import change, everything
from aiopsd.testing.checks.streams import entries, seen, values
from aiopsd.testing.clock import ManualClock
from aiopsd.testing.streams import Ledger, read, reading

Policy = Literal["stop", "earliest"]


class LocalCase:
    """The local log in a folder."""

    partitions, writes, loses = 3, True, True

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder / "log", ManualClock()

    def open(self, on_offset_lost: Policy = "stop") -> Stream:
        return LocalLog(self.folder, self.partitions, self.clock, retention=60.0, on_offset_lost=on_offset_lost)

    async def put(self, entries: Sequence[Entry]) -> None:
        log = self.open()
        await log.start()
        await log.append(entries)
        await log.stop()

    async def lose(self, before: Mapping[int, int]) -> None:
        self.clock.advance(61.0)
        log = self.open()
        await log.start()
        await log.trim(before)
        await log.stop()


class WorkersLog(LocalReader):
    """The local log as a worker reads it; who writes it is told what may go."""

    def __init__(self, case: LocalCase, on_offset_lost: Policy) -> None:
        super().__init__(case.folder, range(case.partitions), case.clock, on_offset_lost=on_offset_lost)
        self.case = case

    async def trim(self, before: Mapping[int, int]) -> None:
        log = self.case.open()
        await log.start()
        await log.trim(before)
        await log.stop()


class ReaderCase(LocalCase):
    """The local log as another process reads it."""

    writes = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.writer = LocalCase(folder)
        self.writer.clock = self.clock

    def open(self, on_offset_lost: Policy = "stop") -> Stream:
        return WorkersLog(self.writer, on_offset_lost)

    async def put(self, entries: Sequence[Entry]) -> None:
        await self.writer.put(entries)

    async def lose(self, before: Mapping[int, int]) -> None:
        await self.writer.lose(before)


class MemoryCase:
    """The log in memory."""

    partitions, writes, loses = 3, True, True

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.first = MemoryLog(self.clock, self.partitions)

    def open(self, on_offset_lost: Policy = "stop") -> Stream:
        return MemoryLog(self.clock, contents=self.first.contents, on_offset_lost=on_offset_lost)

    async def put(self, entries: Sequence[Entry]) -> None:
        await self.first.start()
        await self.first.append(entries)

    async def lose(self, before: Mapping[int, int]) -> None:
        await self.first.trim(before)


class FilesCase:
    """Three files of lines."""

    partitions, writes, loses = 3, False, False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, on_offset_lost: Policy = "stop") -> Stream:
        config = FilesConfig(paths=(str(self.folder / "*.jsonl"),))
        return FileStream(config, "recorded", "json", on_offset_lost=on_offset_lost)

    async def put(self, entries: Sequence[Entry]) -> None:
        for partition in range(self.partitions):
            with (self.folder / f"part-{partition}.jsonl").open("ab") as file:
                file.writelines(e.value + b"\n" for e in entries if e.partition == partition)

    async def lose(self, before: Mapping[int, int]) -> None:
        raise AssertionError("files lose nothing")


@pytest.mark.parametrize("case", [LocalCase, ReaderCase, MemoryCase, FilesCase], ids=name_of)
@pytest.mark.parametrize("check", STREAM_CHECKS, ids=name_of)
async def test_stream(check: StreamCheck, case: type[StreamCase], tmp_path: Path) -> None:
    """Every embedded stream keeps every promise of the suite."""
    await check(case(tmp_path))  # type: ignore[call-arg]  # a case without the option


class LocalJournalCase:
    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, ManualClock()

    def open(self, retention: float = 3600.0) -> Journal:
        return LocalJournal(self.folder / "journal.db", self.clock, retention=retention)

    async def fill(self, journal: Journal) -> None:
        assert isinstance(journal, LocalJournal)
        await journal.limit_pages(1)

    async def free(self, journal: Journal) -> None:
        assert isinstance(journal, LocalJournal)
        await journal.limit_pages(0)


class MemoryJournalCase:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)

    def open(self, retention: float = 3600.0) -> Journal:
        self.journal.retention = retention
        return self.journal

    async def fill(self, journal: Journal) -> None:
        self.journal.full = True

    async def free(self, journal: Journal) -> None:
        self.journal.full = False


@pytest.mark.parametrize("case", [LocalJournalCase, MemoryJournalCase], ids=name_of)
@pytest.mark.parametrize("check", JOURNAL_CHECKS, ids=name_of)
async def test_journal(
    check: JournalCheck, case: type[LocalJournalCase] | type[MemoryJournalCase], tmp_path: Path
) -> None:
    """Every embedded journal keeps every promise of the suite."""
    await check(case(tmp_path))


# --------------------------------------------------------------------------- what only the local ones can do


async def test_second_daemon_is_refused(tmp_path: Path) -> None:
    """A second opener of a journal or log is fenced with an error that names the folder; after a stop it is not."""
    clock = ManualClock()
    for make in (lambda: LocalJournal(tmp_path / "journal.db", clock), lambda: LocalLog(tmp_path / "log", 1, clock)):
        first, second = make(), make()
        await first.start()

        with pytest.raises(Fenced, match=str(tmp_path)):
            await second.start()
        await second.stop()
        await first.stop()
        third = make()
        await third.start()
        await third.stop()


async def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file of a newer aiopsd is not touched."""
    journal = LocalJournal(tmp_path / "journal.db", ManualClock())
    await journal.start()
    assert journal._conn is not None
    await journal._writer.run(journal._conn.execute, "PRAGMA user_version = 99")
    await journal.stop()
    again = LocalJournal(tmp_path / "journal.db", ManualClock())

    with pytest.raises(Exception, match="newer aiopsd"):
        await again.start()
    await again.stop()


async def test_foreign_file_is_corrupt(tmp_path: Path) -> None:
    """A file that is no database is Corrupt, by name, and stays as it is."""
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a journal" * 1000)
    journal = LocalJournal(path, ManualClock())

    with pytest.raises(Corrupt, match=r"journal\.db"):
        await journal.start()
    await journal.stop()
    assert path.read_bytes() == b"not a journal" * 1000


async def test_changed_record_is_corrupt(tmp_path: Path) -> None:
    """A body that changed on the disk is Corrupt, naming its offset; the records before it are still read."""
    path = tmp_path / "journal.db"
    journal = LocalJournal(path, ManualClock())
    await journal.start()
    for i in range(5):
        await journal.append([change(i, 2000)])
    assert journal._conn is not None
    await journal._writer.run(
        journal._conn.execute, "UPDATE record SET body = CAST(body || x'00' AS BLOB) WHERE \"offset\" = 3"
    )
    await journal.stop()
    again = LocalJournal(path, ManualClock())
    await again.start()

    assert [change(i, 2000) for i in range(3)] == [r.body for r in await again.read(-1, 3)]
    with pytest.raises(Corrupt, match="record 3"):
        await again.read(2, 10)
    await again.stop()


async def test_journal_reads_what_left_its_memory(tmp_path: Path) -> None:
    """A reader that is far behind gets the same records from the disk as one that keeps up gets from memory."""
    journal = LocalJournal(tmp_path / "journal.db", ManualClock())
    await journal.start()
    journal._tail._most_records = 10
    for i in range(100):
        await journal.append([change(i)])

    assert journal._tail.begin == 90
    assert [change(i) for i in range(100)] == await everything(journal)
    assert [change(i) for i in range(95, 100)] == await everything(journal, 94)
    await journal.stop()


async def test_log_reads_what_left_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is behind the log's memory gets everything in order, from the disk and then from memory."""
    monkeypatch.setattr("aiopsd.streams.local.log.TAIL_BYTES", 500)
    log, ledger = LocalLog(tmp_path / "log", 2, ManualClock()), Ledger()
    given = entries(60, 2)
    async with reading(log, ledger):
        for entry in given:
            await log.append([entry])
        assert 0 < log._tails[0].begin < 30
        await read(log, ledger, 60)

    for p in range(2):
        assert values(given, p) == seen(ledger, p)


async def test_log_drops_consumed_records_to_make_room(tmp_path: Path) -> None:
    """Above max_bytes consumed records go, oldest first, before their retention; unconsumed ones make append Full."""
    clock = ManualClock()
    log, ledger = LocalLog(tmp_path / "log", 1, clock, max_bytes=20_000), Ledger()
    async with reading(log, ledger):
        for i in range(18):
            await log.append([Entry(value=b"%03d" % i + bytes(997), format="json")])
        with pytest.raises(Full, match="nobody has consumed"):
            await log.append([Entry(value=bytes(1000), format="json")])
        await read(log, ledger, 18)
        await log.trim({0: 10})
        assert log._parts[0].first == 0  # young, and there is room

        for i in range(18, 27):
            await log.append([Entry(value=b"%03d" % i + bytes(997), format="json")])
        with pytest.raises(Full):
            await log.append([Entry(value=bytes(3000), format="json")])
    ledger = Ledger({0: 10})
    async with reading(log2 := LocalLog(tmp_path / "log", 1, clock, max_bytes=20_000, on_offset_lost="stop"), ledger):
        await read(log2, ledger, 17)

    assert [b"%03d" % i for i in range(10, 27)] == [r.value[:3] for r in ledger.seen]


async def test_log_survives_a_full_disk(tmp_path: Path) -> None:
    """Without room on the disk append raises Full and writes nothing; with room again offsets go on without a gap."""
    log, ledger = LocalLog(tmp_path / "log", 1, ManualClock()), Ledger()
    async with reading(log, ledger):
        await log.append(entries(3, 1))
        await log.limit_pages(1)
        with pytest.raises(Full):
            await log.append([Entry(value=bytes(200_000), format="json")])
        await log.limit_pages(0)
        (place,) = await log.append([Entry(value=b"after", format="json")])
        await read(log, ledger, place.offset + 1)

    assert b"after" == ledger.seen[-1].value
    assert list(range(place.offset + 1)) == [r.offset for r in ledger.seen]


async def test_log_grows_and_keeps_its_partitions(tmp_path: Path) -> None:
    """More partitions are added, fewer are not written to any more but read to their end."""
    clock = ManualClock()
    for partitions, start in ((2, 0), (3, 20), (1, 40)):
        log = LocalLog(tmp_path / "log", partitions, clock)
        await log.start()
        await log.append(entries(20, partitions, start))
        await log.stop()
    log, ledger = LocalLog(tmp_path / "log", 1, clock), Ledger()
    async with reading(log, ledger):
        await read(log, ledger, 60)
        with pytest.raises(StreamError, match="no partition 2"):
            await log.append([Entry(value=b"", format="json", partition=2)])

    assert {0: 37, 1: 16, 2: 7} == {p: len(seen(ledger, p)) for p in range(3)}


async def test_reader_sees_what_the_writer_appends(tmp_path: Path) -> None:
    """A reader of another process gets records while the writer goes on, only of its partitions."""
    clock = ManualClock()
    writer = LocalLog(tmp_path / "log", 3, clock)
    await writer.start()
    reader, ledger = LocalLog.reader(tmp_path / "log", [0, 2], clock), Ledger()
    async with reading(reader, ledger):
        assert [] == await reader.poll(10, 0.0)
        given = entries(30, 3)
        for entry in given:
            await writer.append([entry])
        await read(reader, ledger, 20)
        assert {0: 0, 2: 0} == await reader.lag()
        with pytest.raises(StreamError):
            await reader.trim({0: 1})
    await writer.stop()

    assert (values(given, 0), [], values(given, 2)) == tuple(seen(ledger, p) for p in range(3))


async def test_reader_of_nothing_says_so(tmp_path: Path) -> None:
    """A reader of a log or partition that is not there raises an error that names it."""
    clock = ManualClock()
    missing = LocalReader(tmp_path / "log", [0], clock)
    with pytest.raises(StreamError, match="log"):
        await missing.start(Ledger())
    await missing.stop()
    writer = LocalLog(tmp_path / "log", 1, clock)
    await writer.start()
    reader = LocalReader(tmp_path / "log", [5], clock)

    with pytest.raises(StreamError, match="no partition 5"):
        await reader.start(Ledger())
    await reader.stop()
    await writer.stop()


# --------------------------------------------------------------------------- files


async def test_files_cut_lines_and_seek(tmp_path: Path) -> None:
    """Offsets are line numbers, empty lines and line ends are no content, the last line needs no end."""
    lines = [b"%d" % i if i % 7 else b"" for i in range(20_001)]
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join(lines))
    config = FilesConfig(paths=(str(tmp_path / "a.jsonl"),))
    for start in (0, 1, 4095, 4096, 4097, 12_345, 20_000):
        stream, ledger = FileStream(config, "recorded", "json"), Ledger({0: start})
        wanted = [(i, line) for i, line in enumerate(lines) if line and i >= start]
        async with reading(stream, ledger):
            await read(stream, ledger, len(wanted))
            assert stream.finished

        assert wanted == [(r.offset, r.value) for r in ledger.seen]
        assert {(tmp_path / "a.jsonl").stat().st_mtime} == {r.stamp for r in ledger.seen}


async def test_files_whole(tmp_path: Path) -> None:
    """With split: file each file is one record, whatever bytes it holds, in the order of the names."""
    for name, content in (("b.bin", b"\n\n\x00"), ("a.bin", b"")):
        (tmp_path / name).write_bytes(content)
    stream, ledger = (
        FileStream(FilesConfig(paths=(f"{tmp_path}/*.bin",), split="file"), "bodies", "remote-write"),
        Ledger(),
    )
    async with reading(stream, ledger):
        await read(stream, ledger, 2)

    assert [(0, 0, b""), (1, 0, b"\n\n\x00")] == sorted((r.partition, r.offset, r.value) for r in ledger.seen)


async def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A path that matches nothing is an error that names it."""
    stream = FileStream(FilesConfig(paths=(f"{tmp_path}/*.none",)), "recorded", "json")

    with pytest.raises(StreamError, match=r"\*\.none"):
        await stream.start(Ledger())
    await stream.stop()


async def test_memory_outlives_its_stop() -> None:
    """What a test's journal held is there after a restart of whoever uses it."""
    journal = MemoryJournal(ManualClock())
    await journal.start()
    await journal.append([Tick()])
    await journal.stop()
    await journal.start()

    assert [Tick()] == await everything(journal)
