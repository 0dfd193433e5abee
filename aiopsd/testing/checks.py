"""Conformance suites: what every stream, journal and store promises, as checks that run over any implementation.

A case opens one implementation on one piece of storage, as often as a check asks; each check gets a fresh case. Run
them like this:

    @pytest.mark.parametrize("check", STREAM_CHECKS, ids=name_of)
    async def test_my_stream(check, tmp_path):
        await check(MyCase(tmp_path))

The docstring of a check is the promise. Checks raise AssertionError; they never skip: what an implementation cannot do
by its nature, its case says (`writes`, `loses`), and then the check holds it to saying so itself.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from msgspec.structs import replace

from aiopsd.errors import Corrupt, Fenced, Full, OffsetLost, StoreError, StreamError
from aiopsd.model import (
    Action,
    Alert,
    AlertBatch,
    AlertIn,
    AlertState,
    Audit,
    AuditEntry,
    Body,
    ChangeEvent,
    Entry,
    Forget,
    Incident,
    IncidentState,
    Matcher,
    Notification,
    Notify,
    NotifyReason,
    Retrain,
    RetrainRequest,
    Silence,
    Snapshot,
    SourcePos,
    Tick,
    Touch,
    Upsert,
)
from aiopsd.protocols import Journal, Store, Stream
from aiopsd.testing.clock import ManualClock
from aiopsd.testing.streams import Ledger, poll_until, read, reading

E = TypeVar("E", bound=Exception)

PROMPT = 5.0  # s; what must happen at once has so long on a busy machine


def name_of(check: object) -> str:
    """The id of a parametrised test."""
    return getattr(check, "__name__", str(check))


async def refusal(kind: type[E], call: Awaitable[object]) -> E:
    """The error of this kind that the call raises.

    Raises:
        AssertionError: it returned.
    """
    try:
        result = await call
    except kind as error:
        return error
    raise AssertionError(f"returned {result!r}, expected {kind.__name__}")


# --------------------------------------------------------------------------- streams


class StreamCase(Protocol):
    """One log, empty at first, and how to open it."""

    partitions: int  # two or more
    writes: bool  # append works; else it raises StreamError(retry=False)
    loses: bool  # `lose` works: the log can drop records that somebody still wants

    def open(self, on_offset_lost: Literal["stop", "earliest"] = "stop") -> Stream:
        """Another handle on the same log; a check has one started at a time."""
        ...

    async def put(self, entries: Sequence[Entry]) -> None:
        """Make these the next records of the log, however it is written in real life. Every entry names a partition."""
        ...

    async def lose(self, before: Mapping[int, int]) -> None:
        """Make the log drop what lies below, as retention would."""
        ...


StreamCheck: TypeAlias = Callable[[StreamCase], Awaitable[None]]
STREAM_CHECKS: list[StreamCheck] = []


def stream_check(check: StreamCheck) -> StreamCheck:
    STREAM_CHECKS.append(check)
    return check


def entries(count: int, partitions: int, start: int = 0) -> list[Entry]:
    """Entry i goes to partition i modulo `partitions`; its value names both."""
    return [
        Entry(value=f'{{"n":{i},"p":{i % partitions}}}'.encode(), format="json", partition=i % partitions)
        for i in range(start, start + count)
    ]


def values(stream_entries: Sequence[Entry], partition: int) -> list[bytes]:
    return [e.value for e in stream_entries if e.partition == partition]


def seen(ledger: Ledger, partition: int) -> list[bytes]:
    return [r.value for r in ledger.seen if r.partition == partition]


@stream_check
async def stream_reads_everything_once_in_order(case: StreamCase) -> None:
    """Every record comes once, in order of its partition, with offsets from 0 without a gap, under the log's name."""
    given = entries(50, case.partitions)
    await case.put(given)
    ledger = Ledger()
    async with reading(case.open(), ledger) as stream:
        await read(stream, ledger, len(given))

        assert await stream.poll(10, 0.05) == []
        for p in range(case.partitions):
            assert values(given, p) == seen(ledger, p)
            assert [r.offset for r in ledger.seen if r.partition == p] == list(range(len(values(given, p))))
        assert {stream.name} == {r.source for r in ledger.seen}
        assert {"json"} == {r.format for r in ledger.seen}
        assert all(r.stamp > 0 for r in ledger.seen)


@stream_check
async def stream_goes_on_where_the_owner_says(case: StreamCase) -> None:
    """A restarted reader gets the records from its owner's offsets on, and no other."""
    given = entries(20 * case.partitions, case.partitions)
    await case.put(given)
    ledger = Ledger(dict.fromkeys(range(case.partitions), 7))
    async with reading(case.open(), ledger) as stream:
        await read(stream, ledger, 13 * case.partitions)

        assert await stream.poll(10, 0.05) == []
        for p in range(case.partitions):
            assert values(given, p)[7:] == seen(ledger, p)


@stream_check
async def stream_tells_its_owner_what_it_takes_and_leaves(case: StreamCase) -> None:
    """The owner is asked for each partition before it is read, and told before it is released."""
    await case.put(entries(2, case.partitions))
    ledger = Ledger()
    async with reading(case.open(), ledger):
        pass

    everything = tuple(range(case.partitions))
    assert [("assigned", everything), ("revoked", everything)] == ledger.story


