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


def test_the_clock_hurries_as_far_as_it_was_told_and_goes_on_as_life_does() -> None:
    """What a machine loses after that is no longer in the story than in life; told a time in the past, it stays."""
    life = ManualClock(0.0)
    pace = Pace(monotonic=life)
    begun = pace()
    pace.run(20.0, begun + 15.0)
    life.advance(10.75)
    assert pace() - begun == 25.0
    assert pace.pace == 1.0

    pace.run(20.0, begun + 40.0)
    assert pace.pace == 20.0
    life.advance(0.5)
    assert pace() - begun == 35.0
    pace.run(20.0, begun)
    life.advance(1.0)

    assert pace() - begun == 36.0


def test_two_clocks_that_are_set_by_one_show_the_same() -> None:
    """A line sets the clock of another process, late or not."""
    life = ManualClock(0.0)
    one, other = Pace(monotonic=life), Pace(behind=5.0, monotonic=life)
    line = one.run(20.0, one() + 15.0)
    life.advance(0.25)
    other.set(line)
    both = [one() - other()]
    life.advance(3.0)

    assert [*both, one() - other()] == [0.0, 0.0]


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
