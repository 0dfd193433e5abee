"""What the grouper does with what arrives: one test per behaviour, alerts in, incidents out."""

import pytest

from aiopsd.correlate.grouping.hindsight import STEP, Hindsight
from aiopsd.correlate.grouping.second import SPELLS
from aiopsd.correlate.grouping.state import Group
from aiopsd.model import Verdict
from aiopsd.testing.grouping import START, Desk

SHOP = "web>cart web>search cart>db search>index orders>db billing>ledger"


def test_trouble_that_climbs_is_one_incident() -> None:
    """A callee fails, its callers follow within seconds: one incident, opened once."""
    desk = Desk(SHOP)
    db = desk.fire(0, "db", "Down")
    cart = desk.fire(20, "cart")
    web = desk.fire(45, "web")
    desk.until(300)

    assert desk.together(db, cart, web)
    assert len(desk.opened) == 1


def test_symptoms_before_their_cause_are_one_incident() -> None:
    """The callers' alerts arrive first; when the cause is seen late, all is one."""
    desk = Desk(SHOP)
    cart = desk.fire(0, "cart")
    orders = desk.fire(15, "orders")
    db = desk.fire(30, "db", "Down")
    desk.until(300)

    assert desk.together(cart, orders, db)


def test_simultaneous_trouble_without_a_path_stays_apart() -> None:
    """Two faults in the same minute in parts of the graph that do not touch are two incidents."""
    desk = Desk(SHOP)
    db = desk.fire(0, "db", "Down")
    ledger = desk.fire(1, "ledger", "Down")
    cart = desk.fire(20, "cart")
    billing = desk.fire(21, "billing")
    desk.until(300)

    assert desk.together(db, cart)
    assert desk.together(ledger, billing)
    assert desk.of(db) != desk.of(ledger)


def test_trouble_hours_apart_is_not_one_incident() -> None:
    """A neighbour that fails two hours later has its own incident."""
    desk = Desk(SHOP)
    db = desk.fire(0, "db", "Down")
    desk.end(600, db)
    cart = desk.fire(7200, "cart")

    assert desk.of(cart) != desk.of(db)


def test_further_symptoms_of_one_service_join() -> None:
    """Three alerts of one service within a minute are one incident, with a reason that says so."""
    desk = Desk(SHOP)
    fps = [desk.fire(10.0 * i, "db", name) for i, name in enumerate(("Down", "Slow", "Full"))]

    assert desk.together(*fps)
    assert desk.last is not None
    assert "further symptom of db" in desk.last.reason


def test_a_backlog_that_is_read_within_seconds_is_no_burst_of_incidents() -> None:
    """Incidents of the last hours, read within a second, do not make two symptoms of one service two incidents."""
    desk = Desk("a1>a2 b1>b2 c1>c2 d1>d2 e1>e2 shop>pricing")
    for i, name in enumerate("abcde"):
        hours_ago = -3600.0 * (5 - i)
        desk.fire(0.1 * i, f"{name}2", "Down", starts=hours_ago)
        desk.fire(0.1 * i, f"{name}1", "Slow", starts=hours_ago + 20)
    first = desk.fire(5, "pricing", "ErrorRateHigh", starts=0.0)
    second = desk.fire(6, "pricing", "Anomaly", starts=-65.0)
    desk.until(60)

    assert desk.together(first, second)
    assert len(desk.opened) == 6


def test_an_alert_that_fires_again_returns_to_its_incident() -> None:
    """Flapping inside the reopening window is the same incident."""
    desk = Desk(SHOP)
    fp = desk.fire(0, "db", "Down")
    first = desk.of(fp)
    desk.end(60, fp)
    desk.fire(120, "db", "Down")
    desk.until(200)

    assert desk.of(fp) == first
    assert desk.last is not None
    assert "again" in desk.last.reason


def test_what_flaps_is_one_trouble_however_often() -> None:
    """Three services that come and go every few seconds cost the same after minutes: no spell is weighed with all."""
    desk = Desk(SHOP)
    for spell in range(200):
        at = 3.0 * spell
        fps = [desk.fire(at, service, "Slow") for service in ("db", "cart", "web")]
        desk.end(at + 2.0, *fps)
        assert len(desk.grouper.s.troubles) <= 3 * SPELLS
    desk.until(700)

    assert desk.together(*fps)


