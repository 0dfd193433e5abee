"""Retraining by Kafka: a CloudEvent 1.0 on a topic, keyed by the request's dedup_key.

CloudEvents Kafka binding (cloudevents/spec v1.0.2, bindings/kafka-protocol-binding.md): `binary` puts the attributes
into headers (`ce_id`, `ce_type`, ...) and the data into the value; `structured` puts all of it into the value. The
producer is idempotent with acks=all, so that a retry inside the client writes once; a retry after a crash of ours
writes again, with the same key and the same `ce_id`: consumers dedupe by them, and a compacted topic does it by itself.
"""

import ssl
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import aiokafka
import msgspec
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from aiopsd.config import Secret, Section
from aiopsd.errors import DeliveryError, DeliveryReason
from aiopsd.model import RetrainRequest
from aiopsd.outgoing import CLOUDEVENTS, json_body
from aiopsd.protocols import Session
from aiopsd.trainers.webhook import event

_AUTH = (AuthenticationFailedError, TopicAuthorizationFailedError)


class KafkaTrainerConfig(Section, frozen=True, kw_only=True):
    """Options of one Kafka trainer."""

    bootstrap_servers: str  # host:port, ...
    topic: str
    mode: Literal["binary", "structured"] = "structured"
    source: str = "aiopsd"  # CloudEvents source: a URI that names this daemon
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    password: Secret | None = None
    ca_file: str = ""  # "": the system's
    cert_file: str = ""  # of a client certificate
    key_file: str = ""
    client_id: str = "aiopsd-trainer"


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
            producer = aiokafka.AIOKafkaProducer(**self._options())
            try:
                await producer.start()
            except BaseException:
                await producer.stop()  # a cancelled start leaves tasks behind
                raise
            self._producer = producer
        return self._producer

    def _options(self) -> dict[str, Any]:
        c = self.config
        options: dict[str, Any] = {
            "bootstrap_servers": c.bootstrap_servers,
            "client_id": c.client_id,
            "enable_idempotence": True,
            "acks": "all",
            "security_protocol": c.security_protocol,
        }
        if c.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": c.sasl_mechanism,
                "sasl_plain_username": c.username,
                "sasl_plain_password": c.password.reveal() if c.password is not None else "",
            }
        if c.security_protocol.endswith("SSL"):
            context = ssl.create_default_context(cafile=c.ca_file or None)
            if c.cert_file:
                context.load_cert_chain(c.cert_file, c.key_file or None)
            options["ssl_context"] = context
        return options


def _error(e: KafkaError) -> DeliveryError:
    """Too large and not allowed are final; everything else is worth another try."""
    name = f"kafka: {type(e).__name__}"
    if isinstance(e, MessageSizeTooLargeError):
        return DeliveryError(DeliveryReason.TOO_LARGE, name, retry=False)
    if isinstance(e, _AUTH):
        return DeliveryError(DeliveryReason.AUTH, name, retry=False)
    return DeliveryError(DeliveryReason.NETWORK, name, retry=True)
