"""The scorers on cases small enough to be worked out by hand."""

import math

import numpy as np
import pytest

from aiopsd.config import Config, DetectConfig
from simulations import detection
from simulations.scoring import (
    PROFILES,
    Labelled,
    Nab,
    Sweep,
    cut,
    joined,
    score_alarms,
    sigmoid,
    windows_of_labels,
)

DAY = 86400.0


def series(n: int, *windows: tuple[int, int], first: int = -1, step: float = 300.0) -> Labelled:
    points = tuple(a for a, _ in windows)
    return Labelled("a/one.csv", np.arange(n) * step, np.zeros(n), windows, points, first)


def at_rows(n: int, *rows: int, score: float = 1.0) -> np.ndarray:
    out = np.zeros(n)
    out[list(rows)] = score
    return out


# --------------------------------------------------------------------------- NAB


def test_probation_is_fifteen_percent_and_never_more_than_750_rows() -> None:
    """NAB does not score the first 15 % of a file, at most 15 % of 5,000 rows."""
    assert [series(100).probation, series(40_000).probation] == [15, 750]


def test_sigmoid_is_the_published_curve() -> None:
    """2 / (1 + e^5x) - 1, and -1 beyond three window widths."""
    expected = [2 / (1 + math.exp(-5)) - 1, 0.0, 2 / (1 + math.exp(5)) - 1, -1.0]

    assert sigmoid([-1.0, 0.0, 1.0, 3.1]) == pytest.approx(expected)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_silence_scores_zero_and_detection_at_window_start_scores_a_hundred(profile: str) -> None:
    """The scale's ends: a detector that never fires, and one that fires once at the first row of every window."""
    corpus = [series(200, (100, 119), (150, 169))]
    nab = Nab(corpus)

    assert nab.at([np.zeros(200)], 0.5, profile) == 0.0
    assert nab.at([at_rows(200, 100, 150)], 0.5, profile) == pytest.approx(100.0)


def test_late_detection_earns_its_place_on_the_sigmoid() -> None:
    """A hit on the k-th row of a window of width w earns sigmoid(-(w - k) / w), relative to the first row's."""
    nab = Nab([series(200, (100, 119))])
    earned = float(sigmoid(-10 / 20)) / float(sigmoid(-1.0))

    assert nab.at([at_rows(200, 110)], 0.5, "standard") == pytest.approx(100 * (earned + 1) / 2)


def test_false_positive_costs_its_weight_far_from_a_window_and_less_just_behind_it() -> None:
    """A row before any window costs the full weight; one row after a window costs sigmoid(1 / (width - 1)) of it."""
    nab = Nab([series(200, (100, 119))])
    hit, w = at_rows(200, 100), PROFILES["standard"][2]

    assert nab.at([hit + at_rows(200, 50)], 0.5, "standard") == pytest.approx(100 - 100 * w / 2)
    near = w * float(sigmoid(1 / 19))
    assert nab.at([hit + at_rows(200, 120)], 0.5, "standard") == pytest.approx(100 + 100 * near / 2)


def test_only_the_best_detection_of_a_window_counts() -> None:
    """Firing on every row of a window earns what its first row earns, neither more nor less."""
    nab = Nab([series(200, (100, 119))])
    every = at_rows(200, *range(100, 120))

    assert nab.at([every], 0.5, "standard") == pytest.approx(100.0)


def test_rows_in_the_probation_neither_earn_nor_cost() -> None:
    """A false positive in the first 15 % changes nothing."""
    nab = Nab([series(200, (100, 119))])
    hit = at_rows(200, 100)

    assert nab.at([hit], 0.5, "standard") == nab.at([hit + at_rows(200, 3, 7)], 0.5, "standard")


def test_low_fn_profile_punishes_a_missed_window_twice() -> None:
    """With two windows and one found at once: (1 - 2) against silence -4 and perfection 2 is 50 of 100."""
    nab = Nab([series(200, (100, 119), (150, 169))])

    assert nab.at([at_rows(200, 100)], 0.5, "reward_low_FN_rate") == pytest.approx(100 * (1 - 2 + 4) / 6)


def test_sweep_finds_the_threshold_that_brute_force_finds() -> None:
    """The best threshold of the sweep is the best over every distinct score, recomputed one by one."""
    rng = np.random.default_rng(5)
    corpus = [series(300, (100, 120), (200, 230)), series(200, (90, 99))]
    scores = [np.round(rng.random(300), 2), np.round(rng.random(200), 2)]
    nab = Nab(corpus)

    def by_hand(threshold: float) -> float:
        total = 0.0
        for s, score in zip(corpus, scores, strict=True):
            fired = [i for i in range(s.probation, len(score)) if score[i] >= threshold]
            gain, window = nab._gain(s)
            for k in range(len(s.windows)):
                inside = [gain[i] for i in fired if window[i] == k]
                total += max(inside) if inside else -1.0
            total += sum(0.11 * gain[i] for i in fired if window[i] < 0)
        return 100 * (total + 3) / 6

    thresholds = np.unique(np.concatenate(scores))
    brute = max(by_hand(float(t)) for t in thresholds)
    best, threshold = nab.best(scores, "standard")
    assert best == pytest.approx(max(brute, 0.0))
    assert nab.at(scores, threshold, "standard") == pytest.approx(best)


# --------------------------------------------------------------------------- events


def test_labelled_rows_become_windows_one_row_early_and_three_late() -> None:
    """Runs separated by at most three unlabelled rows are one event; grace joins what then overlaps."""
    label = np.zeros(40, dtype=bool)
    label[[10, 14, 30]] = True

    s = windows_of_labels("x", np.arange(40.0), np.zeros(40), label)
    assert (joined(label), s.windows, s.points) == ([(10, 14), (30, 30)], ((9, 17), (29, 33)), (10, 30))


