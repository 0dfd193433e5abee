"""The bank: what it scores, what it keeps quiet about, and what it costs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aiopsd.detect.bank import CHANNELS, ENDED, HARM_HIGH, HARM_LOW, Outcome, Policy, RangeBank, rounds
from aiopsd.model import STALE_BITS

START = 1_700_006_400.0  # a midnight
STALE = np.array([STALE_BITS], np.uint64).view(np.float64)[0]
F64 = NDArray[np.float64]


def feed(bank: RangeBank, values: F64, *, start: float = START, step: float = 300.0) -> list[Outcome]:
    """One series (a vector) or several (a column each), a sample every `step` seconds."""
    values = values[:, None] if values.ndim == 1 else values
    rows = np.arange(values.shape[1], dtype=np.intp)
    return [bank.step(rows, np.full(len(rows), start + t * step), v) for t, v in enumerate(values)]


def scores(outcomes: list[Outcome], row: int = 0) -> F64:
    return np.array([float(o.scores[row]) for o in outcomes])


def noise(seed: int, *shape: int) -> F64:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_break_scores_high_and_says_what_was_normal() -> None:
    """A jump of twenty deviations scores above 0.5 at once, with range, level, scale and direction."""
    values = 100 + noise(1, 600)
    values[500] = 120
    outcomes = feed(RangeBank(), values)

    assert scores(outcomes)[500] > 0.5
    assert scores(outcomes)[100:500].max() < 0.5
    b = outcomes[500].breaks
    assert b.up[0]
    assert b.values[0] == 120
    assert 90 < b.low[0] < 98 < 102 < b.high[0] < 110
    assert b.normal[0] == pytest.approx(100, abs=1)
    assert b.deviation[0] > 3
    assert CHANNELS[b.channel[0]] in CHANNELS
    assert b.interval[0] == 300
    recent = b.recent[0][~np.isnan(b.recent[0])]
    assert recent.tolist() == pytest.approx(values[484:500].tolist(), rel=1e-6)


def test_no_score_in_warm_up() -> None:
    """Whatever a new series shows in its first 40 samples, or in its first hour, scores 0."""
    wild = np.exp(10 * noise(2, 41))
    assert not scores(feed(RangeBank(), wild))[:40].any()
    fast = feed(RangeBank(), np.exp(10 * noise(3, 240)), step=15.0)
    assert not scores(fast)[:239].any()


def test_a_young_envelope_is_trusted_less() -> None:
    """The same jump scores less on the first day than later, for the daily range is not known yet."""
    values = 100 + noise(4, 1200)
    early, late = values.copy(), values.copy()
    early[100], late[1100] = 112, 112
    assert 0 < scores(feed(RangeBank(), early))[100] < scores(feed(RangeBank(), late))[1100]


def test_a_steady_series_falls_silent() -> None:
    """On stationary noise fewer than one sample in five thousand is an alarm after the first thousand."""
    outcomes = feed(RangeBank(capacity=50), 10 + noise(5, 3000, 50))
    late = np.stack([o.scores for o in outcomes[1000:]])
    assert (late >= 0.5).mean() < 2e-4
    assert (late > 0).mean() < 0.01


def test_growth_decides_whether_a_repeat_is_an_incident() -> None:
    """With unbounded growth the second equal spike is no news; with a growth of 0.1 widths it is."""
    values = 100 + noise(6, 1500)
    values[[700, 1200]] = 160
    once = scores(feed(RangeBank(Policy(growth=1e9)), values))
    again = scores(feed(RangeBank(Policy(growth=0.1)), values))
    assert once[700] > 0.5
    assert once[1200] < 0.5
    assert again[700] > 0.5
    assert again[1200] > 0.5


def test_memory_is_time_whatever_the_sampling() -> None:
    """The peak of three days ago is still known, though far more samples than the half-life counts have passed."""
    values = 100 + noise(7, 4 * 288)
    for peak in (100, 100 + 3 * 288):
        values[peak : peak + 12] += 40
    worst = []
    for policy in (Policy(samples=200, growth=1e9, alarms=0), Policy(memory=6e4, growth=1e9, alarms=0)):
        worst.append(float(scores(feed(RangeBank(policy), values))[3 * 288 :].max()))
    assert worst[0] < 0.5 < worst[1]


def test_direction_of_harm() -> None:
    """A metric that is only bad when high says nothing when it falls, and learns all the same."""
    values = 100 + noise(8, 600)
    values[500] = 60
    for harm, heard in ((HARM_HIGH, False), (HARM_LOW, True), (0, False)):
        bank = RangeBank()
        bank.mark(np.array([0]), harm=harm)
        assert bool(scores(feed(bank, values))[500] > 0.5) is heard


def test_counters_become_rates_and_resets_are_no_drop() -> None:
    """A counter is scored by its increase per second; the sample after a reset says nothing, be it small or large."""
    rate = 5 + 0.2 * noise(9, 600)
    counter = np.cumsum(np.maximum(rate, 0) * 300)
    counter[400:] -= counter[400]  # a restart right before a scrape
    counter[450:] -= 0.3 * counter[449]  # a sum of counters, one of which was reset
    counter[550:] += 100 * 300  # and one burst
    bank = RangeBank()
    bank.mark(np.array([0]), counter=True)
    outcomes = feed(bank, counter)
    got = scores(outcomes)
    assert got[100:550].max() < 0.5
    assert got[550] > 0.5
    assert outcomes[550].breaks.values[0] == pytest.approx(rate[550] + 100, rel=1e-3)


def test_duplicates_and_late_samples_are_ignored() -> None:
    """A sample at or before its row's last changes nothing: senders retry, and retries may be stale."""
    values = 100 + noise(10, 300)
    one, two = RangeBank(capacity=4), RangeBank(capacity=4)
    feed(one, values)
    row = np.zeros(1, np.intp)
    for t, v in enumerate(values):
        two.step(row, np.array([START + t * 300.0]), np.array([v]))
        again = two.step(row, np.array([START + t * 300.0]), np.array([v + 50]))
        late = two.step(row, np.array([START + t * 300.0 - 900.0]), np.array([v - 50]))
        assert (again.late, late.late) == (1, 1)
        assert not again.used.any()
        assert not late.scores.any()
    assert one.snapshot().arrays["f"].tobytes() == two.snapshot().arrays["f"].tobytes()


