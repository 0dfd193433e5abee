"""The daemon as its operator meets it: one process, real HTTP, a real receiver, its signals and its errors."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.receiver import Receiver, Reply

pytestmark = pytest.mark.process


def configuration(receiver: str, extra: str = "") -> str:
    return f"""
log: {{level: info}}
snapshots: {{every: 1s}}
correlate: {{resolve_after: 1s}}
route: {{receiver: ops, group_wait: 200ms, group_interval: 500ms}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
delivery: {{rate: 100, max_backoff: 1s}}
{extra}
"""


def alert(name: str, service: str, *, ends_in: float = 240.0, severity: str = "critical") -> dict[str, Any]:
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    now = time.time()
    return {
        "labels": {"alertname": name, "service": service, "severity": severity},
        "annotations": {"summary": f"{name} on {service}"},
        "startsAt": time.strftime(stamp, time.gmtime(now - 2)),
        "endsAt": time.strftime(stamp, time.gmtime(now + ends_in)),
    }


async def test_from_alert_to_page_to_resolve(tmp_path: Path) -> None:
    """Two related alerts are one incident with a named cause, one page, one acknowledgement and one resolve."""
    (tmp_path / "topology.yaml").write_text("services:\n  shop: {calls: [db]}\n")
    async with Receiver() as receiver:
        extra = f'topology: {{files: ["{tmp_path}/topology.yaml"]}}'
        async with RunningDaemon(tmp_path, configuration(receiver.url, extra)) as daemon:
            assert await daemon.post("/api/v2/alerts", [alert("Slow", "shop"), alert("DiskFull", "db")]) == 200
            page = (await receiver.got(1))[0].json["data"]
            found = (await daemon.get("/api/v1/incidents?state=open"))["incidents"]
            incident = found[0]["id"]
            assert await daemon.post(f"/api/v1/incidents/{incident}/ack", {"actor": "ann"}) == 200
            await receiver.got(2)
            over = [alert("Slow", "shop", ends_in=-1), alert("DiskFull", "db", ends_in=-1)]
            assert await daemon.post("/api/v2/alerts", over) == 200
            await receiver.got(3)
            shown = await daemon.get(f"/api/v1/incidents/{incident}")
            assert await daemon.terminate() == 0

    assert len(found) == 1
    assert {"db", "shop"} == set(found[0]["services"])
    assert page["incident"]["roots"][0]["service"] == "db"
    actions = [r.json["data"]["action"] for r in receiver.received]
    assert ["trigger", "acknowledge", "resolve"] == actions
    assert len({r.json["data"]["dedup_key"] for r in receiver.received}) == 1
    kinds = {entry["kind"] for entry in shown["timeline"]}
    assert {"opened", "grouped", "root", "notified", "ack", "resolved"} <= kinds


async def test_what_was_decided_survives_a_kill(tmp_path: Path) -> None:
    """A page that was decided but not delivered when the process died is delivered by the next one, once."""
    async with Receiver([Reply(status=503)] * 3) as receiver:
        async with RunningDaemon(tmp_path, configuration(receiver.url)) as daemon:
            assert await daemon.post("/api/v2/alerts", [alert("Down", "db")]) == 200
            await receiver.got(1)
            await daemon.kill()
            await daemon.start()
            await daemon.until("/api/v1/outbox", lambda a: not a["deliveries"])
            incidents = (await daemon.get("/api/v1/incidents?state=open"))["incidents"]

    assert len(incidents) == 1
    assert len({r.headers["idempotency-key"] for r in receiver.received}) == 1


async def test_a_bad_reload_keeps_the_old_configuration(tmp_path: Path) -> None:
    """What cannot be read, or not be used, changes nothing, is told with its line, and shows in a metric; then a SIGHUP
    with a good one takes effect."""
    async with Receiver() as old, Receiver() as new:
        async with RunningDaemon(tmp_path, configuration(old.url)) as daemon:
            daemon.configure(configuration(old.url, "unknown_key: 1"))
            async with daemon.session.post(f"{daemon.url}/-/reload") as answer:
                refused = (answer.status, await answer.text())
            daemon.configure(configuration(old.url, "detect:\n  policies:\n    - match: {service: 'pay('}\n"))
            line = daemon.config_file.read_text().partition("match:")[0].count("\n") + 1
            async with daemon.session.post(f"{daemon.url}/-/reload") as answer:
                unusable = (answer.status, await answer.text())
            failed = await daemon.text("/metrics")
            daemon.configure(configuration(new.url))
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(10):
                while "aiopsd_config_last_reload_successful 1.0" not in await daemon.text("/metrics"):
                    await asyncio.sleep(0.05)  # polling another process
            assert await daemon.post("/api/v2/alerts", [alert("Down", "db")]) == 200
            await new.got(1)

    assert refused[0] == 500
    assert "unknown_key" in refused[1]
    assert unusable[0] == 500
    assert f"{tmp_path}/aiopsd.yaml:{line}: not an RE2 expression" in unusable[1]
    assert "aiopsd_config_last_reload_successful 0.0" in failed
    assert not old.received


async def test_the_graph_follows_metrics_and_files(tmp_path: Path) -> None:
    """A mesh's counter that is pushed becomes an edge; a file that is configured no more takes its edges with it."""
    (tmp_path / "t.yaml").write_text("services: {shop: {calls: [db]}}")
    given = f"topology: {{files: ['{tmp_path}/t.yaml']}}\n"
    async with Receiver() as receiver:
        async with RunningDaemon(tmp_path, given + configuration(receiver.url)) as daemon:
            now = time.time()
            for k in range(3):
                labels = {"client": "shop", "server": "cart"}
                sample = {"name": "traces_service_graph_request_total", "labels": labels, "ts": now - 180 + 60 * k}
                assert await daemon.post("/api/v1/metrics", [sample | {"value": k + 1}]) == 204
            both = await daemon.until("/api/v1/topology", lambda g: len(g["edges"]) == 2)
            daemon.configure(configuration(receiver.url))
            async with daemon.session.post(f"{daemon.url}/-/reload") as answer:
                assert answer.status == 200
            one = await daemon.until("/api/v1/topology", lambda g: len(g["edges"]) == 1)
            changes = (await daemon.get("/api/v1/topology/changes"))["changes"]
            figures = await daemon.text("/metrics")

    assert {(e["caller"], e["callee"]): e["stale_at"] is None for e in both["edges"]} == {
        ("shop", "db"): True,
        ("shop", "cart"): False,
    }
    assert [e["sources"] for e in one["edges"]] == [["metrics:push/0"]]
    assert changes[0]["removed"] == [{"caller": "shop", "callee": "db"}]
    assert "aiopsd_topology_edges 1.0" in figures


async def test_what_needs_a_restart_says_so(tmp_path: Path) -> None:
    """A reload that would move the data folder is refused with the key."""
    async with RunningDaemon(tmp_path, configuration("http://127.0.0.1:9")) as daemon:
        daemon.configure(configuration("http://127.0.0.1:9", "workers: 1"))
        async with daemon.session.post(f"{daemon.url}/-/reload") as answer:
            said = await answer.text()

    assert answer.status == 500
    assert "$.workers" in said


def run(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aiopsd", *args], capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """A second daemon on the same data folder ends at once and names the folder."""
    async with RunningDaemon(tmp_path, configuration("http://127.0.0.1:9")) as daemon:
        text = daemon.config_file.read_text().replace(str(daemon.port), "0")
        (tmp_path / "second.yaml").write_text(text)
        done = await asyncio.to_thread(run, "run", "-c", str(tmp_path / "second.yaml"))

    assert done.returncode == 1
    assert str(daemon.data) in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("htp: {}", "htp"),
        ("route: {receiver: nobody}", "$.route.receiver"),
        ("route: {matchers: ['a=~\"(\"']}", "$.route.matchers"),
        ("receivers: [{name: x, carrier_pigeon_configs: [{}]}]", "carrier_pigeon"),
        ("receivers: [{name: x, slack_configs: [{channel: '#a'}]}]", "$.receivers[0].slack_configs[0]"),
        ("sources: [{name: m, kind: metrics, kafka: {bootstrap_servers: [k]}}]", "$.sources[0].kafka"),
        ("services: {rules: [{match: {a: '('}, service: x}]}", "$.services.rules[0]"),
        ("topology: {files: [/nowhere.yaml]}", "$.topology.files[0]"),
        ("retraining: {cooldown: soon}", "$.retraining.cooldown"),
    ],
)
def test_check_config_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    """A broken configuration is exit code 2 and one line with the key."""
    (tmp_path / "c.yaml").write_text(text)
    done = run("check-config", "-c", str(tmp_path / "c.yaml"))

    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_replay_says_what_happened(tmp_path: Path) -> None:
    """`replay` on the data folder prints the incident that the daemon decided; `--against` what would differ."""
    async with Receiver() as receiver, RunningDaemon(tmp_path, configuration(receiver.url)) as daemon:
        assert await daemon.post("/api/v2/alerts", [alert("Down", "db")]) == 200
        await receiver.got(1)
        incident = (await daemon.get("/api/v1/incidents"))["incidents"][0]["id"]
        assert await daemon.terminate() == 0
    said = run("replay", "-c", str(daemon.config_file), str(daemon.data))
    lines = run("replay", "--json", "-c", str(daemon.config_file), str(daemon.data))
    (tmp_path / "other.yaml").write_text(daemon.config_file.read_text().replace("group_wait: 200ms", "group_wait: 1h"))
    other = run("replay", "-c", str(daemon.config_file), "--against", str(tmp_path / "other.yaml"), str(daemon.data))

    assert said.returncode == 0, said.stderr
    assert incident in said.stdout
    assert "1 incident, 1 notification\n" in said.stdout
    assert incident in {json.loads(line).get("id") for line in lines.stdout.splitlines()}
    assert "1 -> 1 incidents, 1 -> 0 notifications" in other.stdout


async def test_metrics_are_clean(tmp_path: Path) -> None:
    """`promtool check metrics` has nothing to say of /metrics."""
    promtool = shutil.which("promtool")
    if promtool is None:
        from aiopsd.testing.services import unavailable

        unavailable("promtool is not installed (Debian package prometheus)")
    async with Receiver() as receiver, RunningDaemon(tmp_path, configuration(receiver.url)) as daemon:
        assert await daemon.post("/api/v2/alerts", [alert("Down", "db")]) == 200
        await receiver.got(1)
        text = await daemon.text("/metrics")
    done = subprocess.run(
        [str(promtool), "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )

    assert (0, "") == (done.returncode, done.stdout + done.stderr)


async def test_a_spike_in_pushed_metrics_is_an_explained_incident(tmp_path: Path) -> None:
    """Metrics pushed over HTTP, a break in one service: an incident with evidence that says level and normal range."""
    extra = "detect: {min_duration: 0s}"
    async with RunningDaemon(tmp_path, configuration("http://127.0.0.1:9", extra)) as daemon:
        ts = time.time() - 400 * 15
        for step in range(400):
            value = 0.2 + 0.01 * (step % 7) if step < 395 else 9.0
            samples = [
                {
                    "name": "request_latency_seconds",
                    "labels": {"service": s},
                    "value": value if s == "pay" else 0.2,
                    "ts": ts,
                }
                for s in ("pay", "cart")
            ]
            assert await daemon.post("/api/v1/metrics", {"samples": samples}) == 204
            ts += 15
        found = await daemon.until("/api/v1/incidents?state=open", lambda a: a["incidents"])
        shown = await daemon.get(f"/api/v1/incidents/{found['incidents'][0]['id']}")

    assert ["pay"] == found["incidents"][0]["services"]
    evidence = shown["members"][0]["evidence"][0]
    assert evidence["metric"] == "request_latency_seconds"
    assert evidence["high"] < 1.0 < evidence["level"]
