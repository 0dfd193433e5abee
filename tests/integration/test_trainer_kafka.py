"""The Kafka trainer against a real broker."""

import json
from typing import Any

import aiokafka
import pytest

from aiopsd.config import plugin_config
from aiopsd.errors import DeliveryError, DeliveryReason
from aiopsd.model import RetrainRequest
from aiopsd.testing.kafka import PASSWORD, USER, Broker
from aiopsd.testing.services import free_ports
from aiopsd.trainers.kafka import KafkaTrainer, KafkaTrainerConfig

pytestmark = pytest.mark.kafka

REQUEST = RetrainRequest(id="q1", dedup_key="q1", subject="demand", reason="drift", requested_at=1_772_359_400.0)


def trainer(servers: str, topic: str, **more: Any) -> KafkaTrainer:
    options = {"bootstrap_servers": [servers], "topic": topic} | more
    return KafkaTrainer(plugin_config(KafkaTrainerConfig, options, "$.retraining.trainers[0].kafka"))


async def read(kafka: Broker, topic: str, count: int) -> list[Any]:
    consumer = aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=kafka.address(), auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_a_request_arrives_as_encoded_under_its_key(kafka: Broker, mode: str) -> None:
    """The record holds what encode says; the same request twice has the same key and id; the receipt is its place."""
    topic = await kafka.create_topic(f"retrain-{mode}", partitions=3)
    sender = trainer(kafka.address(), topic, mode=mode)
    try:
        first = await sender.send(REQUEST, {})
        second = await sender.send(REQUEST, {})
    finally:
        await sender.stop()

    one, two = await read(kafka, topic, 2)
    assert sender.encode(REQUEST) == (one.key, one.value, list(one.headers))
    assert (one.key, one.value, one.partition) == (two.key, two.value, two.partition)
    assert [{"partition": str(r.partition), "offset": str(r.offset)} for r in (one, two)] == [first, second]
    assert "q1" == (json.loads(one.value)["id"] if mode == "structured" else dict(one.headers)["ce_id"].decode())


async def test_a_password_is_used_and_a_wrong_one_is_final_and_not_shown(kafka: Broker) -> None:
    """SASL works with the right password; with a wrong one the reason is authError, no retry, and no secret shown."""
    topic = await kafka.create_topic("retrain-sasl")
    options = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": USER}
    right = trainer(kafka.address("SASL_PLAINTEXT"), topic, sasl_password=PASSWORD, **options)
    wrong = trainer(kafka.address("SASL_PLAINTEXT"), topic, sasl_password="not this secret", **options)
    try:
        assert "0" == (await right.send(REQUEST, {}))["offset"]
        with pytest.raises(DeliveryError) as e:
            await wrong.send(REQUEST, {})
    finally:
        await right.stop()
        await wrong.stop()

    assert (DeliveryReason.AUTH, False) == (e.value.reason, e.value.retry)
    assert "not this secret" not in str(e.value) + repr(wrong.config)


async def test_no_broker_is_worth_a_retry_and_the_same_trainer_recovers(kafka: Broker) -> None:
    """While nobody listens the error is NETWORK with retry yes; nothing is left open."""
    [port] = free_ports(1)
    sender = trainer(f"127.0.0.1:{port}", "t")

    for _ in range(2):
        with pytest.raises(DeliveryError) as e:
            await sender.send(REQUEST, {})
        assert (DeliveryReason.NETWORK, True) == (e.value.reason, e.value.retry)
    await sender.stop()


async def test_a_missing_certificate_authority_is_an_error_of_delivery(kafka: Broker) -> None:
    """A CA file that is not there does not crash the loop: the row is retried while the operator repairs it."""
    sender = trainer(kafka.address("SSL"), "t", security_protocol="SSL", tls={"ca_file": "/nowhere/ca.pem"})

    with pytest.raises(DeliveryError) as e:
        await sender.send(REQUEST, {})

    assert e.value.retry