def test_numbers_that_are_none() -> None:
    """NaN and infinity are counted and ignored; a staleness marker ends the series, a later sample revives it."""
    bank = RangeBank()
    row = np.zeros(1, np.intp)
    for i, v in enumerate((1.0, np.nan, np.inf, -np.inf)):
        outcome = bank.step(row, np.array([START + i]), np.array([v]))
        assert outcome.invalid == (0 if i == 0 else 1)
    assert bank.last[0] == START
    ended = bank.step(row, np.array([START + 10]), np.array([STALE]))
    assert ended.invalid == 0
    assert bank.flags[0] & ENDED
    bank.step(row, np.array([START + 20]), np.array([1.0]))
    assert not bank.flags[0] & ENDED


def test_a_broken_clock_far_ahead_is_refused() -> None:
    """A sample time that cannot be a time (negative, or beyond the year 2103) is invalid and blinds nobody."""
    bank = RangeBank()
    row = np.zeros(1, np.intp)
    assert bank.step(row, np.array([1e12]), np.array([1.0])).invalid == 1
    assert bank.step(row, np.array([-5.0]), np.array([1.0])).invalid == 1
    assert bank.step(row, np.array([START]), np.array([1.0])).used[0]


def test_constants_and_tiny_changes() -> None:
    """A constant says nothing; a change below one in a thousand of it hardly counts, doubling it does."""
    for change, heard in ((1.0, False), (1.0005, False), (2.0, True)):
        values = np.full(600, 7.0)
        values[500] *= change
        assert bool(scores(feed(RangeBank(), values))[500] > 0.5) is heard


