"""Several members of one consumer group: partitions are handed over whole, and no record is processed twice."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from aiopsd.model import Entry
from aiopsd.streams.kafka import KafkaStream
from aiopsd.testing.kafka import Broker
from aiopsd.testing.services import Service
from aiopsd.testing.streams import FileLedger, Ledger, poll_until, reading

pytestmark = pytest.mark.kafka


SECONDS_AS_TEXT = {"session_timeout": "1500ms", "rebalance_timeout": "60s", "request_timeout": "30s"}


class Shared(FileLedger):
    """Members of one process on one ledger file; `holders` proves that a partition never has two owners."""

    def __init__(self, path: Path, name: str, holders: dict[int, str]) -> None:
        super().__init__(path, name)
        self.holders = holders

    async def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        for p in partitions:
            assert p not in self.holders, f"{self.name} got {p} while {self.holders[p]} holds it"
            self.holders[p] = self.name
        return await super().assigned(partitions)

    async def revoked(self, partitions: Sequence[int]) -> None:
        await asyncio.sleep(0.2)  # the step that is still under way
        for p in partitions:
            del self.holders[p]
        await super().revoked(partitions)


@asynccontextmanager
async def polling(stream: KafkaStream, owner: Ledger) -> AsyncIterator[Ledger]:
    """A member that reads in a task of its own; leaves the group at the end."""
    over = asyncio.Event()

    async def loop() -> None:
        async with reading(stream, owner):
            while not over.is_set():
                owner.take(await stream.poll(20, 0.05))

    async with asyncio.TaskGroup() as group:
        group.create_task(loop(), name=stream.name)
        yield owner
        over.set()


@asynccontextmanager
async def feeding(kafka: Broker, topic: str, partitions: int) -> AsyncIterator[list[int]]:
    """A writer that never rests; yields the counts of acknowledged records by partition."""
    acked = [0] * partitions
    out = KafkaStream(kafka.config(topic), "out", "json")
    await out.start()
    over = asyncio.Event()

    async def loop() -> None:
        while not over.is_set():
            entries = [Entry(value=b"x", format="json", partition=p) for p in range(partitions)]
            for place in await out.append(entries):
                acked[place.partition] += 1
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        group.create_task(loop(), name="feed")
        yield acked
        over.set()
    await out.stop()


async def until(holds: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait until the function `holds` is true."""
    async with asyncio.timeout(timeout):
        while not holds():
            await asyncio.sleep(0.02)


def exactly_once(lines: Sequence[tuple[str, int, int]], acked: Sequence[int]) -> None:
    """Every acknowledged record was processed once, in order per partition."""
    for partition, count in enumerate(acked):
        assert list(range(count)) == [o for _, p, o in lines if p == partition]


async def test_members_join_and_leave_under_load(kafka: Broker, tmp_path: Path) -> None:
    """While members come and go, each partition has one owner at a time and each record is processed exactly once."""
    topic = await kafka.create_topic("join-leave", 4)
    ledger, holders = tmp_path / "ledger", dict[int, str]()

    def member(name: str) -> tuple[KafkaStream, Shared]:
        return KafkaStream(kafka.config(topic), name, "json"), Shared(ledger, name, holders)

    async with polling(*member("a")) as a:
        async with feeding(kafka, topic, 4) as acked:
            await until(lambda: len(a.seen) > 40)
            async with polling(*member("b")) as b:
                await until(lambda: len(a.held) == 2 and len(b.held) == 2 and len(b.seen) > 40)
            await until(lambda: len(a.held) == 4)
        await until(lambda: len(a.lines()) == sum(acked))

    exactly_once(a.lines(), acked)
    assert [(what, len(partitions)) for what, partitions in a.story] == [
        ("assigned", 4),
        ("revoked", 4),
        ("assigned", 2),
        ("revoked", 2),
        ("assigned", 4),
        ("revoked", 4),
    ]
    assert holders == {}


async def test_a_killed_member_is_replaced(kafka: Broker, tmp_path: Path) -> None:
    """A member that dies by SIGKILL loses nothing: after its session another goes on exactly behind its last record."""
    topic = await kafka.create_topic("killed", 4)
    config = kafka.config(topic, session_timeout=1.5)
    owner = FileLedger(tmp_path / "ledger", "survivor")
    stream = KafkaStream(config, "survivor", "json")
    options = msgspec.json.encode(msgspec.structs.asdict(config) | SECONDS_AS_TEXT).decode()
    victim = Service(
        "victim", [sys.executable, "-m", "aiopsd.testing.member", options, str(owner.path), "victim"], tmp_path
    )
    victim.spawn()
    try:
        async with feeding(kafka, topic, 4) as acked:
            await until(lambda: len(owner.lines()) > 40)
            async with polling(stream, owner):
                await until(lambda: len(owner.held) == 2 and len(owner.seen) > 20)
                taken = len([1 for name, _, _ in owner.lines() if name == "victim"])
                await until(lambda: len([1 for n, _, _ in owner.lines() if n == "victim"]) > taken)
                victim.kill()
                await until(lambda: len(owner.held) == 4)
                before = len(owner.seen)
                await until(lambda: len(owner.seen) > before + 40)
        async with reading(KafkaStream(config, "rest", "json"), owner) as rest:
            await poll_until(rest, owner, lambda: len(owner.lines()) == sum(acked))
    finally:
        victim.kill()

    exactly_once(owner.lines(), acked)


