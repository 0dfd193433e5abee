"""The store's promises without the disk: for tests and simulations.

Everything is copied on its way in and out as far as a file would: snapshots are stored as their own arrays, decisions
are frozen. `full` makes every write fail as a full disk would.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from aiopsd.errors import Corrupt, Fenced, Full, StoreError
from aiopsd.model import Alert, AlertState, AuditEntry, Effect, Incident, Silence, Snapshot
from aiopsd.protocols import Clock, OutboxRow, SnapshotRef
from aiopsd.snapshots import header_of
from aiopsd.stores.decisions import ENDED, PENDING, ended_at, fold


class Contents:
    """What a `MemoryStore` holds; several may open the same, the last one to start is the owner."""

    def __init__(self) -> None:
        self.epoch = 0
        self.position = -1
        self.config_hash = ""
        self.configs: dict[str, str] = {}
        self.incidents: dict[str, Incident] = {}
        self.alerts: dict[str, Alert] = {}
        self.silences: dict[str, Silence] = {}
        self.audit: list[AuditEntry] = []
        self.outbox: dict[int, OutboxRow] = {}
        self.rows: set[tuple[str, str]] = set()  # (id, destination) of every outbox row
        self.seq = 0
        self.snapshots: dict[str, tuple[SnapshotRef, Snapshot]] = {}


class MemoryStore:
    """`protocols.Store` in memory. Give it the `contents` of another to see them as after a restart."""

    def __init__(self, clock: Clock, contents: Contents | None = None) -> None:
        self.contents = contents or Contents()
        self.full = False
        self._clock = clock
        self._epoch = 0

    async def start(self) -> None:
        self.contents.epoch += 1
        self._epoch = self.contents.epoch

    async def stop(self) -> None:
        return

    def _guard(self) -> Contents:
        """The contents, for one write."""
        if not self._epoch:
            raise StoreError("the store is not open")
        if self._epoch != self.contents.epoch:
            raise Fenced(f"another opened this store since (epoch {self.contents.epoch}, ours {self._epoch})")
        if self.full:
            raise Full("memory store: no space left")
        return self.contents

    async def commit(
        self, effects: Sequence[Effect], position: int, config_hash: str, *, config_text: str = ""
    ) -> None:
        c = self._guard()
        if position < c.position:
            raise ValueError(f"position {position} is behind the committed {c.position}")
        decided = fold(effects)
        c.position, c.config_hash = position, config_hash
        if config_text:
            c.configs.setdefault(config_hash, config_text)
        c.incidents |= decided.incidents
        for key, alert in decided.alerts.items():
            if alert is not None:
                c.alerts[key] = alert
            elif key in c.alerts and not c.alerts[key].incident:
                del c.alerts[key]
        for key, silence in decided.silences.items():
            if silence is not None:
                c.silences[key] = silence
            else:
                c.silences.pop(key, None)
        for d in decided.deliveries:
            if (d.id, d.destination) in c.rows:
                continue
            c.rows.add((d.id, d.destination))
            c.seq += 1
            c.outbox[c.seq] = OutboxRow(
                seq=c.seq,
                id=d.id,
                destination=d.destination,
                dedup_key=d.dedup_key,
                item=d.item,
                state=PENDING,
                incident=d.incident,
                created_at=self._clock(),
            )
        c.audit += decided.audit

    async def position(self) -> tuple[int, str, str]:
        c = self.contents
        return c.position, c.config_hash, c.configs.get(c.config_hash, "")

    async def put_snapshot(self, name: str, position: int, config_hash: str, snapshot: Snapshot) -> SnapshotRef:
        c = self._guard()
        header_of(snapshot)  # refuses what a file could not hold
        ref = SnapshotRef(
            name=name,
            position=position,
            config_hash=config_hash,
            written_at=self._clock(),
            path="",
            sha256="",
            size=sum(a.nbytes for a in snapshot.arrays.values()),
        )
        c.snapshots[name] = (ref, _copy(snapshot))
        return ref

    async def snapshot(self, name: str) -> tuple[SnapshotRef, Snapshot] | None:
        found = self.contents.snapshots.get(name)
        return None if found is None else (found[0], _copy(found[1]))

    async def snapshot_refs(self, name: str) -> list[SnapshotRef]:
        found = self.contents.snapshots.get(name)
        return [] if found is None else [found[0]]

    async def adopt_snapshot(self, ref: SnapshotRef) -> None:
        """There are no files here, so there is none of that size."""
        self._guard()
        raise Corrupt(f"{ref.path}: a store in memory has no files")

    async def outbox(
        self, *, states: Sequence[str] = (PENDING,), limit: int = 1000, incident: str = ""
    ) -> list[OutboxRow]:
        rows = [r for r in self.contents.outbox.values() if r.state in states and incident in ("", r.incident)]
        return rows[:limit]

    async def mark(
        self,
        seq: int,
        state: str,
        *,
        attempts: int | None = None,
        next_at: float = 0.0,
        error: str = "",
        receipt: Mapping[str, str] | None = None,
        at: float = 0.0,
    ) -> None:
        c = self._guard()
        row = c.outbox.get(seq)
        if row is None:
            raise StoreError(f"no outbox row {seq}")
        c.outbox[seq] = replace(
            row,
            state=state,
            attempts=row.attempts if attempts is None else attempts,
            next_at=next_at,
            error=error,
            receipt=row.receipt if receipt is None else dict(receipt),
            done_at=0.0 if state == PENDING else at,
        )

    async def receipts(self, destination: str, dedup_key: str) -> dict[str, str]:
        merged: dict[str, str] = {}
        for row in self.contents.outbox.values():
            if row.destination == destination and row.dedup_key == dedup_key:
                merged |= row.receipt
        return merged

    async def incidents(
        self, *, states: Sequence[str] = (), limit: int = 100, before: float | None = None, service: str = ""
    ) -> list[Incident]:
        found = [
            i
            for i in self.contents.incidents.values()
            if (not states or i.state in states)
            and (before is None or i.opened_at < before)
            and (not service or service in i.services)
        ]
        return sorted(found, key=lambda i: (i.opened_at, i.id), reverse=True)[:limit]

    async def incident(self, incident_id: str) -> Incident | None:
        return self.contents.incidents.get(incident_id)

    async def alerts(self, *, incident: str = "", states: Sequence[str] = ()) -> list[Alert]:
        found = [
            a
            for a in self.contents.alerts.values()
            if (not incident or a.incident == incident) and (not states or a.state in states)
        ]
        return sorted(found, key=lambda a: (a.starts_at, a.fingerprint))

    async def silences(self) -> list[Silence]:
        return [self.contents.silences[key] for key in sorted(self.contents.silences)]

    async def timeline(self, incident: str = "", *, limit: int = 1000, before: float | None = None) -> list[AuditEntry]:
        entries = [e for e in self.contents.audit if not incident or e.incident == incident]
        entries = entries if before is None else [e for e in entries if e.stamp < before]
        return entries[-limit:] if limit > 0 else []

    async def prune(self, before: float) -> int:
        c = self._guard()
        old = {key for key, i in c.incidents.items() if i.state in ENDED and ended_at(i) < before}
        for key in old:
            del c.incidents[key]
        living = {key for key, i in c.incidents.items() if i.state not in ENDED}
        c.alerts = {
            key: a
            for key, a in c.alerts.items()
            if a.incident not in old and (a.incident or a.state is AlertState.FIRING or a.updated_at >= before)
        }
        c.silences = {key: s for key, s in c.silences.items() if s.ends_at >= before}
        c.audit = [e for e in c.audit if e.incident not in old and (e.incident or e.stamp >= before)]
        c.outbox = {
            seq: r for seq, r in c.outbox.items() if r.state == PENDING or r.done_at >= before or r.incident in living
        }
        c.rows = {(r.id, r.destination) for r in c.outbox.values()}
        return len(old)


def _copy(snapshot: Snapshot) -> Snapshot:
    """The same state, nothing shared: as if read from a file."""
    meta = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot.meta), type=dict)
    return replace(snapshot, meta=meta, arrays={name: array.copy() for name, array in snapshot.arrays.items()})
