"""The simulated world: same seed same bytes, and faults that travel as they do in production."""

import itertools
from collections import Counter

import numpy as np
import pytest

from aiopsd.config import Duration
from aiopsd.errors import ConfigError
from simulations.world import (
    BackgroundSpec,
    CallSpec,
    FaultSpec,
    LoadSpec,
    Scenario,
    ServiceSpec,
    TopologySpec,
    Truth,
    World,
    iso,
    load_scenario,
    pages_without,
    scenario,
)

NOTHING = BackgroundSpec(alerts_per_hour=0, flapping=0, deploys_per_hour=0, blips_per_hour=0)
CHAIN = (
    ServiceSpec(name="front", kind="entry", calls={"middle": CallSpec(), "aside": CallSpec(critical=0.05)}),
    ServiceSpec(name="middle", calls={"store": CallSpec()}),
    ServiceSpec(name="aside"),
    ServiceSpec(name="store", kind="datastore", replicas=1),
)
AT, LASTS = 3600.0, 1200.0


class Played:
    """One world, played to its end: columns by (metric, subject), alerts and truth."""

    def __init__(self, sc: Scenario) -> None:
        self.world = World(sc)
        chunks = list(self.world.play())
        self.ts = np.concatenate([c.ts for c in chunks]) - sc.start
        self.values = np.concatenate([c.values for c in chunks], axis=1)
        self.alerts = [(at - sc.start, batch) for c in chunks for at, batch in c.alerts]
        self.changes = [(at - sc.start, change) for c in chunks for at, change in c.changes]
        self.truth = self.world.truth()
        self.rows = {(s["__name__"], s.get("service") or s["node"]): row for row, s in enumerate(self.world.series)}

    def mean(self, metric: str, subject: str, start: float, end: float) -> float:
        inside = (self.ts >= start) & (self.ts < end)
        return float(np.nanmean(self.values[self.rows[metric, subject], inside]))

    def fired(self) -> Counter[str]:
        """Services by alert identities that fired."""
        seen = {
            (a["labels"]["alertname"], a["labels"].get("service") or a["labels"]["node"])
            for _, b in self.alerts
            for a in b
        }
        return Counter(subject for _, subject in seen)


def play(kind: str, target: str = "", *, services: tuple[ServiceSpec, ...] = CHAIN, **more: float) -> Played:
    fault = FaultSpec(kind=kind, target=target, at=Duration(AT), duration=Duration(LASTS), **more)  # type: ignore[arg-type]  # by its fields
    topology = TopologySpec(services=services, nodes=3)
    load = LoadSpec(swing=0.0)
    return Played(
        Scenario(seed=4, length=Duration(7200.0), topology=topology, load=load, faults=(fault,), background=NOTHING)
    )


def growth(p: Played, metric: str, subject: str) -> float:
    """Level in the fault over level before it."""
    return p.mean(metric, subject, AT + 300, AT + LASTS) / p.mean(metric, subject, 600, AT)


def only(p: Played) -> Truth:
    (truth,) = p.truth
    return truth


def test_same_seed_same_world_and_another_seed_another() -> None:
    """Everything follows from the seed: metrics bit for bit, alerts, changes and truth."""
    sc = Scenario(seed=9, length=Duration(2 * 3600.0), faults=(FaultSpec(kind="slow", at=Duration(3600.0)),))
    a, b, other = Played(sc), Played(sc), Played(Scenario(seed=10, length=Duration(2 * 3600.0)))

    assert np.array_equal(a.values, b.values, equal_nan=True)
    assert (a.alerts, a.changes, a.truth) == (b.alerts, b.changes, b.truth)
    assert a.values.shape != other.values.shape or not np.array_equal(a.values, other.values, equal_nan=True)


def test_a_fault_changes_nothing_before_it_starts() -> None:
    """Noise does not depend on the faults: up to the fault, two worlds of one seed are the same."""
    with_fault, without = play("errors", "store"), play("errors", "store", strength=1e-12)
    before = with_fault.ts < AT

    assert np.array_equal(with_fault.values[:, before], without.values[:, before], equal_nan=True)


def test_errors_climb_to_callers_and_not_to_bystanders() -> None:
    """A store that fails 35 % of requests fails as much for its callers; who does not depend on it is unharmed."""
    p = play("errors", "store")

    for caller in ("middle", "front"):
        assert 0.25 < p.mean("error_ratio", caller, AT + 300, AT + LASTS) < 0.45
    assert p.mean("error_ratio", "aside", AT + 300, AT + LASTS) < 0.01
    assert only(p).affected == ("front", "middle", "store")


def test_optional_call_hides_a_failure() -> None:
    """A caller that can do without the callee passes on only the critical share of its errors."""
    p = play("errors", "aside", strength=0.4)

    assert 0.01 < p.mean("error_ratio", "front", AT + 300, AT + LASTS) < 0.03