@stream_check
async def stream_poll_keeps_its_limit_and_serves_every_partition(case: StreamCase) -> None:
    """A poll returns at most its limit, and a busy partition does not starve the others."""
    given = entries(40 * case.partitions, case.partitions)
    await case.put(given)
    ledger = Ledger()
    async with reading(case.open(), ledger) as stream:
        sizes = []
        async with asyncio.timeout(20.0):
            while len(ledger.seen) < len(given):
                records = await stream.poll(5, 1.0)
                sizes.append(len(records))
                ledger.take(records)
                if len(sizes) == 3 * case.partitions and max(sizes) > 0:
                    assert len({r.partition for r in ledger.seen}) > 1

        assert max(sizes) <= 5


@stream_check
async def stream_poll_waits_no_longer_than_asked(case: StreamCase) -> None:
    """Without news, a poll returns nothing after its time; with a wait of 0, at once."""
    await case.put(entries(case.partitions, case.partitions))
    ledger = Ledger()
    async with reading(case.open(), ledger) as stream:
        await read(stream, ledger, case.partitions)
        began = time.monotonic()

        assert await stream.poll(10, 0.2) == []
        took = time.monotonic() - began
        assert took < PROMPT
        assert await stream.poll(10, 0.0) == []


@stream_check
async def stream_poll_that_is_cancelled_has_taken_nothing(case: StreamCase) -> None:
    """A record that a cancelled poll would have returned comes with the next one."""
    given = entries(30, case.partitions)
    await case.put(given)
    ledger = Ledger()
    async with reading(case.open(), ledger) as stream:
        for delay in (0.0, 0.0005, 0.001, 0.002):
            poll = asyncio.get_running_loop().create_task(stream.poll(10, 1.0), name="poll")
            await asyncio.sleep(delay)
            poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                ledger.take(await poll)
        await read(stream, ledger, len(given))

        for p in range(case.partitions):
            assert values(given, p) == seen(ledger, p)


@stream_check
async def stream_pauses_and_resumes(case: StreamCase) -> None:
    """A paused partition is silent while the others go on, and after resuming nothing was lost or doubled."""
    given = entries(20 * case.partitions, case.partitions)
    ledger = Ledger()
    await case.put(given)
    async with reading(case.open(), ledger) as stream:
        stream.pause([0])
        await poll_until(stream, ledger, lambda: len(ledger.seen) >= 20 * (case.partitions - 1))
        assert await stream.poll(100, 0.1) == []
        assert seen(ledger, 0) == []
        stream.resume([0])
        await read(stream, ledger, len(given))

        for p in range(case.partitions):
            assert values(given, p) == seen(ledger, p)


@stream_check
async def stream_lag_counts_what_is_left(case: StreamCase) -> None:
    """Lag is the number of records between the reader and the end, by partition."""
    await case.put(entries(10 * case.partitions, case.partitions))
    ledger = Ledger(dict.fromkeys(range(case.partitions), 4))
    async with reading(case.open(), ledger) as stream:
        before = await stream.lag()
        await read(stream, ledger, 6 * case.partitions)

        assert dict.fromkeys(range(case.partitions), 6) == before
        assert dict.fromkeys(range(case.partitions), 0) == await stream.lag()


async def start_and_poll(stream: Stream, ledger: Ledger) -> None:
    async with asyncio.timeout(20.0):
        await stream.start(ledger)
        while True:
            ledger.take(await stream.poll(10, 0.1))


@stream_check
async def stream_stops_loudly_when_its_offset_is_gone(case: StreamCase) -> None:
    """An owner that stands behind the end, or before the beginning, of the log gets OffsetLost under policy "stop"."""
    await case.put(entries(10 * case.partitions, case.partitions))
    wrong = [Ledger({0: 1_000})]
    if case.loses:
        await case.lose({0: 5})
        wrong.append(Ledger({0: 2}))
    for ledger in wrong:
        stream = case.open("stop")
        error = await refusal(OffsetLost, start_and_poll(stream, ledger))
        await stream.stop()

        assert (False, stream.name, 0) == (error.retry, error.source, error.partition)
        assert [] == seen(ledger, 0)


@stream_check
async def stream_goes_on_from_the_earliest_when_told_to(case: StreamCase) -> None:
    """Under policy "earliest" a lost offset goes on from the first record there is, and the gap is recorded."""
    given = entries(10 * case.partitions, case.partitions)
    await case.put(given)
    first = 0
    if case.loses:
        await case.lose({0: 5})
        first = 5
    ledger = Ledger({0: 1_000 if not case.loses else 2})
    async with reading(case.open("earliest"), ledger) as stream:
        await read(stream, ledger, len(given) - first)

        assert values(given, 0)[first:] == seen(ledger, 0)
        (gap,) = stream.gaps  # type: ignore[attr-defined]  # of every stream that can lose
        assert (gap.partition, gap.earliest) == (0, first)


@stream_check
async def stream_without_an_owner_reads_nothing(case: StreamCase) -> None:
    """A handle that was started for writing says so when it is polled."""
    await case.put(entries(case.partitions, case.partitions))
    stream = case.open()
    await stream.start()
    error = await refusal(StreamError, stream.poll(1, 0.05))
    await stream.stop()

    assert error.retry is False


async def refuses_to_write(case: StreamCase) -> None:
    """The whole promise of a stream that cannot write: it says so, and that no retry helps."""
    await case.put(entries(case.partitions, case.partitions))
    async with reading(case.open(), Ledger()) as stream:
        error = await refusal(StreamError, stream.append([Entry(value=b"{}", format="json", partition=0)]))

    assert error.retry is False


