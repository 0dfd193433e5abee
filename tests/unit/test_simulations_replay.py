"""The bank and the join alone say what the whole stage says."""

import numpy as np

from aiopsd.detect.bank import peaks, seasons
from simulations import detection, replay, sensitivity, synthetic, telemetry
from simulations.detection import Input


def services() -> list[telemetry.Service]:
    return [telemetry.service(np.random.default_rng(seed), f"s{seed}", 300.0, 9.0, 2.0) for seed in range(3)]


def test_a_replay_tells_the_alarms_that_the_stage_tells() -> None:
    """Over several services with counters, holes and incidents, replay and stage raise the same alarms."""
    inputs: list[Input] = synthetic.inputs(services())
    heard = replay.hear(replay.columns(inputs))
    told = replay.tell(heard)
    assert len(told) > 5
    assert told == detection.play(inputs, sweep=False).alarms


def test_a_constant_is_moved_and_put_back() -> None:
    """A whole number moves by at least one, and afterwards every constant is what it was."""
    was, clip = peaks.ADOPTED, peaks.CLIP
    with sensitivity.changed(sensitivity.BANK, "ADOPTED", 1.3):
        assert peaks.ADOPTED == was + 1
    with sensitivity.changed(sensitivity.BANK, "ADOPTED", 0.7):
        assert was > peaks.ADOPTED
    with sensitivity.changed(sensitivity.BANK, "CLIP", 2.0):
        assert peaks.CLIP == seasons.CLIP == 2 * clip
    assert was == peaks.ADOPTED
    assert clip == seasons.CLIP
