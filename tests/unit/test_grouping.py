"""Parts of the grouper: ids, reasons, names, decay, links."""

from itertools import permutations

import pytest

from aiopsd.correlate.grouping.memory import ROWS, Memory
from aiopsd.correlate.grouping.state import HALF_LIFE, Count, State
from aiopsd.correlate.place import name_of, place_of
from aiopsd.model import Alert, content_id
from aiopsd.testing.grouping import START, Desk
from aiopsd.topology import Topology


def alert(service: str = "", *, anomaly: bool = False, **labels: str) -> Alert:
    return Alert(
        fingerprint="f", labels=labels, starts_at=START, ends_at=0.0, updated_at=START, service=service, anomaly=anomaly
    )


def test_the_id_of_an_incident_is_its_openers_content() -> None:
    """The same alert gives the same id, today and in a replay."""
    desk = Desk("a>b")
    fp = desk.fire(5, "a")

    assert desk.of(fp) == content_id("incident", fp, START + 5)


def test_an_anomaly_is_named_by_its_signal() -> None:
    """Two signals of one service are two kinds of alert."""
    one = alert("a", anomaly=True, alertname="AiopsdAnomaly", signal="latency")

    assert name_of(one) == "AiopsdAnomaly/latency"
    assert name_of(alert("a", alertname="Slow", signal="x")) == "Slow"


def test_counts_halve() -> None:
    """What was learned a half-life ago counts half."""
    count = Count()
    count.add(1000.0, 4.0)

    assert count.read(1000.0 + HALF_LIFE) == pytest.approx(2.0)


def test_what_fires_alone_is_counted_for_so_many_pairs_and_no_more() -> None:
    """Beyond the bound the quarter seen least is forgotten at once, so that not every settled trouble looks for it."""
    s = State(now=START)
    s.alone = {f"v|{i}": Count(1.0 if i % 4 else 2.0, START) for i in range(ROWS)}
    memory = Memory(s, Topology(1e9))

    memory.bound()
    assert len(s.alone) == ROWS

    s.alone["v|often"] = Count(9.0, START)
    memory.bound()
    assert len(s.alone) == 3 * ROWS // 4
    assert {f"v|{i}" for i in range(0, ROWS, 4)} | {"v|often"} <= s.alone.keys()


@pytest.mark.parametrize(
    ("given", "vertex", "under", "grounds"),
    [
        (alert("cart"), "cart", (), ()),
        (alert("CART"), "cart", (), ()),
        (alert(pod="cart-7d9f8b6c5-x2x4z", node="h1", zone="z"), "cart", ("h1", "z"), (("h1", "node"), ("z", "zone"))),
        (alert(node="h1"), "h1", (), (("h1", "node"),)),
        (alert(zone="z"), "z", (), (("z", "zone"),)),
        (alert("unheard-of"), "unheard-of", (), ()),
        (alert("unheard-of", job="cart"), "cart", (), ()),
        (alert(), "", (), ()),
    ],
)
def test_where_an_alert_sits(
    given: Alert, vertex: str, under: tuple[str, ...], grounds: tuple[tuple[str, str], ...]
) -> None:
    """The service if the graph knows it, else the first label that it knows, else the raw name; what it stands on."""
    topology = Desk("cart>db", kinds={"h1": "node"}).topology

    assert place_of(given, topology) == (vertex, under, grounds)


def test_a_reason_names_the_edge_and_the_delay() -> None:
    """The API shows a sentence that a person can check."""
    desk = Desk("cart>db")
    desk.fire(0, "db")
    desk.fire(20, "cart")

    assert desk.last is not None
    assert desk.last.reason == "cart depends on db and started 20 s after it"


def test_two_alerts_of_a_service_in_one_second_are_two_symptoms_of_it() -> None:
    """Nobody is told that a service is near itself; of two services it is said who is near whom."""
    desk = Desk("cart>db")
    desk.fire(0, "db")
    desk.fire(0, "db", "SlowQueries")

    assert desk.last is not None
    assert desk.last.reason == "a further symptom of db, within a second of the first"

    desk.fire(0, "cart")
    assert desk.last.reason == "cart is near db and began within a second of it"


def test_what_is_posted_together_is_explained_one_by_one() -> None:
    """A sender posts a storm at once: whatever its order, each alert says in the end which trouble it stems from."""
    explained = {
        "shop": "shop depends on catalog and started 0 s after it",
        "cart": "cart depends on db and started 0 s after it",
        "catalog": "catalog depends on db and started 0 s after it",
        "db": "what is in trouble near it does not explain it",
    }
    for order in permutations(explained):
        desk = Desk("shop>cart shop>catalog cart>db catalog>db")
        fps = {service: desk.fire(0, service, "DiskFull" if service == "db" else "Slow") for service in order}
        desk.until(2)

        assert desk.together(*fps.values())
        assert {service: desk.reasons[fp] for service, fp in fps.items()} == explained


def test_an_alert_that_began_before_it_arrived_is_placed_by_its_onset() -> None:
    """A late delivery does not look like a late trouble."""
    desk = Desk("cart>db")
    db = desk.fire(0, "db")
    cart = desk.fire(10, "cart", late=200)
    desk.until(300)

    assert desk.together(db, cart)


def test_a_backlog_is_placed_by_its_onsets() -> None:
    """What began hours ago and arrives at once is grouped as it would have been then."""
    desk = Desk("cart>db billing>ledger cart>ledger")
    db = desk.fire(0, "db", starts=-9000.0)
    ledger = desk.fire(1, "ledger", starts=-5000.0)
    cart = desk.fire(2, "cart", starts=-8980.0)
    billing = desk.fire(3, "billing", starts=-4980.0)
    desk.until(300)

    assert desk.together(db, cart)
    assert desk.together(ledger, billing)
    assert desk.of(db) != desk.of(ledger)


