"""Who owns the journal and the store, as a detect host sees it.

A detect host claims a partition before it reads it: the claim hands over the snapshot and fences the previous holder,
whose appends and snapshots are refused from then on. In one process it is `LocalHome`; a worker process speaks to the
same `LocalHome` of its daemon over a socket (`worker.py`).
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from aiopsd.config import config_hash
from aiopsd.errors import Fenced
from aiopsd.model import Append, EvidenceDigest, Snapshot
from aiopsd.protocols import Journal, Store


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to work on one partition. `generation` grows with each claim; only the newest is honoured."""

    source: str
    partition: int
    generation: int


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A claim and where to go on from: the snapshot covers everything up to and including `position` (-1: nothing)."""

    claim: Claim
    position: int = -1
    snapshot: Snapshot | None = None


class Home(Protocol):
    """What a detect host asks of the owner of the journal and the store."""

    async def claim(self, source: str, partition: int) -> Held: ...

    async def append(self, claim: Claim, events: Sequence[Append]) -> None:
        """Put events into the journal, once per origin, all of one call in one write.

        Raises:
            Fenced: the partition was claimed by somebody else since.
            Full, StreamError: not now; the same call may be repeated.
        """
        ...

    async def answer(self, digest: EvidenceDigest) -> None: ...

    async def rebase(self, claim: Claim, before: int) -> None:
        """The partition's log was made anew: its offsets from `before` on are events that the journal does not know.

        Raises:
            Fenced, Full: as above.
        """
        ...

    async def save(self, claim: Claim, position: int, snapshot: Snapshot) -> None:
        """Make this the current snapshot of the partition.

        Raises:
            Fenced, Full: as above; the old one stays.
        """
        ...


def snapshot_name(source: str, partition: int) -> str:
    return f"detect/{source}/{partition}"


class LocalHome:
    """The journal and the store of this process."""

    def __init__(self, journal: Journal, store: Store, text: str) -> None:
        self.journal, self.store, self.text = journal, store, text
        self._generations: dict[tuple[str, int], int] = {}

    async def claim(self, source: str, partition: int) -> Held:
        claim = self.grant(source, partition)
        found = await self.store.snapshot(snapshot_name(source, partition))
        if found is None:
            return Held(claim=claim)
        ref, snapshot = found
        return Held(claim=claim, position=ref.position, snapshot=snapshot)

    def grant(self, source: str, partition: int) -> Claim:
        """The next generation of this partition; older claims are fenced from now on."""
        generation = self._generations.get((source, partition), 0) + 1
        self._generations[source, partition] = generation
        return Claim(source=source, partition=partition, generation=generation)

    def check(self, claim: Claim) -> None:
        """Raises Fenced unless this is the newest claim of its partition."""
        newest = self._generations.get((claim.source, claim.partition), 0)
        if claim.generation != newest:
            raise Fenced(f"{claim.source}/{claim.partition}: claim {claim.generation} was replaced by {newest}")

    async def append(self, claim: Claim, events: Sequence[Append]) -> None:
        self.check(claim)
        await self.journal.append([e.body for e in events], [e.origin for e in events])

    async def answer(self, digest: EvidenceDigest) -> None:
        await self.journal.append([digest])

    async def rebase(self, claim: Claim, before: int) -> None:
        self.check(claim)
        await self.journal.rebase(claim.source, claim.partition, before)

    async def save(self, claim: Claim, position: int, snapshot: Snapshot) -> None:
        self.check(claim)
        name = snapshot_name(claim.source, claim.partition)
        await self.store.put_snapshot(name, position, config_hash(self.text), snapshot)
