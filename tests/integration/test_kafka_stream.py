"""KafkaStream against a real Apache Kafka: reading and writing."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiokafka
import pytest

from aiopsd.errors import StreamError
from aiopsd.model import Entry
from aiopsd.protocols import Stream
from aiopsd.streams.kafka import KafkaStream
from aiopsd.testing.kafka import Broker
from aiopsd.testing.streams import Ledger, poll_until, read, reading

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def writing(kafka: Broker, topic: str, **options: Any) -> AsyncIterator[KafkaStream]:
    stream = KafkaStream(kafka.config(topic, **options), "out", "json")
    await stream.start()
    try:
        yield stream
    finally:
        await stream.stop()


def numbers(n: int, start: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(start, start + n)]


# --------------------------------------------------------------------------- reading and writing


async def test_records_come_back_as_they_were_written(kafka: Broker) -> None:
    """Key, value, headers, format and place survive the way through Kafka; the stamp is the broker's record time."""
    topic = await kafka.create_topic("round-trip", 2)
    entries = [
        Entry(value=b"one", format="json", key=b"k", headers=(("h", b"1"), ("h", b"2")), partition=1),
        Entry(value=b"two", format="prometheus", partition=1),
        Entry(value=b"", format="json", partition=0),
    ]
    owner = Ledger()
    before = time.time()

    async with writing(kafka, topic) as out:
        places = await out.append(entries)
    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        records = sorted(await read(stream, owner, 3), key=lambda r: (r.partition, r.offset))

    assert [(p.partition, p.offset) for p in places] == [(1, 0), (1, 1), (0, 0)]
    assert [(r.partition, r.offset, r.value, r.key, r.format, r.headers) for r in records] == [
        (0, 0, b"", None, "json", ()),
        (1, 0, b"one", b"k", "json", (("h", b"1"), ("h", b"2"))),
        (1, 1, b"two", None, "prometheus", ()),
    ]
    assert all(before - 1 < r.stamp < time.time() + 1 and r.source == "metrics" for r in records)
    assert isinstance(stream, Stream)


async def test_a_tombstone_is_an_empty_value(kafka: Broker) -> None:
    """A record without a value is read as b"", never as None."""
    topic = await kafka.create_topic("tombstone")
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=kafka.address())
    await producer.start()
    await producer.send_and_wait(topic, value=None, key=b"gone")
    await producer.stop()
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        (record,) = await read(stream, owner, 1)

    assert (record.value, record.key) == (b"", b"gone")


async def test_keys_go_where_the_java_client_puts_them(kafka: Broker) -> None:
    """Partitioning by key is murmur2, so that our records meet those of other producers with the same key."""
    topic = await kafka.create_topic("by-key", 4)
    # toPositive(murmur2(key)) % 4 of org.apache.kafka.common.utils.Utils: murmur2("21") = -973932308,
    # murmur2("foobar") = -790332482, murmur2("a-little-bit-long-string") = -985981536 (its own UtilsTest)
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}

    async with writing(kafka, topic) as out:
        places = await out.append([Entry(value=b"x", format="json", key=key) for key in known])

    assert [(h & 0x7FFFFFFF) % 4 for h in known.values()] == [p.partition for p in places]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_is_written_and_read(kafka: Broker, compression: str) -> None:
    """What is written with any codec of Kafka is read back, and really travels compressed."""
    topic = await kafka.create_topic(f"compressed-{compression}")
    owner = Ledger()
    values = [b"%d " % i + b"same " * 200 for i in range(50)]

    async with writing(kafka, topic, compression_type=compression) as out:
        await out.append([Entry(value=v, format="json", partition=0) for v in values])
    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        records = await read(stream, owner, 50)

    assert values == [r.value for r in records]
    segment = next((kafka.folder / "data").glob(f"{topic}-0/*.log")).read_bytes().rstrip(b"\0")
    assert (len(segment) > 50_000) is (compression == "none")


async def test_the_owner_says_where_to_read(kafka: Broker) -> None:
    """Reading resumes at the owner's offsets, whatever was committed to Kafka; None means start_at."""
    topic = await kafka.create_topic("owner", 3)
    async with writing(kafka, topic) as out:
        await out.append([Entry(value=v, format="json", partition=p) for p in range(3) for v in numbers(10)])
    first = Ledger()
    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), first) as stream:
        await read(stream, first, 30)
        await stream.commit({0: 10, 1: 10, 2: 10})
    owner = Ledger({0: 7, 1: 10})

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        records = await read(stream, owner, 13)
        nothing_more = await stream.poll(10, 0.3)

    assert [r.offset for r in records if r.partition == 0] == [7, 8, 9]
    assert list(range(10)) == [r.offset for r in records if r.partition == 2]
    assert nothing_more == []


