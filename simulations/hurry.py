"""The real daemon on a clock that can run faster than life, for who wants to see six minutes within twenty seconds.

`python -m simulations hurry -c aiopsd.yaml --behind 400` is `aiopsd run` on a clock that is 400 s behind. Who started
it sets that clock by lines on its standard input, and ends it by closing it. The clock hurries to a given time and then
goes as everybody's until the next line: seconds that a slow machine loses are seconds in the story, not minutes. The
event loop sleeps by the same clock, so timers, waits and stamps are those of a daemon that lives through that time:
nothing in aiopsd knows.
"""

import argparse
import asyncio
import math
import selectors
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aiopsd.app import Daemon
from aiopsd.cli import logs
from aiopsd.config import read

SPEED = 20.0


class Pace:
    """UTC seconds on a clock that may run faster than life, as far as it was told; it never goes back.

    Args:
        behind: Seconds by which it shows less than the time at which it is made.
        monotonic: What really passes, in seconds; the same in every process of the machine.
    """

    def __init__(self, behind: float = 0.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.speed, self.until = 1.0, math.inf
        self._monotonic = monotonic
        self._since, self._shown = monotonic(), time.time() - behind

    def __call__(self) -> float:
        passed = self._monotonic() - self._since
        hurried = (self.until - self._shown) / self.speed  # s of life until it goes as life does
        return self._shown + passed * self.speed if passed < hurried else self.until + passed - hurried

    @property
    def pace(self) -> float:
        """Its seconds in one of life, at this moment."""
        return self.speed if self() < self.until else 1.0

    def run(self, speed: float, until: float = math.inf) -> str:
        """From now on so many times as fast as life, until it shows `until`; the line that sets another so."""
        self._shown, self._since = self(), self._monotonic()
        self.speed, self.until = speed, max(until, self._shown)
        return f"{self._since!r} {self._shown!r} {self.speed!r} {self.until!r}\n"

    def set(self, line: str) -> None:
        """Show from now on what the clock shows that gave this line."""
        self._since, self._shown, self.speed, self.until = map(float, line.split())


class _Selector(selectors.DefaultSelector):
    """Waits as long as the clock takes to show that `timeout` has passed."""

    def __init__(self, clock: Pace) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / self._clock.pace if timeout else timeout)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time is this clock's."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        super().__init__(_Selector(pace))

    def time(self) -> float:
        return self._pace()


async def live(config: Path, pace: Pace) -> None:
    """The daemon until SIGTERM, SIGINT or the end of standard input."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    told = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)

    async def listen() -> None:
        async for line in told:
            pace.set(line.decode())
        stop.set()

    listening = asyncio.create_task(listen())
    await Daemon(config, clock=pace).run(stop)
    listening.cancel()


def main(argv: list[str]) -> int:
    """0: it was told to stop; errors of the daemon are its own."""
    p = argparse.ArgumentParser(prog="python -m simulations hurry", description=__doc__.split("\n")[0])
    p.add_argument("-c", "--config", type=Path, required=True, metavar="FILE")
    p.add_argument("--behind", type=float, default=0.0, metavar="SECONDS", help="what its clock shows less than yours")
    args = p.parse_args(argv)
    logs(read(args.config)[0].log)
    pace = Pace(args.behind)
    with asyncio.Runner(loop_factory=lambda: Loop(pace)) as runner:
        runner.run(live(args.config, pace))
    return 0
