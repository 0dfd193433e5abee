"""KafkaStream when things are wrong: credentials, certificates, topics, lost offsets, bad records, dead brokers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from aiopsd.config import Secret
from aiopsd.errors import OffsetLost, StreamError
from aiopsd.model import Entry
from aiopsd.streams.kafka import KafkaStream, TlsConfig
from aiopsd.testing.kafka import PASSWORD, USER, Broker
from aiopsd.testing.streams import Ledger, poll_until, read, reading

pytestmark = pytest.mark.kafka


def numbers(n: int, start: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(start, start + n)]


@asynccontextmanager
async def starting(stream: KafkaStream, owner: Ledger) -> AsyncIterator["asyncio.Task[None]"]:
    """A start that is expected to wait; cancelled at the end if it still does."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stream.start(owner), name="start")
        yield task
        task.cancel()
    await stream.stop()


async def waits_for(stream: KafkaStream, text: str) -> str:
    async with asyncio.timeout(20.0):
        while text not in stream.waiting:
            await asyncio.sleep(0.02)
    return stream.waiting


# --------------------------------------------------------------------------- who may come in


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_the_right_password_reads_and_writes(kafka: Broker, protocol: str, mechanism: str) -> None:
    """Every SASL mechanism works over plain and TLS listeners, for the group as for the producer."""
    topic = await kafka.create_topic(f"sasl-{protocol}-{mechanism}".lower())
    config = kafka.config(
        topic,
        bootstrap_servers=(kafka.address(protocol),),
        security_protocol=protocol,
        sasl_mechanism=mechanism,
        sasl_username=USER,
        sasl_password=Secret(PASSWORD),
        tls=TlsConfig(ca_file=str(kafka.ca_file)),
    )
    owner = Ledger()

    async with reading(KafkaStream(config, "metrics", "json"), owner) as stream:
        await stream.append([Entry(value=b"secret", format="json")])
        (record,) = await read(stream, owner, 1)

    assert record.value == b"secret"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_called_that(kafka: Broker, mechanism: str) -> None:
    """The error names broker, user and mechanism, asks for the credentials, and never shows the password."""
    config = kafka.config(
        "whatever",
        bootstrap_servers=(kafka.address("SASL_PLAINTEXT"),),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        sasl_username=USER,
        sasl_password=Secret("wrong horse"),
    )
    stream = KafkaStream(config, "metrics", "json")

    with pytest.raises(StreamError) as refused:
        await stream.start(Ledger())

    text = str(refused.value)
    assert not refused.value.retry
    assert all(part in text for part in ("credentials?", USER, mechanism, config.bootstrap_servers[0]))
    assert "wrong horse" not in text + repr(config)


async def test_tls_with_a_client_certificate(kafka: Broker) -> None:
    """An SSL listener that asks for client certificates takes ours."""
    topic = await kafka.create_topic("mutual-tls")
    tls = TlsConfig(
        ca_file=str(kafka.ca_file),
        cert_file=str(kafka.folder / "client.pem"),
        key_file=str(kafka.folder / "client.key"),
    )
    config = kafka.config(topic, bootstrap_servers=(kafka.address("SSL"),), security_protocol="SSL", tls=tls)
    owner = Ledger()

    async with reading(KafkaStream(config, "metrics", "json"), owner) as stream:
        await stream.append([Entry(value=b"x", format="json")])
        await read(stream, owner, 1)

    assert [r.value for r in owner.seen] == [b"x"]


