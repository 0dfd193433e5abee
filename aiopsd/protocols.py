"""Every boundary on one page: what a stage, a detector, a log, the journal, a store and a destination promise.

Conformance suites in `aiopsd.testing.checks` hold each implementation to the docstrings here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.model import (
    Alert,
    AuditEntry,
    Body,
    Checked,
    Effect,
    Entry,
    Incident,
    JournalRecord,
    LogRecord,
    Notification,
    RetrainRequest,
    Silence,
    Snapshot,
    SourcePos,
)

# --------------------------------------------------------------------------- the core


class CorrelateLike(Protocol):
    """The stage of one correlation domain: a deterministic function of the journal."""

    def step(self, records: Sequence[JournalRecord]) -> list[Effect]:
        """Effects of these records, in order. `step(a + b)` equals `step(a) + step(b)`, bit for bit."""
        ...

    def wake_at(self) -> float | None:
        """Stamp at which a Tick is wanted if nothing else arrives; None: never."""
        ...

    def snapshot(self) -> Snapshot: ...


class DetectLike(Protocol):
    """The stage of one partition of a metric log."""

    def step(self, records: Sequence[LogRecord]) -> list[Effect]:
        """`Append` and `Reject` effects of these records, in order of their offsets; batch-invariant like the other."""
        ...

    def evidence(self, services: Sequence[str], since: float, others: int = 0) -> list[Any]:
        """`model.Evidence` of these services and `others` more, sub-threshold included; reads state, changes none."""
        ...

    def snapshot(self) -> Snapshot: ...


class Detector(Protocol):
    """Scores samples of many series. One row is one series; arrays have one element per sample, rows are unique."""

    def score(
        self, rows: NDArray[np.intp], ts: NDArray[np.float64], values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Score in [0, 1) for each sample, 0.5 is the decision point; mutates nothing."""
        ...

    def learn(self, rows: NDArray[np.intp], ts: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Take these samples into the state. Score before you learn."""
        ...

    def snapshot(self) -> Snapshot: ...


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a model would have taken for normal: of the value, or of the feature that is strangest.

    `scale`: how far from it is still normal, about a standard deviation; 0: the caller's own idea of it.
    """

    value: float
    scale: float = 0.0
    feature: str = ""


class Model(Protocol):
    """One model of one series, or of one service's features: the second tier's plug-in (`aiopsd.detectors`).

    Its class has a `Config`, a frozen msgspec Struct, and is made from one and nothing else; ValueError says that the
    values of its parameters do not go together. It has no clock, does no I/O and draws nothing without a seed. What it
    raises is counted and costs the sample. `ts` is UTC seconds and grows. `x` are finite numbers by name: of a series,
    its value as `x` (a counter's rate) and what came before as `x1`, `x2`, ... (`lags`); of a service, its metrics in
    deviations from their own level, of which some may be missing.

    It may have a `span(interval) -> float` too: seconds of the past that one statistic looks at, where samples come
    `interval` seconds apart. Without one it is that of the sample and its lags. It says how many looks there were, and
    so how rare one is that was never as large.
    """

    def statistic(self, ts: float, x: Mapping[str, float]) -> tuple[float | None, Expected | None]:
        """(how strange this is, what would be normal), before it is learned; changes nothing.

        The larger, the stranger, in any unit, unbounded: the caller learns its usual range and scores what leaves it.
        None: nothing can be said yet, or of this.
        """
        ...

    def learn(self, ts: float, x: Mapping[str, float]) -> None:
        """Take it into the state. The state is bounded, however long the stream."""
        ...

    def state(self) -> Any:
        """All of it as plain data: lists, mappings, texts, numbers, bytes; `load` makes an equal model of it."""
        ...

    def load(self, state: Any) -> None:
        """Go on from another's `state`, of a model with the same Config."""
        ...


# --------------------------------------------------------------------------- logs


class Owner(Protocol):
    """Whoever holds the positions of a stream: asked when partitions come, told before they go."""

    async def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Next offset to read for each partition; None: the stream's own default (earliest)."""
        ...

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Finish the step, commit, release. When this returns, somebody else may own the partitions."""
        ...


@runtime_checkable
class Stream(Protocol):
    """A partitioned log of raw records: local, Kafka, files, memory. Offsets belong to the reader's store, not to it.

    Reading: `start(owner)`, then `poll`. Writing: `append` returns when the records are as safe as the log can make
    them. A stream that cannot write raises StreamError(retry=False).
    """

    name: str

    async def start(self, owner: Owner | None = None) -> None:
        """Connect; with an owner, take partitions and position each where the owner says.

        Raises:
            OffsetLost: an owner's offset is outside the log and the policy is "stop".
        """
        ...

    async def poll(self, limit: int, wait: float) -> list[LogRecord]:
        """At most `limit` records in offset order per partition; [] after `wait` seconds without any."""
        ...

    async def append(self, entries: Sequence[Entry]) -> list[SourcePos]:
        """Append all or raise; returns each entry's place.

        Raises:
            Full: no space; nothing was written.
            StreamError: broker away or record refused.
        """
        ...

    def pause(self, partitions: Sequence[int]) -> None: ...

    def resume(self, partitions: Sequence[int]) -> None: ...

    async def lag(self) -> dict[int, int]:
        """Records between the read position and the end of the log, for each assigned partition."""
        ...

    async def trim(self, before: Mapping[int, int]) -> None:
        """The reader will never again need offsets below these; the log may drop them by its own retention."""
        ...

    async def stop(self) -> None: ...


@runtime_checkable
class Journal(Protocol):
    """The one durable, ordered, replayable sequence of a correlation domain. One writer process.

    Stamps are given at append: max(last stamp, clock()). `origin` dedupes: a body whose origin (source, partition) is
    at or below the high-water mark that the journal holds for it is not appended again.
    """

    async def start(self) -> None: ...

    async def append(self, bodies: Sequence[Body], origins: Sequence[SourcePos | None] | None = None) -> int:
        """Offset of the last record of these bodies, all in one atomic, synced write (group commit across callers).

        Bodies of one call that share one origin are appended or dropped together. When every body was known already,
        returns the current end - 1 (whose commit covers them).

        Raises:
            Full: no space; nothing was written.
        """
        ...

    async def read(self, after: int, limit: int) -> list[JournalRecord]:
        """Up to `limit` records with offset > after, in order, at once (may be []).

        Raises:
            OffsetLost: `after` + 1 is below the retained beginning.
        """
        ...

    async def wait(self, after: int, timeout: float | None) -> bool:
        """True as soon as a record with offset > after exists; False after `timeout` seconds."""
        ...

    def end(self) -> int:
        """Offset that the next record will get; 0 for an empty journal."""
        ...

    async def high_water(self, source: str) -> dict[int, int]:
        """Highest offset of `source` that the journal holds or once held, by partition."""
        ...

    async def rebase(self, source: str, partition: int, before: int) -> None:
        """The log of this source began anew: offsets from `before` on are new, whatever the mark says."""
        ...

    async def trim(self, before: int) -> None:
        """Records below `before` are behind every snapshot; drop those older than the retention."""
        ...

    async def stop(self) -> None: ...


# --------------------------------------------------------------------------- the store


class SnapshotRef(msgspec.Struct, frozen=True, kw_only=True):
    """The current snapshot of a stage: what it covers and where it lies. `position` is the last offset inside it."""

    name: str  # "correlate", or "detect/<source>/<partition>"
    position: int
    config_hash: str
    written_at: float
    path: str
    sha256: str
    size: int


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery that is due, under way or done. Order within (destination, dedup_key) is by `seq`."""

    seq: int
    id: str
    destination: str
    dedup_key: str
    item: Notification | RetrainRequest
    state: str  # pending | delivered | superseded | failed
    attempts: int = 0
    next_at: float = 0.0  # not before this time (UTC seconds)
    error: str = ""
    incident: str = ""
    created_at: float = 0.0
    done_at: float = 0.0
    receipt: dict[str, str] = {}  # what the receiver said: Slack channel and ts, run id of a job


class Store(Protocol):
    """Decisions and positions. `commit` is the one transaction verb; everything else is a query or an outbox mark."""

    async def start(self) -> None: ...

    async def commit(
        self,
        effects: Sequence[Effect],
        position: int,
        config_hash: str,
        *,
        config_text: str = "",
    ) -> None:
        """Write decisions, outbox rows and the journal position in one transaction.

        Effects used: Upsert, Forget, Notify, Retrain, Audit; the others are ignored. An outbox row whose id exists for
        its destination is left alone. Forget is about the stage's memory: it drops silences and alerts without an
        incident, while an incident and its alerts stay until `prune`. `position` must not go back.

        Raises:
            Fenced: another process has opened this store since.
            Full: no space; nothing changed.
            ValueError: `position` is behind the committed one.
        """
        ...

    async def position(self) -> tuple[int, str, str]:
        """(offset of the last committed journal record or -1, config hash, config text) of the last commit."""
        ...

    async def put_snapshot(self, name: str, position: int, config_hash: str, snapshot: Snapshot) -> SnapshotRef:
        """Write the snapshot as files (chunked, synced), then make it current in a transaction; drop the previous."""
        ...

    async def snapshot(self, name: str) -> tuple[SnapshotRef, Snapshot] | None:
        """The current snapshot, verified; an older one that was kept when it is damaged: the ref says which.

        Raises:
            Corrupt: no kept file is what was written.
        """
        ...

    async def snapshot_refs(self, name: str) -> list[SnapshotRef]:
        """Where the kept snapshots lie, newest first, none of them read: a worker process reads them itself."""
        ...

    async def adopt_snapshot(self, ref: SnapshotRef) -> None:
        """Make current a snapshot file that a worker process wrote; as the second half of put_snapshot.

        Raises:
            Fenced: another process has opened this store since.
            Corrupt: there is no such file of that size.
        """
        ...

    # outbox -----------------------------------------------------------------
    async def outbox(
        self, *, states: Sequence[str] = ("pending",), limit: int = 1000, incident: str = ""
    ) -> list[OutboxRow]:
        """Rows by seq; with `incident`, only that incident's."""
        ...

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
    ) -> None: ...

    async def receipts(self, destination: str, dedup_key: str) -> dict[str, str]:
        """Receipts of earlier deliveries of this key to this destination, later ones over earlier ones."""
        ...

    # queries ----------------------------------------------------------------
    async def incidents(
        self, *, states: Sequence[str] = (), limit: int = 100, before: float | None = None, service: str = ""
    ) -> list[Incident]:
        """Newest first by (opened_at, id); `before`: only those with opened_at < before."""
        ...

    async def incident(self, incident_id: str) -> Incident | None: ...

    async def alerts(self, *, incident: str = "", states: Sequence[str] = ()) -> list[Alert]: ...

    async def silences(self) -> list[Silence]: ...

    async def timeline(self, incident: str = "", *, limit: int = 1000, before: float | None = None) -> list[AuditEntry]:
        """The newest `limit` entries, oldest first; with `incident` only its, with `before` only stamps before it."""
        ...

    async def prune(self, before: float) -> int:
        """Drop resolved incidents with their alerts and timelines, and done outbox rows, older than `before`."""
        ...

    async def stop(self) -> None: ...


