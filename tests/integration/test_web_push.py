"""What senders push: taken when safe, refused in words that a sender understands."""

import asyncio
import gzip
import json
import struct
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import cramjam
import pytest

from aiopsd.errors import DecodeError, DecodeReason, Full, StreamError
from aiopsd.model import AlertBatch, ChangeEvent, Checked, TopologyUpdate, fingerprint
from aiopsd.testing.web import START, TestSite, running

SNAPPY = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
    "User-Agent": "Prometheus/2.42.0",
}
JSON = {"Content-Type": "application/json"}
SAMPLE = {"name": "up", "labels": {"service": "db"}, "ts": START, "value": 1.0}


@pytest.fixture
async def site() -> AsyncIterator[TestSite]:
    async with running() as started:
        yield started


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field of fewer than 128 bytes."""
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def remote_write_body(name: str = "up") -> bytes:
    """A WriteRequest with one sample of one series, compressed."""
    labels = field(1, field(1, b"__name__") + field(2, name.encode())) + field(
        1, field(1, b"service") + field(2, b"db")
    )
    sample = field(2, b"\x09" + struct.pack("<d", 1.0) + b"\x10" + varint(int(START * 1000)))
    return bytes(cramjam.snappy.compress_raw(field(1, labels + sample)))


async def post(site: TestSite, path: str, data: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """(status, JSON of the answer or its text)."""
    async with site.http.post(path, data=data, headers=headers or JSON) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if answer.content_type == "application/json" and text else text


# --------------------------------------------------------------------------- metrics


async def test_remote_write_is_taken_as_it_came(site: TestSite) -> None:
    """A body of Prometheus reaches the log byte by byte, answered 204 without a body."""
    body = remote_write_body()

    assert await post(site, "/api/v1/write", body, SNAPPY) == (204, "")
    assert site.door.pushed == [(body, "remote-write")]


async def test_json_metrics_are_taken_alone_and_as_a_list(site: TestSite) -> None:
    """One sample and a list of them are 204; gzip is read."""
    for body, headers in (
        (json.dumps(SAMPLE).encode(), JSON),
        (json.dumps([SAMPLE, SAMPLE]).encode(), JSON),
        (gzip.compress(json.dumps([SAMPLE]).encode()), JSON | {"Content-Encoding": "gzip"}),
    ):
        assert await post(site, "/api/v1/metrics", body, headers) == (204, "")
    assert [json.loads(b) for b, _ in site.door.pushed] == [SAMPLE, [SAMPLE, SAMPLE], [SAMPLE]]


async def test_what_was_bad_in_a_push_of_json_is_told(site: TestSite) -> None:
    """Good samples beside bad ones are taken, once: the answer is 200, counts both and says what was wrong."""
    body = [SAMPLE, SAMPLE | {"value": "many"}, {"nome": "x"}, SAMPLE | {"ts": 1767571200000}]
    status, told = await post(site, "/api/v1/metrics", json.dumps(body).encode())

    assert (status, told["accepted"], told["rejected"]) == (200, 1, 3)
    assert [e.partition(":")[0] for e in told["errors"]] == ["value", "schema", "timestamp"]
    assert "sample 1" in told["errors"][0]
    assert len(site.door.pushed) == 1


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/api/v1/write", b"not snappy", SNAPPY),
        ("/api/v1/write", cramjam.snappy.compress_raw(b"\xff\xff\xff not protobuf"), SNAPPY),
        ("/api/v1/metrics", b"{", JSON),
        ("/api/v1/metrics", b'"text"', JSON),
        ("/api/v1/alertmanager", b"{", JSON),
        ("/api/v1/alertmanager", b'{"alerts": 3}', JSON),
        ("/api/v1/topology", b"[1]", JSON),
        ("/api/v1/changes", b'{"kind": 1}', JSON),
    ],
)
async def test_what_can_never_be_accepted_is_400(
    site: TestSite, path: str, body: bytes, headers: dict[str, str]
) -> None:
    """Malformed bodies are 400 with a reason, counted, and nothing of them is kept."""
    status, error = await post(site, path, bytes(body), headers)

    assert (status, error["code"]) == (400, 400)
    assert error["message"]
    assert (site.door.pushed, site.door.bodies) == ([], [])
    text = (await (await site.http.get("/metrics")).text()).splitlines()
    assert [line for line in text if line.startswith("aiopsd_rejected_items_total{") and line.endswith(" 1.0")]


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Full("no space left on /data"), 503),
        (StreamError("broker away"), 503),
        (TimeoutError(), 503),
        (DecodeError(DecodeReason.LABELS, 'series {service="db"} has no name'), 400),
    ],
)
async def test_what_is_not_safe_now_is_503_and_never_429(site: TestSite, refusal: Exception, status: int) -> None:
    """A sender keeps what was refused for now, and drops only what can never be taken; the answer says which series."""
    site.door.refusal = refusal

    for path, body, headers in (
        ("/api/v1/write", remote_write_body(), SNAPPY),
        ("/api/v1/metrics", json.dumps(SAMPLE).encode(), JSON),
    ):
        got, error = await post(site, path, body, headers)
        assert got == status
        assert status == 503 or 'service="db"' in error["message"]


@pytest.mark.parametrize(
    "changed",
    [
        {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"},
        {"Content-Type": "application/json"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "zstd"},
    ],
)
async def test_other_remote_writes_are_415(site: TestSite, changed: dict[str, str]) -> None:
    """Remote write 2.0 and unknown encodings are told so: the sender falls back or its operator reads why."""
    status, error = await post(site, "/api/v1/write", remote_write_body(), SNAPPY | changed)

    assert status == 415
    assert error["where"] in changed


async def test_the_explicit_proto_of_one_point_nought_is_taken(site: TestSite) -> None:
    """Newer senders name the 1.0 message in the content type."""
    named = SNAPPY | {"Content-Type": "application/x-protobuf;proto=prometheus.WriteRequest"}

    assert (await post(site, "/api/v1/write", remote_write_body(), named))[0] == 204


async def test_large_bodies_are_413_before_they_are_in_memory() -> None:
    """By the declared length, by the bytes that came in chunks, and after decompression."""
    async with running("http: {max_body: 1000}") as site:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b" " * 100

        assert (await post(site, "/api/v1/metrics", b" " * 1001))[0] == 413
        assert (await post(site, "/api/v1/metrics", chunks()))[0] == 413
        bomb = gzip.compress(b" " * 100_000)
        assert len(bomb) < 1000
        assert (await post(site, "/api/v1/metrics", bomb, JSON | {"Content-Encoding": "gzip"}))[0] == 413
        assert (await post(site, "/api/v2/alerts", b"[" + b" " * 1001))[0] == 413
        snappy_bomb = bytes(cramjam.snappy.compress_raw(b" " * 10_000))
        assert len(snappy_bomb) < 1000
        assert (await post(site, "/api/v1/write", snappy_bomb, SNAPPY))[0] == 413
        assert site.door.pushed == []


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(b"[]", mtime=0) + gzip.compress(b" ", mtime=0), 200),  # two members
        ("deflate", zlib.compress(b"[]"), 200),
        ("deflate", zlib.compress(b"[]", wbits=-15), 200),
        ("identity", b"[]", 200),
        ("gzip", b"\x1f\x8b broken", 400),
        ("gzip", b"plain", 400),
        ("gzip", gzip.compress(b"[]", mtime=0)[:-3], 400),
        ("zstd", b"[]", 415),
        ("br", b"[]", 415),
    ],
)
async def test_compressed_bodies_are_read_or_refused(site: TestSite, encoding: str, body: bytes, status: int) -> None:
    """gzip and deflate in all their forms are read; broken, cut and unknown ones are refused, none is a bug of ours."""
    assert (await post(site, "/api/v2/alerts", body, JSON | {"Content-Encoding": encoding}))[0] == status


async def test_pushes_need_their_content_type(site: TestSite) -> None:
    """What a foreign page may send without asking (text, forms) is 415 everywhere."""
    for path in ("metrics", "alertmanager", "topology", "changes"):
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            status, _ = await post(site, f"/api/v1/{path}", b"{}", {"Content-Type": kind})
            assert (path, status) == (path, 415)


async def test_many_senders_at_once_are_all_taken() -> None:
    """More senders than places: they wait their turn, all are answered 204, and the waiting is counted."""
    async with running("http: {max_pushes: 4}") as site:
        held = asyncio.Event()
        push = site.door.push_metrics

        async def slow(body: bytes, format: str) -> Checked:
            await held.wait()
            return await push(body, format)

        site.door.push_metrics = slow  # type: ignore[method-assign]  # a log that takes its time
        async with asyncio.TaskGroup() as tasks:
            sent = [
                tasks.create_task(post(site, "/api/v1/write", remote_write_body(), SNAPPY), name=f"sender-{i}")
                for i in range(20)
            ]
            gauge = lambda: site.metrics.registry.get_sample_value("aiopsd_queue_full_total", {"queue": "metrics"})
            async with asyncio.timeout(30):
                while (gauge() or 0) < 16:
                    await asyncio.sleep(0.01)
            assert len(await site.json("/api/v2/alerts")) == 0  # the rest of the site is not held up
            held.set()

        assert {task.result()[0] for task in sent} == {204}
        assert len(site.door.pushed) == 20


# --------------------------------------------------------------------------- alerts, topology, changes


def webhook(*alerts: dict[str, Any]) -> bytes:
    """Alertmanager's webhook body, version 4."""
    return json.dumps(
        {
            "receiver": "aiopsd",
            "status": "firing",
            "alerts": alerts,
            "groupLabels": {},
            "commonLabels": {},
            "commonAnnotations": {},
            "externalURL": "http://am",
            "version": "4",
            "groupKey": "{}:{}",
            "truncatedAlerts": 0,
        }
    ).encode()


