"""Real services for tests: find the program, start it on loopback, wait until it answers, end it by its own process id.

A test that needs a program which is not here is skipped with that reason on a laptop and fails in CI (CI=true), where
a silent skip would be a lie.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest


def unavailable(reason: str) -> None:
    """Skip the running test, or fail it under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (CI=true: not skipped)", pytrace=False)
    pytest.skip(reason)


def require(*names: str) -> str:
    """Path of the first of these programs that is on PATH; otherwise the test is `unavailable`."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    unavailable(f"needs {' or '.join(names)} on PATH: make services")
    raise AssertionError  # not reached: unavailable raises


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


class Service:
    """One process of a real program, its output in `<folder>/<name>.log`; may be killed and started again.

    Args:
        command: Program and arguments.
        port: TCP port of 127.0.0.1 that it opens when it is up; 0: up as soon as it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        port: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.command, self.folder, self.port = name, list(command), folder, port
        self.env = {**os.environ, **(env or {})}
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start the process and return at once."""
        assert not self.running, f"{self.name} runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    async def ready(self, timeout: float = 30.0) -> None:
        """Return when the port accepts a connection.

        Raises:
            RuntimeError: the process ended, or the port stayed closed for `timeout` seconds; with the log's end.
        """
        deadline = time.monotonic() + timeout
        while self.running:
            if not self.port or await self.accepts():
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not up after {timeout} s:\n{self.tail()}")
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} ended:\n{self.tail()}")

    async def accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def start(self, timeout: float = 30.0) -> None:
        self.spawn()
        await self.ready(timeout)

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM, then SIGKILL after `timeout` seconds; the exit code."""
        if self.process is None:
            return 0
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()
