"""Ranking: what explains what, in numbers that a person can check."""

import pytest

from aiopsd.correlate.rootcause import Knowledge, confidence, rank, recognised
from aiopsd.model import Alert, Candidate, ChangeEvent, Edge, Evidence, Node, TopologyUpdate
from aiopsd.topology import Topology

T0 = 1_700_000_000.0


def graph(calls: str, **kinds: str) -> Topology:
    topology = Topology(1e9)
    edges = tuple(Edge(caller=p.split(">")[0], callee=p.split(">")[1]) for p in calls.split())
    nodes = tuple(Node(name=n.replace("_", "-"), kind=k) for n, k in kinds.items())
    topology.apply(TopologyUpdate(source="test", edges=edges, nodes=nodes), T0)
    return topology


def alert(service: str, at: float = 0.0, name: str = "Slow", *, severity: str = "warning", **labels: str) -> Alert:
    return Alert(
        fingerprint=f"{service}-{name}-{at}",
        labels={"alertname": name, "service": service, "severity": severity, **labels},
        starts_at=T0 + at,
        ends_at=0.0,
        updated_at=T0 + at,
        service=service,
    )


def signal(service: str, kind: str, deviation: float, at: float = 0.0, **more: float | str) -> Evidence:
    metric = str(more.pop("metric", f"{kind}_metric"))
    return Evidence(service=service, metric=metric, kind=kind, deviation=deviation, onset=T0 + at, **more)  # type: ignore[arg-type]  # by its fields


def names(found: tuple[Candidate, ...]) -> list[str]:
    return [c.service for c in found]


def test_nothing_in_nothing_out() -> None:
    """No symptom, no candidate."""
    assert rank((), graph("a>b"), onset=T0) == ()


def test_the_deepest_alert_explains_its_callers() -> None:
    """With alerts alone, the callee that all of them reach is the cause."""
    alerts = [alert("web", 40), alert("cart", 20), alert("db", 0)]

    found = rank(alerts, graph("web>cart cart>db"), onset=T0, page=alerts[0])

    assert names(found)[0] == "db"
    assert [(x.symptom, x.cause) for x in found[0].chain] == [("web", "cart"), ("cart", "db")]
    assert all(0.5 < x.share <= 1.0 for x in found[0].chain)
    assert "web" in found[0].chain[0].text
    assert "explains 9" in found[0].chain[0].text


def test_a_callee_that_alerts_much_later_is_no_cause() -> None:
    """A symptom ten minutes before its callee's trouble is not explained by it."""
    alerts = [alert("cart", 0), alert("db", 600)]

    assert names(rank(alerts, graph("cart>db"), onset=T0))[0] == "cart"


def test_the_stronger_callee_takes_the_blame() -> None:
    """Of two anomalous callees the one that adds more to the caller's latency is first."""
    evidence = [
        signal("web", "latency", 20, level=1.0, normal=0.1, metric="p99"),
        signal("cart", "latency", 20, level=0.9, normal=0.05, metric="p99"),
        signal("search", "latency", 20, level=0.06, normal=0.03, metric="p99"),
    ]

    found = rank((), graph("web>cart web>search"), evidence, onset=T0)

    assert names(found)[0] == "cart"
    assert found[0].metric == "p99"
    assert "p99 0.9 (normally 0.05)" in found[0].reason


def test_chronic_trouble_explains_nothing_new() -> None:
    """A deviation that was there before the onset already loses to a new one of half the size."""
    evidence = [signal("old", "latency", 50, lead_in=50.0), signal("new", "latency", 20)]

    assert names(rank((), graph("web>old web>new"), evidence, onset=T0))[0] == "new"


def test_a_resource_at_the_callee_explains_its_callers_symptom() -> None:
    """A saturated processor below beats the latency that it causes above."""
    evidence = [signal("web", "latency", 30), signal("db", "resource", 60, metric="cpu")]

    found = rank((), graph("web>db"), evidence, onset=T0)

    assert names(found)[0] == "db"
    assert found[0].metric == "cpu"