def hook_alert(**labels: str) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": "s"},
        "startsAt": "2026-09-21T14:10:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://p/g",
        "fingerprint": fingerprint(labels),
    }


async def test_alertmanagers_webhook_is_taken(site: TestSite) -> None:
    """Its alerts are there at once, with the sender noted."""
    assert await post(site, "/api/v1/alertmanager", webhook(hook_alert(alertname="Slow", service="db"))) == (204, "")

    (batch,) = [b for b in site.door.bodies if isinstance(b, AlertBatch)]
    assert (batch.sender, batch.alerts[0].generator_url) == ("alertmanager", "http://p/g")
    (alert,) = await site.json("/api/v2/alerts")
    assert alert["labels"] == {"alertname": "Slow", "service": "db"}
    assert alert["startsAt"] == "2026-09-21T14:10:00.000Z"


async def test_good_alerts_of_a_webhook_survive_bad_ones(site: TestSite) -> None:
    """A webhook's sender never sends again on 4xx: the good alert is taken; only bad ones are 400 by their place."""
    body = webhook(hook_alert(), hook_alert(alertname="Good"))
    assert await post(site, "/api/v1/alertmanager", body) == (
        200,
        {"accepted": 1, "rejected": 1, "errors": ["labels: at least one label pair required"]},
    )
    assert [a["labels"] for a in await site.json("/api/v2/alerts")] == [{"alertname": "Good"}]

    status, error = await post(site, "/api/v1/alertmanager", webhook(hook_alert()))
    assert (status, error["where"]) == (400, "alerts[0]")


