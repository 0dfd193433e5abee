"""The read model is a copy of the decisions, and it is bounded."""

from msgspec.structs import replace

from aiopsd.model import Alert, AlertState, Forget, Incident, IncidentState, Silence, Touch, Upsert
from aiopsd.projection import Projection


def incident(key: str, at: float = 1.0, state: IncidentState = IncidentState.OPEN, **more: object) -> Incident:
    return replace(Incident(id=key, dedup_key=key, state=state, started_at=at, opened_at=at, updated_at=at), **more)


def alert(key: str, of: str = "", state: AlertState = AlertState.FIRING, at: float = 1.0) -> Alert:
    return Alert(fingerprint=key, labels={"a": key}, starts_at=at, ends_at=0.0, updated_at=at, incident=of, state=state)


def test_lists_newest_first_and_filters_by_state_and_service() -> None:
    """Incidents come newest first; a service finds those that it is affected by."""
    p = Projection()
    p.apply(
        [
            Upsert(item=incident("old", 1.0, services=("db",))),
            Upsert(item=incident("new", 2.0, services=("web",))),
            Upsert(item=incident("done", 3.0, IncidentState.RESOLVED)),
        ]
    )

    assert ["done", "new", "old"] == [i.id for i in p.incidents()]
    assert ["new", "old"] == [i.id for i in p.incidents(states=(IncidentState.OPEN,))]
    assert ["old"] == [i.id for i in p.incidents(service="db")]


def test_last_write_wins_and_figures_follow() -> None:
    """The figures count each item once, in the state of its last write."""
    p = Projection()
    p.apply([Upsert(item=incident("i")), Upsert(item=alert("a", "i"))])
    p.apply(
        [Upsert(item=incident("i", state=IncidentState.RESOLVED)), Upsert(item=alert("a", "i", AlertState.RESOLVED))]
    )

    assert p.figures() == {
        "incidents": {"open": 0, "acknowledged": 0, "resolved": 1, "merged": 0},
        "alerts": {"firing": 0, "resolved": 1},
    }


def test_an_alert_that_moves_leaves_its_first_incident() -> None:
    """After a merge an alert belongs to the surviving incident only."""
    p = Projection()
    p.apply([Upsert(item=alert("a", "one")), Upsert(item=alert("b", "one", at=0.5))])
    p.apply([Upsert(item=alert("a", "two"))])

    assert ["b"] == [a.fingerprint for a in p.alerts(incident="one")]
    assert ["a"] == [a.fingerprint for a in p.alerts(incident="two")]


def test_a_touch_moves_the_end_only() -> None:
    """A re-sent alert gets its new end and keeps the rest; a touch of an unknown one changes nothing."""
    p = Projection()
    p.apply([Upsert(item=alert("a", "i")), Touch(fingerprint="a", ends_at=9.0, updated_at=5.0)])
    p.apply([Touch(fingerprint="unknown", ends_at=9.0, updated_at=5.0)])

    assert p.alerts() == [replace(alert("a", "i"), ends_at=9.0, updated_at=5.0)]


def test_forget_drops_each_kind() -> None:
    """What the stage forgets is gone here too, its figures with it."""
    p = Projection()
    silence = Silence(id="s", matchers=(), starts_at=0.0, ends_at=1.0, updated_at=0.0)
    p.apply([Upsert(item=incident("i")), Upsert(item=alert("a", "i")), Upsert(item=silence)])
    p.apply([Forget(kind=kind, id=key) for kind, key in (("incident", "i"), ("alert", "a"), ("silence", "s"))])

    assert (None, None, None) == (p.incident("i"), p.alert("a"), p.silence("s"))
    assert p.figures() == Projection().figures()


def test_what_ended_is_bounded_and_what_is_open_is_not() -> None:
    """Only ended items go, the oldest update first, and reopening saves one."""
    p = Projection(keep_resolved=2)
    p.apply([Upsert(item=incident(f"open{i}")) for i in range(5)])
    p.apply([Upsert(item=incident(f"done{i}", state=IncidentState.RESOLVED)) for i in range(2)])
    p.apply([Upsert(item=incident("done0", state=IncidentState.OPEN))])
    p.apply([Upsert(item=incident(f"late{i}", state=IncidentState.RESOLVED)) for i in range(2)])
    p.apply([Upsert(item=alert(f"a{i}", state=AlertState.RESOLVED)) for i in range(9)])

    assert ["done0", *(f"open{i}" for i in range(5))] == sorted(i.id for i in p.incidents(states=(IncidentState.OPEN,)))
    assert ["late0", "late1"] == sorted(i.id for i in p.incidents(states=(IncidentState.RESOLVED,)))
    assert ["a7", "a8"] == [a.fingerprint for a in p.alerts()]


def test_load_equals_applying_the_same_items() -> None:
    """Starting from the store gives what the effects gave, and nothing of before."""
    items = [incident("i"), incident("j", 2.0, IncidentState.MERGED)]
    alerts = [alert("a", "i"), alert("b", "i", AlertState.RESOLVED)]
    applied, loaded = Projection(), Projection()
    applied.apply([*(Upsert(item=i) for i in items), *(Upsert(item=a) for a in alerts)])
    loaded.apply([Upsert(item=incident("stale"))])
    loaded.load(items, alerts, [])

    assert applied.incidents() == loaded.incidents()
    assert applied.alerts(incident="i") == loaded.alerts(incident="i")
    assert applied.figures() == loaded.figures()
