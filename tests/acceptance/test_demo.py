"""A simulated outage through the real stages, and through the real daemon: the true cause is named, once."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
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
    """In virtual time: one page for the outage, which names its true cause and has all of it; twice alike.

    At noon, when load that breaks off with the outage leaves its mark on everything around it.
    """
    sc = scenario("demo")
    sc = msgspec.structs.replace(sc, start=sc.start + 12 * 3600.0)
    world, first = played(sc)
    _, second = played(sc)
    (truth,) = world.truth()

    hit = set(truth.affected)
    about = [i for i in first.incidents.values() if hit & set(i.services) and i.opened_at >= truth.start]
    (paged,) = [i for i in about if i.paged]  # of five alerts and five anomalies
    assert paged.root is not None
    assert paged.root.service == truth.root
    assert hit <= set(paged.services)
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
    """Without a terminal: exit 0, the cause by name, one page where there would have been more, within two minutes."""
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
    assert "  1 page went out for it:\n" in done.stdout, done.stdout
    before = re.search(r"would have had (\d+) pages", done.stdout)
    assert before is not None
    assert int(before.group(1)) > 1