@pytest.mark.parametrize("kind", ["other", "traffic", "saturation"])
def test_what_all_callers_in_trouble_call_is_the_cause_whatever_its_metric_means(kind: str) -> None:
    """A store far outside its range goes before the silent node that two of its three callers run on."""
    calls = "web>orders orders>db reports>db billing>db catalog>store orders>node reports>node catalog>node billing>n2"
    callers = ("orders", "reports", "billing", "web")
    evidence = [signal(s, "errors", 90, level=0.2, normal=0.01, scale=0.002) for s in callers]
    evidence.append(signal("db", kind, 26, metric="m", level=100.0, normal=40.0, scale=2.3))
    page = alert("orders", 0)

    found = rank([page], graph(calls, node="node", n2="node"), evidence, onset=T0, page=page)

    assert names(found)[0] == "db"
    assert "calls db (m 100 (normally 40)" in found[0].chain[-1].text


def test_fewer_requests_at_a_callee_are_its_callers_trouble() -> None:
    """What is called less by those that fail does not speak for itself: it is as silent as one that says nothing."""
    evidence = [signal(s, "errors", 90, level=0.2, normal=0.01, scale=0.002) for s in ("orders", "reports")]
    evidence.append(signal("db", "traffic", 26, metric="requests", level=4.0, normal=40.0, scale=1.4))
    page = alert("orders", 0)

    found = rank([page], graph("orders>db reports>db orders>cache"), evidence, onset=T0, page=page)

    assert names(found)[0] != "db"


def test_a_trouble_of_one_vertex_weighs_what_it_does_beside_one_that_has_nothing_to_do_with_it() -> None:
    """All its kinds of signal, and the names that history finds at origins."""
    calls, page = graph("web>pay pay>db cron>batch"), alert("pay")  # who has no caller may be called by pay
    evidence = [signal("pay", "latency", 30), signal("pay", "errors", 8), signal("pay", "resource", 5, metric="cpu")]
    known = Knowledge(origin={"Slow": 1.5})

    alone = rank([page], calls, evidence, onset=T0, page=page, feedback=known)
    beside = rank([page, alert("batch", 5)], calls, evidence, onset=T0, page=page, feedback=known)

    assert names(alone) == ["pay"]
    pay = next(c for c in beside if c.service == "pay")
    assert (alone[0].score, alone[0].reason, alone[0].chain) == (pay.score, pay.reason, pay.chain)


def test_who_fell_silent_is_told_in_the_words_of_its_alert() -> None:
    """A cause that shows no number outside of its range says what its alert says, not that it deviates."""
    flat = signal("pay", "latency", 0.1, channel="no-data")
    gone = Alert(
        fingerprint="g",
        labels={"alertname": "AiopsdAnomaly", "service": "pay", "signal": "no-data"},
        annotations={"summary": "no data from service pay, 3 series since 02:00:00 UTC"},
        starts_at=T0,
        ends_at=0.0,
        updated_at=T0,
        service="pay",
        anomaly=True,
        evidence=(flat,),
    )

    (cause, *_) = rank((gone,), graph("web>pay"), (flat,), onset=T0)

    assert cause.reason.startswith("pay: no data from service pay, 3 series since 02:00:00 UTC")


def test_vertices_without_data_are_looked_through() -> None:
    """A gateway that exports nothing does not hide the cause behind it."""
    alerts = [alert("web", 30), alert("db", 0)]

    assert names(rank(alerts, graph("web>gateway gateway>db"), onset=T0))[0] == "db"


def test_symptoms_of_the_pages_kind_count_most() -> None:
    """When latency was paged, errors elsewhere come second."""
    page = alert("web")
    page = Alert(
        fingerprint="p",
        labels=page.labels,
        starts_at=T0,
        ends_at=0.0,
        updated_at=T0,
        service="web",
        anomaly=True,
        evidence=(signal("web", "latency", 30),),
    )
    evidence = [signal("cart", "latency", 25), signal("search", "errors", 200)]

    assert names(rank([page], graph("web>cart web>search"), evidence, onset=T0, page=page))[0] == "cart"


def test_a_silent_dependency_of_many_is_the_cause() -> None:
    """Callers of one service that says nothing, all within seconds: it is named, and the reason says so."""
    alerts = [alert(f"s{i}", 2.0 * i) for i in range(6)]

    found = rank(alerts, graph(" ".join(f"s{i}>db" for i in range(6))), onset=T0)

    assert names(found)[0] == "db"
    assert "says nothing itself" in found[0].reason


def test_the_node_under_several_services_is_a_candidate() -> None:
    """Services that only share a host blame the host, which is a node and no service."""
    alerts = [alert(f"s{i}", 2.0 * i, node="host-1") for i in range(4)]

    found = rank(alerts, graph("s0>a s1>b s2>c s3>d"), onset=T0)

    assert (found[0].service, found[0].kind) == ("host-1", "node")