async def test_an_unknown_authority_is_refused(kafka: Broker, tmp_path: Path) -> None:
    """A broker whose certificate our authority did not sign is refused, and the error points at tls.ca_file."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    tls = TlsConfig(ca_file=str(tmp_path / "other.pem"))
    config = kafka.config("whatever", bootstrap_servers=(kafka.address("SSL"),), security_protocol="SSL", tls=tls)

    with pytest.raises(StreamError, match=r"not trusted.*tls\.ca_file"):
        await KafkaStream(config, "metrics", "json").start(Ledger())


async def test_a_missing_certificate_file_is_named(kafka: Broker, tmp_path: Path) -> None:
    """A file that cannot be loaded is named in the error."""
    tls = TlsConfig(ca_file=str(tmp_path / "nowhere.pem"))
    config = kafka.config("whatever", security_protocol="SSL", tls=tls)

    with pytest.raises(StreamError, match=r"nowhere\.pem"):
        await KafkaStream(config, "metrics", "json").start(Ledger())


async def test_the_wrong_protocol_waits_with_a_hint(kafka: Broker) -> None:
    """A plaintext client at a SASL listener keeps trying, and says what it may be."""
    config = kafka.config("whatever", bootstrap_servers=(kafka.address("SASL_PLAINTEXT"),))
    stream = KafkaStream(config, "metrics", "json")

    async with starting(stream, Ledger()):
        waiting = await waits_for(stream, "security_protocol?")

    assert kafka.address("SASL_PLAINTEXT") in waiting


# --------------------------------------------------------------------------- topics


async def test_a_missing_topic_is_named_and_not_created(kafka: Broker) -> None:
    """Reading a topic that is not there is an error that names it; nothing is created, though the broker would."""
    stream = KafkaStream(kafka.config("no-such-topic"), "metrics", "json")

    with pytest.raises(StreamError, match=r"`no-such-topic` does not exist.*create_topic") as refused:
        await stream.start(Ledger())
    await stream.stop()

    assert refused.value.retry
    assert "no-such-topic" not in await kafka.topics()


async def test_create_topic_makes_it(kafka: Broker) -> None:
    """With create_topic the missing topic is made with create_partitions partitions."""
    owner = Ledger()

    async with reading(KafkaStream(kafka.config("made", create_topic=True, create_partitions=3), "m", "json"), owner):
        pass

    assert owner.story == [("assigned", (0, 1, 2)), ("revoked", (0, 1, 2))]


# --------------------------------------------------------------------------- lost offsets


async def test_an_offset_lost_to_retention_stops_by_policy(kafka: Broker) -> None:
    """Under `stop` an offset below the log's beginning raises OffsetLost with the bounds, from start and ever after."""
    topic = await kafka.create_topic("lost-stop")
    await kafka.fill(topic, numbers(20))
    await kafka.delete_records(topic, 0, 12)
    stream = KafkaStream(kafka.config(topic), "metrics", "json", on_offset_lost="stop")

    with pytest.raises(OffsetLost) as lost:
        await stream.start(Ledger({0: 5}))
    with pytest.raises(OffsetLost):
        await stream.poll(10, 0.1)
    await stream.stop()

    assert (*(lost.value.source, lost.value.partition, lost.value.wanted, lost.value.earliest, lost.value.latest),) == (
        "metrics",
        0,
        5,
        12,
        20,
    )
    assert "offset 5 is gone" in stream.stopped


async def test_an_offset_lost_to_retention_goes_on_with_a_gap(kafka: Broker) -> None:
    """Under `earliest` reading goes on at the log's beginning and the gap is reported once."""
    topic = await kafka.create_topic("lost-earliest")
    await kafka.fill(topic, numbers(20))
    await kafka.delete_records(topic, 0, 12)
    owner, told = Ledger({0: 5}), list[OffsetLost]()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json", on_gap=told.append), owner) as stream:
        await read(stream, owner, 8)

    assert list(range(12, 20)) == [r.offset for r in owner.seen]
    assert [(gap.wanted, gap.earliest) for gap in stream.gaps] == [(5, 12)]
    assert told == stream.gaps


