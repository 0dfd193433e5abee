"""The daemon as a process of its own, a webhook receiver, and what a process costs: for the demo and the benchmarks."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

READY_SECONDS = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, of its ended children, too (utime, stime, cutime, cstime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(x) for x in fields[11:15]) / os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """The demo cannot go on; the message says why."""


class Pager:
    """A webhook receiver on a free port of 127.0.0.1 that keeps what it gets."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.times: list[float] = []  # of arrival, UTC seconds
        pages, times = self.pages, self.times

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                times.append(time.time())
                pages.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet: the demo says what arrived."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, name="pager", daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Service:
    """Any server of ours or of a peer: a process, its log file, and HTTP on a port of 127.0.0.1."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self.port, self.log = port, log
        self.url = f"http://127.0.0.1:{port}"
        self._kept = threading.local()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self.process.pid)

    def ready(self, path: str = "/-/ready") -> None:
        """Wait until this path answers 200.

        Raises:
            Failure: it ended, or is not ready in time.
        """
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            try:
                if self.request("GET", path)[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise Failure(f"{self.url} did not become ready:\n{self.log.read_text(errors='replace')[-3000:]}")

    def request(self, verb: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """(status, body), over one connection for each thread that asks, as senders keep theirs.

        Raises:
            OSError: it is not there.
        """
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        while True:
            connection: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
            fresh = connection is None
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request(verb, path, body, given)
                answer = connection.getresponse()
                text = answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                connection.close()
                self._kept.connection = None
                if fresh:
                    raise
                continue  # it was closed while nobody spoke
            except BaseException:
                connection.close()
                self._kept.connection = None
                raise
            self._kept.connection = connection
            return answer.status, text

    def push(self, path: str, body: bytes, **headers: str) -> None:
        """POST until it is taken; 503 means later.

        Raises:
            Failure: refused, or not taken in time.
        """
        until = time.monotonic() + READY_SECONDS
        while True:
            status, text = self.request("POST", path, body, **headers)
            if status < 300:
                return
            if status != 503 or time.monotonic() > until:
                raise Failure(f"POST {path} was answered {status}: {text[:500].decode(errors='replace')}")
            time.sleep(0.1)

    def write(self, body: bytes, path: str = "/api/v1/write") -> None:
        """Remote write 1.0, as Prometheus sends it."""
        self.push(
            path,
            body,
            Content_Type="application/x-protobuf",
            Content_Encoding="snappy",
            X_Prometheus_Remote_Write_Version="0.1.0",
        )

    def json(self, path: str, body: bytes) -> None:
        self.push(path, body, Content_Type="application/json")

    def say(self, line: str) -> None:
        """A line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        if status != 200:
            raise Failure(f"GET {path} was answered {status}")
        return json.loads(body)

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels; 0 when it is not there."""
        text = self.request("GET", "/metrics")[1].decode()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return sum(float(value) for left, value in lines if left.split("{")[0] == name)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to its own process when it does not listen."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Daemon(Service):
    """`python -m aiopsd run` (or another `command`) on this configuration, with a data folder and port of its own."""

    def __init__(self, folder: Path, config: str, command: Sequence[str] = ("aiopsd", "run")) -> None:
        port = free_port()
        path = folder / "aiopsd.yaml"
        head = f'data_dir: "{folder / "data"}"\nhttp: {{listen: "127.0.0.1:{port}"}}\n'
        path.write_text(head + config, encoding="utf-8")
        super().__init__([sys.executable, "-m", *command, "-c", str(path)], port, folder / "daemon.log")

    def wait_until_scored(self, samples: int) -> None:
        """Until detection has worked off this many samples since its start.

        Raises:
            Failure: not in time.
        """
        until = time.monotonic() + READY_SECONDS
        while (have := self.metric("aiopsd_ingested_samples_total")) < samples:
            if time.monotonic() > until:
                raise Failure(f"detection did not catch up: {have:.0f} of {samples} samples")
            time.sleep(0.05)

    def wait_for_samples(self, ts: float) -> None:
        """Until detection has seen the sample time `ts`.

        Raises:
            Failure: not in time.
        """
        until = time.monotonic() + READY_SECONDS
        while self.metric("aiopsd_detect_watermark_seconds") < ts:
            if time.monotonic() > until:
                raise Failure("detection did not catch up")
            time.sleep(0.05)
