"""The delivery loop against real HTTP receivers."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiopsd.config import DeliveryConfig, Duration, Secret
from aiopsd.metrics import Metrics
from aiopsd.model import Action, Notification, Notify, NotifyReason, Retrain, RetrainRequest
from aiopsd.notifiers.http import HttpSession
from aiopsd.notifiers.webhook import Webhook, WebhookConfig
from aiopsd.protocols import OutboxRow
from aiopsd.runtime.deliver import Deliverer, backoff, overtakes
from aiopsd.stores.memory import Contents, MemoryStore
from aiopsd.testing.receiver import Received, Receiver, Reply
from aiopsd.trainers.webhook import WebhookTrainer, WebhookTrainerConfig

TRIGGER, ACK, RESOLVE = Action.TRIGGER, Action.ACKNOWLEDGE, Action.RESOLVE
FAST = DeliveryConfig(max_backoff=Duration(0.05), timeout=Duration(5.0), rate=0)
DEST = "team/webhook[0]"


def note(n: int, key: str = "k", action: Action = TRIGGER, *, kind: str = "team", first: bool = False) -> Notification:
    return Notification(
        id=f"n{n}",
        receiver=kind,
        integration="webhook[0]",
        group_key="g",
        dedup_key=key,
        action=action,
        reason=NotifyReason.FIRST if first else NotifyReason.NEW_ALERTS,
        stamp=time.time(),
    )


class Outbox:
    """A store with an outbox, the deliverer over it, and what they share."""

    def __init__(
        self, urls: Mapping[str, str], config: DeliveryConfig = FAST, contents: Contents | None = None
    ) -> None:
        self.store = MemoryStore(time.time, contents)
        self.session = HttpSession()
        self.metrics = Metrics()
        self.position = self.store.contents.position
        destinations = {f"{k}/webhook[0]": Webhook(WebhookConfig(url=Secret(u)), self.session) for k, u in urls.items()}
        self.deliverer = Deliverer(self.store, destinations, config, self.metrics, time.time, seed=1)

    async def put(self, *items: Notification | RetrainRequest) -> None:
        self.position += 1
        effects = [
            Notify(notification=i) if isinstance(i, Notification) else Retrain(trainer="t[0]", request=i) for i in items
        ]
        await self.store.commit(effects, self.position, "h")
        self.deliverer.wake()

    def states(self) -> dict[str, str]:
        return {r.id: r.state for r in self.store.contents.outbox.values()}

    async def settled(self, timeout: float = 30.0) -> dict[str, str]:
        """States once no row is pending."""
        async with asyncio.timeout(timeout):
            while "pending" in self.states().values():
                await asyncio.sleep(0.005)
        return self.states()

    def row(self, item: str) -> OutboxRow:
        return next(r for r in self.store.contents.outbox.values() if r.id == item)


@asynccontextmanager
async def outbox(
    *receivers: Receiver, config: DeliveryConfig = FAST, contents: Contents | None = None, run: bool = True
) -> AsyncIterator[Outbox]:
    """An outbox whose n-th receiver is the destination `r<n>` (`team` when there is one), running."""
    names = ["team"] if len(receivers) == 1 else [f"r{n}" for n in range(len(receivers))]
    box = Outbox({n: r.url for n, r in zip(names, receivers, strict=True)}, config, contents)
    await box.store.start()
    async with box.session:
        if not run:
            yield box
            return
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(box.deliverer.run(), name="deliver")
            try:
                yield box
            finally:
                task.cancel()


def ids(receiver: Receiver) -> list[str]:
    return [r.headers["idempotency-key"] for r in receiver.received]


async def test_rows_of_a_key_arrive_in_order() -> None:
    """Trigger, acknowledge, resolve of one dedup_key are delivered one after the other, as decided."""
    async with Receiver(default=Reply(delay=0.02)) as r, outbox(r) as box:
        await box.put(note(1), note(2, action=ACK))
        await r.got(2)
        await box.put(note(3, action=RESOLVE))

        assert {"delivered"} == set((await box.settled()).values())
        assert ["n1", "n2", "n3"] == ids(r)


async def test_a_failure_is_retried_and_keeps_the_order() -> None:
    """5xx and dropped connections are retried with the same id; what stands behind waits."""
    async with Receiver([Reply(503), Reply(drop=True), Reply(500)]) as r, outbox(r) as box:
        await box.put(note(1), note(2, action=ACK))

        assert {"n1": "delivered", "n2": "delivered"} == await box.settled()
        assert ["n1", "n1", "n1", "n1", "n2"] == ids(r)
        assert 4 == box.row("n1").attempts
        failures = box.metrics.delivery_failures
        assert 2 == failures.labels(DEST, "serverError")._value.get()
        assert 1 == failures.labels(DEST, "network")._value.get()


async def test_what_cannot_succeed_fails_visibly_and_at_once() -> None:
    """A 400 is not repeated: the row is failed with the receiver's words, and the next of its key goes on."""
    async with Receiver([Reply(400, b"bad field")]) as r, outbox(r) as box:
        await box.put(note(1), note(2, action=ACK))

        assert {"n1": "failed", "n2": "delivered"} == await box.settled()
        assert "clientError: HTTP 400: bad field" == box.row("n1").error
        assert 1 == box.metrics.deliveries.labels(DEST, "failed")._value.get()