def test_the_zone_that_only_labels_know_is_a_zone() -> None:
    """Services that share nothing but the zone in their labels, whose probe fails as well: a zone is to blame."""
    alerts = [alert(f"s{i}", 2.0 * i, zone="eu-1a") for i in range(4)]

    silent = rank(alerts, graph("s0>a s1>b s2>c s3>d"), onset=T0)[0]
    probed = rank([*alerts, alert("", 0, "ProbeSlow", zone="eu-1a")], graph("s0>a s1>b s2>c s3>d"), onset=T0)[0]

    assert (silent.service, silent.kind) == ("eu-1a", "zone")
    assert (probed.service, probed.kind) == ("eu-1a", "zone")


def test_a_node_that_alerts_alone_is_a_node() -> None:
    """An exporter's alert names its node: that is no service, though nothing else is in trouble and no graph has it."""
    (only,) = rank([alert("", 0, "NodeNotReady", node="host-1", job="kube-state-metrics")], graph(""), onset=T0)

    assert (only.service, only.kind) == ("host-1", "node")


@pytest.mark.parametrize(
    ("kind", "expected"), [("zone", "zone"), ("external", "external"), ("host", "node"), ("datastore", "service")]
)
def test_candidates_say_what_they_are(kind: str, expected: str) -> None:
    """The kind of a candidate comes from the graph."""
    found = rank([alert("x")], graph("web>x", x=kind), onset=T0)

    assert found[0].kind == expected


def test_a_change_just_before_tips_the_balance() -> None:
    """Of two equal candidates the one deployed three minutes before is first, and its reason says so."""
    change = ChangeEvent(id="c1", service="search", kind="deploy", ts=T0 - 180, version="v7")
    evidence = [signal("cart", "latency", 20), signal("search", "latency", 20)]

    found = rank((), graph("web>cart web>search"), evidence, [change], onset=T0)

    assert names(found)[0] == "search"
    assert found[0].changes == (change,)
    assert "deploy v7 3 min before" in found[0].reason


def test_a_change_after_the_onset_is_no_cause() -> None:
    """What was deployed ten minutes into the trouble did not cause it."""
    change = ChangeEvent(id="c1", service="search", kind="deploy", ts=T0 + 600)
    evidence = [signal("cart", "latency", 20), signal("search", "latency", 20)]

    found = rank((), graph("web>cart web>search"), evidence, [change], onset=T0)

    assert all(not c.changes for c in found)


def test_a_change_counts_against_the_onset_of_its_own_service() -> None:
    """An incident that began two minutes earlier, with a neighbour's noise, does not hide the deploy that broke it."""
    change = ChangeEvent(id="c1", service="search", kind="deploy", ts=T0 + 110, version="v7")
    evidence = [
        signal("store", "resource", 6),
        signal("search", "latency", 60, at=120.0),
        signal("web", "latency", 50, at=125.0),
    ]

    found = rank((), graph("web>search search>store"), evidence, [change], onset=T0)

    assert names(found)[0] == "search"
    assert found[0].changes == (change,)
    assert "deploy v7 0 min before" in found[0].reason


def test_an_operators_word_counts_next_time() -> None:
    """A service confirmed as a cause before wins a tie."""
    evidence = [signal("cart", "latency", 20), signal("search", "latency", 20)]
    topology = graph("web>cart web>search")

    plain = names(rank((), topology, evidence, onset=T0))[0]
    other = "search" if plain == "cart" else "cart"
    taught = rank((), topology, evidence, onset=T0, feedback=Knowledge(causes={other: 1.0}))

    assert names(taught)[0] == other


def test_cycles_end() -> None:
    """Blame in a cycle is finite and somebody is named."""
    alerts = [alert("a"), alert("b", 1), alert("c", 2)]

    found = rank(alerts, graph("a>b b>c c>a"), onset=T0)

    assert len(found) == 3
    assert all(c.score < 10 for c in found)


def test_confidence_grows_with_the_lead() -> None:
    """More share and more lead is more certain; nothing is certain."""
    evidence = [signal("cart", "latency", 20), signal("search", "latency", 19)]
    even = rank((), graph("web>cart web>search"), evidence, onset=T0)[0]
    clear = rank((), graph("web>cart web>search"), [evidence[0], signal("search", "latency", 3.1)], onset=T0)[0]

    assert 0.0 < even.confidence < clear.confidence < 1.0
    assert clear.confidence == pytest.approx(confidence(clear.signs), abs=1e-3)


