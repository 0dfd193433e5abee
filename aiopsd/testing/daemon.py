"""The daemon as a process of its own, for tests that kill it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from aiopsd.testing.services import free_ports

READY_SECONDS = 60.0


class RunningDaemon:
    """`python -m aiopsd run` on a folder; survives its own kills: `start` again goes on with the same data.

    `config` is the YAML text without data_dir and http.listen, which this class sets.
    """

    def __init__(self, folder: Path, config: str, *, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.config_file = folder / "aiopsd.yaml"
        self.log_file = folder / "daemon.log"
        self.env = dict(env or {})
        self.process: asyncio.subprocess.Process | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write the configuration (for a reload, or the next start)."""
        head = f'data_dir: "{self.data}"\nhttp: {{listen: "127.0.0.1:{self.port}"}}\n'
        self.config_file.write_text(head + config, encoding="utf-8")

    async def __aenter__(self) -> "RunningDaemon":
        self.session = aiohttp.ClientSession()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()
        if self.process is not None and self.process.returncode is None:
            await self.kill()

    async def start(self, *, wait: bool = True) -> None:
        """Start the process; with `wait`, until /-/ready answers 200."""
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "aiopsd", "run", "-c", str(self.config_file),
                stdout=log, stderr=log, env={**os.environ, **self.env}, start_new_session=True,
            )  # fmt: skip
        if wait:
            await self.ready()

    async def ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait for /-/ready; a daemon that ends instead is an error that shows its log."""
        async with asyncio.timeout(seconds):
            while True:
                self._alive()
                try:
                    async with self.session.get(f"{self.url}/-/ready") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)  # polling another process: there is nothing to be woken by

    def _alive(self) -> None:
        if self.process is None or self.process.returncode is not None:
            raise AssertionError(f"the daemon ended\n{self.log()[-4000:]}")

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    async def kill(self) -> None:
        """SIGKILL to the daemon and its workers."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(READY_SECONDS):
            return await self.process.wait()

    async def get(self, path: str) -> Any:
        """GET, JSON answer; AssertionError with the body otherwise."""
        async with self.session.get(self.url + path) as answer:
            assert answer.status == 200, f"{path}: {answer.status} {await answer.text()}"
            return await answer.json()

    async def text(self, path: str) -> str:
        async with self.session.get(self.url + path) as answer:
            return await answer.text()

    async def post(self, path: str, body: Any) -> int:
        """POST JSON; the status, 0 when the daemon is not there."""
        try:
            async with self.session.post(self.url + path, json=body) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 0

    async def until(self, path: str, wanted: Any, seconds: float = 30.0) -> Any:
        """GET `path` until `wanted(answer)` is true; that answer."""
        answer: Any = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._alive()
                    answer = await self.get(path)
                    if wanted(answer):
                        return answer
                    await asyncio.sleep(0.05)  # polling another process: there is nothing to be woken by
        except TimeoutError:
            raise AssertionError(f"{path} never came to what was wanted; last: {str(answer)[:2000]}") from None
