"""Planned work in a running daemon: announced, killed over, ended, with detection in one process and in workers."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aiopsd.testing.daemon import RunningDaemon

pytestmark = pytest.mark.process

CONFIG = """
workers: {workers}
log: {{level: info}}
snapshots: {{every: 1s}}
detect: {{thresholds: [{{name: hot, match: {{__name__: heat}}, above: 0.8}}]}}
"""
SKIPPED = 'aiopsd_detect_maintenance_samples_total{source="push"}'


def heat(**services: float) -> list[dict[str, Any]]:
    now = time.time()
    return [{"name": "heat", "labels": {"service": s}, "value": v, "ts": now} for s, v in services.items()]


async def told(daemon: RunningDaemon, *services: str) -> None:
    """Wait until exactly these services have an alert that fires."""
    await daemon.until("/api/v1/alerts", lambda a: sorted(x["service"] for x in a["alerts"]) == sorted(services))


@pytest.mark.parametrize("workers", [0, 1])
async def test_planned_work_is_left_out_until_it_ends(tmp_path: Path, workers: int) -> None:
    """What is announced is not told, before and after kill -9; when it is ended, the same trouble is."""
    until = datetime.fromtimestamp(time.time() + 3600, UTC).isoformat()
    window = {"actor": "ann", "matchers": [{"name": "service", "value": "pay"}], "ends_at": until}
    async with RunningDaemon(tmp_path, CONFIG.format(workers=workers)) as daemon:
        assert await daemon.post("/api/v1/metrics", heat(pay=0.1, cart=0.1, mail=0.1)) == 204
        assert await daemon.post("/api/v1/maintenance", window) == 200
        (planned,) = (await daemon.get("/api/v1/maintenance"))["windows"]
        assert await daemon.post("/api/v1/metrics", heat(pay=0.9, cart=0.9)) == 204
        await told(daemon, "cart")

        await daemon.kill()
        await daemon.start()
        assert (await daemon.get("/api/v1/maintenance"))["windows"] == [planned]
        assert await daemon.post("/api/v1/metrics", heat(pay=0.95, mail=0.95)) == 204
        await told(daemon, "cart", "mail")
        await daemon.until_metric(SKIPPED, lambda n: n >= 1)

        async with daemon.session.delete(
            f"{daemon.url}/api/v1/maintenance/{planned['id']}", params={"actor": "ann"}
        ) as answer:
            assert answer.status == 200
        for _ in range(300):  # the detect side hears of the end a moment after the answer
            assert await daemon.post("/api/v1/metrics", heat(pay=0.97)) == 204
            firing = (await daemon.get("/api/v1/alerts"))["alerts"]
            if len(firing) == 3:
                break
            await asyncio.sleep(0.1)
        assert sorted(a["service"] for a in firing) == ["cart", "mail", "pay"]