def test_the_limit_holds() -> None:
    """At most `limit` candidates come back, best first."""
    alerts = [alert(f"s{i}") for i in range(9)]

    assert len(rank(alerts, graph("x>y"), onset=T0, limit=3)) == 3


def test_what_fills_up_is_named_before_what_is_busy() -> None:
    """A memory leak burns the processor too; the explanation leads with the memory."""
    evidence = [
        signal("db", "resource", 900, metric="cpu_usage", level=90.0, normal=1.0),
        signal("db", "resource", 40, metric="memory_bytes", level=9e8, normal=3e8),
        signal("web", "resource", 0.1, metric="memory_bytes", level=3e8, normal=3e8),
    ]

    found = rank((), graph("web>db"), evidence, onset=T0)

    assert found[0].metric == "memory_bytes"


def test_a_small_rise_of_memory_is_not_what_fills_up() -> None:
    """A tiny service that doubles its memory while its processor burns has a processor problem."""
    evidence = [
        signal("db", "resource", 900, metric="cpu_usage", level=90.0, normal=1.0),
        signal("db", "resource", 40, metric="memory_bytes", level=2e7, normal=1e7),
        signal("web", "resource", 0.1, metric="memory_bytes", level=3e8, normal=3e8),
        signal("cart", "resource", 0.1, metric="memory_bytes", level=3e8, normal=3e8),
    ]

    found = rank((), graph("web>db"), evidence, onset=T0)

    assert found[0].metric == "cpu_usage"


def history(normal: float, *recent: float, step: float = 300.0) -> tuple[tuple[float, float], ...]:
    """Ten normal samples, then these; the last one at T0."""
    values = [normal] * 10 + list(recent)
    return tuple((T0 - step * (len(values) - 1 - i), v) for i, v in enumerate(values))


def test_a_late_page_does_not_turn_its_trouble_into_lead_in() -> None:
    """Paged three samples after the trouble began, the cause is judged by what was before the trouble, not the page."""
    recent = history(0.1, 0.9, 0.9, 0.9)
    evidence = [
        signal("web", "latency", 40, lead_in=40.0, level=0.9, normal=0.1, scale=0.02, recent=recent),  # type: ignore[arg-type]  # by its fields
        signal("db", "latency", 40, lead_in=40.0, level=0.9, normal=0.1, scale=0.02, recent=recent),  # type: ignore[arg-type]  # by its fields
        signal("odd", "latency", 8, level=0.3, normal=0.1, scale=0.02, recent=history(0.1, 0.1, 0.1, 0.26)),  # type: ignore[arg-type]  # by its fields
    ]
    page = alert("web")

    found = rank([page], graph("web>db web>odd"), evidence, onset=T0, page=page)

    assert names(found)[0] == "db"


def test_a_metric_that_nobody_knows_is_compared_with_itself() -> None:
    """Under names that say nothing, the callee that shows the same metric as its callers is the cause."""
    evidence = [
        signal("web", "other", 30, metric="m1", level=9.0, normal=1.0),
        signal("cart", "other", 25, metric="m1", level=9.0, normal=1.0),
        signal("search", "other", 30, metric="m2", level=9.0, normal=1.0),
    ]
    page = alert("web")

    assert names(rank([page], graph("web>cart web>search"), evidence, onset=T0, page=page))[0] == "cart"


def test_a_resource_that_is_used_less_is_a_weak_cause() -> None:
    """Memory that fell far weighs less than a processor that rose as far."""
    evidence = [
        signal("db", "resource", 50, metric="memory", level=1.0, normal=4.0),
        signal("pay", "resource", 50, metric="cpu", level=4.0, normal=1.0),
    ]

    assert names(rank((), graph("web>db web>pay"), evidence, onset=T0))[0] == "pay"


def test_what_nothing_in_the_graph_explains_is_blamed_on_something_outside() -> None:
    """Five services that depend on nothing in common fail within seconds: the cause is said not to be in the graph."""
    alerts = [alert(f"s{i}", 3.0 * i) for i in range(5)]

    found = rank(alerts, graph(" ".join(f"s{i}>d{i}" for i in range(5))), onset=T0)

    assert (found[0].service, found[0].kind) == ("", "unknown")
    assert "not in the graph" in found[0].reason
    assert {c.service for c in found[1:]} <= {f"s{i}" for i in range(5)}


