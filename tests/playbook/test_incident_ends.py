"""The end of an incident: nothing fires any more, it says so, and it resolves when its quiet period is over."""

import pytest
from msgspec.structs import replace

from aiopsd.config import load
from aiopsd.model import (
    AlertBatch,
    AlertIn,
    Anomaly,
    Incident,
    IncidentState,
    JournalRecord,
    Snapshot,
    SourcePos,
    Tick,
    Upsert,
)
from aiopsd.pipeline import correlate

T0 = 1_700_000_000.0


class Room:
    """A correlate stage; `said` is what it last wrote of its one incident."""

    def __init__(self, resolve_after: str = "5m", resume: Snapshot | None = None) -> None:
        self.stage = correlate.build(load(f"correlate: {{resolve_after: {resolve_after}}}"), resume)
        self.said: Incident | None = None

    def hear(self, at: float, body: AlertBatch | Anomaly | Tick) -> None:
        """One record."""
        for effect in self.stage.step([JournalRecord(offset=int(at), stamp=T0 + at, body=body)]):
            if isinstance(effect, Upsert) and isinstance(effect.item, Incident):
                self.said = effect.item

    def alert(self, at: float, *, ends: float = 1e6) -> "Room":
        """The one alert is sent at `at`, with its end."""
        given = AlertIn(labels={"alertname": "Slow", "service": "db"}, starts_at=T0, ends_at=T0 + ends)
        self.hear(at, AlertBatch(alerts=(given,), sender="prometheus"))
        return self

    def tick(self, at: float) -> "Room":
        """Time passed and nothing else did."""
        self.hear(at, Tick())
        return self

    def restarted(self, resolve_after: str) -> "Room":
        """The same, under another configuration."""
        again = Room(resolve_after, self.stage.snapshot())
        again.said = self.said
        return again

    @property
    def told(self) -> tuple[str, int, float]:
        """(state, how many fire, since when nothing does: seconds, -1: something does)."""
        assert self.said is not None
        return str(self.said.state), self.said.firing, self.said.quiet_since - T0 if self.said.quiet_since else -1


def test_an_incident_says_since_when_nothing_of_it_fires() -> None:
    """From the end of its last alert on, until one of them fires again or it resolves."""
    room = Room().alert(0)
    assert room.told == ("open", 1, -1)
    assert room.alert(100, ends=100).told == ("open", 0, 100)
    assert room.alert(200).told == ("open", 1, -1)
    assert room.alert(300, ends=300).told == ("open", 0, 300)
    assert room.tick(599).told == ("open", 0, 300)
    assert room.tick(600).told == ("resolved", 0, 300)


def test_a_quiet_period_that_a_reload_changed_ends_by_the_new_rule() -> None:
    """Longer or shorter than when it began: the incident resolves at the new time, and does not stay open for ever."""
    longer = Room("5m").alert(0).alert(100, ends=100).restarted("10m")
    assert [longer.tick(at).told[0] for at in (401, 699, 701)] == ["open", "open", "resolved"]

    shorter = Room("10m").alert(0).alert(100, ends=100).restarted("5m")
    assert [shorter.tick(at).told[0] for at in (399, 401)] == ["open", "resolved"]


def test_a_snapshot_from_before_incidents_knew_their_quiet_goes_on() -> None:
    """What version 7 kept beside its incidents is theirs after the upgrade."""
    room = Room().alert(0).alert(100, ends=100)
    new = room.stage.snapshot()
    old_incidents = [{k: v for k, v in i.items() if k != "quiet_since"} for i in new.meta["incidents"]]
    last_fired = {i["id"]: i["quiet_since"] for i in new.meta["incidents"]}
    old = replace(new, version=7, meta={**new.meta, "incidents": old_incidents, "last_fired": last_fired})

    again = Room(resume=old)

    assert again.stage.snapshot() == new
    assert {i.state for i in again.tick(400).stage.incidents.values()} == {IncidentState.RESOLVED}


def test_each_series_over_a_limit_ends_by_itself() -> None:
    """Two disks over one limit, then one of them back inside: the other fires on, until it is back as well."""
    room = Room()

    def disk(at: float, device: str, state: str) -> None:
        body = Anomaly(
            id=device,
            service="db",
            signal="disk_used_ratio",
            state=state,
            onset=T0,
            ts=T0 + at,
            score=0.6,
            labels={"device": device, "rule": "disk-full"},
        )
        room.hear(at, body)

    disk(0, "sda", "firing")
    disk(1, "sdb", "firing")
    disk(60, "sda", "resolved")
    assert [a.labels["device"] for a in room.stage.alerts.values() if a.state == "firing"] == ["sdb"]
    disk(120, "sdb", "resolved")
    assert room.told == ("open", 0, 120)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("second", [("infra", 0), ("apps", 1)], ids=["source", "partition"])
def test_what_two_sources_tell_lasts_until_both_told_its_end(second: tuple[str, int], restarts: bool) -> None:
    """A service silent in two sources, or a source in two partitions, is one alert: it says what is still so."""
    room = Room()

    def silent(at: float, where: tuple[str, int], state: str) -> tuple[str, str, int]:
        nonlocal room
        body = Anomaly(
            id=str(where),
            service="db",
            signal="no-data",
            state=state,
            onset=T0,
            ts=T0 + at,
            score=0.75,
            labels={"source": where[0]},
            summary=f"no data in {where}" if state == "firing" else "speaks again",
            pos=SourcePos(source=where[0], partition=where[1], offset=int(at)),
        )
        room.hear(at, body)
        if restarts:
            room = room.restarted("5m")
        (alert,) = room.stage.alerts.values()
        return str(alert.state), alert.annotations["summary"], room.told[1]

    first = ("apps", 0)
    silent(0, first, "firing")
    assert silent(10, second, "firing") == ("firing", f"no data in {second}", 1)
    assert silent(20, second, "resolved") == ("firing", f"no data in {first}", 1)
    assert silent(30, first, "resolved")[::2] == ("resolved", 0)

    silent(40, second, "firing")
    assert silent(50, second, "resolved")[::2] == ("resolved", 0)