async def test_a_static_member_restarts_without_a_rebalance(kafka: Broker, tmp_path: Path) -> None:
    """With group_instance_id a restart within the session moves no partition of the others."""
    topic = await kafka.create_topic("static", 4)
    holders = dict[int, str]()

    def member(name: str) -> tuple[KafkaStream, Shared]:
        config = kafka.config(topic, group_instance_id=name)
        return KafkaStream(config, name, "json"), Shared(tmp_path / "ledger", name, holders)

    await kafka.fill(topic, [b"x"] * 40, partition=None)
    async with polling(*member("a")) as a:
        async with polling(*member("b")) as b:
            await until(lambda: len(a.held) == 2 and len(b.held) == 2)
            story, held = list(a.story), b.held
        async with polling(*member("b")) as again:
            await until(lambda: len(again.held) == 2 and len(a.lines()) == 40)
            same = again.held

        assert (story, held) == (a.story, same)


async def test_slow_owners_keep_their_membership(kafka: Broker, tmp_path: Path) -> None:
    """An owner may take longer than the session timeout to load its state or to finish its step."""
    topic = await kafka.create_topic("slow", 2)
    config = kafka.config(topic, session_timeout=1.0)
    holders = dict[int, str]()

    class Slow(Shared):
        async def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
            await asyncio.sleep(2.0)  # loading a snapshot
            return await super().assigned(partitions)

        async def revoked(self, partitions: Sequence[int]) -> None:
            await asyncio.sleep(2.0)  # writing one
            await super().revoked(partitions)

    await kafka.fill(topic, [b"x"] * 5, partition=0)
    a, b = Slow(tmp_path / "ledger", "a", holders), Shared(tmp_path / "ledger", "b", holders)
    async with polling(KafkaStream(config, "a", "json"), a):
        await until(lambda: len(a.seen) == 5)
        async with polling(KafkaStream(config, "b", "json"), b):
            await until(lambda: len(a.held) == 1 and len(b.held) == 1)
            held = a.held

    assert [("assigned", (0, 1)), ("revoked", (0, 1)), ("assigned", held)] == a.story[:3]
    assert [(what, len(p)) for what, p in b.story][:2] == [("assigned", 1), ("revoked", 1)]
    exactly_once(a.lines(), [5, 0])


async def test_a_member_without_a_partition_waits(kafka: Broker, tmp_path: Path) -> None:
    """A member too many is up, holds nothing, and takes over when the other leaves."""
    topic = await kafka.create_topic("spare", 1)
    holders = dict[int, str]()
    a, b = (Shared(tmp_path / "ledger", name, holders) for name in "ab")
    await kafka.fill(topic, [b"x"] * 3)

    first, spare = (KafkaStream(kafka.config(topic), name, "json") for name in "ab")
    async with polling(spare, b):
        async with polling(first, a):
            await until(lambda: len(holders) == 1 and "" == spare.waiting == first.waiting)
            assert len(a.held) + len(b.held) == 1
        await until(lambda: b.held == (0,))
        await kafka.fill(topic, [b"x"] * 3)
        await until(lambda: len(b.lines()) == 6)

    exactly_once(b.lines(), [6])


async def test_an_owner_that_fails_is_heard(kafka: Broker) -> None:
    """What the owner raises while it lets go of its partitions comes out of poll, not only into a log."""
    topic = await kafka.create_topic("owner-fails", 2)

    class Failing(Ledger):
        async def revoked(self, partitions: Sequence[int]) -> None:
            raise RuntimeError("disk full")

    owner, other = Failing(), Ledger()
    stream = KafkaStream(kafka.config(topic), "a", "json")
    second = KafkaStream(kafka.config(topic), "b", "json")
    await stream.start(owner)

    async with asyncio.TaskGroup() as group:
        joining = group.create_task(second.start(other), name="join")
        with pytest.raises(RuntimeError, match="disk full"):
            await poll_until(stream, owner, lambda: False)
        await until(lambda: stream.waiting == "" or joining.done())
        await stream.poll(1, 0.1)
    await second.stop()
    with pytest.raises(RuntimeError, match="disk full"):
        await stream.stop()
