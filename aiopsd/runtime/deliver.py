"""The outbox's other end: every row is delivered, superseded by newer news, or visibly failed.

Enters: outbox rows, in the order in which they were decided. Leaves: requests, and marks in the store. A destination
has its own lane: its pace, its Retry-After, its few requests at once, so that a slow receiver delays nobody else.
Within a lane the rows of one dedup_key go one after the other, and what newer news overtook is not sent: a trigger
before a resolve or a newer trigger is marked superseded. A resolve is sent unless nothing that it would close can have
left this process.

Between a request and its mark the process may die: the row is sent again, with the same id and dedup_key. That is the
promise of docs/explanation: at least once, in order, never a trigger after its resolve.
"""

import asyncio
import heapq
import random
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from msgspec.structs import replace

from aiopsd.config import DeliveryConfig
from aiopsd.errors import DeliveryError, DeliveryReason, Full
from aiopsd.metrics import Metrics
from aiopsd.model import Action, Notification, NotifyReason
from aiopsd.protocols import Clock, Notifier, OutboxRow, Store, Trainer

Destination = Notifier | Trainer

CONCURRENCY = 4  # requests at once per destination: one that hangs does not hold the other incidents of its receiver
FIRST_BACKOFF = 1.0  # s; doubles up to delivery.max_backoff
GRACE = 5.0  # s; what is under way at a stop may end, so that it need not be sent twice
LOOK_EVERY = 30.0  # s; the outbox is read again without being woken: a lost wake-up costs no page
READ = 1000  # rows of one look; doubled while there are more: one dead destination must not hide the others
ERROR_LIMIT = 500  # characters kept with a row