def test_the_outage_of_what_everybody_calls_is_one_incident_and_no_square_of_links() -> None:
    """Three hundred callers of one name server follow it: one incident; none of them is held against its siblings."""
    desk = Desk(" ".join(f"s{i}>dns" for i in range(300)))
    down = desk.fire(0, "dns", "Down")
    fps = [desk.fire(5 + 0.1 * i, f"s{i}", "Errors") for i in range(300)]
    desk.until(300)

    assert desk.together(down, *fps)
    assert all(len(desk.grouper.graph.around(f"s{i}")) == 2 for i in range(300))


def test_callers_of_a_silent_name_server_are_one_incident_that_says_why() -> None:
    """Many of those who depend on one thing fail within a minute: one incident; they depend on it, none runs on it."""
    desk = Desk(" ".join(f"s{i}>dns" for i in range(150)))
    fps = [desk.fire(0.4 * i, f"s{i}", "Errors") for i in range(100)]
    desk.until(300)

    assert desk.together(*fps)
    assert any("depends on dns" in desk.reasons[fp] for fp in fps)


def test_an_alert_that_fires_again_a_day_later_is_new() -> None:
    """Beyond the reopening window the same alert opens another incident, with another id."""
    desk = Desk(SHOP)
    fp = desk.fire(0, "db", "Down")
    first = desk.of(fp)
    desk.end(60, fp)
    desk.fire(80_000, "db", "Down")

    assert desk.of(fp) not in ("", first)


def test_a_chronic_alert_is_kept_quiet_with_its_reason() -> None:
    """What fires alone every half hour opens no incident any more, and says why."""
    desk = Desk(SHOP)
    for i in range(12):
        fp = desk.fire(1800.0 * i, "db", "Noisy")
        desk.end(1800.0 * i + 100, fp)

    assert desk.of(fp) == ""
    assert desk.last is not None
    assert "chronic" in desk.last.reason


def test_a_chronic_alert_in_company_is_told() -> None:
    """Quiet is not hidden: when a neighbour follows, both are in one incident that somebody is told of."""
    desk = Desk(SHOP)
    for i in range(12):
        fp = desk.fire(1800.0 * i, "db", "Noisy")
        desk.end(1800.0 * i + 100, fp)
    desk.until(25_000)
    noisy = desk.fire(25_200, "db", "Noisy")
    assert desk.of(noisy) == ""

    cart = desk.fire(25_220, "cart")
    orders = desk.fire(25_225, "orders")
    desk.until(25_300)

    assert desk.of(cart) != ""
    assert desk.together(cart, orders)


def test_noise_that_an_incident_takes_in_still_counts_as_noise() -> None:
    """What fires alone now and then and once in an incident fired once more; what never did is the incident's own."""
    desk = Desk(SHOP)
    for i in range(3):
        noisy = desk.fire(7200.0 * i, "cart", "Noisy")
        desk.end(7200.0 * i + 100, noisy)
    desk.until(30_000)
    read, alone = desk.grouper.memory.read, desk.grouper.s.alone
    before = read(alone, "cart|Noisy")

    db = desk.fire(30_000, "db", "Down")
    orders = desk.fire(30_020, "orders")
    noisy = desk.fire(30_060, "cart", "Noisy")
    desk.until(31_000)

    assert desk.together(db, orders, noisy)
    assert before < read(alone, "cart|Noisy") < before + 1.0
    assert read(alone, "orders|Slow") < 0.1


def test_services_of_one_host_share_its_trouble() -> None:
    """Alerts of the host and of what labels say runs on it are one incident, though no edge was declared."""
    desk = Desk("a>x b>y c>z", kinds={"host-1": "node"})
    host = desk.fire(0, "", "HostDown", node="host-1")
    a = desk.fire(10, "a", node="host-1")
    b = desk.fire(15, "b", node="host-1")
    desk.until(300)

    assert desk.together(host, a, b)


def test_an_alert_without_a_service_is_mapped_by_its_other_labels() -> None:
    """Pod, instance and job name the service when no service label does."""
    desk = Desk(SHOP)
    db = desk.fire(0, "db", "Down")
    pod = desk.fire(15, "", "Restarts", pod="cart-7d9f8b6c5-x2x4z")
    instance = desk.fire(20, "", "Refused", instance="orders:8080")

    assert desk.together(db, pod, instance)


def test_an_alert_that_names_nothing_known_still_has_an_incident_and_a_reason() -> None:
    """Nothing is held silently."""
    desk = Desk(SHOP)
    fp = desk.fire(0, "", "Mystery", team="x")

    assert desk.of(fp) != ""
    assert desk.last is not None
    assert "names nothing" in desk.last.reason


