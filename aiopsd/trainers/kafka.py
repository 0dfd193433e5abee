"""Retraining by Kafka: a CloudEvent 1.0 on a topic, keyed by the request's dedup_key.

CloudEvents Kafka binding (cloudevents/spec v1.0.2, bindings/kafka-protocol-binding.md): `binary` puts the attributes
into headers (`ce_id`, `ce_type`, ...) and the data into the value; `structured` puts all of it into the value. The
producer is idempotent with acks=all, so that a retry inside the client writes once; a retry after a crash of ours
writes again, with the same key and the same `ce_id`: consumers dedupe by them, and a compacted topic does it by itself.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import aiokafka
import msgspec
from aiokafka import errors as kafka_errors
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError

from aiopsd.errors import DeliveryError, DeliveryReason
from aiopsd.kafka import NOT_ALLOWED, REFUSED, ClusterConfig, client_options
from aiopsd.model import RetrainRequest
from aiopsd.outgoing import CLOUDEVENTS, json_body
from aiopsd.protocols import Session
from aiopsd.trainers.webhook import event


class KafkaTrainerConfig(ClusterConfig, frozen=True, kw_only=True):
    """Options of one Kafka trainer; where a key is a Kafka source's too, it means the same."""

    client_id: str = "aiopsd-trainer"
    mode: Literal["binary", "structured"] = "structured"
    source: str = "aiopsd"  # CloudEvents source: a URI that names this daemon


class KafkaTrainer:
    """Produces retraining requests; connects when the first one comes, and anew after an error that needs it."""

    Config: ClassVar[type[msgspec.Struct]] = KafkaTrainerConfig

    def __init__(self, config: KafkaTrainerConfig, session: Session | None = None) -> None:
        self.config = config
        self._producer: aiokafka.AIOKafkaProducer | None = None

    def encode(self, item: RetrainRequest) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        """(key, value, headers) of the record; the same request gives the same bytes."""
        content = event(item, self.config.source)
        if self.config.mode == "structured":
            return item.dedup_key.encode(), json_body(content), [("content-type", CLOUDEVENTS.encode())]
        data = content.pop("data")
        headers = [("content-type", content.pop("datacontenttype").encode())]
        headers += [(f"ce_{name}", value.encode()) for name, value in content.items()]
        return item.dedup_key.encode(), json_body(data), headers

    async def send(self, item: RetrainRequest, receipt: Mapping[str, str]) -> dict[str, str]:
        """Produce and wait until all in-sync replicas have it; {"partition", "offset"}. See protocols.Trainer."""
        key, value, headers = self.encode(item)
        try:
            producer = await self._started()
            at = await producer.send_and_wait(self.config.topic, value, key=key, headers=headers)
        except KafkaError as e:
            await self.stop()  # a producer that failed may hold a dead connection or a fenced id
            raise _error(e) from None
        except OSError as e:  # certificates, names
            await self.stop()
            raise DeliveryError(DeliveryReason.NETWORK, f"kafka: {type(e).__name__}", retry=True) from None
        return {"partition": str(at.partition), "offset": str(at.offset)}

    async def stop(self) -> None:
        """Close the connections; the next request opens them again."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _started(self) -> aiokafka.AIOKafkaProducer:
        if self._producer is None:
            options = client_options(self.config)
            producer = aiokafka.AIOKafkaProducer(
                bootstrap_servers=list(self.config.bootstrap_servers), enable_idempotence=True, acks="all", **options
            )
            try:
                await producer.start()
            except BaseException as e:
                await producer.stop()  # a cancelled start leaves tasks behind
                if isinstance(e, kafka_errors.KafkaConnectionError):
                    await self._probe(options)
                raise
            self._producer = producer
        return self._producer

    async def _probe(self, options: dict[str, Any]) -> None:
        """Raise what a single connection says: the producer reports every obstacle as "Unable to bootstrap"."""
        for host, port, _ in collect_hosts(list(self.config.bootstrap_servers)):
            (await create_conn(host, port, **options)).close()


def _error(e: KafkaError) -> DeliveryError:
    """Too large and not allowed are final; everything else is worth another try."""
    name = f"kafka: {type(e).__name__}"
    if isinstance(e, kafka_errors.MessageSizeTooLargeError):
        return DeliveryError(DeliveryReason.TOO_LARGE, name, retry=False)
    if isinstance(e, REFUSED + NOT_ALLOWED):
        return DeliveryError(DeliveryReason.AUTH, name, retry=False)
    return DeliveryError(DeliveryReason.NETWORK, name, retry=True)
