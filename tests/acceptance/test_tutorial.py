"""The tutorial with a Prometheus of one's own, played as it stands: its files, its services, its outage."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.receiver import Receiver
from aiopsd.testing.services import Service, free_ports, require

pytestmark = [pytest.mark.services, pytest.mark.process]

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
FILE = re.compile(r"```yaml\n# (\S+)\n(.*?)```", re.DOTALL)
STARTED = re.compile(r"^python3 service.py ([\d ]+) &$", re.MULTILINE)
FASTER = {
    "_interval: 5s": "_interval: 1s",
    "for: 10s": "for: 1s",
    "[30s]": "[5s]",
    "group_wait: 15s": "group_wait: 5s, group_interval: 2s",
}


async def test_the_tutorial_leads_to_a_page_that_names_the_cause(tmp_path: Path) -> None:
    """Its services, its Prometheus and its daemon: the database stops, and one page says so as the tutorial shows."""
    program = require("prometheus")
    text = (TUTORIAL / "your-prometheus.md").read_text(encoding="utf-8")
    files, services = dict(FILE.findall(text)), [line.split() for line in STARTED.findall(text)]
    renamed = dict(zip([words[0] for words in services], map(str, free_ports(len(services))), strict=True))
    (prometheus_port,) = free_ports(1)
    async with Receiver() as receiver:
        (tmp_path / "topology.yaml").write_text(files["topology.yaml"], encoding="utf-8")
        config = files["aiopsd.yaml"].replace("data_dir: data\n", "").replace("[topology", f"[{tmp_path}/topology")
        config = config.replace("http://127.0.0.1:9099", receiver.url)
        async with RunningDaemon(tmp_path, faster(config)) as daemon:
            for name in ("prometheus.yml", "alerts.yml"):
                body = files[name].replace("127.0.0.1:9095", f"127.0.0.1:{daemon.port}")
                for there, here in renamed.items():
                    body = body.replace(f"127.0.0.1:{there}", f"127.0.0.1:{here}")
                (tmp_path / name).write_text(faster(body), encoding="utf-8")
            running = [
                Service(
                    f"service-{words[0]}",
                    [sys.executable, str(TUTORIAL / "service.py"), *(renamed[word] for word in words)],
                    tmp_path,
                    port=int(renamed[words[0]]),
                )
                for words in services
            ]
            running.append(
                Service(
                    "prometheus",
                    [
                        *(program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"),
                        f"--web.listen-address=127.0.0.1:{prometheus_port}",
                    ],
                    tmp_path,
                    port=prometheus_port,
                )
            )
            try:
                for service in running:
                    await service.start()
                await daemon.until_metric('aiopsd_ingested_samples_total{source="push"}', lambda n: n > 100)
                assert not receiver.received
                running[0].stop()  # the database, which the page kills
                async with asyncio.timeout(60):
                    await receiver.got(1, timeout=60)
                    while "3 more affected" not in receiver.received[-1].json["data"]["title"]:
                        await receiver.got(len(receiver.received) + 1, timeout=60)
            finally:
                for service in reversed(running):
                    service.stop()

    page = receiver.received[-1].json["data"]
    shown = next(line for line in text.splitlines() if "[CRITICAL]" in line).strip()
    assert page["title"].partition(" (")[0] == shown.partition(" (")[0]
    assert len({r.json["data"]["dedup_key"] for r in receiver.received}) == 1


def faster(config: str) -> str:
    """The same in a fifth of the time."""
    for slow, fast in FASTER.items():
        config = config.replace(slow, fast)
    return config