def test_what_ends_apart_parts_ways() -> None:
    """Two faults at once share a caller: when one part ends long before the other, two incidents remain."""
    desk = Desk("u>a u>b v>a w>b")
    a = desk.fire(0, "a", "Down")
    v = desk.fire(20, "v")
    b = desk.fire(25, "b", "Down")
    w = desk.fire(45, "w")
    u = desk.fire(50, "u")
    desk.end(400, a, v)
    desk.end(2400, b, w, u)
    desk.until(4000)

    assert desk.together(b, w, u)
    assert desk.together(a, v)
    assert desk.of(a) != desk.of(b)


def test_wrong_edges_do_not_chain_the_whole_graph() -> None:
    """A stale edge between two incidents that began far apart joins nothing."""
    desk = Desk("cart>db billing>ledger cart>ledger")
    db = desk.fire(0, "db", "Down")
    cart = desk.fire(20, "cart")
    ledger = desk.fire(2000, "ledger", "Down")
    billing = desk.fire(2020, "billing")

    assert desk.together(db, cart)
    assert desk.together(ledger, billing)
    assert desk.of(db) != desk.of(ledger)


def test_a_callee_that_nobody_watches_joins_its_callers() -> None:
    """Many callers of one silent dependency within seconds have one cause."""
    desk = Desk(" ".join(f"s{i}>db" for i in range(6)))
    fps = [desk.fire(3.0 * i, f"s{i}", "Slow") for i in range(6)]
    desk.until(600)
    desk.end(900, *fps)
    desk.until(1200)

    assert desk.together(*fps)


def test_names_seen_at_origins_weigh() -> None:
    """After history, an alertname that always stood at an origin is not taken for a passed-on symptom."""
    desk = Desk(" ".join(f"top{i}>mid{i} mid{i}>low{i}" for i in range(12)))
    for i in range(10):
        at = 4000.0 * i
        low = desk.fire(at, f"low{i}", "DiskFull")
        mid = desk.fire(at + 20, f"mid{i}", "Slow")
        top = desk.fire(at + 45, f"top{i}", "Slow")
        desk.end(at + 900, low, mid, top)
    desk.until(41_000)
    low = desk.fire(41_000, "low11", "DiskFull")
    plain = desk.fire(41_200, "mid11", "Slow")
    low10 = desk.fire(42_000, "low10", "DiskFull")
    own = desk.fire(42_200, "mid10", "DiskFull")

    assert desk.together(low, plain)
    assert desk.of(low10) != desk.of(own)


def test_hindsight_spreads_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """When one incident took all the trial moves of a second, those that are due with it wait, and none is left out."""
    desk = Desk("a>x b>y c>z")
    fired = [desk.fire(i, service, "Down") for i, service in enumerate("abc")]
    desk.end(600, *fired)
    seen: list[tuple[float, str]] = []

    def costly(self: Hindsight, group: Group) -> None:
        seen.append((self.s.now, group.id))
        self.s.trials += STEP

    monkeypatch.setattr(Hindsight, "reconsider", costly)
    desk.until(800)

    assert sorted(gid for _, gid in seen) == sorted(desk.of(fp) for fp in fired)
    assert [at - seen[0][0] for at, _ in seen] == [0.0, 1.0, 2.0]


# --------------------------------------------------------------------------- verdicts


def test_an_operator_merges() -> None:
    """A merge verdict makes two incidents one, the older survives."""
    desk = Desk(SHOP)
    db = desk.fire(0, "db")
    ledger = desk.fire(100, "ledger")
    desk.until(150)
    older, younger = desk.of(db), desk.of(ledger)

    (revision,) = desk.say(200, "merge", younger, other=older)

    assert (revision.kind, revision.source, revision.target) == ("merge", younger, older)
    assert desk.together(db, ledger)


def test_an_operator_splits_and_it_stays_split() -> None:
    """The named alerts leave together and no second thought brings them back."""
    desk = Desk(SHOP)
    db = desk.fire(0, "db", "Down")
    cart = desk.fire(20, "cart")
    orders = desk.fire(22, "orders")
    desk.until(30)

    desk.say(31, "split", desk.of(db), fingerprints=(cart, orders))
    desk.end(800, db, cart, orders)
    desk.until(2000)

    assert desk.together(cart, orders)
    assert desk.of(db) not in ("", desk.of(cart))


