"""Nodes and zones as layers of the graph: what runs on them shares their trouble, and nothing else."""

from typing import Any

import pytest

from aiopsd.correlate.grouping.odds import Odds
from aiopsd.correlate.grouping.story import Story
from aiopsd.testing.grouping import Desk

CALLS = " ".join(f"s{i}>db{i}" for i in range(60))


ZONE = [i for i in range(60) if i // 6 % 3 == 0]  # services that `settled` puts into z0, six to a node
NEXT = 90_000.0  # s; the day after


def settled(*, zones: int = 3, calls: str = CALLS) -> Desk:
    """A day in which every service alerted once, each at its own time, and told its node and zone."""
    desk = Desk(calls)
    for i in range(60):
        fp = desk.fire(1400.0 * i, f"s{i}", "Restarted", node=f"n{i // 6}", zone=f"z{i // 6 % zones}")
        desk.end(1400.0 * i + 120.0, fp)
    desk.until(NEXT - 60.0)
    return desk


def test_a_zone_fault_is_one_incident() -> None:
    """Half of what runs in a zone falls within a minute, no call joins any of it, nothing says zone: one incident."""
    desk = settled()
    fell = [desk.fire(NEXT + 4.0 * k, f"s{i}", "PacketLoss", zone="z0") for k, i in enumerate(ZONE[::2])]
    desk.until(NEXT + 300.0)

    assert desk.together(*fell)
    assert any("of what runs on z0" in desk.reasons[fp] for fp in fell)


def test_the_members_need_not_name_the_zone_again() -> None:
    """Where a vertex runs is known from its earlier alerts: an alert without a zone label is collected as well."""
    desk = settled()
    fell = [desk.fire(NEXT + 4.0 * k, f"s{i}", "PacketLoss") for k, i in enumerate(ZONE[::2])]
    desk.until(NEXT + 300.0)

    assert desk.together(*fell)


def test_who_comes_later_is_weighed_against_the_silent_zone() -> None:
    """Once the zone is in trouble, one more of its members joins at once; a member of another zone does not."""
    desk = settled()
    fell = [desk.fire(NEXT + 3.0 * k, f"s{i}", "PacketLoss", zone="z0") for k, i in enumerate(ZONE[:12])]
    late = desk.fire(NEXT + 70.0, f"s{ZONE[15]}", "PacketLoss", zone="z0")
    other = desk.fire(NEXT + 71.0, "s6", "PacketLoss", zone="z1")

    assert desk.together(*fell, late)
    assert desk.of(other) != desk.of(late)


def test_what_was_over_when_the_zone_showed_is_not_of_it() -> None:
    """Samples say when the zone's trouble began to show: an alert that had ended by then is another incident."""
    desk = settled()
    batch = desk.fire(NEXT - 40.0, f"s{ZONE[19]}", "BatchJobFailed", zone="z0")
    desk.end(NEXT - 10.0, batch)
    anomaly = {"signal": "errors", "aiopsd_kind": "anomaly"}
    fell = [desk.fire(NEXT + 2.0 * k, f"s{i}", "AiopsdAnomaly", zone="z0", **anomaly) for k, i in enumerate(ZONE[:16])]
    desk.until(NEXT + 900.0)

    assert desk.together(*fell)
    assert desk.of(batch) != desk.of(fell[0])


def test_an_unrelated_alert_of_a_popular_zone_stays_out() -> None:
    """A fault climbs its calls in a zone where everything runs; an alert of that zone that no call joins is another."""
    calls = CALLS + " " + " ".join(f"s{i}>core" for i in range(8))
    desk = settled(zones=1, calls=calls)
    core = desk.fire(NEXT, "core", "Down", zone="z0")
    climbed = [desk.fire(NEXT + 10.0 + 3.0 * i, f"s{i}", "Slow", zone="z0") for i in range(8)]
    alone = desk.fire(NEXT + 30.0, "s40", "DiskFull", zone="z0")
    desk.until(NEXT + 300.0)

    assert desk.together(core, *climbed)
    assert desk.of(alone) != desk.of(core)


def test_three_faults_of_one_minute_in_one_zone_are_three() -> None:
    """Everything carries a zone label: a few faults at once in a zone of sixty are no fault of the zone."""
    desk = settled(zones=1)
    fell = [
        desk.fire(NEXT + 10.0 * k, s, name) for k, (s, name) in enumerate((("s1", "A"), ("s20", "B"), ("s41", "C")))
    ]
    desk.until(NEXT + 300.0)

    assert len({desk.of(fp) for fp in fell}) == 3


def test_a_bad_hour_everywhere_is_no_fault_of_a_zone() -> None:
    """As many fall elsewhere as in the zone: they stay what they are."""
    desk = settled()
    hit = [0, 1, 20, 40, 7, 9, 26, 28, 44, 50, 12, 31, 33, 48]
    fell = [desk.fire(NEXT + 5.0 * k, f"s{i}", f"Fault{k}") for k, i in enumerate(hit)]
    desk.until(NEXT + 300.0)

    assert len({desk.of(fp) for fp in fell}) == len(hit)


@pytest.mark.parametrize("when", [-10.0, 15.0, 40.0])
def test_a_node_and_what_runs_on_it(when: float) -> None:
    """The node's own alert joins the incident of its pods, whether it comes before them, between them or after them."""
    desk = settled()
    steps = [(NEXT + 6.0 * k, f"s{i}") for k, i in enumerate((12, 13, 15, 16))] + [(NEXT + when, "")]
    fell = [
        desk.fire(t, s, "PodDown" if s else "NodeDown", node="n2", **({} if s else {"job": "exporter"}))
        for t, s in sorted(steps)
    ]
    desk.until(NEXT + 300.0)

    assert desk.together(*fell)


def test_nodes_of_one_zone_fall_together() -> None:
    """Alerts of nodes, of what runs on them, and the topology that puts nodes into zones: one layer above the other."""
    edges = " ".join(f"s{i}>n{i // 4} n{i // 4}>z{i // 4 % 2}" for i in range(48))
    desk = Desk(edges, kinds={**{f"n{k}": "node" for k in range(12)}, "z0": "zone", "z1": "zone"})
    nodes = [desk.fire(4.0 * k, "", "NodeNetwork", node=f"n{k}") for k in range(0, 12, 2)]
    pods = [desk.fire(30.0 + k, f"s{4 * k}", "PacketLoss") for k in range(0, 12, 2)]
    other = desk.fire(35.0, "s4", "CertExpires")
    desk.until(300.0)

    assert desk.together(*nodes, *pods)
    assert desk.of(other) != desk.of(nodes[0])


def test_spellings_of_one_node_are_one_node() -> None:
    """`N2.example.org` and `n2` are the same node, in alerts of pods and in its own."""
    desk = settled()
    node = desk.fire(NEXT, "", "NodeDown", node="N2.example.org")
    pods = [desk.fire(NEXT + 15.0 + k, f"s{i}", "PodDown", node=n) for k, (i, n) in enumerate(((12, "n2"), (13, "N2")))]
    desk.until(NEXT + 300.0)

    assert desk.together(node, *pods)


def test_an_alert_of_an_exporter_is_one_of_its_node() -> None:
    """Job and instance of an exporter are the same on all nodes: two nodes that fail hours apart are two vertices."""
    desk = Desk(CALLS)
    one = desk.fire(0.0, "", "NodeDown", node="n1", job="node-exporter", instance="n1:9100")
    two = desk.fire(7200.0, "", "NodeDown", node="n2", job="node-exporter", instance="n2:9100")
    desk.until(300.0)

    assert desk.of(one) != desk.of(two)


def test_a_split_by_an_operator_outlives_the_zone() -> None:
    """What a person took out of an incident is not hung on the silent zone when more of it falls."""
    desk = settled()
    fell = [desk.fire(NEXT + 3.0 * k, f"s{i}", "PacketLoss", zone="z0") for k, i in enumerate(ZONE[:12])]
    desk.until(NEXT + 45.0)
    desk.say(NEXT + 46.0, "split", desk.of(fell[3]), fingerprints=(fell[3],))
    more = [desk.fire(NEXT + 50.0 + k, f"s{i}", "PacketLoss", zone="z0") for k, i in enumerate(ZONE[12:18])]
    desk.until(NEXT + 700.0)

    assert desk.together(*more, fell[4])
    assert desk.of(fell[3]) not in ("", desk.of(fell[4]))


def test_a_silent_trouble_leaves_with_its_incident() -> None:
    """After the retention nothing is left of a zone fault but what was learned of where things run."""
    desk = settled()
    fell = [desk.fire(NEXT + 4.0 * k, f"s{i}", "PacketLoss", zone="z0") for k, i in enumerate(range(6))]
    desk.end(NEXT + 900.0, *fell)
    desk.until(NEXT + 900.0 + 2.2 * 86_400.0)

    left = desk.grouper.snapshot()
    for table in ("groups", "troubles", "rows", "hot", "kept", "pairs", "agenda", "dues"):
        assert not left[table], table
    assert len(desk.grouper.crowds) == 0
    assert left["hosts"]


def test_where_things_ran_long_ago_is_forgotten() -> None:
    """A place that no alert of a vertex named for a week is no longer its own: memory is bounded by time."""
    desk = settled()
    fp = desk.fire(12 * 86_400.0, "s1", "Restarted", node="new")
    desk.end(12 * 86_400.0 + 60.0, fp)
    desk.until(15 * 86_400.0)

    assert desk.grouper.snapshot()["hosts"].keys() <= {"s1", "new"}


@pytest.mark.parametrize("order", [1, -1])
def test_a_zone_that_falls_within_a_second(order: int) -> None:
    """Whatever the order in which the alerts of one second arrive, the parts are the same, and it is one incident."""
    desk = settled()
    zone = ZONE[::order]
    fell = [desk.fire(NEXT, f"s{i}", "PacketLoss", zone="z0", starts=NEXT + 0.01 * i) for i in zone]
    desk.until(NEXT + 300.0)

    assert desk.together(*fell)


def test_the_cost_of_an_alert_does_not_grow_with_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 100 and of 400 alerts of one zone within a second is weighed against as many others."""
    weighed = [0]
    weight = Odds.weight

    def counted(self: Odds, *given: Any) -> Any:
        weighed[0] += 1
        return weight(self, *given)

    monkeypatch.setattr(Odds, "weight", counted)
    each = []
    for size in (100, 400):
        desk = Desk(" ".join(f"s{i}>db{i}" for i in range(size)))
        weighed[0] = 0
        for i in range(size):
            desk.fire(10.0, f"s{i}", "PacketLoss", zone="z0")
        desk.until(400.0)
        assert len(desk.parts()) == 1
        each.append(weighed[0] / size)

    assert each[1] <= each[0] * 1.2
    assert each[1] < 12.0


@pytest.mark.parametrize("over", [False, True])
def test_a_zone_that_is_still_down_breaks_more(over: bool) -> None:
    """Ten minutes after a zone fell another of its members does, too: of its incident, unless most of that is over."""
    desk = settled()
    fell = [desk.fire(NEXT + 4.0 * k, f"s{i}", "PacketLoss", zone="z0") for k, i in enumerate(ZONE[:14])]
    if over:
        desk.end(NEXT + 500.0, *fell)
    desk.until(NEXT + 600.0)
    late = desk.fire(NEXT + 700.0, f"s{ZONE[16]}", "PacketLoss", zone="z0")
    other = desk.fire(NEXT + 705.0, "s6", "PacketLoss", zone="z1")
    desk.until(NEXT + 1000.0)

    assert desk.together(late, fell[0]) is not over
    assert desk.of(other) not in (desk.of(late), desk.of(fell[0]))


def test_what_calls_into_a_fallen_zone_is_of_its_incident() -> None:
    """A caller elsewhere of what runs in the zone and says nothing: two steps from the zone's trouble, and told so."""
    desk = settled(calls=f"{CALLS} front>s{ZONE[15]} front>s{ZONE[16]}")
    first = desk.fire(NEXT, "front", "PacketLoss")
    fell = [desk.fire(NEXT + 4.0 + 3.0 * k, f"s{i}", "PacketLoss", zone="z0") for k, i in enumerate(ZONE[:14])]
    desk.until(NEXT + 400.0)

    assert desk.together(first, *fell)
    assert "what front calls runs on z0" in desk.reasons[first]


def test_what_fell_with_a_zone_does_not_explain_it() -> None:
    """The story of a zone fault does not have the zone's trouble run down from a service, however it is told."""
    desk = settled()
    for k, i in enumerate(ZONE[:14]):
        desk.fire(NEXT + 4.0 * k, f"s{i}", "PacketLoss", zone="z0")
    desk.until(NEXT + 300.0)
    g = desk.grouper
    (zone,) = (t for t in g.s.troubles.values() if t.vertex == "z0")
    members = [t for t in g.s.troubles.values() if t.group == zone.group and t is not zone]

    whole = Story(g.s, g.graph, g.memory, g.strangers, [zone, *members])
    grown = Story(g.s, g.graph, g.memory, g.strangers, [zone])
    for member in members:
        grown.add(member)

    assert members
    assert whole.passed["z0"][1:] == grown.passed["z0"][1:] == ("", "")