async def test_retention_that_overtakes_a_reader_is_a_gap(kafka: Broker) -> None:
    """Records that vanish while we are paused become a gap, not a stall and not a silent jump."""
    topic = await kafka.create_topic("overtaken")
    await kafka.fill(topic, numbers(20))
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        owner.take(await stream.poll(5, 5.0))
        stream.pause([0])
        await stream.poll(5, 0.1)  # what was fetched ahead is dropped
        await kafka.delete_records(topic, 0, 12)
        stream.resume([0])
        await read(stream, owner, 13)

    assert [*range(5), *range(12, 20)] == [r.offset for r in owner.seen]
    assert [(gap.wanted, gap.earliest) for gap in stream.gaps] == [(5, 12)]


async def test_a_recreated_topic_is_a_gap(kafka: Broker) -> None:
    """A topic that ends before our position is another topic under the old name: read from its beginning, loudly."""
    topic = await kafka.create_topic("recreated")
    await kafka.fill(topic, numbers(20))
    await kafka.delete_topic(topic)
    await kafka.create_topic(topic)
    await kafka.fill(topic, numbers(3, start=100))
    owner = Ledger({0: 20})

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        await read(stream, owner, 3)

    assert numbers(3, start=100) == [r.value for r in owner.seen]
    assert [(gap.wanted, gap.earliest, gap.latest) for gap in stream.gaps] == [(20, 0, 3)]


# --------------------------------------------------------------------------- dead letters


async def refuse(stream: KafkaStream, owner: Ledger, bad: bytes, count: int) -> None:
    """Take `count` records in batches of 20; those whose value begins with `bad` go to the dead letter first."""
    async with asyncio.timeout(20.0):
        while len(owner.seen) < count:
            records = await stream.poll(20, 0.1)
            refused = [r for r in records if r.value.startswith(bad)]
            await stream.dead_letters([(r, "malformed", "not JSON at byte 0") for r in refused])
            owner.take(records)


async def test_a_dead_letter_says_what_it_was_and_why(kafka: Broker) -> None:
    """The refused record arrives whole, with reason, detail and its place; the topic is made when first needed."""
    topic = await kafka.create_topic("sour", 2)
    owner, dead = Ledger(), Ledger()

    async with reading(KafkaStream(kafka.config(topic), "metrics", "json"), owner) as stream:
        before = await kafka.topics()
        await stream.append([
            Entry(value=b"bad", format="prometheus", key=b"k", headers=(("trace", b"1"),), partition=1),
            *(Entry(value=b"good", format="json", partition=1) for _ in range(9)),
        ])  # fmt: skip
        await refuse(stream, owner, b"bad", 10)
    async with reading(KafkaStream(kafka.config(f"{topic}.dead"), "dead", "json"), dead) as stream:
        (letter,) = await read(stream, dead, 1)

    assert f"{topic}.dead" not in before
    assert (letter.value, letter.key, letter.format) == (b"bad", b"k", "prometheus")
    assert {
        "trace": b"1",
        "aiopsd-reason": b"malformed",
        "aiopsd-detail": b"not JSON at byte 0",
        "aiopsd-source": b"metrics",
        "aiopsd-topic": topic.encode(),
        "aiopsd-partition": b"1",
        "aiopsd-offset": b"0",
    } == dict(letter.headers)


async def test_a_wrong_topic_stops_instead_of_moving_house(kafka: Broker) -> None:
    """When most records are bad and the rate is used up, the source stops, says so, and reroutes no more."""
    topic = await kafka.create_topic("wrong-format")
    await kafka.fill(topic, [b"bad"] * 100)
    owner, dead = Ledger(), Ledger()
    config = kafka.config(topic, dead_letter_rate=30, dead_letter_topic=f"{topic}-refused")

    async with reading(KafkaStream(config, "metrics", "json"), owner) as stream:
        with pytest.raises(StreamError, match=r"40 of 40 records .* refused.*metrics/0@39 as malformed") as stopped:
            await refuse(stream, owner, b"bad", 100)
        with pytest.raises(StreamError):
            await stream.poll(10, 0.1)
    async with reading(KafkaStream(kafka.config(f"{topic}-refused"), "dead", "json"), dead) as letters:
        await read(letters, dead, 20)
        more = await letters.poll(100, 0.3)

    assert not stopped.value.retry
    assert str(stopped.value) == stream.stopped
    assert more == []
    assert owner.positions[0] == 20