def test_precision_far_from_zero() -> None:
    """A level of 1e9 hides no change of a few units: state is relative to the series' first value."""
    values = 1e9 + noise(11, 600)
    values[500] += 20
    assert scores(feed(RangeBank(), values))[500] > 0.5


def test_huge_values_make_no_warnings_and_no_infinities() -> None:
    """Values up to the edge of float64 leave a finite state (warnings are errors in this suite)."""
    values = np.clip(noise(12, 400), -3, 3) * 5e307
    bank = RangeBank()
    got = scores(feed(bank, values))
    assert np.isfinite(got).all()
    assert np.isfinite(bank.f).all()


def test_view_reads_the_baseline_a_fault_could_not_teach() -> None:
    """After an hour of fault the robust level still is that of before, and the scale has hardly grown."""
    values = 100 + noise(13, 1000)
    bank = RangeBank()
    feed(bank, values)
    before = bank.view(np.array([0]))
    feed(bank, 300 + noise(14, 12), start=START + 1000 * 300.0)
    after = bank.view(np.array([0]))
    assert after.normal[0] == pytest.approx(before.normal[0], abs=2)
    assert after.scale[0] < 2 * before.scale[0]
    assert after.recent[0][-1] == pytest.approx(300, abs=5)


def test_scale_has_a_floor_of_five_percent_of_the_level() -> None:
    """A series that never moved has a ruler all the same, so that its deviations stay comparable."""
    bank = RangeBank()
    feed(bank, np.full(300, 200.0))
    assert bank.view(np.array([0])).scale[0] == pytest.approx(10.0, rel=0.01)


def test_rounds_hold_each_row_once() -> None:
    """Round k holds the k-th sample of each row, in order of arrival; strictly rising rows are taken as they are."""
    rows = np.array([3, 1, 3, 3, 2, 1], np.intp)
    got = [part.tolist() for part in rounds(rows, np.zeros(4, np.intp)) if part is not None]
    assert got == [[0, 1, 4], [2, 5], [3]]
    assert list(rounds(np.array([1, 4, 9], np.intp), np.zeros(10, np.intp))) == [None]


def test_neighbours_change_nothing() -> None:
    """A series has the same bits whether it comes alone or among thousands of others of every age."""
    rng = np.random.default_rng(15)
    values = 100 + noise(16, 500)
    alone, crowd = RangeBank(), RangeBank(capacity=9000)
    feed(alone, values)
    for t, v in enumerate(values):
        others = rng.permutation(9000)[: int(rng.integers(1, 9000))] if t % 50 == 0 else rng.permutation(9000)[:20]
        rows = np.concatenate((others[others != 77], [77])).astype(np.intp)
        x = np.concatenate((rng.normal(size=len(rows) - 1) * 1e6, [v]))
        crowd.step(rows, np.full(len(rows), START + t * 300.0), x)
    assert alone.f[:, 0].tobytes() == np.ascontiguousarray(crowd.f[:, 77]).tobytes()


def test_state_of_a_series_fits_its_budget() -> None:
    """At most 450 bytes a series, scratch included."""
    assert RangeBank(capacity=1000).bytes_per_row <= 450


def test_a_forgotten_row_is_as_new() -> None:
    """reset() leaves nothing of the series that had the row."""
    bank, fresh = RangeBank(capacity=2), RangeBank(capacity=2)
    feed(bank, 1e6 + noise(17, 300, 2))
    bank.reset(np.array([0, 1]))
    feed(bank, noise(18, 100, 2), start=START)
    feed(fresh, noise(18, 100, 2), start=START)
    a, b = bank.snapshot().arrays, fresh.snapshot().arrays
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def told_by(channel: str, outcomes: list[Outcome], row: int = 0) -> list[int]:
    """Steps at which the channel had as much to say of the row as makes a lone series an event."""
    number, enough = CHANNELS.index(channel), Policy().theta
    breaks = ((t, o.breaks) for t, o in enumerate(outcomes))
    return [t for t, b in breaks if ((b.rows == row) & (b.channel == number) & (b.evidence >= enough)).any()]


