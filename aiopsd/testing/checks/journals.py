"""What every journal promises: appended is kept, stamps never go back, each origin counts once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from aiopsd.errors import Full, OffsetLost, StreamError
from aiopsd.model import AlertBatch, AlertIn, Body, ChangeEvent, SourcePos, Tick
from aiopsd.protocols import Journal
from aiopsd.testing.checks.common import PROMPT, refusal
from aiopsd.testing.clock import ManualClock


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