async def test_retry_after_is_honoured_for_the_whole_destination() -> None:
    """After a 429, no key of that destination is tried before Retry-After has passed."""
    async with Receiver([Reply(429, headers={"Retry-After": "1"})]) as r, outbox(r) as box:
        await box.put(note(1, "a"))
        await r.got(1)
        await box.put(note(2, "b"), note(3, "c"))
        await box.settled()

        first, *others = [x.at for x in r.received]
        assert 3 == len(others)
        assert min(others) - first >= 1.0


async def test_a_slow_receiver_delays_nobody_else() -> None:
    """While one destination hangs, the others get all of theirs; and it is asked only a few things at once."""
    released = asyncio.Event()

    async def hang(_: Received) -> Reply:
        await released.wait()
        return Reply()

    async with Receiver(answer=hang) as slow, Receiver() as quick, outbox(slow, quick) as box:
        await box.put(*(note(n, f"k{n}", kind="r0") for n in range(20)))
        await box.put(*(note(100 + n, f"k{n}", kind="r1") for n in range(20)))

        await quick.got(20)
        await slow.got(4)
        assert 4 == len(slow.received) == slow.most_at_once
        released.set()


async def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    """delivery.timeout ends an attempt, and it is retried."""
    config = DeliveryConfig(max_backoff=Duration(0.05), timeout=Duration(0.2), rate=0)
    async with Receiver([Reply(delay=5)]) as r, outbox(r, config=config) as box:
        await box.put(note(1))

        assert {"n1": "delivered"} == await box.settled()
        assert 1 == box.metrics.delivery_failures.labels(DEST, "contextDeadlineExceeded")._value.get()


async def test_newer_news_overtakes_what_waits() -> None:
    """While a key is stuck, only its newest trigger is kept; the others are marked superseded, and never sent."""
    async with Receiver([Reply(429, headers={"Retry-After": "1"})]) as r, outbox(r) as box:
        await box.put(note(1, first=True))
        await r.got(1)
        for n in range(2, 6):
            await box.put(note(n))

        states = await box.settled()
        assert {
            "n1": "superseded",
            "n2": "superseded",
            "n3": "superseded",
            "n4": "superseded",
            "n5": "delivered",
        } == states
        assert ["n1", "n5"] == ids(r)


async def test_a_resolve_overtakes_its_trigger_and_is_sent_when_the_trigger_may_have_arrived() -> None:
    """After an attempt that failed, the trigger is dropped and the resolve delivered."""
    async with Receiver([Reply(429, headers={"Retry-After": "1"})]) as r, outbox(r) as box:
        await box.put(note(1, first=True))
        await r.got(1)
        await box.put(note(2, action=RESOLVE))

        assert {"n1": "superseded", "n2": "delivered"} == await box.settled()
        assert ["n1", "n2"] == ids(r)


async def test_a_story_that_never_left_is_not_told_from_its_end() -> None:
    """A first trigger that was not tried and its resolve are both superseded: nobody hears of it."""
    async with Receiver([Reply(429, headers={"Retry-After": "1"})]) as r, outbox(r) as box:
        await box.put(note(1, "other"))
        await r.got(1)
        await box.put(note(2, first=True))
        await box.put(note(3))
        await box.put(note(4, action=RESOLVE))

        states = await box.settled()
        assert {"n2": "superseded", "n3": "superseded", "n4": "superseded"} == {
            k: states[k] for k in ("n2", "n3", "n4")
        }
        assert ["n1", "n1"] == ids(r)


async def test_a_reopening_does_not_overtake_the_resolve() -> None:
    """Resolve then trigger are both sent, in that order."""
    async with Receiver([Reply(503)]) as r, outbox(r) as box:
        await box.put(note(1, action=RESOLVE))
        await r.got(1)
        await box.put(note(2))

        assert {"n1": "delivered", "n2": "delivered"} == await box.settled()
        assert ["n1", "n1", "n2"] == ids(r)


async def test_giving_up_is_a_state() -> None:
    """After give_up_after the row is failed with the last reason."""
    config = DeliveryConfig(max_backoff=Duration(0.05), give_up_after=Duration(0.2), rate=0)
    async with Receiver(default=Reply(503)) as r, outbox(r, config=config) as box:
        await box.put(note(1))

        assert {"n1": "failed"} == await box.settled()
        assert box.row("n1").error.startswith("given up after 0.2 s; serverError")
        assert box.row("n1").attempts == len(r.received) > 1


