"""A simulated outage through the real stages, and through the real daemon: the true cause is named, once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiopsd.config import Config, Duration, load
from aiopsd.model import Action
from simulations import runner
from simulations.world import BackgroundSpec, Scenario, World, scenario

CONFIG = """\
services: {labels: [service, node]}
route: {receiver: oncall}
receivers: [{name: oncall, webhook_configs: [{url: "http://127.0.0.1:9/page"}]}]
"""


def played(sc: Scenario) -> tuple[World, runner.Result]:
    world = World(sc)
    end = sc.start + sc.length
    return world, runner.run(load(CONFIG), runner.events(world), until=end)


def test_demo_scenario_names_its_cause_and_the_same_every_time() -> None:
    """In virtual time: whoever is paged for the outage reads its true cause, one page has all of it; twice alike."""
    sc = scenario("demo")
    world, first = played(sc)
    _, second = played(sc)
    (truth,) = world.truth()

    hit = set(truth.affected)
    about = [i for i in first.incidents.values() if hit & set(i.services) and i.opened_at >= truth.start]
    paged = [i for i in about if i.paged]
    assert {truth.root} == {i.root.service for i in paged if i.root}
    assert any(hit <= set(i.services) for i in paged)
    assert len(paged) <= 2  # of five alerts and five anomalies
    assert first.journal == second.journal
    assert (first.notifications, first.timeline) == (second.notifications, second.timeline)


def test_a_quiet_day_pages_only_for_the_alerts_that_somebody_else_raised() -> None:
    """Without faults and without background alerts nobody is paged: anomalies alone do not page by default."""
    sc = Scenario(
        seed=11,
        length=Duration(30 * 3600.0),
        background=BackgroundSpec(alerts_per_hour=0, flapping=0, deploys_per_hour=0, blips_per_hour=0),
    )
    _, result = played(sc)

    assert [n for n in result.notifications if n.action is Action.TRIGGER] == []
    assert result.samples > 0
    assert Config().route.page_anomalies is None


@pytest.mark.process
def test_demo_through_the_daemon_ends_by_itself_and_names_the_cause() -> None:
    """Without a terminal: exit 0, the cause by name, fewer pages than before, in less than two minutes."""
    done = subprocess.run(
        [sys.executable, "-m", "simulations", "demo"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "The incident names it." in done.stdout
    pages, before = (
        int(re.search(pattern, done.stdout).group(1))  # type: ignore[union-attr]  # one of the two
        for pattern in (r"(\d+) pages? went out", r"would have had (\d+) pages")
    )
    assert 1 <= pages < before