def hourly(spikes: list[int], size: float, policy: Policy | None = None) -> F64:
    """Scores of an hourly series of noise around 100 with spikes of `size` deviations."""
    values = 100 + noise(31, 1400)
    values[spikes] += size
    return scores(feed(RangeBank(policy), values, step=3600.0))


def test_a_rare_repeat_is_an_incident_again() -> None:
    """Every spike of one kind, five days apart, is reported although the range knows it; not without the channel."""
    spikes = list(range(200, 1400, 120))
    assert (hourly(spikes, 12.0)[spikes[1:]] >= 0.5).all()
    assert (hourly(spikes, 12.0, Policy(alarms=0))[spikes[5:]] < 0.5).all()


def test_a_channel_that_cries_often_loses_its_voice() -> None:
    """Spikes four times a day are reported at first; after weeks of it not even as often as twice the budget."""
    loud = hourly(list(range(200, 1400, 6)), 12.0) >= 0.5
    assert loud[:600].any()
    assert loud[600:].sum() / (800 / 24) < 2 * Policy().alarms


def test_a_lower_bar_is_earned_by_silence() -> None:
    """A spike that the range knows says nothing on a series of four days, and is an incident after a quiet month."""
    never_again = Policy(growth=1e9)
    assert hourly([60, 100], 9.0, never_again)[100] < 0.5
    assert hourly([60, 1000], 9.0, never_again)[1000] > 0.5


def test_one_absurd_value_does_not_blind() -> None:
    """An overflow (1e300, once) makes no break of the calm after it, and hides none of the week after."""
    values = 100 + noise(41, 4032, 2)
    values[2000, 1] = 1e300
    values[2300] += 60
    values[3900] += 160

    def evidence(outcome: Outcome, row: int) -> float:
        b = outcome.breaks
        return float(b.evidence[b.rows == row].max(initial=0.0))

    outcomes = feed(RangeBank(capacity=2), values)
    after = [evidence(o, 1) for o in outcomes[2001:2300]]
    assert max(after) < 0.15
    for at in (2300, 3900):
        plain, hit = evidence(outcomes[at], 0), evidence(outcomes[at], 1)
        assert plain > 1
        assert hit > plain / 3


def test_an_hour_is_judged_as_a_whole() -> None:
    """A wild sample in an hour of twelve is no wild hour; an hour that is off throughout is one, at its last sample."""
    values = 100 + noise(32, 3456, 2)
    values[[1000, 1500, 2000]] = 112  # the range knows these
    values[3000, 0] = 110
    values[3000:3012, 1] += 4  # a full hour
    outcomes = feed(RangeBank(capacity=2), values)
    assert scores(outcomes, 0)[2900:].max() < 0.5
    assert scores(outcomes, 1)[3011] > 0.5
    b = outcomes[3011].breaks
    assert b.rows.tolist() == [1]
    assert CHANNELS[b.channel[0]] == "hour"
    assert b.up[0]
    assert 97 < b.low[0] < 99.5 < 100.5 < b.high[0] < 103