async def test_a_destination_that_is_gone_fails_its_rows() -> None:
    """A row for a destination that the configuration does not name fails with that reason, and holds nobody up."""
    async with Receiver() as r, outbox(r) as box:
        await box.put(note(1, kind="gone"), note(2))

        assert {"n1": "failed", "n2": "delivered"} == await box.settled()
        assert "`gone/webhook[0]` is not in the configuration" in box.row("n1").error


async def test_a_swap_takes_effect_for_what_waits() -> None:
    """After a reload, waiting rows go to the new address."""
    async with Receiver(default=Reply(503)) as old, Receiver() as new, outbox(old) as box:
        await box.put(note(1))
        await old.got(1)

        box.deliverer.swap({DEST: Webhook(WebhookConfig(url=Secret(new.url)), box.session)}, FAST)

        assert {"n1": "delivered"} == await box.settled()
        assert ["n1"] == ids(new)


async def test_the_pace_is_kept() -> None:
    """Over a burst of a second's worth, requests of a destination come at `rate`."""
    config = DeliveryConfig(rate=10)
    async with Receiver() as r, outbox(r, config=config) as box:
        await box.put(*(note(n, f"k{n}") for n in range(16)))
        await box.settled()

        assert r.received[-1].at - r.received[0].at >= 0.5  # 10 at once, 6 at 10 a second


async def test_a_full_disk_does_not_send_twice() -> None:
    """While the store cannot mark, the delivered row is not sent again, and is marked when there is room."""
    async with Receiver() as r, outbox(r) as box:
        await box.put(note(1))
        box.store.full = True
        async with asyncio.timeout(30):
            while not box.metrics.write_errors.labels("outbox")._value.get():
                await asyncio.sleep(0.005)
        box.deliverer.wake()
        box.store.full = False

        assert {"n1": "delivered"} == await box.settled()
        assert ["n1"] == ids(r)


async def test_a_bug_in_a_destination_stops_nobody() -> None:
    """An unexpected exception is counted, the row retried, the others delivered."""

    class Broken(Webhook):
        async def send(self, item: Notification, receipt: Mapping[str, str]) -> dict[str, str]:
            raise KeyError("https://secret")

    async with Receiver() as r, outbox(r) as box:
        broken = Broken(WebhookConfig(url=Secret(r.url)), box.session)
        box.deliverer.swap({DEST: Webhook(WebhookConfig(url=Secret(r.url)), box.session), "b/webhook[0]": broken}, FAST)
        await box.put(note(1, kind="b"), note(2))
        await r.got(1)
        async with asyncio.timeout(30):
            while box.row("n1").attempts < 2:
                await asyncio.sleep(0.005)

        assert "other: KeyError in the destination's code" == box.row("n1").error


# ------------------------------------------------------------------ start and stop


async def test_drain_delivers_what_was_left_before_anything_else() -> None:
    """Rows of an earlier life are delivered, whatever their backoff was, and the drain returns."""
    contents = Contents()
    async with Receiver(default=Reply(503)) as r, outbox(r, contents=contents, config=DeliveryConfig(rate=0)) as box:
        await box.put(note(1, "a"), note(2, "b"))
        async with asyncio.timeout(30):
            while not all(row.attempts for row in contents.outbox.values()):
                await asyncio.sleep(0.005)

    async with Receiver() as r, outbox(r, contents=contents, run=False) as box:
        assert 0 == await box.deliverer.drain(5.0)
        assert {"n1": "delivered", "n2": "delivered"} == box.states()
        assert {"n1", "n2"} == set(ids(r))


async def test_drain_ends_when_what_is_left_was_refused_just_now() -> None:
    """Each key is tried once; a receiver that is down does not hold the start until the timeout."""
    async with Receiver(default=Reply(503)) as r, outbox(r, run=False) as box:
        await box.put(note(1, "a"), note(2, "a", ACK), note(3, "b"))

        began = time.monotonic()
        assert 3 == await box.deliverer.drain(30.0)
        assert time.monotonic() - began < 20.0
        assert {"n1", "n3"} == set(ids(r))


async def test_drain_is_bounded_in_time() -> None:
    """A receiver that hangs costs the start no more than the timeout."""
    async with Receiver(default=Reply(delay=30)) as r, outbox(r, run=False) as box:
        await box.put(note(1))

        began = time.monotonic()
        assert 1 == await box.deliverer.drain(0.3)
        assert time.monotonic() - began < 3.0


