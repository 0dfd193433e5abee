"""DetectHost over logs in memory: what it takes over, and what it does not believe."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from aiopsd.config import Config
from aiopsd.metrics import Metrics
from aiopsd.model import Entry
from aiopsd.pipeline import detect
from aiopsd.runtime.dead import DeadLetters
from aiopsd.runtime.detect import DetectHost
from aiopsd.runtime.home import LocalHome
from aiopsd.stores.memory import MemoryStore
from aiopsd.streams.memory import MemoryJournal, MemoryLog
from aiopsd.testing.clock import ManualClock


@asynccontextmanager
async def hosted(home: LocalHome, log: MemoryLog, clock: ManualClock, folder: Path) -> AsyncIterator[DetectHost]:
    metrics = Metrics()
    host = DetectHost(
        source="memory",
        stream=log,
        build=lambda partition, resume: detect.build(Config(), "memory", partition, resume),
        home=home,
        dead=DeadLetters(folder / "dead.jsonl", metrics),
        metrics=metrics,
        clock=clock,
        snapshot_every=3600.0,
    )
    running = asyncio.get_running_loop().create_task(host.run(), name="host")
    try:
        yield host
    finally:
        await host.finish(5.0)
        await host.stop()
        await running


async def test_a_snapshot_of_another_version_is_set_aside(tmp_path: Path) -> None:
    """After an upgrade that changed the state, the log is scored from its beginning instead of a start that fails."""
    clock = ManualClock(1_760_000_000.0)
    journal, store = MemoryJournal(clock), MemoryStore(clock)
    await journal.start()
    await store.start()
    home = LocalHome(journal, store, "")
    log = MemoryLog(clock, name="memory", on_offset_lost="earliest")
    sample = {"name": "heat", "labels": {"service": "a"}, "value": 1.0, "ts": clock()}
    held = await home.claim("memory", 0)
    await home.save(held.claim, 7, replace(detect.build(Config(), "memory", 0).snapshot(), version=10_000))

    async with hosted(home, log, clock, tmp_path) as host:
        async with asyncio.timeout(30):
            while host.watch.trouble:
                await asyncio.sleep(0.01)
            await log.append([Entry(value=json.dumps(sample).encode(), format="json", partition=0)])
            while not (shards := list(host._shards.values())) or shards[0].position < 0:
                await asyncio.sleep(0.01)

        assert 0 == shards[0].position
        assert 1 == shards[0].stage.samples