def test_latency_adds_up_along_the_calls() -> None:
    """What the store gained in latency, each caller gained in seconds, within the noise; nobody beside the path did."""
    p = play("slow", "store", strength=3.0)

    def gained(subject: str) -> float:
        metric = "latency_p99_seconds"
        return p.mean(metric, subject, AT + 300, AT + LASTS) - p.mean(metric, subject, 600, AT)

    assert gained("store") > 0.01
    assert gained("middle") == pytest.approx(gained("store"), rel=0.4)
    assert gained("front") == pytest.approx(gained("store"), rel=0.4)
    assert abs(gained("aside")) < 0.1 * gained("store")


def test_crashed_service_goes_silent_and_its_callees_lose_traffic() -> None:
    """No samples come from a dead target; nobody calls what lies below it; callers fail."""
    p = play("crash", "middle")
    dead = (p.ts >= AT) & (p.ts < AT + LASTS)

    assert np.isnan(p.values[p.rows["latency_p99_seconds", "middle"], dead]).all()
    assert (p.values[p.rows["up_ratio", "middle"], dead] == 0).all()
    assert growth(p, "request_rate", "store") < 0.05
    assert p.mean("error_ratio", "front", AT + 300, AT + LASTS) > 0.9


def test_exhaustion_is_local_and_harms_callers_only_through_what_they_see() -> None:
    """A store out of connections shows it in its own pool; its callers show errors or latency, not its resource."""
    p = play("pool_exhaustion", "store")

    assert growth(p, "connections_used_ratio", "store") > 2
    assert p.mean("error_ratio", "middle", AT + 300, AT + LASTS) > 0.02
    assert growth(p, "cpu_usage_ratio", "middle") == pytest.approx(1.0, abs=0.25)


def test_noisy_neighbour_slows_who_shares_the_node() -> None:
    """Only services on the node, and their callers, are affected; the node's CPU shows why."""
    services = (
        ServiceSpec(
            name="front", kind="entry", calls={"left": CallSpec(), "right": CallSpec(critical=0.0)}, replicas=1
        ),
        ServiceSpec(name="left", replicas=1),
        ServiceSpec(name="right", replicas=1),
    )
    topology = TopologySpec(services=services, nodes=8)
    base = Scenario(seed=1, length=Duration(7200.0), topology=topology, background=NOTHING)
    world = World(base)
    node = world.nodes[int(np.argmax(world.share[world.index["left"]]))]
    fault = FaultSpec(kind="noisy_neighbour", target=node, at=Duration(AT))
    p = Played(Scenario(seed=1, length=Duration(7200.0), topology=topology, background=NOTHING, faults=(fault,)))
    sharing = {n for n in p.world.names if p.world.share[p.world.index[n], p.world.nodes.index(node)] > 0}

    assert {"left"} <= sharing
    assert sharing <= set(only(p).affected) <= sharing | {"front"}
    assert p.mean("node_cpu_usage_ratio", node, AT + 300, AT + LASTS) > 0.85


def test_lost_traffic_is_missing_downstream_without_errors() -> None:
    """Customers who cannot reach the entry leave no error behind, only less traffic everywhere."""
    p = play("traffic_loss", "front", strength=0.9)

    for subject in p.world.names:
        assert growth(p, "request_rate", subject) == pytest.approx(0.1, abs=0.05)
        assert p.mean("error_ratio", subject, AT + 300, AT + LASTS) < 0.01


def test_bad_deploy_comes_with_its_change_event() -> None:
    """The change is reported when the fault starts, for its service, and the truth names it."""
    p = play("bad_deploy", "middle")

    ((at, change),) = p.changes
    assert (AT, "middle", "deploy", only(p).change) == (at, change["service"], change["kind"], change["id"])


def test_memory_leak_ends_in_a_kill_and_begins_again() -> None:
    """Memory climbs, a replica is killed, and the climb starts again."""
    p = play("memory_leak", "middle", strength=6.0)
    memory = p.values[p.rows["memory_usage_ratio", "middle"]]
    up = p.values[p.rows["up_ratio", "middle"]]
    inside = (p.ts >= AT) & (p.ts < AT + LASTS)

    assert memory[inside].max() > 0.95
    assert np.diff(memory[inside]).min() < -0.3
    assert 0.5 < up[inside].min() < 1.0


def test_counters_count_what_the_rates_say() -> None:
    """In counter form the requests never go down, and their increase is the rate."""
    p = Played(
        Scenario(
            seed=2, counters=True, length=Duration(3600.0), topology=TopologySpec(services=CHAIN), background=NOTHING
        )
    )
    q = Played(Scenario(seed=2, length=Duration(3600.0), topology=TopologySpec(services=CHAIN), background=NOTHING))
    total = p.values[p.rows["http_requests_total", "front"]]
    rate = q.values[q.rows["request_rate", "front"]]

    assert np.allclose(np.diff(total), rate[1:] * 15.0)