@stream_check
async def stream_keeps_what_was_appended(case: StreamCase) -> None:
    """append says where each entry went, and there it is read back: value, key, headers and format as given."""
    sent = [
        Entry(value=bytes(range(256)), format="remote-write", partition=0),
        Entry(value=b"", format="json", partition=1, key=b"k\x00", headers=(("a", b"\xff"), ("a", b"2"))),
        Entry(value=b"x" * 100_000, format="json", partition=0),
    ]
    stream = case.open()
    ledger = Ledger()
    if not case.writes:
        return await refuses_to_write(case)
    async with reading(stream, ledger):
        places = await stream.append(sent)
        await read(stream, ledger, len(sent))
    found = {r.pos: r for r in ledger.seen}

    assert len(places) == len(sent)
    for place, entry in zip(places, sent, strict=True):
        record = found[place]
        assert (entry.value, entry.format, entry.partition) == (record.value, record.format, record.partition)
        assert (entry.key, entry.headers) == (record.key, record.headers)
    return None


@stream_check
async def stream_keeps_keys_together(case: StreamCase) -> None:
    """Entries of one key go to one partition, in order; entries without key or partition are spread over all."""
    if not case.writes:
        return await refuses_to_write(case)
    stream = case.open()
    await stream.start()
    try:
        keyed = await stream.append([Entry(value=b"%d" % i, format="json", key=b"one") for i in range(10)])
        again = await stream.append([Entry(value=b"again", format="json", key=b"one")])
        free: list[SourcePos] = []
        for i in range(40 * case.partitions):
            free += await stream.append([Entry(value=b"%d" % i, format="json")])
    finally:
        await stream.stop()

    assert len({p.partition for p in keyed + again}) == 1
    assert [p.offset for p in keyed] == sorted(p.offset for p in keyed)
    assert set(range(case.partitions)) == {p.partition for p in free}
    return None


@stream_check
async def stream_append_wakes_a_waiting_poll(case: StreamCase) -> None:
    """A poll that waits gets a new record when it comes, not when its time is over."""
    if not case.writes:
        return await refuses_to_write(case)
    ledger = Ledger()
    async with reading(case.open(), ledger) as stream:
        poll = asyncio.get_running_loop().create_task(stream.poll(10, 60.0), name="poll")
        await asyncio.sleep(0.01)
        await stream.append([Entry(value=b"{}", format="json", partition=1)])
        async with asyncio.timeout(20.0):
            records = await poll
            while not records:  # a poll over a network may come back early
                records = await stream.poll(10, 1.0)

    assert [r.value for r in records] == [b"{}"]
    return None


@stream_check
async def stream_remembers_over_a_restart(case: StreamCase) -> None:
    """What was appended before a stop is there after the next start, and offsets go on behind it."""
    if not case.writes:
        return await refuses_to_write(case)
    for _ in range(3):
        stream = case.open()
        await stream.start()
        try:
            await stream.append(entries(2 * case.partitions, case.partitions))
        finally:
            await stream.stop()
    ledger = Ledger()
    async with reading(case.open(), ledger) as stream:
        await read(stream, ledger, 6 * case.partitions)

    for p in range(case.partitions):
        assert list(range(6)) == [r.offset for r in ledger.seen if r.partition == p]
    return None


@stream_check
async def stream_trim_never_takes_what_is_wanted(case: StreamCase) -> None:
    """After trim(before), everything from `before` on is still there."""
    given = entries(10 * case.partitions, case.partitions)
    await case.put(given)
    ledger = Ledger()
    async with reading(case.open(), ledger) as stream:
        await read(stream, ledger, len(given))
        await stream.trim(dict.fromkeys(range(case.partitions), 6))
    again = Ledger(dict.fromkeys(range(case.partitions), 6))
    async with reading(case.open(), again) as stream:
        await read(stream, again, 4 * case.partitions)

    for p in range(case.partitions):
        assert values(given, p)[6:] == seen(again, p)


# --------------------------------------------------------------------------- journals


class JournalCase(Protocol):
    """One journal, empty at first, and how to open it."""

    clock: ManualClock

    def open(self, retention: float = 3600.0) -> Journal:
        """Another handle on the same journal; a check has one started at a time."""
        ...

    async def fill(self, journal: Journal) -> None:
        """From now on there is no more room."""
        ...

    async def free(self, journal: Journal) -> None:
        """Now there is."""
        ...


JournalCheck: TypeAlias = Callable[[JournalCase], Awaitable[None]]
JOURNAL_CHECKS: list[JournalCheck] = []


def journal_check(check: JournalCheck) -> JournalCheck:
    JOURNAL_CHECKS.append(check)
    return check


