"""DetectHost over logs in memory: what it takes over, and what it does not believe."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from aiopsd.config import Config, load
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
async def hosted(
    home: LocalHome, log: MemoryLog, clock: ManualClock, folder: Path, config: Config | None = None
) -> AsyncIterator[DetectHost]:
    metrics = Metrics()
    config = config or Config()
    host = DetectHost(
        source="memory",
        stream=log,
        build=lambda partition, resume: detect.build(config, "memory", partition, resume),
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


async def test_what_a_model_fails_on_and_what_is_ignored_is_counted(tmp_path: Path) -> None:
    """A model that runs off to infinity, one that waits for room, a sample sent twice and one that is no number."""
    clock = ManualClock(1_760_000_000.0)
    journal, store = MemoryJournal(clock), MemoryStore(clock)
    await journal.start()
    await store.start()
    log = MemoryLog(clock, name="memory", on_offset_lost="earliest")
    rule = "model: linear_model.LinearRegression, params: {intercept_lr: 1.0e+300}, max_series: 1"
    config = load(f"detect: {{online: [{{{rule}}}]}}")

    def sample(metric: str, i: int, value: float | str = 1.0) -> dict[str, object]:
        return {"name": metric, "labels": {"service": "a"}, "value": value, "ts": clock() - 6000 + 60 * i}

    samples = [sample(metric, i, float(i % 3)) for i in range(80) for metric in ("heat", "cold")]
    samples += [sample("heat", 79), sample("cold", 80, "NaN")]
    async with hosted(LocalHome(journal, store, ""), log, clock, tmp_path, config) as host:
        async with asyncio.timeout(10):
            while host.watch.trouble:
                await asyncio.sleep(0.01)
            await log.append([Entry(value=json.dumps(samples).encode(), format="json", partition=0)])
            while not (shards := list(host._shards.values())) or shards[0].position < 0:
                await asyncio.sleep(0.01)
        value = host.metrics.registry.get_sample_value
        at = {"source": "memory"}
        faults = value("aiopsd_detect_model_faults_total", at | {"model": "linear_model.LinearRegression"})
        models = {
            state: value("aiopsd_detect_models", at | {"partition": "0", "state": state})
            for state in ("running", "waiting")
        }
        ignored = {
            reason: value("aiopsd_detect_ignored_samples_total", at | {"reason": reason})
            for reason in ("late", "not-a-number")
        }

    assert faults is not None
    assert faults > 0
    assert models == {"running": 1.0, "waiting": 1.0}
    assert ignored == {"late": 1.0, "not-a-number": 1.0}
