"""Fixtures that more than one folder of tests needs."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from aiopsd.testing.kafka import Broker

# In CI the same examples every time: a red run is a change's doing. At home new ones are tried at each run.
settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")


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