class _Lane:
    """One destination: its waiting rows by dedup_key, and when it may be asked again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, deque[OutboxRow]] = {}
        self.busy: set[str] = set()
        self.tried: set[str] = set()  # keys that failed in this drain
        self.unsent: set[str] = set()  # keys of whose first trigger nothing has left this process
        self.not_before = 0.0
        self.changed = asyncio.Event()
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._paced = 0.0  # when the next slot of the pace begins (GCRA's theoretical arrival time)

    def schedule(self, key: str, at: float | None = None) -> None:
        """Its first row may be sent at `at`; None: as before, or now when it was not waiting."""
        if at is None:
            at = self._at.get(key, 0.0)
        self._at[key] = at
        heapq.heappush(self._heap, (at, self.rows[key][0].seq, key))
        self.changed.set()

    def next(self, now: float, rate: float) -> tuple[str | None, float | None]:
        """(a key whose turn it is, None) or (None, when to ask again; None: not before something changes)."""
        while self._heap:
            at, seq, key = self._heap[0]
            rows = self.rows.get(key)
            if not rows or key in self.busy or self._at.get(key) != at or rows[0].seq != seq:
                heapq.heappop(self._heap)
                continue
            if key in self.tried:
                heapq.heappop(self._heap)
                continue
            ready = max(at, self.not_before)
            if rate > 0:  # a burst of one second's worth, then the pace
                ready = max(ready, self._paced - max(0.0, 1.0 - 1.0 / rate))
            if ready > now:
                return None, ready
            heapq.heappop(self._heap)
            if rate > 0:
                self._paced = max(self._paced, now) + 1.0 / rate
            return key, None
        return None, None

    def empty(self, key: str) -> None:
        del self.rows[key]
        self._at.pop(key, None)

    def waiting(self) -> int:
        return sum(len(rows) for rows in self.rows.values())


class Deliverer:
    """Delivers the outbox. `drain` once before the first new record, then `run` for ever, woken by `wake`.

    It owns its destinations: one with a coroutine `stop` is stopped when it is swapped out, and at the end.
    """

    def __init__(
        self,
        store: Store,
        destinations: Mapping[str, Destination],
        config: DeliveryConfig,
        metrics: Metrics,
        clock: Clock,
        log: Any = None,
        *,
        seed: int = 0,
    ) -> None:
        self._store = store
        self._destinations = dict(destinations)
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._log = log or structlog.get_logger("deliver")
        self._random = random.Random(seed)
        self._lanes: dict[str, _Lane] = {}
        self._known: dict[int, None] = {}  # seq of rows in the lanes
        self._last_seq = -1
        self._fresh = False  # rows read from now on were decided by this process
        self._flights: set[asyncio.Task[None]] = set()
        self._retired: list[Destination] = []
        self._draining = False
        self._woken = asyncio.Event()
        self._settled = asyncio.Event()  # nothing overtaken waits for its mark
        self._settled.set()

    # ------------------------------------------------------------------ what the runtime calls

    def wake(self) -> None:
        """There may be new rows."""
        self._woken.set()

    def swap(self, destinations: Mapping[str, Destination], config: DeliveryConfig) -> None:
        """Use these from the next request on; rows of a destination that is gone will fail, with that reason."""
        self._retired += self._destinations.values()
        self._destinations, self._config = dict(destinations), config
        for lane in self._lanes.values():
            lane.changed.set()
        self.wake()

    async def drain(self, timeout: float) -> int:
        """Send what is pending; returns how many rows still are.

        Returns when each row is delivered, stands behind one that was tried just now and refused, or belongs to a
        destination that asked us to wait; at the latest after `timeout` seconds.
        """
        await self._fetch()
        self._draining = True
        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as tasks:
                for lane in self._lanes.values():
                    tasks.create_task(self._serve(lane, tasks, once=True), name=f"drain {lane.name}")
        except TimeoutError:
            self._log.warning("outbox not drained in time", seconds=timeout)
        finally:
            self._draining = False
        left = 0
        for lane in self._lanes.values():
            left += lane.waiting()
            retry, lane.tried = lane.tried, set()
            for key in retry | lane.rows.keys():
                if lane.rows.get(key):
                    lane.schedule(key, lane.rows[key][0].next_at)
        return left

    async def run(self) -> None:
        """Deliver until cancelled; what is under way then gets a moment to end."""
        try:
            async with asyncio.TaskGroup() as attempts:
                try:
                    await self._run(attempts)
                except asyncio.CancelledError:
                    if self._flights:
                        await asyncio.wait(self._flights, timeout=GRACE)
                    raise
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Stop the destinations that hold something open; `run` does it at its end."""
        self._retired += self._destinations.values()
        await self._stop_retired()

    async def _run(self, attempts: asyncio.TaskGroup) -> None:
        served: set[str] = set()
        async with asyncio.TaskGroup() as servers:
            while True:
                self._woken.clear()
                await self._fetch()
                for name, lane in self._lanes.items():
                    if name not in served:
                        served.add(name)
                        servers.create_task(self._serve(lane, attempts, once=False), name=f"deliver {name}")
                if not self._flights:
                    await self._stop_retired()
                try:
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    async def _stop_retired(self) -> None:
        retired, self._retired = self._retired, []
        for destination in retired:
            stop = getattr(destination, "stop", None)
            if stop is None:
                continue
            try:
                await stop()
            except Exception:  # it is going anyway; the others are still to be stopped
                self._log.exception("destination did not stop", destination=type(destination).__name__)

    # ------------------------------------------------------------------ the outbox in memory

    async def _fetch(self) -> None:
        """Take new rows into the lanes, and drop what they overtook."""
        limit = max(READ, 2 * len(self._known))
        while len(rows := await self._store.outbox(limit=limit)) >= limit:
            limit *= 2
        overtaken: list[tuple[OutboxRow, str]] = []
        for row in rows:
            if row.seq in self._known:
                continue
            if row.seq <= self._last_seq:
                continue  # marked since this look began
            overtaken += self._take(row)
        if rows:
            self._last_seq = max(self._last_seq, rows[-1].seq)
        self._fresh = True
        if overtaken:
            await self._settle(overtaken)
        for lane in self._lanes.values():
            self._metrics.outbox.labels(lane.name).set(lane.waiting())

    async def _settle(self, overtaken: Sequence[tuple[OutboxRow, str]]) -> None:
        """Write down what was overtaken before anything that overtook it is sent.

        The other way round, a death in between would leave the old row pending and its successor delivered: the next
        process would send them in the wrong order.
        """
        self._settled.clear()
        try:
            for row, why in overtaken:
                self._known.pop(row.seq, None)
                await self._mark(row, "superseded", error=why)
        finally:
            self._settled.set()

    def _take(self, row: OutboxRow) -> list[tuple[OutboxRow, str]]:
        """Put the row behind the others of its key; returns what need not be sent any more, and why."""
        lane = self._lanes.setdefault(row.destination, _Lane(row.destination))
        rows = lane.rows.setdefault(row.dedup_key, deque())
        rows.append(row)
        self._known[row.seq] = None
        if row.error.startswith(DeliveryReason.RATE_LIMITED):
            lane.not_before = max(lane.not_before, row.next_at)  # a restart does not shorten a receiver's wait
        if (
            self._fresh
            and len(rows) == 1
            and isinstance(row.item, Notification)
            and row.item.reason is NotifyReason.FIRST
        ):
            lane.unsent.add(row.dedup_key)
        overtaken = self._collapse(lane, row.dedup_key)
        if not rows:
            lane.empty(row.dedup_key)
        elif row.dedup_key not in lane.busy:
            lane.schedule(row.dedup_key)
        return overtaken

    def _collapse(self, lane: _Lane, key: str) -> list[tuple[OutboxRow, str]]:
        rows = lane.rows[key]
        floor = 1 if key in lane.busy else 0  # what is under way may arrive; it stays
        out: list[tuple[OutboxRow, str]] = []
        while len(rows) - floor >= 2 and overtakes(rows[-1].item, rows[-2].item):
            out.append((rows[-2], f"superseded by {rows[-1].id}"))
            del rows[-2]
        last = rows[-1].item
        if key in lane.unsent and out and isinstance(last, Notification) and last.action is Action.RESOLVE:
            out.append((rows.pop(), "never announced"))
            lane.unsent.discard(key)
        return out

    # ------------------------------------------------------------------ sending

    async def _serve(self, lane: _Lane, attempts: asyncio.TaskGroup, *, once: bool) -> None:
        """Start the attempts of one lane as their times come; with `once`, until each key is done or refused."""
        while True:
            await self._settled.wait()
            lane.changed.clear()
            key, at = None, None
            if len(lane.busy) < CONCURRENCY:
                key, at = lane.next(self._clock(), self._config.rate)
            if key is not None:
                lane.busy.add(key)
                flight = attempts.create_task(self._attempt(lane, key), name=f"send {lane.name}")
                self._flights.add(flight)
                flight.add_done_callback(self._flights.discard)
                continue
            if once and not lane.busy and (at is None or at <= lane.not_before):
                return
            try:
                async with asyncio.timeout(None if at is None else max(0.0, at - self._clock())):
                    await lane.changed.wait()
            except TimeoutError:
                pass

    async def _attempt(self, lane: _Lane, key: str) -> None:
        row = lane.rows[key][0]
        lane.unsent.discard(key)
        again: float | None = None
        try:
            again = await self._send(lane, row)
            if again is None:
                lane.rows[key].popleft()
                self._known.pop(row.seq, None)
            elif self._draining:
                lane.tried.add(key)
        finally:
            lane.busy.discard(key)
            if lane.rows[key]:
                lane.schedule(key, again or 0.0)
            else:
                lane.empty(key)
            lane.changed.set()
            self._metrics.outbox.labels(lane.name).set(lane.waiting())

    async def _send(self, lane: _Lane, row: OutboxRow) -> float | None:
        """One attempt with its mark; when to try again (UTC seconds), None: the row has reached its end."""
        destination = self._destinations.get(lane.name)
        if destination is None:
            await self._fail(lane, row, row.attempts, f"destination `{lane.name}` is not in the configuration")
            return None
        receipt = await self._store.receipts(lane.name, row.dedup_key)
        self._metrics.delivery_attempts.labels(lane.name).inc()
        try:
            async with asyncio.timeout(self._config.timeout):
                said = await destination.send(row.item, receipt)  # type: ignore[arg-type]  # kinds go with their rows
        except TimeoutError:
            error = DeliveryError(DeliveryReason.TIMEOUT, f"no answer within {self._config.timeout:g} s", retry=True)
        except DeliveryError as e:
            error = e
        except Exception as e:  # a bug of a plug-in: it must not stop the others, and a fixed one gets the row
            where = traceback.extract_tb(e.__traceback__)[-1]  # its text may hold what the configuration keeps secret
            self._log.error(
                "a bug in a destination's code",
                destination=lane.name,
                id=row.id,
                error=type(e).__name__,
                where=f"{where.filename}:{where.lineno}",
            )
            error = DeliveryError(DeliveryReason.OTHER, f"{type(e).__name__} in the destination's code", retry=True)
        else:
            now = self._clock()
            await self._mark(row, "delivered", attempts=row.attempts + 1, receipt=said, at=now)
            self._metrics.deliveries.labels(lane.name, "delivered").inc()
            self._metrics.delivery_seconds.labels(lane.name).observe(max(0.0, now - decided(row)))
            self._log.info("delivered", destination=lane.name, id=row.id, dedup_key=row.dedup_key)
            return None
        return await self._refused(lane, row, error)

    async def _refused(self, lane: _Lane, row: OutboxRow, error: DeliveryError) -> float | None:
        now = self._clock()
        self._metrics.delivery_failures.labels(lane.name, error.reason).inc()
        attempts = row.attempts + 1
        if not error.retry:
            await self._fail(lane, row, attempts, str(error))
            return None
        if now - decided(row) >= self._config.give_up_after:
            await self._fail(lane, row, attempts, f"given up after {self._config.give_up_after:g} s; {error}")
            return None
        at = now + backoff(attempts, error.retry_after, self._config.max_backoff, self._random)
        if error.reason is DeliveryReason.RATE_LIMITED or error.retry_after is not None:
            lane.not_before = max(lane.not_before, at)  # it speaks for the whole destination
        wait = round(at - now, 1)
        self._log.warning("delivery failed", destination=lane.name, id=row.id, error=str(error), again_in_seconds=wait)
        text = str(error)[:ERROR_LIMIT]
        await self._mark(row, "pending", attempts=attempts, next_at=at, error=text)
        rows = lane.rows[row.dedup_key]
        rows[0] = replace(row, attempts=attempts, next_at=at, error=text)
        for overtaken, why in self._collapse_after(lane, row.dedup_key):
            self._known.pop(overtaken.seq, None)
            await self._mark(overtaken, "superseded", error=why)
        return at

    def _collapse_after(self, lane: _Lane, key: str) -> list[tuple[OutboxRow, str]]:
        """What arrived while the first row was under way may overtake it, now that it has come back."""
        rows = lane.rows[key]
        out: list[tuple[OutboxRow, str]] = []
        while len(rows) >= 2 and overtakes(rows[1].item, rows[0].item):
            out.append((rows.popleft(), f"superseded by {rows[0].id}"))
        return out

    async def _fail(self, lane: _Lane, row: OutboxRow, attempts: int, error: str) -> None:
        await self._mark(row, "failed", attempts=attempts, error=error[:ERROR_LIMIT], at=self._clock())
        self._metrics.deliveries.labels(lane.name, "failed").inc()
        self._log.error("delivery failed for good", destination=lane.name, id=row.id, error=error)

    async def _mark(
        self,
        row: OutboxRow,
        state: str,
        *,
        attempts: int | None = None,
        next_at: float = 0.0,
        error: str = "",
        receipt: Mapping[str, str] | None = None,
        at: float = 0.0,
    ) -> None:
        """Write it down, however long the disk is full: forgetting would send it twice."""
        if state == "superseded":
            at = self._clock()
            self._metrics.deliveries.labels(row.destination, "superseded").inc()
        wait = 0.5
        while True:
            try:
                await self._store.mark(
                    row.seq, state, attempts=attempts, next_at=next_at, error=error, receipt=receipt, at=at
                )
                return
            except Full as e:
                self._metrics.write_errors.labels("outbox").inc()
                self._log.error("cannot mark a delivery, trying again", id=row.id, error=str(e))
                await asyncio.sleep(wait)
                wait = min(30.0, wait * 2)


def overtakes(new: object, old: object) -> bool:
    """The newer one makes sending the older one pointless: both stand next to each other, with the same dedup_key.

    A trigger falls to a newer trigger or a resolve, an acknowledgement and a resolve to a resolve. A resolve never
    falls to a trigger: the item must be closed before it opens anew.
    """
    if not isinstance(new, Notification) or not isinstance(old, Notification):
        return False
    if new.action is Action.RESOLVE:
        return True
    return new.action is Action.TRIGGER and old.action is Action.TRIGGER


def backoff(attempts: int, retry_after: float | None, longest: float, rng: random.Random) -> float:
    """Seconds to wait after so many attempts: 1 s doubling to `longest`, half by lot; a Retry-After is a floor."""
    wait = min(longest, FIRST_BACKOFF * 2.0 ** min(attempts - 1, 30)) * (0.5 + rng.random() / 2)
    if retry_after is None:
        return wait
    return retry_after + rng.random() * min(1.0, 0.1 * retry_after)


def decided(row: OutboxRow) -> float:
    """When it was decided (UTC seconds)."""
    if row.created_at:
        return row.created_at
    return row.item.stamp if isinstance(row.item, Notification) else row.item.requested_at