def test_alerts_are_sent_as_prometheus_sends_them() -> None:
    """After the rule's `for`, again each minute with endsAt four minutes ahead; resolved, for 15 minutes more."""
    p = play("errors", "store")
    start = p.world.scenario.start
    sent = [(at, a) for at, b in p.alerts for a in b if a["labels"]["service"] == "store"]

    def seconds(text: str) -> float:
        return float(np.datetime64(text.rstrip("Z")).astype("datetime64[ms]").astype(float)) / 1000 - start

    firing = [(at, a) for at, a in sent if seconds(a["endsAt"]) > at]
    ended = [(at, a) for at, a in sent if seconds(a["endsAt"]) <= at]
    assert firing[0][0] == pytest.approx(AT + 60, abs=45)
    assert {60.0} == {b[0] - a[0] for a, b in itertools.pairwise(firing)}
    assert {240.0} == {seconds(a["endsAt"]) - at for at, a in firing}
    assert len({a["startsAt"] for _, a in sent}) == 1
    assert ended[0][0] == seconds(ended[0][1]["endsAt"]) == pytest.approx(AT + LASTS, abs=45)
    assert ended[-1][0] - ended[0][0] == pytest.approx(900.0, abs=60)


def test_alerts_fire_along_the_affected_path_only() -> None:
    """Without background, who alerts is affected."""
    p = play("errors", "store")

    assert {"front", "middle", "store"} == set(p.fired())


def test_nothing_breaks_in_a_quiet_world() -> None:
    """Two quiet days fire no symptom alert: what a rule sees is noise, and rules hold against it."""
    sc = Scenario(seed=3, length=Duration(2 * 86400.0), topology=TopologySpec(size=25), background=NOTHING)

    assert not Played(sc).alerts


def test_load_follows_day_and_weekend() -> None:
    """Traffic at the top of a Monday is more than twice the night's, and a Saturday is below a Friday."""
    p = Played(
        Scenario(seed=3, length=Duration(6 * 86400.0), topology=TopologySpec(services=CHAIN), background=NOTHING)
    )
    hours = [p.mean("request_rate", "front", h * 3600, (h + 1) * 3600) for h in range(144)]

    assert max(hours[:24]) > 2 * min(hours[:24])
    assert sum(hours[120:144]) < 0.92 * sum(hours[96:120])


def test_generated_worlds_are_connected_and_acyclic_at_every_size() -> None:
    """Everybody but an entry has a caller, callers come before callees, names are unique."""
    for size in (3, 8, 60, 400):
        world = World(Scenario(seed=size, topology=TopologySpec(size=size)))
        called = {c for s in world.services for c in s.calls}

        assert len(set(world.names)) == len(world.names) == max(size, 3)
        assert {s.name for s in world.services if s.kind != "entry"} == called
        assert all(world.index[s.name] < world.index[c] for s in world.services for c in s.calls)


def test_every_shipped_scenario_loads_and_its_faults_hit_somebody() -> None:
    """The files in scenarios/ are valid, and their targets exist."""
    for name in ("demo", "leak", "lost-traffic", "noisy-neighbour", "quiet", "slow-store", "two-at-once"):
        world = World(scenario(name))

        assert len(world.faults) == len(world.scenario.faults)


def test_wrong_scenarios_name_their_key() -> None:
    """An unknown key, a missing callee, a cycle and a target that is not there are refused by name."""
    with pytest.raises(ConfigError, match="sede"):
        load_scenario("sede: 4")
    with pytest.raises(ConfigError, match="calls `b`"):
        World(load_scenario("topology: {services: [{name: a, kind: entry, calls: {b: {}}}]}"))
    with pytest.raises(ConfigError, match="cycle"):
        World(
            load_scenario("topology: {services: [{name: a, kind: entry, calls: {b: {}}}, {name: b, calls: {a: {}}}]}")
        )
    with pytest.raises(ConfigError, match="cannot hit `nobody`"):
        World(load_scenario("faults: [{kind: slow, target: nobody, at: 1h}]"))


def sent(at: float, *firing: str, resolved: str = "") -> tuple[float, list[dict[str, object]]]:
    """One request: alerts by name on one service."""
    labels = {"service": "s"}
    batch: list[dict[str, object]] = [
        {"labels": labels | {"alertname": name}, "endsAt": iso(at + 240.0)} for name in firing
    ]
    if resolved:
        batch.append({"labels": labels | {"alertname": resolved}, "endsAt": iso(at)})
    return at, batch


def test_pages_without_aiopsd_follow_alertmanagers_intervals() -> None:
    """A page per group, none for what ends within group_wait, a repeat after four hours, a new one after a resolve."""
    hour = 3600.0

    assert pages_without([sent(0, "A", "B"), sent(60, "A", "B")], 120) == 2
    assert pages_without([sent(0, "A"), sent(15, resolved="A")], hour) == 0
    assert pages_without([sent(0, "A")], 4.5 * hour) == 2
    assert pages_without([sent(0, "A"), sent(100, resolved="A"), sent(200, "A")], hour) == 1
    assert pages_without([sent(0, "A"), sent(100, resolved="A"), sent(900, "A")], hour) == 2
