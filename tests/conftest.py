"""Fixtures that more than one folder of tests needs."""

import asyncio
from collections.abc import Iterator

import pytest

from aiopsd.testing.kafka import Broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real Apache Kafka for the whole session; tests take topics of their own."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.spawn()
    try:
        asyncio.run(broker.ready())
        yield broker
    finally:
        broker.stop()
