"""A member of a Kafka consumer group as a process of its own, for tests that kill it.

`python -m aiopsd.testing.member CONFIG_JSON LEDGER NAME` joins the group of a topic and takes records into the ledger
file until SIGTERM.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

from aiopsd.config import plugin_config
from aiopsd.streams.kafka import KafkaConfig, KafkaStream
from aiopsd.testing.streams import FileLedger, reading


async def member(config: KafkaConfig, ledger: FileLedger) -> None:
    """Read and take until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    stream = KafkaStream(config, ledger.name, "json")
    async with reading(stream, ledger):
        while not over.is_set():
            ledger.take(await stream.poll(50, 0.05))


if __name__ == "__main__":
    _config = plugin_config(KafkaConfig, json.loads(sys.argv[1]), "$")
    asyncio.run(member(_config, FileLedger(Path(sys.argv[2]), sys.argv[3])))