def change(n: int, size: int = 0) -> ChangeEvent:
    """A body that says which it is; `size` more bytes that do not compress well."""
    filler = "".join(f"{(n * 2654435761 + i * 40503) % 2**32:08x}" for i in range(size // 8))
    return ChangeEvent(id=f"c{n}", service="shop", kind="deploy", ts=float(n), summary=filler)


def pos(offset: int, partition: int = 0, source: str = "metrics") -> SourcePos:
    return SourcePos(source=source, partition=partition, offset=offset)


async def everything(journal: Journal, after: int = -1) -> list[Body]:
    """All bodies behind `after`, in order; the offsets have no gap and the stamps do not go back."""
    found = []
    stamp = 0.0
    while records := await journal.read(after, 7):
        for record in records:
            assert record.offset == after + 1
            assert record.stamp >= stamp
            after, stamp = record.offset, record.stamp
            found.append(record.body)
    assert after == journal.end() - 1
    return found


async def running(journal: Journal, use: Callable[[Journal], Awaitable[None]]) -> None:
    await journal.start()
    try:
        await use(journal)
    finally:
        await journal.stop()


@journal_check
async def journal_keeps_what_was_appended(case: JournalCase) -> None:
    """Bodies come back in order with offsets from 0, at once and after a restart, with stamp and origin."""
    big = AlertBatch(
        alerts=tuple(AlertIn(labels={"alertname": "Slow", "pod": f"p{i}"}, starts_at=1.5) for i in range(64)),
        sender="prometheus",
    )
    bodies: list[Body] = [big, Tick(), change(1), change(2, 5000)]

    async def write(journal: Journal) -> None:
        assert journal.end() == 0
        assert await journal.read(-1, 10) == []
        assert await journal.append(bodies[:2], [pos(4), None]) == 1
        case.clock.advance(5.0)
        assert await journal.append(bodies[2:]) == 3
        await check(journal)

    async def check(journal: Journal) -> None:
        records = await journal.read(-1, 100)
        assert bodies == [r.body for r in records]
        assert [r.offset for r in records] == [0, 1, 2, 3]
        assert [pos(4), None, None, None] == [r.origin for r in records]
        assert [began, began, began + 5.0, began + 5.0] == [r.stamp for r in records]
        assert records[2:3] == await journal.read(1, 1)
        assert await journal.read(3, 10) == []
        assert journal.end() == 4

    began = case.clock.now
    await running(case.open(), write)
    await running(case.open(), check)


@journal_check
async def journal_stamps_never_go_back(case: JournalCase) -> None:
    """When the clock goes back, stamps stand still; also when it does so between two runs."""

    async def write(journal: Journal) -> None:
        await journal.append([Tick()])
        case.clock.advance(-100.0)
        await journal.append([Tick()])
        await everything(journal)

    began = case.clock.now
    await running(case.open(), write)
    await running(case.open(), write)
    journal = case.open()
    await journal.start()
    stamps = [r.stamp for r in await journal.read(-1, 10)]
    await journal.stop()

    assert [began] * 4 == stamps


@journal_check
async def journal_takes_each_origin_once(case: JournalCase) -> None:
    """A body at or below its origin's high-water mark is dropped; those of one call that share one stay together."""

    async def use(journal: Journal) -> None:
        assert await journal.append([change(1), change(2)], [pos(3), pos(3)]) == 1
        assert await journal.append([change(3)], [pos(3)]) == 1
        assert await journal.append([change(4), change(5)], [pos(2), pos(5)]) == 2
        assert await journal.append([change(6)], [pos(3, partition=1)]) == 3
        assert await journal.append([change(7)], [pos(3, source="other")]) == 4
        assert await journal.append([Tick()], [None]) == 5
        assert await journal.append([Tick()]) == 6

    async def check(journal: Journal) -> None:
        wanted = [change(1), change(2), change(5), change(6), change(7), Tick(), Tick()]
        assert wanted == await everything(journal)
        assert await journal.high_water("metrics") == {0: 5, 1: 3}
        assert await journal.high_water("other") == {0: 3}
        assert await journal.high_water("unknown") == {}
        assert await journal.append([change(9)], [pos(5)]) == 6

    await running(case.open(), use)
    await running(case.open(), check)


@journal_check
async def journal_many_callers_at_once_are_each_whole(case: JournalCase) -> None:
    """The bodies of one call stand together, whatever else is appended meanwhile, and the returned offset is theirs."""

    async def use(journal: Journal) -> None:
        async def one(i: int) -> int:
            return await journal.append([change(i), change(i), change(i)], [pos(i, partition=i)] * 3)

        lasts = await asyncio.gather(*(one(i) for i in range(40)))
        bodies = await everything(journal)
        assert len(bodies) == 120
        for i, last in enumerate(lasts):
            assert [change(i)] * 3 == bodies[last - 2 : last + 1]

    await running(case.open(), use)


@journal_check
async def journal_wait_wakes_at_once(case: JournalCase) -> None:
    """wait returns True when a record is there or comes, False when its time is over."""

    async def use(journal: Journal) -> None:
        assert await journal.wait(-1, 0.01) is False
        assert await journal.wait(-1, 0.0) is False
        async with asyncio.timeout(PROMPT):
            waits = [asyncio.get_running_loop().create_task(journal.wait(-1, None), name="wait") for _ in range(3)]
            later = asyncio.get_running_loop().create_task(journal.wait(0, 0.2), name="later")
            await asyncio.sleep(0)
            await journal.append([Tick()])
            assert await asyncio.gather(*waits) == [True] * 3
            assert await journal.wait(-1, None) is True
            assert await later is False

    await running(case.open(), use)


@journal_check
async def journal_trims_only_what_is_old_and_allowed(case: JournalCase) -> None:
    """trim drops records that are below its offset and older than the retention; end, origins and the rest stay."""

    async def use(journal: Journal) -> None:
        for i in range(10):
            await journal.append([change(i)], [pos(i)])
            case.clock.advance(10.0)
        await journal.trim(100)  # nothing is older than the retention
        assert [change(i) for i in range(10)] == await everything(journal)
        case.clock.advance(3600.0 - 50.0)  # 0..4 are older than an hour now
        await journal.trim(3)
        assert [change(i) for i in range(3, 10)] == await everything(journal, 2)
        await journal.trim(100)
        await check(journal)

    async def check(journal: Journal) -> None:
        assert [change(i) for i in range(5, 10)] == await everything(journal, 4)
        for lost in (-1, 0, 3):
            error = await refusal(OffsetLost, journal.read(lost, 1))
            assert (lost + 1, 5) == (error.wanted, error.earliest)
        assert journal.end() == 10
        assert await journal.high_water("metrics") == {0: 9}

    async def empty(journal: Journal) -> None:
        case.clock.advance(7200.0)
        await journal.trim(1000)
        assert journal.end() == 10

    async def after(journal: Journal) -> None:
        assert journal.end() == 10
        assert await journal.high_water("metrics") == {0: 9}
        assert await journal.append([change(9)], [pos(9)]) == 9
        assert await journal.append([Tick()]) == 10

    for step in (use, check, empty, after):
        await running(case.open(), step)


@journal_check
async def journal_says_when_an_offset_is_beyond_it(case: JournalCase) -> None:
    """Reading behind the end is OffsetLost: the journal was replaced, waiting for it would be silence."""

    async def use(journal: Journal) -> None:
        await journal.append([Tick()])
        assert await journal.read(0, 5) == []
        error = await refusal(OffsetLost, journal.read(7, 5))
        assert error.wanted == 8

    await running(case.open(), use)


@journal_check
async def journal_refuses_what_it_cannot_hold_and_goes_on(case: JournalCase) -> None:
    """A body that cannot be encoded fails its own call, with nothing written; other callers are not touched."""

    async def use(journal: Journal) -> None:
        bad = ChangeEvent(id="\ud800", service="shop", kind="deploy", ts=0.0)  # a lone surrogate is no text
        good, wrong = await asyncio.gather(
            journal.append([change(1)]), journal.append([change(2), bad]), return_exceptions=True
        )
        assert isinstance(wrong, (TypeError, ValueError))
        assert good == 0
        assert [change(1)] == await everything(journal)

    await running(case.open(), use)


@journal_check
async def journal_survives_a_full_disk(case: JournalCase) -> None:
    """Without room append raises Full, nothing of it is there; with room again it goes on where it was."""

    async def use(journal: Journal) -> None:
        await journal.append([change(0)], [pos(0)])
        await case.fill(journal)
        written = 1
        refused = False
        for i in range(1, 200):
            try:
                await journal.append([change(i, 20_000), change(i)], [pos(i)] * 2)
                written += 2
            except Full:
                refused = True
                break
        assert refused
        assert len(await everything(journal)) == written == journal.end()
        assert {0: i - 1} == await journal.high_water("metrics")
        await case.free(journal)
        assert await journal.append([change(i, 20_000), change(i)], [pos(i)] * 2) == written + 1

    async def check(journal: Journal) -> None:
        bodies = await everything(journal)
        assert change(0) == bodies[0]
        assert len(bodies) == journal.end()

    await running(case.open(), use)
    await running(case.open(), check)


@journal_check
async def journal_that_is_closed_says_so(case: JournalCase) -> None:
    """append after stop raises StreamError that no retry can help."""
    journal = case.open()
    await journal.start()
    await journal.stop()
    error = await refusal(StreamError, journal.append([Tick()]))

    assert error.retry is False


# --------------------------------------------------------------------------- stores


class StoreCase(Protocol):
    """One store, empty at first, and how to open it."""

    clock: ManualClock
    files: bool  # snapshots are files that a worker process may write and hand over

    def open(self) -> Store:
        """Another handle on the same store; the last one started is its owner."""
        ...

    async def fill(self, store: Store) -> None:
        """From now on there is no more room."""
        ...

    async def free(self, store: Store) -> None:
        """Now there is."""
        ...


StoreCheck: TypeAlias = Callable[[StoreCase], Awaitable[None]]
STORE_CHECKS: list[StoreCheck] = []


def store_check(check: StoreCheck) -> StoreCheck:
    STORE_CHECKS.append(check)
    return check


def incident(n: int, *, state: IncidentState = IncidentState.OPEN, services: Sequence[str] = ("shop",)) -> Incident:
    ended = 1000.0 + n + 10.0 if state in (IncidentState.RESOLVED, IncidentState.MERGED) else 0.0
    return Incident(
        id=f"i{n}",
        dedup_key=f"aiopsd-i{n}",
        state=state,
        services=tuple(services),
        started_at=990.0 + n,
        opened_at=1000.0 + n,
        updated_at=max(1000.0 + n, ended),
        resolved_at=ended,
    )


def alert(n: int, incident_id: str = "", state: AlertState = AlertState.FIRING) -> Alert:
    return Alert(
        fingerprint=f"{n:016x}",
        labels={"alertname": "Slow", "n": str(n)},
        starts_at=1000.0 - n,
        ends_at=0.0 if state is AlertState.FIRING else 1010.0,
        updated_at=1010.0,
        state=state,
        incident=incident_id,
    )


def silence(n: int, ends_at: float = 5000.0) -> Silence:
    return Silence(
        id=f"s{n}",
        matchers=(Matcher(name="service", value="a.*", is_regex=True),),
        starts_at=0.0,
        ends_at=ends_at,
        updated_at=0.0,
    )


def notification(n: int, of: Incident | None = None, key: str = "key") -> Notification:
    return Notification(
        id=f"n{n}",
        receiver="ops",
        integration="slack[0]",
        group_key="{}",
        dedup_key=key,
        action=Action.TRIGGER,
        reason=NotifyReason.FIRST,
        stamp=1000.0 + n,
        alerts=(alert(1),),
        incident=of,
    )


def audit(n: int, incident_id: str = "") -> Audit:
    return Audit(entry=AuditEntry(incident=incident_id, stamp=1000.0 + n, kind="opened", text=f"entry {n}", offset=n))


def snapshot(n: int) -> Snapshot:
    """A state that says which it is, with arrays of several shapes and types."""
    return Snapshot(
        kind="check",
        version=2,
        meta={"n": n, "names": ["a", "ü"], "deep": {"x": [1.5, None, True]}},
        arrays={
            "level": np.arange(n * 1000, n * 1000 + 1000, dtype=np.float32).reshape(10, 100),
            "row": np.array([n], dtype=np.int64),
            "none": np.empty((0, 3), dtype=np.float64),
            "label": np.array([b"shop", b"db"], dtype="S8"),
        },
    )


def same_snapshot(a: Snapshot, b: Snapshot) -> bool:
    return (
        (a.kind, a.version, a.meta, list(a.arrays)) == (b.kind, b.version, b.meta, list(b.arrays))
        and all(x.dtype == b.arrays[k].dtype and x.shape == b.arrays[k].shape for k, x in a.arrays.items())
        and all(bool(np.array_equal(x, b.arrays[k])) for k, x in a.arrays.items())
    )


async def opened(case: StoreCase) -> Store:
    store = case.open()
    await store.start()
    return store


@store_check
async def store_position_and_decisions_move_together(case: StoreCase) -> None:
    """A commit writes decisions, outbox and position; all of it is there after a restart."""
    store = await opened(case)
    assert await store.position() == (-1, "", "")
    of = incident(1)
    await store.commit(
        [
            Upsert(item=of),
            Upsert(item=alert(1, "i1")),
            Upsert(item=silence(1)),
            Touch(fingerprint="0", ends_at=1.0, updated_at=1.0),
            Notify(notification=notification(1, of)),
            audit(1, "i1"),
        ],
        41,
        "h1",
        config_text="a: 1",
    )
    for handle in (store, None):
        if handle is None:
            await store.stop()
            store = await opened(case)
        assert await store.position() == (41, "h1", "a: 1")
        assert of == await store.incident("i1")
        assert [of] == await store.incidents()
        assert [alert(1, "i1")] == await store.alerts()
        assert [silence(1)] == await store.silences()
        assert [audit(1, "i1").entry] == await store.timeline("i1")
        (row,) = await store.outbox()
        assert (notification(1, of), "ops/slack[0]", "key", "i1") == (
            row.item,
            row.destination,
            row.dedup_key,
            row.incident,
        )
        assert ("n1", "pending", 0, case.clock.now) == (row.id, row.state, row.attempts, row.created_at)
    await store.stop()


@store_check
async def store_last_decision_wins(case: StoreCase) -> None:
    """Upserts replace by id, within a commit and over commits; the text of a configuration is found by its hash."""
    store = await opened(case)
    await store.commit([Upsert(item=incident(1))], 0, "h1", config_text="a: 1")
    later = replace(incident(1, services=("db",)), title="later")
    await store.commit([Upsert(item=replace(later, title="between")), Upsert(item=later)], 1, "h2", config_text="a: 2")
    await store.commit([], 2, "h1")

    assert [later] == await store.incidents()
    assert [later] == await store.incidents(service="db")
    assert await store.incidents(service="shop") == []
    assert await store.position() == (2, "h1", "a: 1")
    await store.stop()


@store_check
async def store_position_never_goes_back(case: StoreCase) -> None:
    """A commit behind the committed position is refused whole; one at the position is not."""
    store = await opened(case)
    await store.commit([], 5, "h")
    await store.commit([Upsert(item=silence(1))], 5, "h")
    await refusal(ValueError, store.commit([Upsert(item=silence(2))], 4, "h"))

    assert [silence(1)] == await store.silences()
    assert await store.position() == (5, "h", "")
    await store.stop()


@store_check
async def store_forgets_what_has_no_incident(case: StoreCase) -> None:
    """Forget drops silences and alerts without an incident; an incident and its alerts are the record and stay."""
    store = await opened(case)
    kept = [Upsert(item=incident(1)), Upsert(item=alert(1, "i1")), Upsert(item=alert(2)), Upsert(item=silence(1))]
    await store.commit(kept, 0, "h")
    await store.commit(
        [
            Forget(kind="incident", id="i1"),
            Forget(kind="alert", id=alert(1).fingerprint),
            Forget(kind="alert", id=alert(2).fingerprint),
            Forget(kind="alert", id="unknown"),
            Forget(kind="silence", id="s1"),
            Upsert(item=alert(3, "i1")),
            Forget(kind="alert", id=alert(3).fingerprint),
            Upsert(item=alert(4)),
            Forget(kind="alert", id=alert(4).fingerprint),
        ],
        1,
        "h",
    )

    assert [incident(1)] == await store.incidents()
    assert [alert(3, "i1"), alert(1, "i1")] == await store.alerts()
    assert await store.silences() == []
    await store.stop()


@store_check
async def store_puts_each_delivery_once(case: StoreCase) -> None:
    """An outbox row whose id is there already is left alone; one request for two trainers is two rows."""
    store = await opened(case)
    request = RetrainRequest(id="r1", dedup_key="model-a", subject="model-a", requested_at=1000.0)
    first = [Notify(notification=notification(1)), Notify(notification=notification(2, key="other"))]
    await store.commit(first, 0, "h")
    await store.mark(1, "delivered", attempts=1, at=1001.0)
    retrain = [Retrain(trainer="webhook[0]", request=request), Retrain(trainer="kafka[1]", request=request)]
    await store.commit([*first, *retrain], 1, "h")
    await store.commit(retrain, 2, "h")
    rows = await store.outbox(states=("pending", "delivered"))

    assert [(r.seq, r.id, r.state) for r in rows[:2]] == [(1, "n1", "delivered"), (2, "n2", "pending")]
    assert [("r1", "trainer/webhook[0]", request), ("r1", "trainer/kafka[1]", request)] == [
        (r.id, r.destination, r.item) for r in rows[2:]
    ]
    assert rows[1:3] == await store.outbox(limit=2)
    await store.stop()


@store_check
async def store_marks_and_remembers_receipts(case: StoreCase) -> None:
    """mark moves one row; receipts of a key are those of its rows, later over earlier; an unknown row is an error."""
    store = await opened(case)
    of = incident(7)
    await store.commit([Notify(notification=notification(i, of)) for i in range(3)], 0, "h")
    await store.mark(1, "delivered", attempts=2, receipt={"channel": "C1", "ts": "1"}, at=1005.0)
    await store.mark(2, "pending", attempts=1, next_at=1100.0, error="503")
    await store.mark(3, "failed", error="gone", receipt={"ts": "3"}, at=1006.0)
    rows = await store.outbox(states=("pending", "delivered", "failed"))

    assert [(r.state, r.attempts, r.next_at, r.error, r.done_at, r.receipt) for r in rows] == [
        ("delivered", 2, 0.0, "", 1005.0, {"channel": "C1", "ts": "1"}),
        ("pending", 1, 1100.0, "503", 0.0, {}),
        ("failed", 0, 0.0, "gone", 1006.0, {"ts": "3"}),
    ]
    assert rows[1:2] == await store.outbox()
    assert rows[1:2] == await store.outbox(incident="i7")
    assert await store.outbox(incident="i8") == []
    assert await store.receipts("ops/slack[0]", "key") == {"channel": "C1", "ts": "3"}
    assert await store.receipts("ops/slack[0]", "another") == {}
    assert await store.receipts("ops/pagerduty[0]", "key") == {}
    await refusal(StoreError, store.mark(99, "delivered"))
    await store.stop()


@store_check
async def store_answers_queries_in_order(case: StoreCase) -> None:
    """Incidents come newest first by state, service and page; alerts by start; a timeline is its newest entries."""
    store = await opened(case)
    resolved = incident(3, state=IncidentState.RESOLVED, services=("db", "shop-2"))
    given = [incident(1), incident(2, services=("shop", "db")), resolved]
    await store.commit(
        [
            *(Upsert(item=i) for i in given),
            Upsert(item=alert(1, "i1")),
            Upsert(item=alert(2, "i1", AlertState.RESOLVED)),
            Upsert(item=alert(3)),
            *(audit(n, f"i{n % 2}") for n in range(6)),
            audit(6),
        ],
        0,
        "h",
    )

    assert [resolved, given[1], given[0]] == await store.incidents()
    assert [given[1], given[0]] == await store.incidents(states=("open",))
    assert [given[1], given[0]] == await store.incidents(service="shop")
    assert [resolved, given[1]] == await store.incidents(service="db")
    assert [given[1]] == await store.incidents(before=resolved.opened_at, limit=1)
    assert None is await store.incident("nobody")
    assert [alert(3), alert(2, "i1", AlertState.RESOLVED), alert(1, "i1")] == await store.alerts()
    assert [alert(2, "i1", AlertState.RESOLVED)] == await store.alerts(incident="i1", states=("resolved",))
    assert [e.offset for e in await store.timeline("i1")] == [1, 3, 5]
    assert [e.offset for e in await store.timeline("i1", limit=2)] == [3, 5]
    assert list(range(7)) == [e.offset for e in await store.timeline()]
    await store.stop()


@store_check
async def store_fences_who_was_replaced(case: StoreCase) -> None:
    """Once another opened the store, every write of the earlier one is refused and changes nothing; reads go on."""
    old = await opened(case)
    await old.commit([Notify(notification=notification(1))], 0, "h")
    await old.put_snapshot("correlate", 0, "h", snapshot(1))
    new = await opened(case)
    writes: list[Awaitable[object]] = [
        old.commit([Upsert(item=silence(1))], 1, "h"),
        old.mark(1, "delivered"),
        old.put_snapshot("correlate", 1, "h", snapshot(2)),
        old.prune(1e12),
    ]
    for write in writes:
        await refusal(Fenced, write)

    assert await new.silences() == []
    assert [r.state for r in await new.outbox()] == ["pending"]
    found = await new.snapshot("correlate")
    assert found is not None
    assert same_snapshot(snapshot(1), found[1])
    await new.commit([Upsert(item=silence(1))], 1, "h")
    assert [silence(1)] == await old.silences()
    await old.stop()
    await new.stop()


@store_check
async def store_keeps_the_newest_snapshot_of_each_name(case: StoreCase) -> None:
    """A snapshot of any name comes back as it was, with what it covers, after a restart too; the copy is ours."""
    store = await opened(case)
    odd = "detect/a b:c/../7 " + "x" * 300
    assert None is await store.snapshot("correlate")
    assert [] == await store.snapshot_refs("correlate")
    for n in range(1, 5):
        ref = await store.put_snapshot("correlate", n * 10, f"h{n}", snapshot(n))
        assert ref == (await store.snapshot_refs("correlate"))[0]
    await store.put_snapshot(odd, 3, "h", snapshot(9))
    await store.stop()
    store = await opened(case)
    found = await store.snapshot("correlate")
    other = await store.snapshot(odd)
    assert found is not None
    assert other is not None

    assert ("correlate", 40, "h4", case.clock.now) == (
        found[0].name,
        found[0].position,
        found[0].config_hash,
        found[0].written_at,
    )
    assert same_snapshot(snapshot(4), found[1])
    assert same_snapshot(snapshot(9), other[1])
    for array in found[1].arrays.values():
        if array.flags.writeable:
            array[...] = np.zeros_like(array)  # must not reach the kept one
    again = await store.snapshot("correlate")
    assert again is not None
    assert same_snapshot(snapshot(4), again[1])
    await store.stop()


@store_check
async def store_refuses_state_that_is_not_plain(case: StoreCase) -> None:
    """An array of objects, or meta that msgpack cannot hold, is refused; the snapshot before stays current."""
    store = await opened(case)
    await store.put_snapshot("correlate", 1, "h", snapshot(1))
    wrong = [
        Snapshot(kind="x", version=1, meta={}, arrays={"a": np.array([{}, None], dtype=object)}),
        Snapshot(kind="x", version=1, meta={}, arrays={"a": np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])}),
        Snapshot(kind="x", version=1, meta={"f": object()}),
    ]
    for state in wrong:
        await refusal(StoreError, store.put_snapshot("correlate", 2, "h", state))
    found = await store.snapshot("correlate")

    assert found is not None
    assert found[0].position == 1
    await store.stop()


