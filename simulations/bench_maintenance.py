"""Benchmark: what it costs a detect stage with many live series that planned work is announced, or forgotten."""

import time
from collections.abc import Iterator

from aiopsd.config import Config
from aiopsd.model import LogRecord, Matcher, Window
from aiopsd.pipeline import detect
from simulations import wire
from simulations.bench_decode import Line
from simulations.bench_memory import START, bodies

ASKED = {  # what operators write, from a window of one service to one of every third series
    "one service": Matcher(name="service", value="service-00042"),
    "services by a pattern": Matcher(name="service", value="service-0004.*", is_regex=True),
    "one instance": Matcher(name="instance", value="10.0.12.7:9100"),
    "a zone": Matcher(name="zone", value="zone-1"),
    "a pattern of instances": Matcher(name="instance", value="10[.]0[.]([0-9]+)[.]7:9100", is_regex=True),
}


def window(key: str, matcher: Matcher) -> Window:
    return Window(id=key, matchers=(matcher,), starts_at=START, ends_at=START + 3600)


def maintenance(series: int) -> Iterator[Line]:
    """CPU of `maintain` for each kind of window beside ninety that hold already, and for its going."""
    stage = detect.build(Config(), "bench", 0)
    for offset, body in enumerate(bodies(series, START, 0)):
        stage.step([LogRecord(source="bench", partition=0, offset=offset, value=body, format=wire.REMOTE_WRITE)])
    held = tuple(window(f"w{i}", Matcher(name="service", value=f"service-{i:05d}")) for i in range(90))
    stage.maintain(held)
    for name, matcher in ASKED.items():
        for what, windows in (("announced", (*held, window("new", matcher))), ("forgotten", held)):
            began = time.process_time()
            stage.maintain(windows)
            spent = time.process_time() - began
            yield Line(f"{series:,} series, planned work for {name}, {what}", spent, "s CPU")
