"""What the second tier's recipes come to at best."""

import numpy as np
import pytest

from simulations.recipes import NONE, PROFILE, hindsight, recipes
from simulations.scoring import Labelled, Nab


def corpus() -> Nab:
    ts = 300.0 * np.arange(200)
    windows = [((100, 120),), ((150, 170),), ()]
    return Nab([Labelled(f"f/{i}", ts, np.zeros(200), w, first_scored=30) for i, w in enumerate(windows)])


def test_hindsight_is_no_worse_than_any_choice_and_a_threshold_a_file_no_worse_than_that() -> None:
    """The best choice for each file is worth at least the best recipe, with a threshold of its own at least that."""
    rng = np.random.default_rng(3)
    nab = corpus()
    said = {name: [rng.random(200) for _ in nab.corpus] for name in (NONE, "one", "two")}
    chosen, free = hindsight(nab, said)
    assert max(nab.best(each, PROFILE)[0] for each in said.values()) <= chosen <= free


def test_hindsight_takes_from_each_recipe_the_file_that_it_is_right_about() -> None:
    """Of two recipes that each find one window at once and are silent elsewhere, both windows are found."""
    nab = corpus()
    said = {name: [np.zeros(200) for _ in nab.corpus] for name in ("one", "two")}
    said["one"][0][100] = said["two"][1][150] = 0.9
    assert nab.best(said["one"], PROFILE)[0] == pytest.approx(50.0)
    assert hindsight(nab, said) == pytest.approx((100.0, 100.0))


def test_recipes_for_services_are_not_played_on_lone_series() -> None:
    """The command plays the bank alone first, then what models series; it knows no other names."""
    found = list(recipes())
    assert found[0] == NONE
    assert "day" in found
    assert "joint" not in found
    with pytest.raises(OSError, match="nothing"):
        recipes(["nothing"])