def test_without_a_graph_nothing_is_outside_of_it() -> None:
    """Five services that no graph knows fail within seconds: one of them is named, not something unknown."""
    alerts = [alert(f"s{i}", 3.0 * i) for i in range(5)]

    found = rank(alerts, graph("web>cart"), onset=T0)

    assert {c.service for c in found} == {f"s{i}" for i in range(5)}


def test_what_is_outside_may_show_minutes_apart() -> None:
    """Rules wait: five services that share nothing fail within two minutes, and it is still something outside."""
    alerts = [alert(name, 30.0 * i) for i, name in enumerate("abcde")]

    found = rank(alerts, graph("a>x1 b>x2 c>x3 d>x4 e>x5"), onset=T0)

    assert (found[0].service, found[0].kind) == ("", "unknown")


def test_a_surge_is_blamed_on_who_stands_above_all_of_it() -> None:
    """What an entry calls is in trouble within a minute, and nothing below any of it is: the entry sent the load."""
    below = ("ads", "cart", "media", "pay", "search")
    alerts = [alert(name, 10.0 * i) for i, name in enumerate(below)]
    calls = " ".join(f"web>{name}" for name in below) + " search>index index>shards"
    entry, deep = alert("web", 60), alert("shards", 50)

    found = rank([*alerts, entry, deep], graph(calls), onset=T0, page=alerts[0])

    assert names(found)[0] == "web"
    assert [(x.symptom, x.cause, x.edge) for x in found[0].chain] == [("ads", "web", "called_by")]
    paged = rank([*alerts, entry, deep], graph(calls), onset=T0, page=deep)
    assert paged[0].chain[0].text.startswith("shards (Slow) is called by ")
    silent = rank([*alerts, deep], graph(calls), onset=T0)[0]
    assert (silent.service, silent.reason) == (
        "web",
        "web says nothing itself, but ads, cart and 4 more get their load from it and nothing else explains them",
    )
    most_are_well = calls + "".join(f" web>well-{i}" for i in range(40))
    assert names(rank([*alerts, entry, deep], graph(most_are_well), onset=T0))[0] == ""
    others_call_them, too = calls, " ".join(f"other-{i}>{name}" for i in range(2) for name in below)
    assert names(rank([*alerts, entry, deep], graph(f"{others_call_them} {too}"), onset=T0))[0] == ""


def test_what_a_callee_breaks_is_no_surge() -> None:
    """Everything below an entry is in trouble, but the lowest of it explains the rest: no load needs to be blamed."""
    alerts = [alert("web", 60), alert("cart", 30), alert("orders", 35), alert("pay", 20), alert("db", 0)]

    found = rank(alerts, graph("web>cart web>orders web>pay cart>db orders>db pay>db"), onset=T0)

    assert names(found)[0] == "db"


def test_a_zone_that_is_gone_needs_no_second_cause_outside() -> None:
    """Half of the trouble stands in one silent zone; the other half is not blamed on something unknown besides."""
    there = " ".join(f"a{i}>zone-a" for i in range(5))
    elsewhere = " ".join(f"b{i}>y{i}" for i in range(4))
    alerts = [alert(f"a{i}", 2.0 * i) for i in range(5)] + [alert(f"b{i}", 40.0 + i) for i in range(4)]

    found = rank(alerts, graph(f"{there} {elsewhere}", zone_a="zone"), onset=T0)

    assert (found[0].service, found[0].kind) == ("zone-a", "zone")
    assert "" not in names(found)


def test_a_healthy_dependency_is_not_the_silent_cause() -> None:
    """A callee that counts its requests and shows nothing else speaks, and is well."""
    alerts = [alert(f"s{i}", 2.0 * i) for i in range(3)]
    traffic = [signal("db", "traffic", 0, traffic=10.0)]

    found = rank(alerts, graph(" ".join(f"s{i}>db" for i in range(3))), traffic, onset=T0)

    assert "db" not in names(found)


def test_labels_place_only_what_alerts() -> None:
    """Two services that name one zone are no proof against it: who is well there never told us so."""
    alerts = [alert("web", 30, zone="z1"), alert("db", 0, zone="z1")]

    assert names(rank(alerts, graph("web>db"), onset=T0))[0] == "db"


def test_a_zone_whose_nodes_are_in_trouble_is_the_cause() -> None:
    """Most nodes of a zone say so themselves, and what runs there: the zone that they share, not one of them."""
    nodes = [f"n{i}" for i in range(6)]
    calls = " ".join((*(f"s{i}>n{i}" for i in range(6)), *(f"{n}>z1" for n in nodes)))
    alerts = [alert(n, i, "NodeNetworkErrors") for i, n in enumerate(nodes[:5])]
    alerts += [alert(f"s{i}", 20 + i, "PacketLoss", zone="z1") for i in range(4)]

    found = rank(alerts, graph(calls, z1="zone", **dict.fromkeys(nodes, "host")), onset=T0)

    assert (found[0].service, found[0].kind) == ("z1", "zone")


