"""The stream: a group membership that reads, positions that are the owner's, and what we write beside it.

Hand-over. aiokafka calls its rebalance listener from its own background task. A revocation waits there until the
owner has finished (Kafka keeps the group waiting meanwhile, at most `rebalance_timeout`); an assignment is only noted
there and carried out by the next `poll`, because no heartbeats are sent while that callback runs and an owner may
take its time to load a snapshot. Records that were fetched before the owner said where to read are thrown away.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from aiopsd.errors import OffsetLost, StreamError
from aiopsd.kafka import NOT_ALLOWED
from aiopsd.model import Entry, LogRecord, SourcePos
from aiopsd.protocols import Clock, Owner
from aiopsd.streams.kafka.broker import TOPIC_NOT_ALLOWED, UNKNOWN_TOPIC, Away, Broker
from aiopsd.streams.kafka.config import KafkaConfig
from aiopsd.streams.kafka.dead import DeadLetters, Refused
from aiopsd.streams.kafka.writer import FORMAT_HEADER, Writer, format_header

log = structlog.get_logger(__name__)

_COMMIT_EVERY = 1.0  # s; a round trip to the coordinator that only lag tools profit from


class KafkaStream:
    """One topic through aiokafka: group membership for reading, an idempotent producer (acks=all) for writing.

    `waiting` says what `start` or a rebalance waits for ("" when reading); `stopped` says why the source gave up
    ("" normally). `gaps` lists offsets that the log had lost and that we went past; `on_gap` is told of each.
    A recreated topic is noticed when it ends before our position; one that has grown past it already cannot be told
    from the old one by this client.
    """

    Config: ClassVar[type[KafkaConfig]] = KafkaConfig

    def __init__(
        self,
        config: KafkaConfig,
        name: str,
        format: str,
        *,
        on_offset_lost: Literal["stop", "earliest"] = "earliest",
        on_gap: Callable[[OffsetLost], None] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.config, self.name, self.format = config, name, format
        self.on_offset_lost, self.on_gap, self.clock = on_offset_lost, on_gap, clock
        self.group_id = config.group_id or f"aiopsd-{name}"
        self.waiting = ""
        self._away = ""  # what `waiting` says because the broker went away while we were reading
        self.stopped = ""
        self.gaps: list[OffsetLost] = []
        self._broker = Broker(config, name)
        self._writer = Writer(self._broker)
        self._dead = DeadLetters(self._broker, self._writer, format, clock)
        self._stop_error: StreamError | None = None
        self._owner: Owner | None = None
        self._consumer: AIOKafkaConsumer | None = None
        # hand-over; the lock is held while the owner is asked or told
        self._lock = asyncio.Lock()
        self._arrived = asyncio.Event()  # an assignment came since the last revocation
        self._incoming: tuple[int, ...] | None = None  # assigned by the group, not yet positioned
        self._told: tuple[int, ...] = ()  # the owner knows that it has these
        self._wanted: Mapping[int, int | None] | None = None  # the owner's answer for _incoming
        self._failure: BaseException | None = None  # raised by the owner inside aiokafka's task
        self._next: dict[int, int] = {}  # offset of the next record to hand out, of positioned partitions
        self._turns: list[int] = []  # positioned partitions; who was served last is last
        self._backlog = False  # the last poll was full
        self._paused: set[int] = set()
        self._uncommitted: dict[int, int] = {}  # for lag tools, see trim
        self._commit_at = 0.0
        self._closing = False

    # --------------------------------------------------------------------- connecting

    async def start(self, owner: Owner | None = None) -> None:
        """Connect, however long the broker is away; with an owner, join the group and position its partitions.

        Raises:
            StreamError: the topic does not exist or may not be read, or the broker refuses our credentials or we its
                certificate.
            OffsetLost: an owner's offset is outside the log and the policy is "stop".
        """
        self._owner = owner
        while True:
            await self._reach()
            if owner is None:
                return
            try:
                await self._join()
                return
            except KafkaError as e:  # the broker went away between two steps
                self.waiting = f"joining group {self.group_id}: {e}"
                await asyncio.sleep(0.5)

    async def _reach(self) -> None:
        """Wait until a broker answers for our topic. `waiting` names the last obstacle."""
        backoff = 0.1
        while True:
            try:
                topics = await self._broker.describe([self.config.topic])
                break
            except Away as e:
                if self.waiting != str(e):
                    log.warning("kafka.waiting", source=self.name, reason=str(e))
                self.waiting = str(e)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, 5.0)
        code, partitions = topics[self.config.topic]
        if code == UNKNOWN_TOPIC:
            if not self.config.create_topic:
                raise StreamError(
                    f"{self.name}: topic `{self.config.topic}` does not exist on {self._broker.addresses};"
                    " create it, or set create_topic: true"
                )
            await self._broker.create(self.config.topic, self.config.create_partitions)
        elif code == TOPIC_NOT_ALLOWED:
            raise StreamError(f"{self.name}: {self._broker.user} may not describe topic `{self.config.topic}`")
        elif not partitions:
            raise StreamError(f"{self.name}: topic `{self.config.topic}`: {kafka_errors.for_code(code).__name__}")
        self.waiting = ""

    # --------------------------------------------------------------------- the group

    async def _join(self) -> None:
        """Make a consumer, join the group and take the first assignment.

        Raises:
            KafkaError: the broker went away meanwhile; trying again can help.
        """
        c = self.config
        self.waiting = f"joining group {self.group_id}"
        consumer = AIOKafkaConsumer(
            bootstrap_servers=list(c.bootstrap_servers),
            group_id=self.group_id,
            group_instance_id=c.group_instance_id or None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # where to read is the owner's to say
            isolation_level=c.isolation_level,
            session_timeout_ms=int(c.session_timeout * 1000),
            heartbeat_interval_ms=int(c.session_timeout * 300),
            rebalance_timeout_ms=int(c.rebalance_timeout * 1000),
            # moves as little state as it can; aiokafka keeps its memory on the class: each member needs its own
            partition_assignment_strategy=(type("Sticky", (StickyPartitionAssignor,), {}),),
            fetch_max_bytes=c.fetch_max_bytes,
            max_partition_fetch_bytes=c.max_partition_fetch_bytes,
            **self._broker.options(),
        )
        consumer.subscribe([c.topic], listener=_Listener(self))
        self._consumer = consumer
        try:
            await consumer.start()
            await self._arrived.wait()
        except NOT_ALLOWED as e:
            await self._leave()
            raise StreamError(f"{self.name}: {self._broker.user} may not join group `{self.group_id}`: {e}") from e
        except BaseException:
            await self._leave()
            raise
        await self._position()

    async def _rejoin(self, wait: float) -> None:
        """One attempt to join again after aiokafka's coordination ended."""
        try:
            await self._join()
        except KafkaError as e:
            self.waiting = f"joining group {self.group_id}: {e}"
            await asyncio.sleep(min(wait, 0.5))

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._incoming = None
        self._arrived.clear()
        if consumer is not None:
            try:
                async with asyncio.timeout(10.0):
                    await consumer.stop()
            except (KafkaError, TimeoutError) as e:
                log.warning("kafka.leave_failed", source=self.name, error=str(e))

    async def _revoked(self) -> None:
        """Called by aiokafka before the group rebalances; the group waits for us."""
        async with self._lock:
            self._arrived.clear()
            self._incoming = self._wanted = None
            self.waiting = f"group {self.group_id} to rebalance"
            await self._release()

    async def _release(self) -> None:
        """Tell the owner that its partitions go. The lock is held by the caller."""
        told, self._told = self._told, ()
        self._next.clear()
        self._turns.clear()
        self._uncommitted.clear()
        self._paused.clear()
        if told and self._owner is not None:
            try:
                await self._owner.revoked(told)
            except Exception as e:  # told where it can be heard
                self._failure = e  # aiokafka would only log it; poll raises it
                raise

    def _assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Called by aiokafka with a new assignment; the next poll positions it."""
        assert self._consumer is not None
        self._consumer.pause(*partitions)
        self._incoming = tuple(sorted(tp.partition for tp in partitions))
        self._arrived.set()

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self.config.topic, partition)

    async def _bounds(self, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """(earliest, end) offsets. Raises KafkaError when the broker does not answer."""
        assert self._consumer is not None
        tps = [self._tp(p) for p in partitions]
        try:
            async with asyncio.timeout(5.0):
                begins = await self._consumer.beginning_offsets(tps)
                ends = await self._consumer.end_offsets(tps)
        except TimeoutError:
            raise kafka_errors.KafkaTimeoutError("no offsets from the broker within 5 s") from None
        return {tp.partition: (begins[tp], ends[tp]) for tp in tps}

    async def _position(self) -> None:
        """Ask the owner where to read what the group gave us, and seek there.

        Raises:
            OffsetLost: the policy is "stop".
        """
        async with self._lock:
            partitions = self._incoming
            if partitions is None:
                return
            assert self._consumer is not None
            assert self._owner is not None
            if partitions:
                if self._wanted is None:
                    self.waiting = f"state of partitions {list(partitions)}"
                    self._wanted = await self._owner.assigned(partitions)
                    self._told = partitions
                self.waiting = f"offsets of partitions {list(partitions)}"
                try:
                    bounds = await self._bounds(partitions)
                except KafkaError as e:
                    log.warning("kafka.offsets_unknown", source=self.name, error=str(e))
                    return  # _incoming stays: the next poll tries again
                for partition in partitions:
                    earliest, end = bounds[partition]
                    wanted = self._wanted.get(partition)
                    if wanted is None:
                        offset = earliest if self.config.start_at == "earliest" else end
                    else:
                        offset = wanted if earliest <= wanted <= end else self._lost(partition, wanted, earliest, end)
                    self._consumer.seek(self._tp(partition), offset)
                    self._next[partition] = offset
                self._turns = list(partitions)
                self._consumer.resume(*(self._tp(p) for p in partitions if p not in self._paused))
            self._incoming = self._wanted = None
            self.waiting = ""

    def _lost(self, partition: int, wanted: int, earliest: int, end: int) -> int:
        """The offset to go on from, by policy; the gap is recorded.

        Raises:
            OffsetLost: the policy is "stop"; the source stays stopped.
        """
        lost = OffsetLost(self.name, partition, wanted, earliest, end)
        log.error("kafka.offset_lost", source=self.name, error=str(lost), policy=self.on_offset_lost)
        if self.on_offset_lost == "stop":
            self._stop(lost)
            raise lost
        self.gaps.append(lost)
        if self.on_gap is not None:
            self.on_gap(lost)
        return earliest

    def _stop(self, error: StreamError) -> None:
        self._stop_error = error
        self.stopped = str(error)

    # --------------------------------------------------------------------- reading

    async def poll(self, limit: int, wait: float) -> list[LogRecord]:
        """At most `limit` records; [] after `wait` seconds without any, while the broker is away, or in a rebalance.

        Raises:
            OffsetLost: see `start`; also when retention overtakes us.
            StreamError: the source has stopped (retry=False), or a right was taken from us.
        """
        if self._stop_error is not None:
            raise self._stop_error
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        consumer = self._consumer
        if consumer is None:
            if self._owner is None:
                raise StreamError(f"{self.name}: started without an owner: nothing to read", retry=False)
            if not self._closing:
                await self._rejoin(wait)
            return []
        if self._incoming is not None:
            await self._position()
        if self._uncommitted:
            await self._commit_due()
        try:
            # getmany waits without end while the group rebalances, hence the timeout around it
            async with asyncio.timeout(wait + 0.1):
                batches = await self._fetch(consumer, min(limit, self.config.max_poll_records), wait)
        except TimeoutError:
            return []
        except kafka_errors.ConsumerStoppedError:
            return []
        except kafka_errors.OffsetOutOfRangeError as e:
            await self._out_of_range(e)
            return []
        except kafka_errors.NoOffsetForPartitionError:
            return []  # fetched before we could say where; _position follows
        except KafkaError as e:
            await self._trouble(e)
            return []
        if self._incoming is not None or not self._arrived.is_set():
            return []  # read before the owner said where; the seek that follows brings them back
        return self._flatten(batches)

    async def _fetch(
        self, consumer: AIOKafkaConsumer, limit: int, wait: float
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """getmany; with a backlog, the partitions take turns, or the first would be drained before the next is read."""
        batches: dict[TopicPartition, Sequence[Any]] = {}
        left = limit
        if self._backlog:
            for partition in tuple(self._turns):
                for tp, messages in (
                    await consumer.getmany(self._tp(partition), timeout_ms=0, max_records=left)
                ).items():
                    batches[tp] = messages
                    left -= len(messages)
                    self._turns.remove(partition)
                    self._turns.append(partition)
                if left <= 0:
                    break
        if not batches:
            batches = await consumer.getmany(timeout_ms=int(wait * 1000), max_records=limit)
            left = limit - sum(map(len, batches.values()))
        self._backlog = left <= 0
        return batches

    def _flatten(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> list[LogRecord]:
        """LogRecords of what getmany returned: the hot path, some 0.4 us a record."""
        out: list[LogRecord] = []
        add = out.append
        make = LogRecord
        source, default = self.name, self.format
        for tp, messages in batches.items():
            partition = tp.partition
            for m in messages:
                headers = m.headers
                format = default
                if headers:
                    format, headers = _format_of(headers, default)
                add(
                    make(
                        source=source,
                        partition=partition,
                        offset=m.offset,
                        value=m.value or b"",  # a tombstone has no value
                        format=format,
                        stamp=m.timestamp / 1000,
                        key=m.key,
                        headers=headers,
                    )
                )
            self._next[partition] = messages[-1].offset + 1
        if out:
            self._dead.read(len(out))
        return out

    async def _out_of_range(self, error: kafka_errors.OffsetOutOfRangeError) -> None:
        """Retention overtook us, or the topic was recreated, while we were reading."""
        assert self._consumer is not None
        self._rewind()
        for tp, wanted in error.args[0].items():
            partition = tp.partition
            if partition not in self._next:
                continue
            try:
                earliest, end = (await self._bounds([partition]))[partition]
            except KafkaError as e:
                log.warning("kafka.offsets_unknown", source=self.name, error=str(e))
                return  # the fetch fails again, and we are back here
            if earliest <= wanted <= end:
                offset = wanted  # in range again: a leader had fallen behind
            else:
                offset = self._lost(partition, self._next[partition], earliest, end)
            self._consumer.seek(tp, offset)
            self._next[partition] = offset

    def _rewind(self) -> None:
        """aiokafka's position may have passed records that an error kept from us: go back to what was handed out."""
        assert self._consumer is not None
        assigned = self._consumer.assignment()
        for partition, offset in self._next.items():
            if self._tp(partition) in assigned:
                self._consumer.seek(self._tp(partition), offset)

    async def _trouble(self, error: KafkaError) -> None:
        """getmany raised: decide whether anybody must know.

        Raises:
            StreamError: a right is missing or a record is corrupt: somebody has to act.
        """
        self._rewind()
        if isinstance(error, NOT_ALLOWED):
            lost = f"{type(error).__name__}: {error}"
            raise StreamError(f"{self.name}: {self._broker.user} lost a right: {lost}") from error
        if isinstance(error, kafka_errors.CorruptRecordException):
            raise StreamError(f"{self.name}: {error}; positions {dict(sorted(self._next.items()))}") from error
        log.warning("kafka.trouble", source=self.name, error=f"{type(error).__name__}: {error}")
        if not error.retriable:  # aiokafka's coordination has ended: begin anew
            async with self._lock:
                await self._release()
            await self._leave()

    def pause(self, partitions: Sequence[int]) -> None:
        """No more records of these until `resume`; lasts until the partition is revoked."""
        self._paused.update(partitions)
        if self._consumer is not None:
            self._consumer.pause(*(self._tp(p) for p in partitions if p in self._next))

    def resume(self, partitions: Sequence[int]) -> None:
        self._paused.difference_update(partitions)
        if self._consumer is not None:
            self._consumer.resume(*(self._tp(p) for p in partitions if p in self._next))

    async def lag(self) -> dict[int, int]:
        """Records between what was handed out and the end, by partition; {} when the broker does not answer in 5 s.

        aiokafka keeps silent about a broker that is away while it polls; here we notice, and `waiting` says so.
        """
        if self._consumer is None or not self._next:
            return {}
        try:
            async with asyncio.timeout(5.0):
                tps = [self._tp(p) for p in self._next]
                ends = await self._consumer.end_offsets(tps)
                # aiokafka's position has passed markers of transactions, which nobody will hand out
                found = {
                    tp.partition: max(0, ends[tp] - max(self._next[tp.partition], await self._consumer.position(tp)))
                    for tp in tps
                    if tp.partition in self._next
                }
        except (KafkaError, TimeoutError):
            await self._look_away()
            return {}
        if self.waiting == self._away:
            self.waiting = ""
        self._away = ""
        return found

    async def _look_away(self) -> None:
        """The broker did not answer while we were reading: find out why, for `waiting`."""
        try:
            async with asyncio.timeout(5.0):
                await self._broker.describe([self.config.topic])
            return  # it does answer: slow, or back again
        except (Away, StreamError) as e:
            why = str(e)
        except TimeoutError:
            why = f"broker {self._broker.addresses}: no answer within 5 s"
        if self.waiting in ("", self._away):
            if why != self._away:
                log.warning("kafka.waiting", source=self.name, reason=why)
            self.waiting = self._away = why

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Write next offsets to Kafka for lag tools to see; best effort, ours are in the store."""
        if self._consumer is None:
            return
        offsets = {self._tp(p): offset for p, offset in positions.items() if p in self._next}
        try:
            async with asyncio.timeout(5.0):
                if offsets:
                    await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as e:
            log.info("kafka.commit_failed", source=self.name, error=str(e) or type(e).__name__)

    async def trim(self, before: Mapping[int, int]) -> None:
        """Kafka drops records by its own retention: only the group's offsets move, for lag tools, once a second."""
        self._uncommitted.update(before)
        await self._commit_due()

    async def _commit_due(self) -> None:
        now = self.clock()
        if self._uncommitted and now >= self._commit_at:
            self._commit_at = now + _COMMIT_EVERY
            positions, self._uncommitted = self._uncommitted, {}
            await self.commit(positions)

    # --------------------------------------------------------------------- writing

    async def append(self, entries: Sequence[Entry]) -> list[SourcePos]:
        """Write and wait for every replica in sync; by key as the Java client (murmur2), else any partition.

        When it raises, a part of the entries may be written all the same: without transactions Kafka knows no "all".

        Raises:
            StreamError: the broker is away or refuses; `retry` says whether trying again can help.
        """

        def headers(e: Entry) -> Sequence[tuple[str, bytes]]:
            return e.headers if e.format == self.format else (*e.headers, format_header(e.format))

        items = [(e.value, e.key, e.partition, headers(e)) for e in entries]
        metadata = await self._writer.send(self.config.topic, items)
        return [SourcePos(source=self.name, partition=m.partition, offset=m.offset) for m in metadata]

    async def dead_letters(self, refused: Sequence[Refused]) -> None:
        """Write refused records, with (reason, detail), to the dead-letter topic; safe when this returns.

        Key, value and headers are the original's, with headers aiopsd-reason, -detail, -source, -topic, -partition,
        -offset and -format added.

        Raises:
            StreamError: the broker is away; or, with retry=False, more than `dead_letter_rate` a minute and more than
                `dead_letter_share` of all records are refused: that is a wrong format or a wrong topic, not a bad
                record. None of `refused` is written then, and the source stays stopped.
        """
        error = self._dead.too_many(refused)
        if error is not None:
            self._stop(error)
            log.error("kafka.source_stopped", source=self.name, error=self.stopped)
            raise error
        await self._dead.write(refused)

    async def stop(self) -> None:
        """Tell the owner, leave the group (unless membership is static), flush and close."""
        self._closing = True
        try:
            async with self._lock:
                if self._uncommitted:
                    await self.commit(self._uncommitted)
                self._arrived.clear()
                self._incoming = None
                await self._release()
        finally:
            await self._leave()
            await self._writer.close()
            self.waiting = ""


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, stream: KafkaStream) -> None:
        self._stream = stream

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._stream._revoked()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._stream._assigned(assigned)


def _format_of(headers: tuple[tuple[str, bytes], ...], default: str) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """The format that the record itself names, and its other headers."""
    for key, value in headers:
        if key == FORMAT_HEADER:
            rest = tuple(h for h in headers if h[0] != FORMAT_HEADER)
            return value.decode(errors="replace"), rest
    return default, headers