# --------------------------------------------------------------------------- destinations


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request as bytes: what `encode` decided and `send` only carries out."""

    method: str
    url: str
    body: bytes
    headers: dict[str, str] = {}


class Session(Protocol):
    """What a notifier needs of an HTTP client; aiohttp behind it, a fake in golden tests."""

    async def request(
        self, method: str, url: str, *, data: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers with lower-case names, body). Raises DeliveryError(NETWORK | TIMEOUT, retry=True)."""
        ...


class Notifier(Protocol):
    """One integration of a receiver. `Config` is a frozen Struct; the constructor stores it and does nothing else."""

    Config: ClassVar[type[msgspec.Struct]]

    def __init__(self, config: Any, session: Session) -> None: ...

    def encode(self, item: Notification, receipt: Mapping[str, str]) -> Request | None:
        """The request for this notification, pure; None when there is nothing to say."""
        ...

    async def send(self, item: Notification, receipt: Mapping[str, str]) -> dict[str, str]:
        """Encode and deliver; returns what is worth remembering for the next message of the same dedup_key.

        Raises:
            DeliveryError: with the reason, whether to retry, and the receiver's Retry-After.
        """
        ...


class Trainer(Protocol):
    """Takes retraining requests; idempotent by dedup_key."""

    Config: ClassVar[type[msgspec.Struct]]

    async def send(self, item: RetrainRequest, receipt: Mapping[str, str]) -> dict[str, str]: ...


Clock = Callable[[], float]


# --------------------------------------------------------------------------- the door


class Door(Protocol):
    """What HTTP handlers may ask of the runtime. An answer means that the record is safe."""

    async def push_metrics(self, body: bytes, format: str) -> Checked:
        """Check the body and append it to the metric log; returns when it is there, with what was wrong in it.

        Raises:
            DecodeError: it can never be accepted (answer 400).
            Full, StreamError: not now (answer 503, never 429: Prometheus drops samples on 429).
        """
        ...

    async def submit(self, bodies: Sequence[Body]) -> int:
        """Append to the journal and wait until the step that holds it is committed; its offset.

        Raises:
            TimeoutError: safe in the journal, but not decided within http.commit_timeout (answer 503).
            Full, StreamError: not now (answer 503).
        """
        ...

    def readiness(self) -> dict[str, str]:
        """Empty when ready; else what we wait for, by part."""
        ...

    def status(self) -> dict[str, Any]:
        """Positions, lag, outbox, sources, uptime: plain data for /api/v1/status."""
        ...

    async def reload(self) -> None:
        """Load the configuration again and swap.

        Raises:
            ConfigError: the old configuration stays.
        """
        ...
