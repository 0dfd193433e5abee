"""What nobody should send: every refusal has its status, its counter and its dead letter, and the daemon goes on."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import cramjam
import pytest

from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.kafka import Broker
from aiopsd.testing.receiver import Receiver
from aiopsd.testing.yardstick import Yardstick

pytestmark = pytest.mark.process

MAX_BODY = 256 * 1024
JSON = {"Content-Type": "application/json"}
PROTO = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
SAMPLE = {"name": "up", "labels": {"service": "a"}, "ts": 1_760_000_000.0, "value": 1.0}
ALERT = {"labels": {"alertname": "Down", "service": "checkout", "severity": "critical"}}


def configuration(receiver: str, extra: str = "") -> str:
    return f"""
log: {{level: warning}}
route: {{receiver: ops, group_wait: 100ms}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
delivery: {{rate: 200}}
{extra}
"""


def snappy(body: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(body))


def text(body: Any) -> bytes:
    return json.dumps(body).encode()


DEEP = b"[" * 100_000 + b"]" * 100_000
HUGE = text({**SAMPLE, "labels": {"service": "x" * MAX_BODY}})
BAD_JSON = [b"", b"{", b"\xff\xfe\x00", b"null", b"42", b'"text"', b"[[]]", b'{"a": NaN}', DEEP]
# (path, headers, body, status); docs/reference/http-api.md
CASES: list[tuple[str, dict[str, str], bytes, int]] = [
    *(("/api/v1/metrics", JSON, body, 400) for body in BAD_JSON),
    ("/api/v1/metrics", JSON, text({"samples": [{"name": "up"}]}), 400),
    ("/api/v1/metrics", JSON, text({"samples": [SAMPLE, {"name": "up"}]}), 200),  # the good one is taken
    ("/api/v1/metrics", JSON, text({**SAMPLE, "value": "much"}), 400),
    ("/api/v1/metrics", JSON, text({**SAMPLE, "ts": 1e300}), 400),
    ("/api/v1/metrics", JSON, text({**SAMPLE, "labels": {"": "x"}}), 400),
    ("/api/v1/metrics", JSON, text({**SAMPLE, "surprise": 1}), 400),
    ("/api/v1/metrics", JSON, HUGE, 413),
    ("/api/v1/metrics", JSON | {"Content-Encoding": "gzip"}, gzip.compress(b" " * 64 * MAX_BODY), 413),
    ("/api/v1/metrics", JSON | {"Content-Encoding": "gzip"}, b"not gzip", 400),
    ("/api/v1/metrics", JSON | {"Content-Encoding": "gzip"}, gzip.compress(text(SAMPLE))[:-9], 400),
    ("/api/v1/metrics", JSON | {"Content-Encoding": "br"}, text(SAMPLE), 415),
    ("/api/v1/metrics", {"Content-Type": "text/plain"}, text(SAMPLE), 415),
    ("/api/v1/write", PROTO, b"", 400),
    ("/api/v1/write", PROTO, b"not snappy", 400),
    ("/api/v1/write", PROTO, snappy(b"\xff" * 100), 400),
    ("/api/v1/write", PROTO, b"\xff\xff\xff\xff\x0f" + b"x" * 20, 413),  # says that it unpacks to 4 GiB
    ("/api/v1/write", PROTO, snappy(b"\0" * 8 * MAX_BODY), 413),
    ("/api/v1/write", PROTO | {"Content-Encoding": "zstd"}, b"x", 415),
    ("/api/v1/write", {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}, b"x", 415),
    *(("/api/v2/alerts", JSON, body, 400) for body in BAD_JSON if body not in (b"", b"null")),
    ("/api/v2/alerts", JSON, b"", 422),  # as Alertmanager answers
    ("/api/v2/alerts", JSON, b"null", 200),  # as Alertmanager: Go's empty list
    ("/api/v2/alerts", JSON, text([ALERT | {"startsAt": "yesterday"}]), 400),
    ("/api/v2/alerts", JSON, text([{"labels": {}}]), 400),
    ("/api/v2/alerts", JSON, text([{"annotations": {}}]), 422),
    ("/api/v2/alerts", JSON, text([{"labels": {"alertname": "x" * MAX_BODY}}]), 413),
    *(("/api/v1/alertmanager", JSON, body, 400) for body in BAD_JSON),
    *(("/api/v1/topology", JSON, body, 400) for body in BAD_JSON),
    *(("/api/v1/changes", JSON, body, 400) for body in BAD_JSON if body != b"[[]]"),
    ("/api/v1/incidents/nothing/ack", JSON, text({"actor": "a"}), 404),
    ("/api/v1/incidents/nothing/ack", JSON, text({"surprise": "a"}), 400),
    ("/api/v1/nothing", JSON, b"{}", 404),
]  # fmt: skip


async def test_bad_bodies_are_refused_by_the_book(tmp_path: Path) -> None:
    """Each kind of malformed body gets the status that the reference names, never a 500, and good ones go on."""
    async with Receiver() as receiver:
        http = f"max_body: {MAX_BODY}"
        async with RunningDaemon(tmp_path, configuration(receiver.url), http=http) as daemon:
            got = []
            for path, headers, body, _ in CASES:
                async with daemon.session.post(daemon.url + path, data=body, headers=headers) as answer:
                    said = await answer.text()
                    got.append((path, headers, body[:60], answer.status))
                    assert "Traceback" not in said
            rejected = await daemon.metric('aiopsd_rejected_items_total{reason="malformed",source="push"}')
            assert await daemon.post("/api/v1/metrics", SAMPLE) == 204
            assert await daemon.post("/api/v2/alerts", [ALERT]) == 200
            await receiver.got(1)
            await daemon.ready()
            assert await daemon.terminate() == 0

    wrong = [(g, s) for g, (_, _, _, s) in zip(got, CASES, strict=True) if g[3] != s]
    assert not wrong, "\n".join(
        f"{path} {headers} {body!r}: {s}, not {right}" for (path, headers, body, s), right in wrong
    )
    assert rejected > 0
    assert "Traceback" not in daemon.log()


async def test_label_bombs(tmp_path: Path) -> None:
    """Thousands of labels, long names and values, control characters and markup: taken or refused, shown harmlessly."""
    evil = "<script>alert(1)</script>\"'\n\u202e\0"
    bombs: list[dict[str, Any]] = [
        {"labels": {"alertname": "Many"} | {f"l{i}": "v" for i in range(5000)}},
        {"labels": {"alertname": "Long", "service": "s" * 60_000}},
        {"labels": {"alertname": evil, "service": evil}, "annotations": {"summary": evil, "description": evil}},
        {"labels": {"alertname": "Name", "n" * 30_000: "v"}},
    ]
    async with Receiver() as receiver:
        async with RunningDaemon(tmp_path, configuration(receiver.url)) as daemon:
            statuses = [await daemon.post("/api/v2/alerts", [bomb]) for bomb in bombs]
            statuses += [
                await daemon.post("/api/v1/metrics", {**SAMPLE, "labels": bomb["labels"], "ts": time.time()})
                for bomb in bombs
            ]
            page = await daemon.text("/")
            pages = [
                await daemon.text(f"/incidents/{i['id']}") for i in (await daemon.get("/api/v1/incidents"))["incidents"]
            ]
            metrics = await daemon.text("/metrics")
            assert await daemon.post("/api/v2/alerts", [ALERT]) == 200
            await receiver.got(1)
            assert await daemon.terminate() == 0

    assert set(statuses) <= {200, 204, 400}, statuses
    assert 200 in statuses
    assert not any("<script>alert" in shown for shown in [page, *pages])
    assert len(metrics) < 1_000_000  # no label of a sender becomes a label of ours
    assert "Traceback" not in daemon.log()
    await Yardstick(daemon.data).decisions(daemon.config_file)


def sources(broker: Broker, name: str, rate: int) -> str:
    kafka = f'bootstrap_servers: ["{broker.address()}"], session_timeout: 6s, dead_letter_rate: {rate}'
    return f"""
sources:
  - {{name: metrics, kind: metrics, kafka: {{{kafka}, topic: "{name}-metrics"}}}}
  - {{name: alerts, kind: alerts, kafka: {{{kafka}, topic: "{name}-alerts"}}}}
  - {{name: changes, kind: changes, kafka: {{{kafka}, topic: "{name}-changes"}}}}
  - {{name: edges, kind: topology, kafka: {{{kafka}, topic: "{name}-edges"}}}}
"""


@pytest.mark.kafka
async def test_bad_records_go_to_the_dead_letter_topic(tmp_path: Path, kafka: Broker) -> None:
    """A record that cannot be used is in the dead-letter topic with its reason and place, and the source goes on."""
    name = "hostile"
    for kind in ("metrics", "alerts", "changes", "edges"):
        await kafka.create_topic(f"{name}-{kind}")
    bad = [b for b in BAD_JSON if b not in (b"[[]]", b"null")]  # to some kinds these two are empty lists
    async with Receiver() as receiver:
        config = configuration(receiver.url, sources(kafka, name, 1000))
        async with RunningDaemon(tmp_path, config) as daemon:
            for kind in ("metrics", "alerts", "changes", "edges"):
                await kafka.fill(f"{name}-{kind}", bad)
            await kafka.fill(f"{name}-metrics", [text(SAMPLE)])
            await kafka.fill(f"{name}-alerts", [text([ALERT])])
            await receiver.got(1)
            for kind in ("metrics", "alerts", "changes", "edges"):
                await daemon.until_metric(f'aiopsd_ingested_records_total{{source="{kind}"}}', lambda n: n >= len(bad))
            await daemon.until_metric('aiopsd_ingested_samples_total{source="metrics"}', lambda n: n == 1)
            counted = await daemon.metric('aiopsd_dead_letter_records_total{reason="malformed",source="metrics"}')
            await daemon.ready()
            assert await daemon.terminate() == 0
        letters = {kind: await dead(kafka, f"{name}-{kind}.dead") for kind in ("metrics", "alerts", "changes", "edges")}

    for kind, records in letters.items():
        assert bad == [value for value, _ in records], kind
        for offset, (_, headers) in enumerate(records):
            assert headers["aiopsd-reason"] in (b"malformed", b"schema")
            assert headers["aiopsd-detail"]
            assert headers["aiopsd-topic"] == f"{name}-{kind}".encode()
            assert headers["aiopsd-offset"] == b"%d" % offset
    assert counted > 0


async def dead(broker: Broker, topic: str) -> list[tuple[bytes, dict[str, bytes]]]:
    """(value, headers) of the dead letters, in order."""
    return [(r.value, dict(r.headers)) for r in (await broker.records(topic))[0]]


@pytest.mark.kafka
async def test_a_topic_of_garbage_stops_its_source(tmp_path: Path, kafka: Broker) -> None:
    """When most of a topic is refused the source stops and says why; what it dropped is kept; paging goes on."""
    name = "garbage"
    for kind in ("metrics", "alerts", "changes", "edges"):
        await kafka.create_topic(f"{name}-{kind}")
    await kafka.fill(f"{name}-metrics", [b"garbage %d" % i for i in range(500)])
    async with Receiver() as receiver:
        config = configuration(receiver.url, sources(kafka, name, 20))
        async with RunningDaemon(tmp_path, config, wait=False) as daemon:
            said = await daemon.waiting_for("source metrics", text="stopped")
            stopped = await daemon.metric('aiopsd_source_stopped{source="metrics"}')
            await kafka.fill(f"{name}-alerts", [text([ALERT])])
            await receiver.got(1)
            assert await daemon.post("/api/v2/alerts", [{"labels": {"alertname": "Up", "service": "far"}}]) == 200
            await receiver.got(2)
            assert await daemon.terminate() == 0
        letters = (
            len(await dead(kafka, f"{name}-metrics.dead")) if f"{name}-metrics.dead" in await kafka.topics() else 0
        )

    assert "is garbage-metrics really json?" in said["source metrics"]
    assert "garbage-metrics" in said["source metrics"]
    assert 1.0 == stopped
    assert letters <= 250  # dead_letter_share of what was read: the rest waits in the topic
