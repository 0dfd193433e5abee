"""What every stream promises: records in order, none twice, none lost silently."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from aiopsd.errors import OffsetLost, StreamError
from aiopsd.model import Entry, SourcePos
from aiopsd.protocols import Stream
from aiopsd.testing.checks.common import PROMPT, refusal
from aiopsd.testing.streams import Ledger, poll_until, read, reading


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
