"""The daemon as a process of its own, for tests that kill it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from aiopsd.testing.services import free_ports

READY_SECONDS = 60.0


class RunningDaemon:
    """`python -m aiopsd run` on a folder; survives its own kills: `start` again goes on with the same data.

    `config` is the YAML text without data_dir and http, which this class sets; `http` is the rest of that mapping.
    `async with` starts it; with `wait` until it is ready, else until it serves.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        env: Mapping[str, str] | None = None,
        data: Path | None = None,
        http: str = "",
        wait: bool = True,
    ) -> None:
        self.folder, self.http, self.wait = folder, http, wait
        self.data = data or folder / "data"
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.config_file = folder / "aiopsd.yaml"
        self.log_file = folder / "daemon.log"
        self.env = dict(env or {})
        self.process: asyncio.subprocess.Process | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write the configuration (for a reload, or the next start)."""
        head = f'data_dir: "{self.data}"\nhttp: {{listen: "127.0.0.1:{self.port}", {self.http}}}\n'
        self.config_file.write_text(head + config, encoding="utf-8")

    async def __aenter__(self) -> "RunningDaemon":
        self.session = aiohttp.ClientSession()
        await self.start(wait=self.wait)
        if not self.wait:
            await self.serves()
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
        """Wait for /-/ready; a daemon that ends or stays unready instead is an error that shows its log."""
        said = "nothing"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._alive()
                    try:
                        async with self.session.get(f"{self.url}/-/ready") as answer:
                            said = await answer.text()
                            if answer.status == 200:
                                return
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.05)  # polling another process: there is nothing to be woken by
        except TimeoutError:
            raise AssertionError(f"not ready within {seconds:g} s: {said}\n{self.log()[-4000:]}") from None

    async def serves(self, seconds: float = READY_SECONDS) -> None:
        """Wait for /-/healthy: it serves, whatever it may be waiting for."""
        async with asyncio.timeout(seconds):
            while True:
                self._alive()
                try:
                    if "OK" == await self.text("/-/healthy"):
                        return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)  # polling another process: there is nothing to be woken by

    async def readiness(self) -> dict[str, str]:
        """What /-/ready waits for now, by part; {} when it is ready."""
        async with self.session.get(f"{self.url}/-/ready") as answer:
            return (await answer.json())["waiting_for"] if answer.status == 503 else {}

    async def waiting_for(self, *parts: str, text: str = "", seconds: float = READY_SECONDS) -> dict[str, str]:
        """Wait until /-/ready names all these parts as not ready, each with this text; what it says of each."""
        said: dict[str, str] = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._alive()
                    said = await self.readiness()
                    if said and all(text in said.get(part, "") for part in parts) and set(parts) <= said.keys():
                        return said
                    await asyncio.sleep(0.05)  # polling another process: there is nothing to be woken by
        except TimeoutError:
            raise AssertionError(f"/-/ready never named {parts}; last: {said}") from None

    async def metric(self, line: str) -> float:
        """The value of this series of /metrics (name and labels as they are shown there); 0.0 when there is none."""
        for shown in (await self.text("/metrics")).splitlines():
            name, _, value = shown.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    async def until_metric(self, line: str, wanted: Callable[[float], bool], seconds: float = 30.0) -> float:
        """Wait until the series has such a value; that value."""
        value = 0.0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._alive()
                    value = await self.metric(line)
                    if wanted(value):
                        return value
                    await asyncio.sleep(0.05)  # polling another process: there is nothing to be woken by
        except TimeoutError:
            raise AssertionError(f"{line} never came to what was wanted; last: {value}") from None

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
        answer, answered = None, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._alive()
                    answer = await self.get(path)
                    answered = asyncio.get_running_loop().time()
                    if wanted(answer):
                        return answer
                    await asyncio.sleep(0.05)  # polling another process: there is nothing to be woken by
        except TimeoutError:
            silent = asyncio.get_running_loop().time() - answered
            raise AssertionError(
                f"{path} never came to what was wanted; last answer, {silent:.0f} s ago: {str(answer)[:2000]}\n"
                f"end of its log:\n{self.log()[-2000:]}"
            ) from None
