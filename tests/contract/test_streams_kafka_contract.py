"""KafkaStream on a real Apache Kafka keeps what every stream promises."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from aiopsd.model import Entry
from aiopsd.streams.kafka import KafkaStream
from aiopsd.testing.checks import STREAM_CHECKS, StreamCheck, name_of
from aiopsd.testing.kafka import Broker

pytestmark = pytest.mark.kafka


class KafkaCase:
    """A topic of its own."""

    partitions = 2
    writes = True
    loses = True

    def __init__(self, kafka: Broker, topic: str) -> None:
        self.kafka, self.topic = kafka, topic

    def open(self, on_offset_lost: Literal["stop", "earliest"] = "stop") -> KafkaStream:
        return KafkaStream(self.kafka.config(self.topic), "metrics", "json", on_offset_lost=on_offset_lost)

    async def put(self, entries: Sequence[Entry]) -> None:
        writer = self.open()
        await writer.start()
        try:
            await writer.append(entries)
        finally:
            await writer.stop()

    async def lose(self, before: Mapping[int, int]) -> None:
        for partition, offset in before.items():
            await self.kafka.delete_records(self.topic, partition, offset)


@pytest.mark.parametrize("check", STREAM_CHECKS, ids=name_of)
async def test_kafka_keeps_the_promise(check: StreamCheck, kafka: Broker) -> None:
    """Each check of the stream suite, over a topic of its own."""
    topic = await kafka.create_topic(f"contract-{name_of(check)}", KafkaCase.partitions)

    await check(KafkaCase(kafka, topic))