def test_load_that_runs_down_is_blamed_on_who_sends_it() -> None:
    """A store and its callers are slow, and one caller shows what is never passed on, just before: it is to blame."""
    alerts = [alert("batch", 0, "ManyRequests"), alert("db", 15), alert("web", 40), alert("cart", 45)]
    calls = graph("batch>db web>db cart>db")

    known = rank(alerts, calls, onset=T0, page=alerts[2], feedback=Knowledge(local={"ManyRequests": 2.0, "Slow": -2.0}))

    assert names(known)[0] == "batch"
    assert [(x.symptom, x.cause, x.edge) for x in known[0].chain] == [
        ("web", "db", "calls"),
        ("db", "batch", "called_by"),
    ]
    assert "db (Slow) is called by batch" in known[0].chain[1].text
    passed_on = Knowledge(local={"ManyRequests": -2.0, "Slow": -2.0})
    assert names(rank(alerts, calls, onset=T0, page=alerts[2], feedback=passed_on))[0] == "db"


def test_what_speaks_for_the_store_speaks_for_who_loads_it() -> None:
    """The store shows what is usually found at origins: trouble climbed from there, as it does under load, too."""
    alerts = [alert("batch", 0, "ManyRequests"), alert("db", 15, "PoolFull"), alert("web", 40), alert("cart", 45)]
    known = Knowledge(local={"ManyRequests": 3.0, "PoolFull": 3.0, "Slow": -2.0}, origin={"PoolFull": 4.0})

    assert names(rank(alerts, graph("batch>db web>db cart>db"), onset=T0, feedback=known))[:2] == ["batch", "db"]


def test_a_pair_is_enough_for_a_name_that_history_knows() -> None:
    """Store and sender alone: who of both began it is told by what history knows of the sender's alert."""
    alerts = [alert("batch", 0, "ManyRequests"), alert("db", 15)]

    known = rank(alerts, graph("batch>db"), onset=T0, feedback=Knowledge(local={"ManyRequests": 3.0}))

    assert names(known)[0] == "batch"
    assert names(rank(alerts, graph("batch>db"), onset=T0))[0] == "db"


def test_a_name_that_history_does_not_know_may_be_the_sender() -> None:
    """Nobody has seen a backlog before: who alone has one, before its store, is to blame."""
    topology = graph("batch>store cart>store pay>store web>cart")
    others = [alert(name, at) for name, at in (("store", 0), ("cart", 15), ("pay", 20))]

    first, second = rank([alert("batch", -20, "Backlog"), *others], topology, onset=T0 - 20)[:2]

    assert (first.service, second.service) == ("batch", "store")
    assert names(rank([alert("batch", -20), *others], topology, onset=T0 - 20))[0] == "store"


def test_where_all_have_names_of_their_own_one_more_says_nothing() -> None:
    """Every team has alertnames of its own: that only the batch job has its one does not make it the sender."""
    topology = graph("batch>store cart>store pay>store web>cart")
    others = [alert(name, at, f"{name} is slow") for name, at in (("store", 0), ("cart", 15), ("pay", 20))]

    assert names(rank([alert("batch", -20, "Backlog"), *others], topology, onset=T0 - 20))[0] == "store"


def test_a_name_of_its_own_after_the_trouble_sends_nothing() -> None:
    """A backlog long after the store failed is a consequence; so is one that history finds in company."""
    topology = graph("batch>store cart>store pay>store web>cart")
    others = [alert(name, at) for name, at in (("store", 0), ("cart", 15), ("pay", 20))]

    later = rank([alert("batch", 90, "Backlog"), *others], topology, onset=T0)
    common = Knowledge(local={"Backlog": -3.0})
    usual = rank([alert("batch", -20, "Backlog"), *others], topology, onset=T0, feedback=common)

    for found in (later, usual):
        assert found[0].service == "store"
        assert found[1].score < 0.5 * found[0].score