@store_check
async def store_adopts_only_files_that_are_there(case: StoreCase) -> None:
    """A snapshot file that is missing, or of another size, is not made current."""
    store = await opened(case)
    ref = await store.put_snapshot("correlate", 1, "h", snapshot(1))
    wrong = [replace(ref, name="other", path=ref.path + "x"), replace(ref, name="other", size=ref.size + 1)]
    for bad in wrong:
        await refusal(Corrupt, store.adopt_snapshot(bad))
    if case.files:
        await store.adopt_snapshot(replace(ref, position=2))
        found = await store.snapshot("correlate")
        assert found is not None
        assert found[0].position == 2

    assert [] == await store.snapshot_refs("other")
    await store.stop()


@store_check
async def store_survives_a_full_disk(case: StoreCase) -> None:
    """Without room a commit raises Full and changes nothing, the old snapshot stays; with room again both work."""
    store = await opened(case)
    await store.put_snapshot("correlate", 0, "h", snapshot(1))
    await case.fill(store)
    position = -1
    refused = False
    for n in range(200):
        big = replace(incident(n), title="x" * 20_000)
        try:
            await store.commit([Upsert(item=big), Notify(notification=notification(n, big))], n, "h")
            position = n
        except Full:
            refused = True
            break
    assert refused
    assert (position, "h" if position >= 0 else "", "") == await store.position()
    assert position + 1 == len(await store.incidents(limit=500)) == len(await store.outbox())
    found = await store.snapshot("correlate")
    assert found is not None
    assert same_snapshot(snapshot(1), found[1])
    await case.free(store)
    await store.commit([Upsert(item=big)], position + 1, "h")
    await store.put_snapshot("correlate", position + 1, "h", snapshot(2))

    assert (position + 1, "h", "") == await store.position()
    assert position + 1 == (await store.snapshot_refs("correlate"))[0].position
    await store.stop()