def test_noise_said_once_is_kept_quiet_next_time() -> None:
    """A noise verdict changes the next decision for that pair, not for others."""
    desk = Desk(SHOP)
    fp = desk.fire(0, "db", "Noisy")
    desk.end(50, fp)
    desk.until(100)
    desk.say(200, "noise", desk.of(fp))

    again = desk.fire(40_000, "db", "Noisy")
    other = desk.fire(60_000, "db", "Down")

    assert desk.of(again) == ""
    assert desk.of(other) != ""


def test_a_corrected_cause_is_known_from_then_on() -> None:
    """A cause verdict counts for the service that was named and against the one that had been ranked first."""
    desk = Desk(SHOP)
    fp = desk.fire(0, "cart")
    desk.until(10)

    desk.grouper.verdict(
        Verdict(request_id="r", incident=desk.of(fp), kind="cause", actor="ann", service="DB"), START + 20, ["cart"]
    )

    assert desk.grouper.knowledge().causes == {"db": 1.0, "cart": -0.5}


def test_a_verdict_on_an_unknown_incident_changes_nothing() -> None:
    """Late words on what is forgotten are harmless."""
    desk = Desk(SHOP)

    assert desk.say(0, "merge", "nobody", other="none") == []


# --------------------------------------------------------------------------- memory


def test_forgotten_incidents_leave_no_state() -> None:
    """After the retention, alerts, troubles, groups and indexes are gone."""
    desk = Desk(SHOP)
    fps = [desk.fire(0, "db", "Down"), desk.fire(20, "cart"), desk.fire(30, "web")]
    desk.end(500, *fps)
    desk.until(500 + 2.2 * 86400)

    left = desk.grouper.snapshot()
    for table in ("groups", "troubles", "rows", "hot", "kept", "pairs", "agenda", "dues", "waiting", "pending"):
        assert not left[table], table


def test_an_alert_that_has_moved_on_is_not_waited_for_where_it_was() -> None:
    """It fires in a later trouble, its first one parts and is forgotten, and the alert can still fire again."""
    desk = Desk("web>db", retention=7200.0)
    slow, errors = desk.fire(0, "web", "Slow"), desk.fire(3, "web", "Errors")
    desk.end(60, desk.fire(5, "web", "Full"))
    db = desk.fire(3000, "db", "Down")
    full = desk.fire(3022, "web", "Full")
    desk.end(3200, slow)
    desk.end(3600, errors)
    desk.end(3700, full, db)
    desk.until(20_000)
    assert not desk.grouper.s.pairs

    assert desk.of(desk.fire(20_000, "web", "Full"))


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5])
def test_a_restart_anywhere_changes_nothing(at: int) -> None:
    """Resumed from its snapshot after any arrival, the grouper ends with the same incidents."""

    def run(stop: int) -> list[tuple[str, ...]]:
        desk = Desk(SHOP)
        fps = []
        for i, (when, service) in enumerate(((0, "cart"), (15, "orders"), (30, "db"), (31, "ledger"), (40, "web"))):
            if i == stop:
                desk.restart()
            fps.append(desk.fire(when, service))
        if stop == 5:
            desk.restart()
        desk.end(700, *fps[:3])
        desk.end(1500, *fps[3:])
        desk.until(4000)
        return desk.parts()

    assert run(at) == run(99)


def test_one_alert_that_ends_before_its_cause_stays_with_it() -> None:
    """A single symptom that is over long before the others flaps or has a rule of its own: no second incident."""
    desk = Desk("web>db cart>db pay>db " + " ".join(f"s{k}>s{k + 1}" for k in range(300)))
    db, pay = desk.fire(0, "db", "Down"), desk.fire(15, "pay")
    cart, web = desk.fire(20, "cart"), desk.fire(25, "web")
    desk.end(120, cart)
    desk.end(1500, db, web, pay)
    desk.until(6000)

    assert desk.together(db, cart, web, pay)


def test_several_that_end_together_before_the_others_part() -> None:
    """A second fault just after the first, below callers of its own, is over much earlier: two incidents in the end."""
    desk = Desk("web>db cart>db pay>db pay>bank a>pay b>pay c>pay")
    first = [desk.fire(0, "db", "Down"), desk.fire(20, "cart"), desk.fire(25, "web")]
    second = [desk.fire(30, "pay", "Down")]
    second += [desk.fire(45.0 + 5 * k, v) for k, v in enumerate("abc")]
    assert desk.together(*first, *second)
    desk.end(300, *second)
    desk.end(2400, *first)
    desk.until(9000)

    assert desk.together(*first)
    assert desk.together(*second)
    assert not desk.together(first[0], second[0])