async def test_topology_and_changes_are_read_back(site: TestSite) -> None:
    """Pushed edges are in the graph at once, under the source that was named; a change is in the journal."""
    edges = json.dumps({"edges": [{"caller": "web", "callee": "db"}]}).encode()
    assert (await post(site, "/api/v1/topology?source=mesh", edges))[0] == 204
    graph = await site.json("/api/v1/topology")
    assert [(e["caller"], e["callee"], e["sources"]) for e in graph["edges"]] == [("web", "db", ["mesh"])]

    change = json.dumps({"service": "db", "kind": "deploy", "ts": START, "summary": "v2"}).encode()
    assert (await post(site, "/api/v1/changes", change))[0] == 204
    kinds = [type(b) for b in site.door.bodies]
    assert kinds == [TopologyUpdate, ChangeEvent]


async def test_nobody_may_pose_as_the_operators_files(site: TestSite) -> None:
    """Edges of files win over all others and never age: a push cannot claim to be one."""
    for path, body in (
        ("/api/v1/topology?source=file:shop.yaml", b'{"edges": []}'),
        ("/api/v1/topology", b'{"edges": [], "source": "file:shop.yaml"}'),
    ):
        status, error = await post(site, path, body)
        assert (status, error["where"]) == (400, "source")
    assert site.door.bodies == []


async def test_a_decision_that_takes_too_long_is_503(site: TestSite) -> None:
    """Safe in the journal but undecided: the sender is told to come again."""
    site.door.refusal = TimeoutError()
    for path, body in (
        ("alertmanager", webhook(hook_alert(alertname="Slow"))),
        ("topology", b'{"edges": [{"caller": "a", "callee": "b"}]}'),
        ("changes", json.dumps({"service": "db", "kind": "deploy", "ts": START}).encode()),
    ):
        status, error = await post(site, f"/api/v1/{path}", body)
        assert (path, status) == (path, 503)
        assert "/-/ready" in error["message"]


async def test_a_sender_that_leaves_half_way_harms_nobody(site: TestSite) -> None:
    """A connection closed in the middle of a body frees its place and is no error."""
    host, port = site.url.removeprefix("http://").split(":")
    for _ in range(40):  # more than there are places
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /api/v1/metrics HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with asyncio.timeout(30):
        assert (await post(site, "/api/v1/metrics", json.dumps(SAMPLE).encode()))[0] == 204


async def test_an_alert_costs_little(site: TestSite) -> None:
    """A 64-alert POST costs below 6 ms of CPU, client included, the decision not: far above what it takes today."""

    async def nothing(bodies: Any) -> int:
        return 0

    site.door.submit = nothing  # type: ignore[method-assign]  # only the web is measured
    body = json.dumps(
        [
            {
                "labels": {"alertname": f"A{i}", "service": "db", "severity": "warning", "instance": f"i{i}"},
                "annotations": {"summary": "something is slow", "description": "d" * 80},
                "startsAt": "2026-09-21T14:10:00.123Z",
                "endsAt": "2026-09-21T14:20:00.123Z",
                "generatorURL": "http://prometheus:9090/graph?g0.expr=up",
            }
            for i in range(64)
        ]
    ).encode()
    await post(site, "/api/v2/alerts", body)
    began = time.process_time()
    for _ in range(20):
        assert (await post(site, "/api/v2/alerts", body))[0] == 200

    assert (time.process_time() - began) / 20 < 0.006