@pytest.mark.parametrize(("minutes", "heard"), [(15, False), (45, True)])
def test_what_is_over_within_minutes_is_no_peak(minutes: int, heard: bool) -> None:
    """A quarter of an hour of samples that the range knows is no wild hour, though the mean is; most of one is."""
    values = 100 + noise(37, 3456)
    values[[1000, 2000]] = 130
    values[3000 : 3000 + minutes // 5] = 125
    assert bool(told_by("hour", feed(RangeBank(), values)[2900:])) is heard


def test_an_odd_day_does_not_teach_the_season() -> None:
    """An outage of two hours hardly moves what these hours of day take for normal."""
    hours = np.arange(16 * 24)
    values = 100 + 30 * np.sin(2 * np.pi * hours / 24) + noise(34, len(hours))
    bank = RangeBank()
    feed(bank, values[: 15 * 24], step=3600.0)
    before = bank.season[2:4, 0].copy()
    odd = values[15 * 24 :].copy()
    odd[2:4] += 500
    feed(bank, odd, start=START + 15 * 86400.0, step=3600.0)
    assert np.abs(bank.season[2:4, 0] - before).max() < 2


def test_an_excursion_is_told_once() -> None:
    """A shift that lasts two days speaks when it begins; further hours of it only when they go farther out."""
    values = 100 + noise(35, 1400)
    values[[300, 500]] += 60  # so that the range is wide
    values[1000:1048] += 20
    values[1020] += 40
    outcomes = feed(RangeBank(), values, step=3600.0)[900:1100]
    strong = [900 + t for t, o in enumerate(outcomes) if o.breaks.evidence.max(initial=0.0) > Policy().theta]
    assert strong[0] == 1000
    assert 1020 in strong
    assert len(strong) <= 5


def test_a_small_part_of_the_range_is_no_peak() -> None:
    """Twelve deviations are a peak on a calm series, and not on one that has shown peaks of a hundred."""
    for other, heard in ((12.0, True), (100.0, False)):
        values = 100 + noise(36, 1400)
        values[[300, 900]] += (other, 12.0)
        assert bool(scores(feed(RangeBank(Policy(growth=1e9)), values, step=3600.0))[900] > 0.5) is heard


@pytest.mark.parametrize("minutes", [0, 30])
def test_a_series_that_stops_moving_inside_its_range_is_told_of(minutes: int) -> None:
    """A value that freezes at its usual level, anywhere in an hour, is a fall within two hours, and then usual."""
    values = 100 + noise(40, 288 * 9)
    frozen = 288 * 8 + minutes // 5
    values[frozen:] = 100.1
    outcomes = feed(RangeBank(), values)

    at, *again = told_by("still", outcomes)
    assert frozen <= at < frozen + 24
    assert not again or again[-1] < frozen + 36
    b = outcomes[at].breaks
    assert not b.up[0]
    assert b.low[0] < b.values[0] < b.high[0]
    assert b.step[0] < 0.5 * b.least[0]
    assert scores(outcomes)[at] > 0.5


def test_a_rhythm_that_is_lost_is_told_of_though_the_values_are_usual_ones() -> None:
    """A load that keeps a tenth of its movement at its median level scores, where its range says nothing."""
    t = np.arange(288 * 9)
    values = 100 + 40 * np.sin(2 * np.pi * t / 288) + 5 * noise(41, len(t))
    values[288 * 8 :] = 100 + 0.5 * noise(42, 288)
    assert told_by("still", feed(RangeBank(), values))


def test_a_series_that_is_often_still_is_not_told_of() -> None:
    """A job that rests for hours on other days rests unnoticed."""
    values = 100 + noise(43, 288 * 9)
    for day in range(9):
        values[288 * day + 60 : 288 * day + 120] = 100
    assert not told_by("still", feed(RangeBank(), values))


def test_stillness_is_a_fall_and_harms_where_a_fall_does() -> None:
    """A latency that no longer moves is nobody's trouble: of it only what is high harms."""
    values = 100 + noise(40, 288 * 9)
    values[288 * 8 :] = 100.1
    bank = RangeBank()
    bank.mark(np.array([0]), harm=HARM_HIGH)
    assert not told_by("still", feed(bank, values))


def test_an_hour_of_few_samples_says_nothing_of_how_much_they_move() -> None:
    """Three equal samples an hour are no stillness."""
    values = 100 + noise(44, 72 * 9)
    values[72 * 8 :] = 100
    assert not told_by("still", feed(RangeBank(), values, step=1200.0))


def test_noise_alone_is_seldom_too_still() -> None:
    """Of fifty series of noise for three weeks fewer than one in a hundred days is said to be still."""
    outcomes = feed(RangeBank(capacity=50), 10 + noise(45, 288 * 21, 50))
    assert sum(len(told_by("still", outcomes, row)) for row in range(50)) < 0.01 * 21 * 50
