"""The real daemon on a clock that can run faster than life, for who wants to see six minutes within twenty seconds.

`python -m simulations hurry -c aiopsd.yaml --behind 400` is `aiopsd run` on a clock that is 400 s behind. SIGUSR1 makes
it run SPEED times as fast, SIGUSR2 as everybody's again. The event loop sleeps by the same clock, so timers, waits and
stamps are those of a daemon that lives through that time: nothing in aiopsd knows.
"""

import argparse
import asyncio
import selectors
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiopsd.app import Daemon
from aiopsd.cli import logs
from aiopsd.config import read

SPEED = 20.0


class Pace:
    """UTC seconds on a clock that may run faster than life; it never jumps.

    Args:
        behind: Seconds by which it shows less than the time at which it is made.
        monotonic: What really passes, in seconds.
    """

    def __init__(self, behind: float = 0.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.speed = 1.0
        self._monotonic = monotonic
        self._since, self._shown = monotonic(), time.time() - behind

    def __call__(self) -> float:
        return self._shown + (self._monotonic() - self._since) * self.speed

    def run(self, speed: float) -> None:
        """From now on so many times as fast as life."""
        self._shown, self._since = self(), self._monotonic()
        self.speed = speed


class _Selector(selectors.DefaultSelector):
    """Waits as long as the clock takes to show that `timeout` has passed."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / self._pace.speed if timeout else timeout)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time is this clock's."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        super().__init__(_Selector(pace))

    def time(self) -> float:
        return self._pace()


async def live(config: Path, pace: Pace) -> None:
    """The daemon until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    on: Any = asyncio.get_running_loop().add_signal_handler
    for sig in (signal.SIGTERM, signal.SIGINT):
        on(sig, stop.set)
    on(signal.SIGUSR1, pace.run, SPEED)
    on(signal.SIGUSR2, pace.run, 1.0)
    await Daemon(config, clock=pace).run(stop)


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