async def test_some_bad_records_among_many_good_ones_do_not_stop_it(kafka: Broker) -> None:
    """Beyond the rate, but far below the share: bad records go their way and the source goes on."""
    topic = await kafka.create_topic("some-bad")
    await kafka.fill(topic, [b"bad" if i % 10 == 0 else b"good" for i in range(300)])
    owner = Ledger()

    async with reading(KafkaStream(kafka.config(topic, dead_letter_rate=10), "metrics", "json"), owner) as stream:
        await refuse(stream, owner, b"bad", 300)

    assert stream.stopped == ""
    assert len(owner.seen) == 300


# --------------------------------------------------------------------------- brokers that die


async def test_a_broker_away_at_start_is_waited_for(kafka: Broker) -> None:
    """start() keeps trying, says whom it waits for, and goes on by itself when the broker comes."""
    topic = await kafka.create_topic("away")
    await kafka.fill(topic, numbers(3))
    kafka.kill()
    stream, owner = KafkaStream(kafka.config(topic), "metrics", "json"), Ledger()
    try:
        async with starting(stream, owner) as task:
            waiting = await waits_for(stream, "broker")
            await kafka.start()
            await asyncio.wait_for(task, 30.0)
            await read(stream, owner, 3)
    finally:
        if not kafka.running:
            await kafka.start()

    assert kafka.address() in waiting
    assert stream.waiting == ""


async def test_a_killed_broker_loses_nothing(kafka: Broker) -> None:
    """SIGKILL under load and a restart: every acknowledged record is read, in order, once; both ends recover."""
    topic = await kafka.create_topic("broker-killed", 2)
    config = kafka.config(topic, session_timeout=6.0, request_timeout=5.0)
    reader, writer = KafkaStream(config, "metrics", "json"), KafkaStream(config, "out", "json")
    owner = Ledger()
    acked: list[tuple[int, int]] = []
    refusals: list[StreamError] = []
    over = asyncio.Event()

    async def write() -> None:
        while not over.is_set():
            try:
                places = await writer.append([Entry(value=b"x", format="json", partition=p) for p in (0, 1)])
                acked.extend((p.partition, p.offset) for p in places)
            except StreamError as e:
                refusals.append(e)
            await asyncio.sleep(0.002)

    await writer.start()
    async with reading(reader, owner):
        async with asyncio.TaskGroup() as group:
            group.create_task(write(), name="write")
            await read(reader, owner, 200)
            kafka.kill()
            down = len(acked)
            for _ in range(10):
                owner.take(await reader.poll(500, 0.1))
            await kafka.start()
            await poll_until(reader, owner, lambda: len(acked) > down + 200, timeout=60.0)
            over.set()
        wanted = set(acked)
        await poll_until(reader, owner, lambda: wanted <= {(r.partition, r.offset) for r in owner.seen}, timeout=60.0)
    await writer.stop()

    assert all(e.retry for e in refusals)
    for partition in (0, 1):
        offsets = [r.offset for r in owner.seen if r.partition == partition]
        assert list(range(len(offsets))) == offsets


async def test_writing_without_a_broker_is_an_error_in_time(kafka: Broker) -> None:
    """append() to a dead broker raises a StreamError that says retry, within request_timeout."""
    topic = await kafka.create_topic("write-away")
    out = KafkaStream(kafka.config(topic, request_timeout=1.0), "out", "json")
    await out.start()
    kafka.kill()
    try:
        with pytest.raises(StreamError, match="write-away") as refused:
            await out.append([Entry(value=b"x", format="json")])
    finally:
        await kafka.start()
    async with asyncio.timeout(20.0):
        while True:
            try:
                await out.append([Entry(value=b"y", format="json")])
                break
            except StreamError:
                continue
    await out.stop()

    assert refused.value.retry