def test_what_was_over_does_not_stem_from_what_began_later() -> None:
    """A caller's trouble that ended before the samples of its callee went wrong is none that the callee took down."""
    callers = [f"s{i}" for i in range(8)]
    desk = Desk(" ".join(f"{who}>db" for who in ("users", *callers)))
    users = desk.fire(0, "users", "BatchJobFailed")
    desk.end(100, users)
    db = desk.fire(130, "db", "AiopsdAnomaly", signal="errors", aiopsd_kind="anomaly")
    rest = [desk.fire(131 + i, who) for i, who in enumerate(callers)]
    desk.until(900)

    assert desk.together(db, *rest)
    assert desk.of(users) != desk.of(db)


def test_what_the_evidence_blames_on_a_trouble_elsewhere_is_one_incident_with_it() -> None:
    """Alerts alone show no way from one to the other; once the cause of both is named they stay together."""
    desk = Desk(SHOP)
    ledger = desk.fire(0, "ledger", "Down")
    index = desk.fire(20, "index", "AiopsdAnomaly", signal="request_rate", aiopsd_kind="anomaly")
    desk.until(30)
    assert desk.of(index) != desk.of(ledger)

    desk.blame(30, index, "ledger")
    desk.until(900)

    assert desk.together(ledger, index)
    assert "ledger" in desk.reasons[index]


def test_a_cause_that_fires_no_more_or_began_long_before_takes_nothing_in() -> None:
    """What the evidence names has to be in trouble now, and about as long."""
    desk = Desk(SHOP)
    ledger = desk.fire(0, "ledger", "Down")
    billing = desk.fire(10, "billing")
    desk.end(60, ledger)
    index = desk.fire(100, "index")
    search = desk.fire(1000, "web")
    desk.until(1010)
    desk.blame(1010, index, "ledger")
    desk.blame(1010, search, "billing")

    assert len({desk.of(fp) for fp in (billing, index, search)}) == 3


@pytest.mark.parametrize(("followers", "together"), [(0, True), (6, False)])
def test_what_took_more_down_needs_a_likelier_cause_to_be_hidden(followers: int, together: bool) -> None:
    """The same late alert joins its callee's incident alone; six that hang on it would all go untold, so it stays."""
    callers = [f"c{k}" for k in range(6)]
    desk = Desk("x>y " + " ".join(f"{c}>x" for c in callers))
    first = desk.fire(0, "y")
    late = desk.fire(240, "x")
    for k, caller in enumerate(callers[:followers]):
        desk.fire(245 + k, caller)
    desk.until(640)

    assert (desk.of(first) == desk.of(late)) == together


def test_the_second_sign_of_a_cause_is_no_second_incident() -> None:
    """In a burst of faults a name known as one of causes still joins what its own service showed just before."""
    desk = Desk("a>db b>db c>db d>db x>y v>w")
    for n, service in enumerate("abcd"):
        at = 7200.0 * n
        fired = [desk.fire(at, service, "Leaks"), desk.fire(at + 6.0, service, "Restarts")]
        fired += [desk.fire(at + 20.0 + k, s) for k, s in enumerate(("db", "a", "b", "c", "d"))]
        for fp in fired:
            desk.end(at + 900.0, fp)
    for service in "yxwv":
        desk.fire(39_980.0, service)
    first = desk.fire(40_000.0, "a", "Leaks", pod="1")
    desk.until(40_005.0)
    second = desk.fire(40_030.0, "a", "Restarts", pod="1")

    assert desk.of(first) == desk.of(second)


@pytest.mark.parametrize(
    ("calls", "labels", "one"),
    [
        ("a>cart b>users", {"alertname": "AiopsdAnomaly", "signal": "rps", "aiopsd_kind": "anomaly"}, True),
        ("a>cart b>users", {"alertname": "BatchJobFailed"}, False),
        ("a>cart b>users users>x x>y y>z z>cart", {"alertname": "BatchJobFailed"}, True),
    ],
    ids=["its metrics moved", "it only came then", "it depends on the cause"],
)
def test_an_alert_that_came_at_a_bad_time_is_another_problem(calls: str, labels: dict[str, str], one: bool) -> None:
    """What the evidence names takes in what metrics say has moved, and what depends on it, but no mere neighbour."""
    desk = Desk(calls)
    cart = desk.fire(0, "cart", "Slow")
    users = desk.fire(30, "users", labels.pop("alertname"), **labels)
    desk.until(40)
    assert not desk.together(cart, users)

    desk.blame(41, users, "cart")

    assert desk.together(cart, users) == one