async def test_a_first_run_may_start_at_the_end(kafka: Broker) -> None:
    """start_at: latest skips what was there before us, and nothing after."""
    topic = await kafka.create_topic("latest")
    await kafka.fill(topic, numbers(5))
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic, start_at="latest"), "metrics", "json"), owner) as stream:
        await kafka.fill(topic, numbers(5, start=5))
        records = await read(stream, owner, 5)

    assert numbers(5, start=5) == [r.value for r in records]


async def test_a_poll_keeps_its_limit_and_its_wait(kafka: Broker) -> None:
    """At most `limit` records, and [] after `wait` seconds without any."""
    topic = await kafka.create_topic("limit")
    await kafka.fill(topic, numbers(25))
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        sizes = [len(await stream.poll(10, 5.0)) for _ in range(3)]
        begun = time.monotonic()
        empty = await stream.poll(10, 0.3)
        waited = time.monotonic() - begun

    assert sizes == [10, 10, 5]
    assert empty == []
    assert 0.25 < waited < 2.0


async def test_paused_partitions_give_nothing_until_resumed(kafka: Broker) -> None:
    """Back-pressure holds some partitions while others flow, and loses nothing."""
    topic = await kafka.create_topic("pause", 2)
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        stream.pause([0])
        await kafka.fill(topic, numbers(5), partition=0)
        await kafka.fill(topic, numbers(5), partition=1)
        await read(stream, owner, 5)
        while_paused = [r.partition for r in owner.seen] + [r.partition for r in await stream.poll(10, 0.3)]
        lag = await stream.lag()
        stream.resume([0])
        await read(stream, owner, 10)

    assert while_paused == [1] * 5
    assert lag == {0: 5, 1: 0}
    assert numbers(5) == [r.value for r in owner.seen if r.partition == 0]


async def test_lag_counts_what_is_left_to_read(kafka: Broker) -> None:
    """lag() is the distance from what was handed out to the end, and 0 behind a transaction's marker."""
    topic = await kafka.create_topic("lag")
    await kafka.fill(topic, numbers(20))
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=kafka.address(), transactional_id="lag")
    await producer.start()
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        at_start = await stream.lag()
        owner.take(await stream.poll(15, 5.0))
        after_15 = await stream.lag()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"20", partition=0)
        await read(stream, owner, 21)
        owner.take(await stream.poll(10, 0.2))  # steps over the marker
        at_end = await stream.lag()
    await producer.stop()

    assert (at_start, after_15, at_end) == ({0: 20}, {0: 5}, {0: 0})


async def test_aborted_transactions_are_not_input(kafka: Broker) -> None:
    """Records of an aborted transaction are skipped by default, and read when read_uncommitted is asked for."""
    topic = await kafka.create_topic("aborted")
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=kafka.address(), transactional_id="aborted")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"aborted", partition=0)
    await producer.abort_transaction()
    await producer.stop()
    await kafka.fill(topic, [b"kept"])
    committed, uncommitted = Ledger(), Ledger()

    async with reading(KafkaStream(kafka.config(topic), "m", "json"), committed) as stream:
        await read(stream, committed, 1)
    options = {"isolation_level": "read_uncommitted"}
    async with reading(KafkaStream(kafka.config(topic, **options), "m", "json"), uncommitted) as stream:
        await read(stream, uncommitted, 2)

    assert [r.value for r in committed.seen] == [b"kept"]
    assert [r.value for r in uncommitted.seen] == [b"aborted", b"kept"]


async def committed(kafka: Broker, topic: str) -> int:
    async with kafka.admin() as admin:
        offsets = await admin.list_consumer_group_offsets(f"group-{topic}")
        return int(offsets[aiokafka.TopicPartition(topic, 0)].offset)


async def test_lag_tools_see_the_trimmed_position(kafka: Broker) -> None:
    """trim() commits the owner's offsets to the group for lag tools: at once, then once a second, and at the end."""
    topic = await kafka.create_topic("lag-tools")
    await kafka.fill(topic, numbers(9))
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        await read(stream, owner, 9)
        begun = stream.clock()
        await stream.trim({0: 6})
        at_once = await committed(kafka, topic)
        await stream.trim({0: 7})
        await stream.trim({0: 8})
        await poll_until(stream, owner, lambda: stream.clock() > begun + 1.2)
        within_a_second = await committed(kafka, topic)
        await stream.trim({0: 9})
    at_the_end = await committed(kafka, topic)

    assert (6, 8, 9) == (at_once, within_a_second, at_the_end)


async def test_a_record_too_large_says_so_and_the_next_append_works(kafka: Broker) -> None:
    """A record beyond max_request_bytes is refused for good, and does not break the writer."""
    topic = await kafka.create_topic("too-large")

    async with writing(kafka, topic, max_request_bytes=1000) as out:
        with pytest.raises(StreamError, match="too-large") as refused:
            await out.append([Entry(value=b"x" * 2000, format="json")])
        places = await out.append([Entry(value=b"x", format="json")])

    assert not refused.value.retry
    assert [p.offset for p in places] == [0]
