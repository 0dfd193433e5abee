"""The clock that runs faster than life, and the loop that sleeps by it."""

import asyncio
import time

from aiopsd.testing.clock import ManualClock
from simulations.hurry import Loop, Pace


def test_the_clock_changes_its_speed_and_never_jumps() -> None:
    """A second of life is as many seconds as its speed says, from then on."""
    life = ManualClock(0.0)
    pace = Pace(monotonic=life)
    begun = pace()
    life.advance(3.0)
    pace.run(20.0)
    assert pace() - begun == 3.0
    life.advance(2.0)
    pace.run(1.0)
    life.advance(1.0)

    assert pace() - begun == 44.0


def test_it_is_behind_by_what_it_was_told() -> None:
    """A story that ends now can begin in the past."""
    before = time.time()
    shown = Pace(behind=400.0)()

    assert before - 400.0 <= shown <= time.time() - 400.0


def test_a_loop_in_a_hurry_sleeps_by_its_clock() -> None:
    """An hour of its clock passes in a fraction of a minute, and all of it."""
    pace = Pace()
    pace.run(36_000.0)
    with asyncio.Runner(loop_factory=lambda: Loop(pace)) as runner:
        begun, life = pace(), time.monotonic()
        runner.run(asyncio.sleep(3600.0))

    assert pace() - begun >= 3600.0
    assert time.monotonic() - life < 60.0
