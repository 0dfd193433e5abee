"""A real Prometheus between a small shop and the daemon: a fault in a dependency, and the page that names it.

To show it to a person, with the times of what happened:

    python -m pytest tests/acceptance/test_prometheus.py -s
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.receiver import Receiver
from aiopsd.testing.services import Service, free_ports, require

pytestmark = [pytest.mark.services, pytest.mark.process]

RULES = """
groups:
  - name: red
    rules:
      - alert: HighErrorRatio
        expr: |
          sum by (job) (rate(http_requests_total{code="500"}[5s])) / sum by (job) (rate(http_requests_total[5s])) > 0.2
        labels: {severity: critical}
        annotations: {summary: "{{ $labels.job }} fails {{ $value | humanizePercentage }} of its requests"}
      - alert: HighLatency
        expr: |
          sum by (job) (rate(http_request_duration_seconds_sum[5s]))
            / sum by (job) (rate(http_request_duration_seconds_count[5s])) > 0.1
        labels: {severity: warning}
        annotations: {summary: "{{ $labels.job }} takes {{ $value | humanizeDuration }}"}
"""


def prometheus_yaml(jobs: dict[str, int], daemon: str) -> str:
    scrapes = "".join(
        f'  - {{job_name: {job}, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}\n' for job, port in jobs.items()
    )
    return f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
{scrapes}
remote_write:
  - url: http://{daemon}/api/v1/write
    queue_config: {{batch_send_deadline: 1s}}
alerting:
  alertmanagers: [{{static_configs: [{{targets: ["{daemon}"]}}]}}]
"""


def configuration(receiver: str, topology: Path) -> str:
    return f"""
log: {{level: warning}}
topology: {{files: ["{topology}"]}}
correlate: {{resolve_after: 2s}}
route: {{receiver: ops, group_wait: 8s, group_interval: 2s}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
delivery: {{rate: 100}}
"""


class ShopService:
    """One HTTP service with RED metrics; `fault` makes it slow and makes a share of its answers errors."""

    def __init__(self, name: str, calls: "ShopService | None" = None) -> None:
        self.name, self.calls = name, calls
        self.port = 0
        self.errors, self.delay = 0.0, 0.0  # the fault
        self._dice = random.Random(7)
        self._registry = CollectorRegistry()
        self._requests = Counter("http_requests", "Requests.", ["code"], registry=self._registry)
        self._seconds = Histogram("http_request_duration_seconds", "Duration.", registry=self._registry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/", self._serve)
        app.router.add_get("/metrics", self._metrics)
        self._session = aiohttp.ClientSession()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await self._session.close()
            await runner.cleanup()

    async def _serve(self, _: web.Request) -> web.Response:
        began = time.perf_counter()
        code = 200
        if self.calls is not None:
            async with self._session.get(f"http://127.0.0.1:{self.calls.port}/") as answer:
                code = answer.status
        if self.delay:
            await asyncio.sleep(self.delay)  # the injected fault
        if self._dice.random() < self.errors:
            code = 500
        self._requests.labels(str(code)).inc()
        self._seconds.observe(time.perf_counter() - began)
        return web.Response(status=code)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain")


def closed(receiver: Receiver, key: str) -> bool:
    """The newest news of this page is that it is over."""
    said = [r.json["data"]["action"] for r in receiver.received if r.json["data"]["dedup_key"] == key]
    return bool(said) and said[-1] == "resolve"


async def customers(shop: ShopService) -> None:
    """Some twenty requests a second until cancelled."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{shop.port}/") as answer:
                await answer.read()
            await asyncio.sleep(0.03)  # the pace of the load


async def test_the_page_names_the_faulty_dependency(tmp_path: Path) -> None:
    """Errors and latency injected into a dependency: one page whose cause is that service, and its resolve after."""
    program = require("prometheus")
    topology = tmp_path / "topology.yaml"
    topology.write_text("services:\n  shop: {calls: [payments]}\n")
    payments = ShopService("payments")
    shop = ShopService("shop", calls=payments)
    (port,) = free_ports(1)
    async with payments.running(), shop.running(), Receiver() as receiver:
        async with RunningDaemon(tmp_path, configuration(receiver.url, topology)) as daemon:
            folder = tmp_path / "prometheus"
            folder.mkdir()
            (folder / "rules.yml").write_text(RULES)
            jobs = {"shop": shop.port, "payments": payments.port}
            (folder / "prometheus.yml").write_text(prometheus_yaml(jobs, f"127.0.0.1:{daemon.port}"))
            prometheus = Service(
                "prometheus",
                [
                    *(program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                folder,
                port=port,
            )
            await prometheus.start()
            load = asyncio.get_running_loop().create_task(customers(shop), name="customers")
            try:
                pushed = 'aiopsd_ingested_samples_total{source="push"}'
                await daemon.until_metric(pushed, lambda n: n > 500)
                quiet = len(receiver.received)
                began = time.monotonic()
                payments.errors, payments.delay = 0.6, 0.15
                await receiver.got(1, timeout=60)
                paged = time.monotonic()
                await daemon.until("/api/v1/alerts", lambda a: len(a["alerts"]) == 4)  # both signals of both services
                async with asyncio.timeout(
                    60
                ):  # a first page may name the caller whose alert came first; news corrects it
                    while (page := receiver.received[-1].json["data"])["incident"]["roots"][0]["service"] != "payments":
                        await receiver.got(len(receiver.received) + 1, timeout=60)
                payments.errors, payments.delay = 0.0, 0.0
                async with asyncio.timeout(60):
                    while not closed(receiver, page["dedup_key"]):
                        await receiver.got(len(receiver.received) + 1, timeout=60)
                resolved = time.monotonic()
                samples = await daemon.metric(pushed)
                incidents = await daemon.until(
                    "/api/v1/incidents", lambda a: all(i["state"] in ("resolved", "merged") for i in a["incidents"])
                )
            finally:
                load.cancel()
                prometheus.stop()

    roots = page["incident"]["roots"]
    print(
        f"\nfault in payments -> page {paged - began:.1f} s; its end -> resolve {resolved - paged:.1f} s"
        f" (rates over 5 s, group_wait 8 s); {samples:.0f} samples by remote write;"
        f" {len(incidents['incidents'])} incidents"
        f"\n{page['incident']['title']}; causes: " + ", ".join(f"{r['service']} {r['confidence']:.0%}" for r in roots)
    )
    assert 0 == quiet
    assert "trigger" == page["action"]
    assert "payments" == roots[0]["service"]
    assert {"shop", "payments"} == set(page["incident"]["services"])
    assert {"payments"} == {i["cause"]["service"] for i in incidents["incidents"] if i["state"] == "resolved"}