def test_trouble_of_its_own_is_no_symptom_of_a_silent_dependency() -> None:
    """Two callers of one that says nothing: it is named, unless history finds what one of them shows at origins."""
    alerts = [alert("worker", 0, "Killed"), alert("web", 10)]
    topology = graph("worker>cache web>cache web>worker")

    assert names(rank(alerts, graph("worker>cache web>cache"), onset=T0))[0] == "cache"
    assert names(rank(alerts, topology, onset=T0, feedback=Knowledge(origin={"Killed": 4.0})))[0] == "worker"


def test_an_alert_that_comes_again_is_no_further_proof() -> None:
    """One that flaps says what it said the first time: scores stay the same."""
    once = [alert("db", 0, "Killed"), alert("web", 20)]
    known = Knowledge(origin={"Killed": 2.0})

    scores = [
        {c.service: c.score for c in rank(alerts, graph("web>db"), onset=T0, feedback=known)}
        for alerts in (once, [*once, alert("db", 300, "Killed"), alert("db", 600, "Killed")])
    ]

    assert scores[0] == scores[1]


def test_what_runs_on_a_node_does_not_send_it_load() -> None:
    """A service with an alert of its own just before its node's is in trouble by the node, not the other way round."""
    alerts = [alert("a", -10, "Odd"), alert("b", 5), alert("c", 8), alert("node-1", 0, "NodeCPUHigh")]

    found = rank(alerts, graph("a>node-1 b>node-1 c>node-1", node_1="node"), onset=T0 - 10)

    assert (found[0].service, found[0].kind) == ("node-1", "node")


def test_the_order_of_what_is_given_does_not_matter() -> None:
    """Permuted alerts and evidence give equal candidates, scores and words included."""
    alerts = [alert(f"s{i}", 2.0 * i) for i in range(4)]
    evidence = [signal(f"s{i}", k, 20 + i, metric=k) for i in range(4) for k in ("latency", "resource", "errors")]
    topology = graph("s0>s1 s1>s2 s0>s3 s3>s2")

    assert rank(alerts, topology, evidence, onset=T0) == rank(alerts[::-1], topology, evidence[::-1], onset=T0)


def test_a_rarely_called_callee_adds_little() -> None:
    """A callee that only one request in twenty reaches does not explain the mean of all of them."""
    evidence = [
        signal("web", "latency", 20, level=1.0, normal=0.1, metric="mean"),
        signal("rare", "latency", 20, level=1.0, normal=0.1, metric="mean"),
        signal("often", "latency", 20, level=0.9, normal=0.1, metric="mean"),
        signal("web", "traffic", 0, metric="rps", traffic=100.0),
        signal("rare", "traffic", 0, metric="rps", traffic=5.0),
        signal("often", "traffic", 0, metric="rps", traffic=100.0),
    ]

    assert names(rank((), graph("web>rare web>often"), evidence, onset=T0))[0] == "often"


def test_a_shared_zone_is_not_blamed_for_what_calls_explain() -> None:
    """Callers in trouble with their callee happen to share its silent zone: the callee is the cause, not the zone."""
    alerts = [alert("web", 20), alert("cart", 10), alert("orders", 12), alert("db", 0)]
    topology = graph("web>cart web>orders cart>db orders>db web>z cart>z orders>z db>z", z="zone")

    assert names(rank(alerts, topology, onset=T0))[0] == "db"


def test_what_explains_nothing_that_alerts_comes_after_what_does() -> None:
    """Louder trouble elsewhere, which nobody who alerts can feel, does not outdo the callee that explains the page."""
    calls = graph("web>cart web>pay pay>mail")
    evidence = [
        signal("web", "latency", 12, level=1.0, normal=0.1, metric="mean"),
        signal("cart", "latency", 8, level=0.8, normal=0.1, metric="mean"),
        signal("mail", "latency", 900, level=9.0, normal=0.1, metric="mean"),
        signal("pay", "traffic", 0, metric="requests", traffic=10.0),
    ]

    found = rank([alert("web")], calls, evidence, onset=T0, page=alert("web"))

    assert names(found)[0] == "cart"
    assert "mail" in names(found)


@pytest.mark.parametrize(("step", "first"), [(300.0, "cart"), (15.0, "web")])
def test_an_onset_is_as_exact_as_its_series_is_sampled(step: float, first: str) -> None:
    """A callee seen five minutes after its caller explains it if it is sampled that seldom, and not if it is often."""
    evidence = [
        signal("web", "latency", 20, level=1.0, normal=0.1, metric="mean", recent=((T0, 1.0),)),
        signal(
            "cart", "latency", 20, 300.0, level=1.0, normal=0.1, scale=0.05, metric="mean",
            recent=((T0 + 300.0 - step, 0.1), (T0 + 300.0, 1.0)),
        ),
    ]  # fmt: skip

    assert names(rank([alert("web")], graph("web>cart"), evidence, onset=T0, page=alert("web")))[0] == first


