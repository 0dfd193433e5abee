"""Figures of a grouping: what they reward and what they do not forgive."""

import math

import pytest

from simulations.partition import Answer, Fired, adjusted_rand, b_cubed, figures, judge

# Two incidents of three alerts, one spell of noise that fired twice.
FIRED = [
    Fired("a1", 0.0, "A"),
    Fired("b1", 1.0, "B"),
    Fired("n1", 2.0, None, "noise"),
    Fired("a2", 3.0, "A"),
    Fired("b2", 4.0, "B"),
    Fired("a3", 5.0, "A"),
    Fired("b3", 6.0, "B"),
    Fired("n2", 7.0, None, "noise"),
]
ROOTS = {"A": "db", "B": "cache"}


def grouped(text: str, **more: object) -> Answer:
    """ "a1 a2|b1" -> groups numbered in that order."""
    group = {k: n for n, part in enumerate(text.split("|")) for k in part.split()}
    return Answer(group, **more)  # type: ignore[arg-type]  # by its fields


def test_a_perfect_answer_is_perfect() -> None:
    """The truth scores one everywhere, and nothing is hidden, mixed or split."""
    f = figures(FIRED, ROOTS, grouped("a1 a2 a3|b1 b2 b3|n1 n2", roots={0: ["db"], 1: ["cache"]}))

    assert (f["ari"], f["b3"], f["frag"], f["top1"], f["top3"]) == (1.0, 1.0, 1.0, 1.0, 1.0)
    assert (f["over"], f["hidden"], f["noise_in"], f["open_s"]) == (0.0, 0.0, 0.0, 0.0)


def test_an_incident_in_anothers_group_is_hidden_there() -> None:
    """The group tells of who opened it; the other one is hidden, and the group mixes two."""
    f = figures(FIRED, ROOTS, grouped("a1 a2 a3 b1 b2 b3|n1 n2"))

    assert f["hidden"] == 0.5
    assert f["over"] == 1.0


def test_a_group_that_noise_opened_hides_the_incident_that_follows() -> None:
    """Somebody was told of noise, not of it."""
    f = figures(FIRED, ROOTS, grouped("a1 a2 a3|n1 b2 b3 n2 b1"))
    late = figures(FIRED[:1] + FIRED[2:], ROOTS, grouped("a1 a2 a3|n1 b2 b3 n2"))

    assert f["hidden"] == 0.0
    assert late["hidden"] == 0.5
    assert late["noise_in"] == 1.0


def test_what_is_kept_quiet_tells_nobody() -> None:
    """A group without an opening time hides its incident, a late one costs seconds."""
    f = figures(FIRED, ROOTS, grouped("a1 a2 a3|b1 b2 b3|n1|n2", opened={0: None, 1: 101.0}))

    assert f["hidden"] == 0.5
    assert f["open_s"] == (3600.0 + 100.0) / 2
    assert f["notify"] == 1.5


def test_fragments_count_groups_per_incident() -> None:
    """A in three groups, B in one: two on average; the cause is read in the largest part."""
    answer = grouped("a1|a2|a3|b1 b2 b3|n1 n2", roots={0: ["web"], 3: ["cache", "db"]})
    f = figures(FIRED, ROOTS, answer)
    a, b = judge(FIRED, ROOTS, answer)

    assert f["frag"] == 2.0
    assert f["top1"] == 0.5
    assert (len(a.parts), b.first_root, b.told) == (3, "cache", 0.0)


def test_an_alert_left_out_stands_alone() -> None:
    """It is a fragment of its own."""
    assert figures(FIRED, ROOTS, grouped("a1 a2|b1 b2 b3|n1 n2"))["frag"] == 1.5


def test_chance_scores_nothing_and_labels_mean_nothing() -> None:
    """ARI is about zero for a random split and does not depend on the names of groups."""
    true = [0] * 50 + [1] * 50
    assert abs(adjusted_rand(true, [k % 2 for k in range(100)])) < 0.02
    assert adjusted_rand(true, ["x"] * 50 + ["y"] * 50) == 1.0
    assert b_cubed(true, list(range(100))) == pytest.approx(2 * (1 / 50) / (1 + 1 / 50))


def test_a_hidden_incident_is_told_never() -> None:
    """Its waiting time is infinite."""
    _, b = judge(FIRED, ROOTS, grouped("a1 a2 a3 b1 b2 b3|n1 n2"))

    assert math.isinf(b.told)
