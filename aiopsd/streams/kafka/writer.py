"""Writing to Kafka: an idempotent producer (acks=all) that is made when it is first needed, and anew after trouble."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.errors import KafkaError

from aiopsd.errors import StreamError
from aiopsd.kafka import NOT_ALLOWED
from aiopsd.streams.kafka.broker import Broker

log = structlog.get_logger(__name__)

FORMAT_HEADER = "aiopsd-format"


def format_header(format: str) -> tuple[str, bytes]:
    """How a record names its own format."""
    return (FORMAT_HEADER, format.encode())


class Writer:
    """One producer for all that a source writes: its topic and its dead letters."""

    def __init__(self, broker: Broker) -> None:
        self._config, self._name, self._broker = broker.config, broker.name, broker
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()

    async def send(
        self, topic: str, items: Sequence[tuple[bytes, bytes | None, int | None, Sequence[tuple[str, bytes]]]]
    ) -> list[Any]:
        """(value, key, partition, headers) each; waits for every replica in sync.

        Raises:
            StreamError: the broker is away or refuses; `retry` says whether trying again can help.
        """
        if not items:
            return []
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._config.request_timeout):
                producer = await self._producing()
                futures = [
                    await producer.send(topic, value, key, partition, headers=list(headers))
                    for value, key, partition, headers in items
                ]
                done = await asyncio.gather(*futures, return_exceptions=True)
            for result in done:
                if isinstance(result, BaseException):
                    raise result
            return done
        except kafka_errors.MessageSizeTooLargeError as e:
            raise StreamError(f"{self._name}: {topic}: {e}", retry=False) from e
        except NOT_ALLOWED as e:
            raise StreamError(f"{self._name}: {self._broker.user} may not write to `{topic}`", retry=False) from e
        except (KafkaError, TimeoutError, AssertionError) as e:
            # a failed batch leaves a hole in the producer's sequence numbers: the next append gets a new producer
            if producer is not None:
                await self._drop(producer)
            text = str(e) or f"no answer within {self._config.request_timeout:g} s"
            raise StreamError(f"{self._name}: cannot write to `{topic}` on {self._broker.addresses}: {text}") from e

    async def _producing(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._producer is None:
                compression = None if self._config.compression_type == "none" else self._config.compression_type
                producer = AIOKafkaProducer(
                    bootstrap_servers=list(self._config.bootstrap_servers),
                    enable_idempotence=True,
                    acks="all",
                    compression_type=compression,
                    max_request_size=self._config.max_request_bytes,
                    max_batch_size=64 * 1024,
                    **self._broker.options(),
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def _drop(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
        try:
            async with asyncio.timeout(2.0):
                await producer.stop()
        except (KafkaError, TimeoutError) as e:
            log.info("kafka.producer_dropped", source=self._name, error=str(e) or type(e).__name__)

    async def close(self) -> None:
        """Flush and close what is open."""
        if self._producer is not None:
            await self._drop(self._producer)