def test_means_are_explained_by_means() -> None:
    """A callee whose slowest requests alone got slower adds nothing to its caller's mean, whatever its p99 says."""
    evidence = [
        signal("web", "latency", 20, level=1.0, normal=0.1, metric="latency_mean"),
        signal("mail", "latency", 40, level=2.0, normal=0.2, metric="latency_p99"),
        signal("mail", "latency", 0.2, level=0.101, normal=0.1, metric="latency_mean"),
        signal("cart", "latency", 10, level=0.8, normal=0.1, metric="latency_mean"),
    ]

    found = rank([alert("web")], graph("web>cart web>mail"), evidence, onset=T0, page=alert("web"))

    assert names(found)[0] == "cart"


def shown(service: str, level: float, normal: float, at: float = 0.0, requests: float = 100.0) -> list[Evidence]:
    """A service that counts its requests and whose mean latency rose to this level."""
    return [
        signal(service, "latency", 20, at, level=level, normal=normal, metric="latency_mean"),
        signal(service, "traffic", 0, metric="requests", traffic=requests),
    ]


def test_a_call_that_no_graph_knows_is_found_by_what_its_caller_feels() -> None:
    """What nobody is known to call shows the page's trouble, at once and as much of it: it is named, as a guess."""
    evidence = [*shown("web", 0.2, 0.1), *shown("pay", 0.6, 0.1, requests=20.0), *shown("report", 0.9, 0.1, at=-1800.0)]
    page = alert("web")

    found = rank([page], graph("web>cart pay>bank report>store"), evidence, onset=T0, page=page)

    assert names(found)[0] == "pay"
    assert [(x.symptom, x.cause, x.edge) for x in found[0].chain] == [("web", "pay", "suspected")]
    assert "web (latency_mean 0.2 (normally 0.1)) may depend on pay" in found[0].chain[0].text


def test_who_adds_far_more_than_the_page_shows_is_not_called_by_it() -> None:
    """A stranger got slower by seconds on every request, the page by a tenth: the page does not wait for it."""
    evidence = [*shown("web", 0.2, 0.1), *shown("report", 9.0, 0.1)]
    page = alert("web")

    assert names(rank([page], graph("web>cart report>store"), evidence, onset=T0, page=page))[0] == "web"


def test_a_known_caller_speaks_against_an_unknown_one() -> None:
    """What somebody else is known to call is not taken for a callee of the page."""
    evidence = [*shown("web", 0.2, 0.1), *shown("pay", 0.2, 0.1)]
    page = alert("web")

    assert names(rank([page], graph("web>cart shop>pay"), evidence, onset=T0, page=page))[0] == "web"


def test_a_share_of_requests_is_known_by_its_bound() -> None:
    """A metric without a telling name that is at 100 and never above at most services is what succeeds: less harms."""

    def nameless(service: str, *last: float, top: float = 100.0) -> Evidence:
        recent = history(top, *last)
        return signal(service, "other", 3, metric="m07", normal=top, level=last[-1], scale=5.0, recent=recent)

    served = [nameless("web", 97.0, 96.0), nameless("cart", 90.0, 91.0), nameless("mail", 100.0, 100.00000001)]
    free = [nameless(name, 100.0, 103.0) for name in ("web", "cart", "mail")]
    small = [nameless(name, 0.0, 100.0, top=0.0) for name in ("web", "cart", "mail")]

    known = recognised(served, T0 - 450.0)
    assert [(e.kind, e.harm) for e in known] == [("availability", "low")] * 3
    assert [e.deviation > 9 for e in known] == [True, True, False]  # of a tenth of a point, not of what it had learned
    assert recognised(free, T0) == free
    assert recognised(small, T0) == small


def test_who_would_show_it_and_does_not_is_well() -> None:
    """A callee whose latency is known and calm is no silent cause, whether or not anybody counts its requests."""
    alerts = [alert("web"), alert("shop", 5)]
    calls = graph("web>auth shop>auth")
    calm = [signal("auth", "latency", 0.1, metric="mean", level=0.1, normal=0.1)]

    assert names(rank(alerts, calls, onset=T0))[0] == "auth"
    assert "auth" not in names(rank(alerts, calls, calm, onset=T0))