@store_check
async def store_prunes_what_ended_long_ago(case: StoreCase) -> None:
    """prune drops ended incidents with alerts and timeline, and what was done or over by then; nothing that lives."""
    store = await opened(case)
    old = [incident(1, state=IncidentState.RESOLVED), incident(2, state=IncidentState.MERGED)]
    young = [incident(500, state=IncidentState.RESOLVED), incident(3)]
    await store.commit(
        [
            *(Upsert(item=i) for i in old + young),
            Upsert(item=alert(1, "i1")),
            Upsert(item=alert(2, "i500", AlertState.RESOLVED)),
            Upsert(item=alert(3, "", AlertState.RESOLVED)),
            Upsert(item=alert(4)),
            Upsert(item=silence(1, ends_at=1100.0)),
            Upsert(item=silence(2, ends_at=1300.0)),
            *(Notify(notification=notification(n, i)) for n, i in enumerate((old[0], young[1], None, None))),
            audit(1, "i1"),
            audit(2, "i3"),
            audit(3),
            audit(400),
        ],
        0,
        "h",
    )
    for seq in (1, 2, 3):
        await store.mark(seq, "delivered", receipt={"ts": str(seq)}, at=1020.0)

    assert await store.prune(1200.0) == 2
    assert young == await store.incidents()
    assert [alert(4), alert(2, "i500", AlertState.RESOLVED)] == await store.alerts()
    assert [silence(2, ends_at=1300.0)] == await store.silences()
    assert [e.offset for e in await store.timeline()] == [2, 400]
    assert [r.seq for r in await store.outbox(states=("pending", "delivered"))] == [2, 4]
    assert await store.receipts("ops/slack[0]", "key") == {"ts": "2"}
    assert await store.prune(1200.0) == 0
    await store.stop()
