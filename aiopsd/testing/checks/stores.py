"""What every store promises: decisions and position move together, and nobody writes who was replaced."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from msgspec.structs import replace

from aiopsd.errors import Corrupt, Fenced, Full, StoreError
from aiopsd.model import (
    Action,
    Alert,
    AlertState,
    Audit,
    AuditEntry,
    Forget,
    Incident,
    IncidentState,
    Matcher,
    Notification,
    Notify,
    NotifyReason,
    Retrain,
    RetrainRequest,
    Silence,
    Snapshot,
    Touch,
    Upsert,
)
from aiopsd.protocols import Store
from aiopsd.testing.checks.common import refusal
from aiopsd.testing.clock import ManualClock


class StoreCase(Protocol):
    """One store, empty at first, and how to open it."""

    clock: ManualClock
    files: bool  # snapshots are files that a worker process may write and hand over

    def open(self) -> Store:
        """Another handle on the same store; the last one started is its owner."""
        ...

    async def fill(self, store: Store) -> None:
        """From now on there is no more room."""
        ...

    async def free(self, store: Store) -> None:
        """Now there is."""
        ...


StoreCheck: TypeAlias = Callable[[StoreCase], Awaitable[None]]
STORE_CHECKS: list[StoreCheck] = []


def store_check(check: StoreCheck) -> StoreCheck:
    STORE_CHECKS.append(check)
    return check


def incident(n: int, *, state: IncidentState = IncidentState.OPEN, services: Sequence[str] = ("shop",)) -> Incident:
    ended = 1000.0 + n + 10.0 if state in (IncidentState.RESOLVED, IncidentState.MERGED) else 0.0
    return Incident(
        id=f"i{n}",
        dedup_key=f"aiopsd-i{n}",
        state=state,
        services=tuple(services),
        started_at=990.0 + n,
        opened_at=1000.0 + n,
        updated_at=max(1000.0 + n, ended),
        resolved_at=ended,
    )


def alert(n: int, incident_id: str = "", state: AlertState = AlertState.FIRING) -> Alert:
    return Alert(
        fingerprint=f"{n:016x}",
        labels={"alertname": "Slow", "n": str(n)},
        starts_at=1000.0 - n,
        ends_at=0.0 if state is AlertState.FIRING else 1010.0,
        updated_at=1010.0,
        state=state,
        incident=incident_id,
    )


def silence(n: int, ends_at: float = 5000.0) -> Silence:
    return Silence(
        id=f"s{n}",
        matchers=(Matcher(name="service", value="a.*", is_regex=True),),
        starts_at=0.0,
        ends_at=ends_at,
        updated_at=0.0,
    )


def notification(n: int, of: Incident | None = None, key: str = "key") -> Notification:
    return Notification(
        id=f"n{n}",
        receiver="ops",
        integration="slack[0]",
        group_key="{}",
        dedup_key=key,
        action=Action.TRIGGER,
        reason=NotifyReason.FIRST,
        stamp=1000.0 + n,
        alerts=(alert(1),),
        incident=of,
    )


def audit(n: int, incident_id: str = "") -> Audit:
    return Audit(entry=AuditEntry(incident=incident_id, stamp=1000.0 + n, kind="opened", text=f"entry {n}", offset=n))


def snapshot(n: int) -> Snapshot:
    """A state that says which it is, with arrays of several shapes and types."""
    return Snapshot(
        kind="check",
        version=2,
        meta={"n": n, "names": ["a", "ü"], "deep": {"x": [1.5, None, True]}},
        arrays={
            "level": np.arange(n * 1000, n * 1000 + 1000, dtype=np.float32).reshape(10, 100),
            "row": np.array([n], dtype=np.int64),
            "none": np.empty((0, 3), dtype=np.float64),
            "label": np.array([b"shop", b"db"], dtype="S8"),
        },
    )


def same_snapshot(a: Snapshot, b: Snapshot) -> bool:
    return (
        (a.kind, a.version, a.meta, list(a.arrays)) == (b.kind, b.version, b.meta, list(b.arrays))
        and all(x.dtype == b.arrays[k].dtype and x.shape == b.arrays[k].shape for k, x in a.arrays.items())
        and all(bool(np.array_equal(x, b.arrays[k])) for k, x in a.arrays.items())
    )


async def opened(case: StoreCase) -> Store:
    store = case.open()
    await store.start()
    return store


@store_check
async def store_position_and_decisions_move_together(case: StoreCase) -> None:
    """A commit writes decisions, outbox and position; all of it is there after a restart."""
    store = await opened(case)
    assert await store.position() == (-1, "", "")
    of = incident(1)
    await store.commit(
        [
            Upsert(item=of),
            Upsert(item=alert(1, "i1")),
            Upsert(item=silence(1)),
            Touch(fingerprint="0", ends_at=1.0, updated_at=1.0),
            Notify(notification=notification(1, of)),
            audit(1, "i1"),
        ],
        41,
        "h1",
        config_text="a: 1",
    )
    for handle in (store, None):
        if handle is None:
            await store.stop()
            store = await opened(case)
        assert await store.position() == (41, "h1", "a: 1")
        assert of == await store.incident("i1")
        assert [of] == await store.incidents()
        assert [alert(1, "i1")] == await store.alerts()
        assert [silence(1)] == await store.silences()
        assert [audit(1, "i1").entry] == await store.timeline("i1")
        (row,) = await store.outbox()
        assert (notification(1, of), "ops/slack[0]", "key", "i1") == (
            row.item,
            row.destination,
            row.dedup_key,
            row.incident,
        )
        assert ("n1", "pending", 0, case.clock.now) == (row.id, row.state, row.attempts, row.created_at)
    await store.stop()


@store_check
async def store_last_decision_wins(case: StoreCase) -> None:
    """Upserts replace by id, within a commit and over commits; the text of a configuration is found by its hash."""
    store = await opened(case)
    await store.commit([Upsert(item=incident(1))], 0, "h1", config_text="a: 1")
    later = replace(incident(1, services=("db",)), title="later")
    await store.commit([Upsert(item=replace(later, title="between")), Upsert(item=later)], 1, "h2", config_text="a: 2")
    await store.commit([], 2, "h1")

    assert [later] == await store.incidents()
    assert [later] == await store.incidents(service="db")
    assert await store.incidents(service="shop") == []
    assert await store.position() == (2, "h1", "a: 1")
    await store.stop()


@store_check
async def store_position_never_goes_back(case: StoreCase) -> None:
    """A commit behind the committed position is refused whole; one at the position is not."""
    store = await opened(case)
    await store.commit([], 5, "h")
    await store.commit([Upsert(item=silence(1))], 5, "h")
    await refusal(ValueError, store.commit([Upsert(item=silence(2))], 4, "h"))

    assert [silence(1)] == await store.silences()
    assert await store.position() == (5, "h", "")
    await store.stop()


@store_check
async def store_forgets_what_has_no_incident(case: StoreCase) -> None:
    """Forget drops silences and alerts without an incident; an incident and its alerts are the record and stay."""
    store = await opened(case)
    kept = [Upsert(item=incident(1)), Upsert(item=alert(1, "i1")), Upsert(item=alert(2)), Upsert(item=silence(1))]
    await store.commit(kept, 0, "h")
    await store.commit(
        [
            Forget(kind="incident", id="i1"),
            Forget(kind="alert", id=alert(1).fingerprint),
            Forget(kind="alert", id=alert(2).fingerprint),
            Forget(kind="alert", id="unknown"),
            Forget(kind="silence", id="s1"),
            Upsert(item=alert(3, "i1")),
            Forget(kind="alert", id=alert(3).fingerprint),
            Upsert(item=alert(4)),
            Forget(kind="alert", id=alert(4).fingerprint),
        ],
        1,
        "h",
    )

    assert [incident(1)] == await store.incidents()
    assert [alert(3, "i1"), alert(1, "i1")] == await store.alerts()
    assert await store.silences() == []
    await store.stop()


@store_check
async def store_puts_each_delivery_once(case: StoreCase) -> None:
    """An outbox row whose id is there already is left alone; one request for two trainers is two rows."""
    store = await opened(case)
    request = RetrainRequest(id="r1", dedup_key="model-a", subject="model-a", requested_at=1000.0)
    first = [Notify(notification=notification(1)), Notify(notification=notification(2, key="other"))]
    await store.commit(first, 0, "h")
    await store.mark(1, "delivered", attempts=1, at=1001.0)
    retrain = [Retrain(trainer="webhook[0]", request=request), Retrain(trainer="kafka[1]", request=request)]
    await store.commit([*first, *retrain], 1, "h")
    await store.commit(retrain, 2, "h")
    rows = await store.outbox(states=("pending", "delivered"))

    assert [(r.seq, r.id, r.state) for r in rows[:2]] == [(1, "n1", "delivered"), (2, "n2", "pending")]
    assert [("r1", "trainer/webhook[0]", request), ("r1", "trainer/kafka[1]", request)] == [
        (r.id, r.destination, r.item) for r in rows[2:]
    ]
    assert rows[1:3] == await store.outbox(limit=2)
    await store.stop()


@store_check
async def store_marks_and_remembers_receipts(case: StoreCase) -> None:
    """mark moves one row; receipts of a key are those of its rows, later over earlier; an unknown row is an error."""
    store = await opened(case)
    of = incident(7)
    await store.commit([Notify(notification=notification(i, of)) for i in range(3)], 0, "h")
    await store.mark(1, "delivered", attempts=2, receipt={"channel": "C1", "ts": "1"}, at=1005.0)
    await store.mark(2, "pending", attempts=1, next_at=1100.0, error="503")
    await store.mark(3, "failed", error="gone", receipt={"ts": "3"}, at=1006.0)
    rows = await store.outbox(states=("pending", "delivered", "failed"))

    assert [(r.state, r.attempts, r.next_at, r.error, r.done_at, r.receipt) for r in rows] == [
        ("delivered", 2, 0.0, "", 1005.0, {"channel": "C1", "ts": "1"}),
        ("pending", 1, 1100.0, "503", 0.0, {}),
        ("failed", 0, 0.0, "gone", 1006.0, {"ts": "3"}),
    ]
    assert rows[1:2] == await store.outbox()
    assert rows[1:2] == await store.outbox(incident="i7")
    assert await store.outbox(incident="i8") == []
    assert await store.receipts("ops/slack[0]", "key") == {"channel": "C1", "ts": "3"}
    assert await store.receipts("ops/slack[0]", "another") == {}
    assert await store.receipts("ops/pagerduty[0]", "key") == {}
    await refusal(StoreError, store.mark(99, "delivered"))
    await store.stop()


@store_check
async def store_answers_queries_in_order(case: StoreCase) -> None:
    """Incidents come newest first by state, service and page; alerts by start; a timeline is its newest entries."""
    store = await opened(case)
    resolved = incident(3, state=IncidentState.RESOLVED, services=("db", "shop-2"))
    given = [incident(1), incident(2, services=("shop", "db")), resolved]
    await store.commit(
        [
            *(Upsert(item=i) for i in given),
            Upsert(item=alert(1, "i1")),
            Upsert(item=alert(2, "i1", AlertState.RESOLVED)),
            Upsert(item=alert(3)),
            *(audit(n, f"i{n % 2}") for n in range(6)),
            audit(6),
        ],
        0,
        "h",
    )

    assert [resolved, given[1], given[0]] == await store.incidents()
    assert [given[1], given[0]] == await store.incidents(states=("open",))
    assert [given[1], given[0]] == await store.incidents(service="shop")
    assert [resolved, given[1]] == await store.incidents(service="db")
    assert [given[1]] == await store.incidents(before=resolved.opened_at, limit=1)
    assert None is await store.incident("nobody")
    assert [alert(3), alert(2, "i1", AlertState.RESOLVED), alert(1, "i1")] == await store.alerts()
    assert [alert(2, "i1", AlertState.RESOLVED)] == await store.alerts(incident="i1", states=("resolved",))
    assert [e.offset for e in await store.timeline("i1")] == [1, 3, 5]
    assert [e.offset for e in await store.timeline("i1", limit=2)] == [3, 5]
    assert list(range(7)) == [e.offset for e in await store.timeline()]
    third = (await store.timeline())[3].stamp
    assert [e.offset for e in await store.timeline(before=third, limit=2)] == [1, 2]
    assert [e.offset for e in await store.timeline("i1", before=third)] == [1]
    await store.stop()


@store_check
async def store_fences_who_was_replaced(case: StoreCase) -> None:
    """Once another opened the store, every write of the earlier one is refused and changes nothing; reads go on."""
    old = await opened(case)
    await old.commit([Notify(notification=notification(1))], 0, "h")
    await old.put_snapshot("correlate", 0, "h", snapshot(1))
    new = await opened(case)
    writes: list[Awaitable[object]] = [
        old.commit([Upsert(item=silence(1))], 1, "h"),
        old.mark(1, "delivered"),
        old.put_snapshot("correlate", 1, "h", snapshot(2)),
        old.prune(1e12),
    ]
    for write in writes:
        await refusal(Fenced, write)

    assert await new.silences() == []
    assert [r.state for r in await new.outbox()] == ["pending"]
    found = await new.snapshot("correlate")
    assert found is not None
    assert same_snapshot(snapshot(1), found[1])
    await new.commit([Upsert(item=silence(1))], 1, "h")
    assert [silence(1)] == await old.silences()
    await old.stop()
    await new.stop()


@store_check
async def store_keeps_the_newest_snapshot_of_each_name(case: StoreCase) -> None:
    """A snapshot of any name comes back as it was, with what it covers, after a restart too; the copy is ours."""
    store = await opened(case)
    odd = "detect/a b:c/../7 " + "x" * 300
    assert None is await store.snapshot("correlate")
    assert [] == await store.snapshot_refs("correlate")
    for n in range(1, 5):
        ref = await store.put_snapshot("correlate", n * 10, f"h{n}", snapshot(n))
        assert ref == (await store.snapshot_refs("correlate"))[0]
    await store.put_snapshot(odd, 3, "h", snapshot(9))
    await store.stop()
    store = await opened(case)
    found = await store.snapshot("correlate")
    other = await store.snapshot(odd)
    assert found is not None
    assert other is not None

    assert ("correlate", 40, "h4", case.clock.now) == (
        found[0].name,
        found[0].position,
        found[0].config_hash,
        found[0].written_at,
    )
    assert same_snapshot(snapshot(4), found[1])
    assert same_snapshot(snapshot(9), other[1])
    for array in found[1].arrays.values():
        if array.flags.writeable:
            array[...] = np.zeros_like(array)  # must not reach the kept one
    again = await store.snapshot("correlate")
    assert again is not None
    assert same_snapshot(snapshot(4), again[1])
    await store.stop()


@store_check
async def store_refuses_state_that_is_not_plain(case: StoreCase) -> None:
    """An array of objects, or meta that msgpack cannot hold, is refused; the snapshot before stays current."""
    store = await opened(case)
    await store.put_snapshot("correlate", 1, "h", snapshot(1))
    wrong = [
        Snapshot(kind="x", version=1, meta={}, arrays={"a": np.array([{}, None], dtype=object)}),
        Snapshot(kind="x", version=1, meta={}, arrays={"a": np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])}),
        Snapshot(kind="x", version=1, meta={"f": object()}),
    ]
    for state in wrong:
        await refusal(StoreError, store.put_snapshot("correlate", 2, "h", state))
    found = await store.snapshot("correlate")

    assert found is not None
    assert found[0].position == 1
    await store.stop()


@store_check
async def store_adopts_only_files_that_are_there(case: StoreCase) -> None:
    """A snapshot file that is missing, or of another size, is not made current."""
    store = await opened(case)
    ref = await store.put_snapshot("correlate", 1, "h", snapshot(1))
    wrong = [replace(ref, name="other", path=ref.path + "x"), replace(ref, name="other", size=ref.size + 1)]
    for bad in wrong:
        await refusal(Corrupt, store.adopt_snapshot(bad))
    if case.files:
        await store.adopt_snapshot(replace(ref, position=2))
        found = await store.snapshot("correlate")
        assert found is not None
        assert found[0].position == 2

    assert [] == await store.snapshot_refs("other")
    await store.stop()


@store_check
async def store_survives_a_full_disk(case: StoreCase) -> None:
    """Without room a commit raises Full and changes nothing, the old snapshot stays; with room again both work."""
    store = await opened(case)
    await store.put_snapshot("correlate", 0, "h", snapshot(1))
    await case.fill(store)
    position = -1
    refused = False
    for n in range(200):
        big = replace(incident(n), title="x" * 20_000)
        try:
            await store.commit([Upsert(item=big), Notify(notification=notification(n, big))], n, "h")
            position = n
        except Full:
            refused = True
            break
    assert refused
    assert (position, "h" if position >= 0 else "", "") == await store.position()
    assert position + 1 == len(await store.incidents(limit=500)) == len(await store.outbox())
    found = await store.snapshot("correlate")
    assert found is not None
    assert same_snapshot(snapshot(1), found[1])
    await case.free(store)
    await store.commit([Upsert(item=big)], position + 1, "h")
    await store.put_snapshot("correlate", position + 1, "h", snapshot(2))

    assert (position + 1, "h", "") == await store.position()
    assert position + 1 == (await store.snapshot_refs("correlate"))[0].position
    await store.stop()


@store_check
async def store_prunes_what_ended_long_ago(case: StoreCase) -> None:
    """prune drops ended incidents with alerts and timeline, and what was done or over by then; nothing that lives."""
    store = await opened(case)
    old = [incident(1, state=IncidentState.RESOLVED), incident(2, state=IncidentState.MERGED)]
    young = [incident(500, state=IncidentState.RESOLVED), incident(3)]
    await store.commit(
        [
            *(Upsert(item=i) for i in old + young),
            Upsert(item=alert(1, "i1")),
            Upsert(item=alert(2, "i500", AlertState.RESOLVED)),
            Upsert(item=alert(3, "", AlertState.RESOLVED)),
            Upsert(item=alert(4)),
            Upsert(item=silence(1, ends_at=1100.0)),
            Upsert(item=silence(2, ends_at=1300.0)),
            *(Notify(notification=notification(n, i)) for n, i in enumerate((old[0], young[1], None, None))),
            audit(1, "i1"),
            audit(2, "i3"),
            audit(3),
            audit(400),
        ],
        0,
        "h",
    )
    for seq in (1, 2, 3):
        await store.mark(seq, "delivered", receipt={"ts": str(seq)}, at=1020.0)

    assert await store.prune(1200.0) == 2
    assert young == await store.incidents()
    assert [alert(4), alert(2, "i500", AlertState.RESOLVED)] == await store.alerts()
    assert [silence(2, ends_at=1300.0)] == await store.silences()
    assert [e.offset for e in await store.timeline()] == [2, 400]
    assert [r.seq for r in await store.outbox(states=("pending", "delivered"))] == [2, 4]
    assert await store.receipts("ops/slack[0]", "key") == {"ts": "2"}
    assert await store.prune(1200.0) == 0
    await store.stop()