def test_anomalies_of_a_backlog_of_any_age_are_placed_by_their_onsets() -> None:
    """A day of metrics read within a second is no bad second: what was odd yesterday has nothing to do with today."""
    desk = Desk("cart>db web>cart")
    web = desk.fire(0, "web", aiopsd_kind="anomaly", starts=-80_000.0)
    db = desk.fire(0, "db", aiopsd_kind="anomaly", starts=-30_000.0)
    cart = desk.fire(0, "cart", starts=-10.0)
    desk.until(300)

    assert len({desk.of(web), desk.of(db), desk.of(cart)}) == 3


def test_an_anomaly_that_ended_long_ago_in_a_backlog_does_not_come_back() -> None:
    """Its end counts from its samples: what is odd now with the same signal is no further spell of yesterday's."""
    desk = Desk("cart>db")
    kind = {"signal": "errors", "aiopsd_kind": "anomaly"}
    before = desk.fire(0, "db", "AiopsdAnomaly", starts=-60_000.0, **kind)
    old = desk.of(before)
    desk.end(1, before, told=-50_000.0)
    again = desk.fire(60, "db", "AiopsdAnomaly", **kind)
    desk.until(300)

    assert again == before
    assert desk.of(again) != old


def test_a_sender_with_a_wild_clock_is_placed_by_receipt() -> None:
    """An onset a day off says nothing."""
    desk = Desk("cart>db")
    db = desk.fire(0, "db")
    cart = desk.fire(20, "cart", starts=-86_400.0)
    desk.until(300)

    assert desk.together(db, cart)


def test_the_end_of_an_unknown_alert_is_harmless() -> None:
    """Resolved without ever having fired: nothing happens."""
    desk = Desk("a>b")
    desk.end(0, "nobody")

    assert desk.until(100) == []


def test_a_timer_is_wanted_as_long_as_something_is_open() -> None:
    """An idle grouper asks for no wake-up."""
    desk = Desk("a>b")
    assert desk.grouper.wake_at() is None

    desk.fire(0, "a")

    assert desk.grouper.wake_at() is not None


def test_names_that_come_without_company_are_learned() -> None:
    """In three incidents one service each had this alert and all of them were slow: it is local, slowness is not."""
    desk = Desk("a>db b>db c>db")
    for n, service in enumerate("abc"):
        at = 7200.0 * n
        fired = [
            desk.fire(at, service, "ManyRequests"),
            *(desk.fire(at + 10.0 + k, s) for k, s in enumerate(("db", "a", "b", "c"))),
        ]
        for fp in fired:
            desk.end(at + 900.0, fp)
    desk.until(30_000.0)
    local = desk.grouper.knowledge().local

    assert local["ManyRequests"] > 0.0 > local["Slow"]


def test_a_name_that_nobody_else_shows_does_not_travel() -> None:
    """Taken four times for a victim's, a name that its incident shows at one vertex only still speaks for a cause."""
    desk = Desk("a>db b>db c>db d>db")
    for n, service in enumerate("abcd"):
        at = 7200.0 * n
        fired = [desk.fire(at, "db"), *(desk.fire(at + 10.0 + k, s) for k, s in enumerate("abcd"))]
        fired.append(desk.fire(at + 25.0, service, "Odd"))
        for fp in fired:
            desk.end(at + 900.0, fp)
    desk.until(40_000.0)
    origin = desk.grouper.knowledge().origin

    assert origin["Odd"] > 0.0 > origin["Slow"]


def test_a_host_breaks_what_runs_there_in_any_way_and_a_callee_in_few() -> None:
    """A name that only causes show speaks against a callee as its reason, and not against the node below."""
    desk = Desk("cart>db cart>h1 web>h1", kinds={"h1": "node"})
    desk.grouper.s.origin |= {name: Count(n, START) for name, n in (("Dead", 40.0), ("", 100.0))}
    desk.grouper.s.passed |= {name: Count(n, START) for name, n in (("Slow", 300.0), ("", 300.0))}
    desk.grouper.s.learned = START
    for n, service in enumerate(("db", "h1")):
        desk.fire(n, service, "Odd")
    desk.until(10)
    by_vertex = {t.vertex: t for t in desk.grouper.s.troubles.values()}

    def over_own(name: str, below: str) -> float:
        odds, link = desk.grouper.odds, desk.grouper.graph.around("cart")[below]
        weight, _ = odds.weight("cart", (name,), START + 20, by_vertex[below], link)
        return weight - odds.own("cart", (name,), START + 20)

    by_call, by_host = (over_own("Slow", below) - over_own("Dead", below) for below in ("db", "h1"))
    assert by_call > 6.0
    assert by_host < 0.5 * by_call, by_host


@pytest.mark.parametrize(("role", "passed"), [("cause", 0.1), ("", 0.5), ("symptom", 0.9)])
def test_what_a_pack_says_of_a_name_decides_how_its_first_sighting_is_counted(role: str, passed: float) -> None:
    """Taken for a victim's, a name that is a cause's says little of what is passed on; one that says nothing, half."""
    desk = Desk("cart>db")
    desk.fire(0, "db")
    desk.grouper.memory.heed("Odd", role)
    desk.fire(20, "cart", "Odd")
    desk.until(2000)

    assert desk.grouper.s.passed["Odd"].value == pytest.approx(passed, abs=0.01)
    assert desk.grouper.s.passed["Odd"].value + desk.grouper.s.origin["Odd"].value == pytest.approx(1.0, abs=0.01)