def test_always_on_is_not_perfect() -> None:
    """First guard: an alarm that never ends is cut, so its pieces away from the event are false."""
    s = series(720, (300, 310), first=0)

    figures = score_alarms([s], [[(0, 719)]])
    assert (10, pytest.approx(1 / 10)) == (figures.alarms, figures.precision)
    assert cut([(0, 143)]) == [(0, 71), (72, 143)]


def test_long_alarm_finds_the_next_event_by_touch_but_not_by_onset() -> None:
    """Second guard: an alarm that starts in one event and reaches into the next has found one, by the onset reading."""
    s = series(200, (50, 60), (80, 90), first=0)

    figures = score_alarms([s], [[(55, 85)]])
    assert (figures.recall, figures.onset_recall, figures.onset_false_per_day, figures.alarms) == (1.0, 0.5, 0.0, 1)


def test_alarm_that_starts_before_its_event_is_right_by_touch_and_false_by_onset() -> None:
    """The strict reading takes only alarms that start inside an event."""
    s = series(int(DAY / 300) + 1, (50, 60), first=0)

    figures = score_alarms([s], [[(45, 52)]])
    assert (figures.precision, figures.false_per_day) == (1.0, 0.0)
    assert (figures.onset_recall, figures.onset_false_per_day) == (0.0, 1.0)


def test_rates_are_per_scored_day_and_delay_is_from_the_labelled_row() -> None:
    """Two days after the probation with three false alarms is 1.5 a day; the delay counts from the label."""
    n = int(3 * DAY / 300) + 1
    s = series(n, (400, 420), first=int(DAY / 300))

    figures = score_alarms([s], [[(10, 12), (300, 301), (404, 406), (500, 500), (700, 710)]])
    assert (pytest.approx(1.5), 4, 4.0, 1200.0) == (
        figures.false_per_day,
        figures.alarms,
        figures.delay_rows,
        figures.delay_seconds,
    )
    assert (0.25, 1.0, pytest.approx(0.4)) == (figures.precision, figures.recall, figures.f1)


def test_budget_takes_the_lowest_threshold_within_it() -> None:
    """Four alarms over ten days, one of them right: a budget of .2 a day allows the threshold with two false ones."""
    n = int(10 * DAY / 300) + 1
    s = series(n, (1000, 1010), first=0)
    alarms = [(100, 100), (1000, 1000), (500, 500), (2000, 2000)]  # by falling score
    sweep = Sweep([s], [0.95, 0.9, 0.5, 0.4], [[sorted(alarms[:k])] for k in (1, 2, 3, 4)])

    i = sweep.within(0.2)
    assert i is not None
    figures = sweep.figures(i)
    assert (0.5, 1.0, pytest.approx(0.2)) == (sweep.thresholds[i], figures.onset_recall, figures.onset_false_per_day)
    assert sweep.within(0.05) is None


# --------------------------------------------------------------------------- playing through the stage


def test_playing_leads_alarms_and_scores_back_to_their_series_rows_and_times() -> None:
    """Recordings of different years on one stream: the break of each is found at its own row, in its own time."""
    rng = np.random.default_rng(8)
    early = 1_420_070_400.0 + 300.0 * np.arange(3000)  # 2015
    late = 1_600_000_200.0 + 300.0 * np.arange(2500)  # 2020, on another weekday
    values = [rng.normal(10.0, 1.0, 3000), rng.normal(5.0, 0.2, 2500)]
    values[0][2000:2030] += 40.0
    values[1][1500:1530] -= 30.0
    corpus = [
        Labelled("a", early, values[0], ((2000, 2029),), (2000,)),
        Labelled("b", late, values[1], ((1500, 1529),), (1500,)),
    ]

    out = detection.play(detection.single(corpus))
    rows = detection.rows_of(corpus, out.alarms)
    assert out.samples == 5500
    assert 2000 in [a for a, _ in rows[0]]
    assert 1500 in [a for a, _ in rows[1]]
    assert (out.scores[0][0, 2000] > 0.5, out.scores[1][0, 1500] > 0.5) == (True, True)
    assert (out.scores[0][0, 1500] < 0.5, out.scores[1][0, 2000] < 0.5) == (True, True)
    assert early[2000] in [a.ts for a in out.alarms]


def test_a_sweep_tells_what_the_configuration_would() -> None:
    """Alarms at another threshold are those of a stage with that threshold; the stage's own stay as they are."""
    rng = np.random.default_rng(9)
    ts = 1_600_000_200.0 + 300.0 * np.arange(1500)
    values = rng.normal(10.0, 1.0, (2, 3, 1500))
    for size, at in ((2.0, 700), (4.0, 900), (8.0, 1100), (30.0, 1300)):
        values[0, :, at : at + 20] += size
        values[1, 0, at : at + 3] += size
    labels = tuple({"__name__": "value", "metric": str(i)} for i in range(3))
    subjects = [detection.Input(name, labels, ts, v) for name, v in zip("xy", values, strict=True)]

    out = detection.play(subjects)
    assert out.alarms == detection.play(subjects, sweep=False).alarms
    told = [len(alarms) for alarms in out.swept]
    assert told[-1] > told[0] > 0
    for k in (0, len(told) // 2, len(told) - 1):
        config = Config(detect=DetectConfig(threshold=detection.THRESHOLDS[k]))
        assert out.swept[k] == detection.play(subjects, config, sweep=False).alarms