async def test_a_restart_does_not_shorten_retry_after() -> None:
    """A row that was rate limited in an earlier life is not tried before its time, by drain neither."""
    contents = Contents()
    async with Receiver([Reply(429, headers={"Retry-After": "60"})]) as r, outbox(r, contents=contents) as box:
        await box.put(note(1))
        async with asyncio.timeout(30):
            while not box.row("n1").attempts:
                await asyncio.sleep(0.005)

    async with Receiver() as r, outbox(r, contents=contents, run=False) as box:
        assert 1 == await box.deliverer.drain(5.0)
        assert [] == r.received


async def test_a_crash_between_send_and_mark_sends_the_same_again() -> None:
    """A process that dies before its mark is followed by one that sends the same id and dedup_key once more."""
    contents = Contents()
    async with Receiver(default=Reply(delay=0.3)) as r:
        async with outbox(r, contents=contents, run=False) as box:
            await box.put(note(1, first=True))
            assert 1 == await box.deliverer.drain(0.1)  # cut while the receiver had it
        async with outbox(r, contents=contents, run=False) as box:
            await box.put(note(2, action=RESOLVE))
            assert 0 == await box.deliverer.drain(5.0)

        assert ["n1", "n2"] == ids(r)  # the trigger may have arrived: its resolve is sent
        assert {"n1": "superseded", "n2": "delivered"} == box.states()


async def test_what_was_overtaken_is_written_down_before_its_successor_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A death between the two marks never leaves the old row pending and the new one delivered."""
    async with Receiver() as receiver, outbox(receiver) as box:
        marked, mark = [], box.store.mark

        async def slow(seq: int, state: str, **rest: Any) -> None:
            if state == "superseded":
                await asyncio.sleep(0.1)  # a disk that takes its time; the lane would send meanwhile
            marked.append((state, len(receiver.received)))
            await mark(seq, state, **rest)

        monkeypatch.setattr(box.store, "mark", slow)
        await box.put(note(0, key="other"))  # the lane is served before the rest comes
        await receiver.got(1)
        await box.put(note(1), note(2), note(3))
        await box.settled()

    assert [("superseded", 1), ("superseded", 1)] == [m for m in marked if m[0] == "superseded"]
    assert ["n0", "n3"] == [r.headers["idempotency-key"] for r in receiver.received]


async def test_a_stop_lets_what_is_under_way_end() -> None:
    """Cancelling the loop waits for open requests and marks them; nothing new is begun."""
    async with Receiver(default=Reply(delay=0.3)) as r:
        async with outbox(r) as box:
            await box.put(note(1, "a"))
            await r.got(1)
            await box.put(note(2, "a", ACK))

        assert {"n1": "delivered", "n2": "pending"} == box.states()


async def test_trainers_get_their_requests() -> None:
    """Retraining requests go through the same outbox, and the answer's job is kept as the receipt."""
    async with Receiver(default=Reply(201, b'{"run_id": "job-7"}')) as r, outbox(r) as box:
        trainer = WebhookTrainer(WebhookTrainerConfig(url=Secret(r.url)), box.session)
        box.deliverer.swap({"trainer/t[0]": trainer}, FAST)
        await box.put(RetrainRequest(id="q", dedup_key="q", subject="m", requested_at=1.0))

        assert {"q": "delivered"} == await box.settled()
        assert {"run": "job-7"} == box.row("q").receipt
        assert ["q"] == ids(r)


# ------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("new", "old", "falls"),
    [
        (TRIGGER, TRIGGER, True),
        (RESOLVE, TRIGGER, True),
        (RESOLVE, ACK, True),
        (RESOLVE, RESOLVE, True),
        (TRIGGER, RESOLVE, False),
        (TRIGGER, ACK, False),
        (ACK, TRIGGER, False),
        (ACK, RESOLVE, False),
    ],
)
def test_what_falls_to_what(new: Action, old: Action, falls: bool) -> None:
    """A resolve overtakes everything before it, a trigger only a trigger, an acknowledgement nothing."""
    assert falls is overtakes(note(2, action=new), note(1, action=old))


def test_retraining_requests_are_never_superseded() -> None:
    """Two requests of one key stay two."""
    request = RetrainRequest(id="q", dedup_key="q", subject="m", requested_at=1.0)

    assert not overtakes(request, request)


def test_backoff_doubles_to_its_limit_and_never_undercuts_retry_after() -> None:
    """Between half and all of 1, 2, 4 ... seconds up to the longest; Retry-After is a floor, whatever the longest."""
    rng: Any = random.Random(3)

    for attempt, full in ((1, 1.0), (2, 2.0), (5, 16.0), (20, 300.0), (5000, 300.0)):
        assert full / 2 <= backoff(attempt, None, 300.0, rng) <= full
    assert 3600.0 <= backoff(1, 3600.0, 300.0, rng) <= 3601.0
    assert [backoff(1, None, 300.0, random.Random(5))] * 2 == [backoff(1, None, 300.0, random.Random(5)) for _ in "ab"]
