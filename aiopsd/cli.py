"""The command line: parses arguments, prints, sets the exit code.

Exit codes: 0 fine, 1 it ran and failed, 2 the arguments or the configuration are wrong.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from aiopsd import __version__
from aiopsd.config import LogConfig, located, read
from aiopsd.errors import AiopsdError, ConfigError

# Records are acyclic and come by the ten thousand: the default of 700 walks them all again and again, which costs a
# third of the CPU of reading Kafka (measured: 0.3 to 0.4 us of 1.1 a record).
GC_THRESHOLD = (50_000, 20, 50)


def logs(config: LogConfig) -> None:
    """Structured logs on standard error: JSON lines, or readable ones with `format: console`."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if config.format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write a line: workers share our standard error
        cache_logger_on_first_use=True,
    )


def run(args: argparse.Namespace) -> int:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads."""
    from aiopsd.app import Daemon  # numpy, river and the rest are not loaded to print a usage line

    config, _ = read(args.config)
    logs(config.log)

    async def main() -> None:
        daemon = Daemon(args.config)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, stop.set)
        hang_up = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)

        async def reloads() -> None:
            while True:
                await hang_up.wait()
                hang_up.clear()
                await daemon.reload()

        async with asyncio.TaskGroup() as tasks:
            reloading = tasks.create_task(reloads(), name="reload")
            await daemon.run(stop)
            reloading.cancel()

    return _run(main())


def _run(main: Coroutine[Any, Any, None]) -> int:
    """Run to the end; errors that we raise on purpose are one line each."""
    gc.set_threshold(*GC_THRESHOLD)
    code = 0
    try:
        asyncio.run(main)
    except* AiopsdError as group:
        for error in _leaves(group):
            print(f"aiopsd: {error}", file=sys.stderr)
        code = 1
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for e in group.exceptions:
        found += _leaves(e) if isinstance(e, BaseExceptionGroup) else [e]
    return found


def check_config(args: argparse.Namespace) -> int:
    """Read the configuration and build everything that needs no network."""
    from aiopsd.app import check
    from aiopsd.matchers import deprecated

    config, _ = read(args.config)
    try:
        check(config)
    except ConfigError as e:
        raise located(args.config, e) from None
    parts = [(len(config.sources), "source"), (len(config.receivers), "receiver"), (len(config.packs), "rule pack")]
    told = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for n, word in parts)
    for path, text in deprecated(config):
        print(f"note: {located(args.config, ConfigError(text, path))}", file=sys.stderr)
    print(f"{args.config}: fine ({told})")
    return 0


def worker(args: argparse.Namespace) -> int:
    """A detect worker of a running daemon: joins the consumer groups and its share of the local metric log."""
    from aiopsd.app import Worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the daemon tells us when to stop
    return _run(Worker(args.connect, args.index).run(lambda config: logs(config.log)))


def replay(args: argparse.Namespace) -> int:
    """Play a recorded journal through a configuration and print what would have been decided."""
    from aiopsd.replay import main

    return main(args.config, args.journal, as_json=args.json, against=args.against)


def test_rules(args: argparse.Namespace) -> int:
    """Play the tests of rule packs and say what failed, with file and line."""
    from aiopsd.testrules import main

    return main(args.folder)


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(prog="aiopsd", description="Metrics and alerts in, one explained incident out.")
    top.add_argument("--version", action="version", version=f"aiopsd {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    for name, function, text in (
        ("run", run, "run the daemon"),
        ("check-config", check_config, "check a configuration and say what is wrong, with its key"),
    ):
        command(name, function, text).add_argument("-c", "--config", type=Path, required=True, metavar="FILE|DIR")
    sub = command("replay", replay, "play a recorded journal through a configuration and print the decisions")
    sub.add_argument("-c", "--config", type=Path, required=True, metavar="FILE|DIR")
    sub.add_argument("--against", type=Path, metavar="FILE|DIR", help="a second configuration: print the differences")
    sub.add_argument("--json", action="store_true", help="one JSON line per decision")
    sub.add_argument("journal", type=Path, help="journal.db, or the data folder that holds it")
    sub = command("test-rules", test_rules, "play the tests of rule packs: what must fire and what must stay silent")
    sub.add_argument("folder", type=Path, metavar="DIR", help="a pack (it holds rules.yaml), or a folder of packs")
    sub = command("worker", worker, "a detect worker process of a running daemon (started by it for `workers: N`)")
    sub.add_argument("--connect", type=Path, required=True, metavar="SOCKET")
    sub.add_argument("--index", type=int, default=0, help="which share of the local metric log is read")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    args = parser().parse_args(argv)
    try:
        return int(args.function(args))
    except ConfigError as e:
        print(f"aiopsd: {e}", file=sys.stderr)
        return 2
    except AiopsdError as e:
        print(f"aiopsd: {e}", file=sys.stderr)
        return 1
